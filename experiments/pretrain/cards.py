"""Writes the card of a shipped weight file: what it is, what made it, how good it is."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

import jax

FRAMES = "frames of `experiments.pretrain.frames`, rendered by the simulator; no outside data"


def command_of(module: str, config: object, positional: str = "") -> str:
    """The command line that gives ``config``: ``python -m module [positional] --flag value ..``.

    Fields that have their default are left out; ``positional`` is the field without a flag.
    """
    words = ["python", "-m", module]
    if positional:
        words.append(str(getattr(config, positional)))
    for name, value in changed(config, type(config)()):
        if name != positional:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def changed(config: object, default: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Names, with dots, and values of the fields that differ from ``default``."""
    for field in fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        if is_dataclass(value):
            yield from changed(value, usual, f"{prefix}{field.name}.")
        elif value != usual:
            yield f"{prefix}{field.name}", value


def write_card(
    path: Path,
    what: str,
    command: str,
    config: object,
    metrics: Mapping,
    measured: str,
    data: str = FRAMES,
) -> None:
    """Writes ``path`` with the suffix ``.md`` beside the weights; ``measured`` says what the metrics are of."""
    numbers = {k: float(f"{float(v):.4g}") for k, v in metrics.items()}
    path.with_suffix(".md").write_text(
        f"# {path.name}\n\n{what}\n\n"
        f"- command: `{command}`\n- configuration: `{config}`\n"
        f"- data: {data}\n"
        f"- {measured}: `{json.dumps(numbers)}`\n"
        f"- size: {path.stat().st_size / 1e6:.1f} MB; licence: Apache-2.0\n"
        f"- made with jax {jax.__version__}, Python {platform.python_version()}, {jax.devices()[0].platform}\n"
    )

"""Writes the card of a shipped weight file: what it is, what made it, how good it is."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path

import jax

FRAMES = "frames of `experiments.pretrain.frames`, rendered by the simulator; no outside data"


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

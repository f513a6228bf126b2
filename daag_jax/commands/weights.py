"""``daag weights check``: what a folder of weights holds, and whether it can be loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

Positional = tyro.conf.Positional


@dataclasses.dataclass(frozen=True)
class Check:
    """Names, shapes and length of every weight file of a folder in the layout of Hugging Face."""

    path: Positional[Path]


def check(options: Check) -> None:
    """Runs :class:`Check`.

    Raises:
        ValueError: a network cannot be loaded; the message is a sentence for each.
    """
    from rich.console import Console
    from rich.table import Table

    from daag_jax.networks import folders

    findings = [folders.check(component) for component in folders.components(options.path)]
    table = Table("component", "network", "tensors", "parameters", "dtype", "can be loaded")
    for found in findings:
        parameters = f"{found.parameters / 1e6:.1f} M" if found.parameters else "-"
        cells = (found.name, found.kind, str(found.tensors or "-"), parameters)
        table.add_row(*cells, " ".join(found.dtypes), "no" if found.problem else "yes")
    Console().print(table)
    problems = [found.problem for found in findings if found.problem]
    if problems:
        raise ValueError("\n".join(problems))

"""One run on machines of many shapes: 1, 2 and 8 devices, and two processes of four, learn the same.

    python -m experiments.scaling.equality                       # about 20 min on two CPU cores
    python -m experiments.scaling.equality --programs planner    # two minutes

Devices are virtual ones of a CPU, processes talk over gloo.  What is compared are the losses of every step (of the
agent: loss, lessons, edits, size of the buffer and success of every iteration), as the largest difference from one
device, relative; all in float32.  Sums over more devices round in another order, so the difference is not 0: it starts
at 1e-7 and grows with the steps.  A run passes below ``tolerance``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from daag_jax.names import check_name
from experiments.records import provenance, write_json
from experiments.scaling.programs import PROGRAMS


class Shape(NamedTuple):
    """A machine."""

    processes: int
    devices: int  # of each
    fsdp: int = 1

    def __str__(self) -> str:
        slices = f", model in {self.fsdp} slices" if self.fsdp > 1 else ""
        return f"{self.processes} x {self.devices}{slices}"


SHAPES = (Shape(1, 1), Shape(1, 2), Shape(1, 8), Shape(2, 4), Shape(1, 8, 4), Shape(2, 4, 4))


@dataclass(frozen=True)
class Config:
    """What is compared."""

    programs: tuple[str, ...] = tuple(PROGRAMS)
    shapes: tuple[str, ...] = tuple(str(shape) for shape in SHAPES[1:])  # beside one device
    steps: int = 10
    tolerance: float = 1e-4
    directory: Path = Path("runs/experiments/scaling/equality")

    def __post_init__(self) -> None:
        for name in self.programs:
            check_name("program", name, PROGRAMS)
        for name in self.shapes:
            check_name("shape", name, [str(shape) for shape in SHAPES])


def losses_of(program: str, shape: Shape, config: Config) -> np.ndarray:
    """The losses of a program on a machine of that shape."""
    folder = config.directory / program / str(shape).replace(" ", "").replace(",", "_")
    command = [sys.executable, "-m", "daag_jax", "launch"]
    command += ["--processes", str(shape.processes), "--devices", str(shape.devices)]
    command += [sys.executable, "-m", "experiments.scaling.programs", program, str(folder)]
    command += ["--steps", str(config.steps), "--fsdp", str(shape.fsdp)]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        raise RuntimeError(f"{program} on {shape} failed:\n{found.stdout}{found.stderr}")
    return np.array(json.loads((folder / "losses.json").read_text())["losses"])


def main(config: Config) -> dict[str, dict[str, float]]:
    """The largest relative differences from one device, by program and shape."""
    if config.directory.exists():
        raise FileExistsError(f"{config.directory} exists; remove it, or name another directory.")
    found: dict[str, dict[str, float]] = {}
    for program in config.programs:
        first, found[program] = losses_of(program, SHAPES[0], config), {}
        for shape in SHAPES[1:]:
            if str(shape) not in config.shapes:
                continue
            if program == "agent" and shape.fsdp > 1:  # its policy is on every device
                continue
            difference = np.abs(losses_of(program, shape, config) - first)
            worst = float(np.max(difference / np.maximum(np.abs(first), 1e-6)))
            found[program][str(shape)] = worst
            said = "passes" if worst <= config.tolerance else "FAILS"
            print(f"{program}, {shape}: {worst:.2g} {said}", flush=True)
    content = {"differences": found, "made": provenance()}
    write_json(config.directory / "results.json", content)
    table = Table("program", *config.shapes, title="largest relative difference from one device")
    for program, row in found.items():
        table.add_row(program, *(f"{row[s]:.2g}" if s in row else "" for s in config.shapes))
    Console(width=120).print(table)
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))

"""Runs that are killed at random moments, and go on: do they end as the run that nobody killed?

    python -m experiments.scaling.kills                 # 20 runs, about 15 min on two CPU cores
    python -m experiments.scaling.kills --runs 4        # one of each kind

Four ways to die, in turn:

    sigkill     at a random moment: so long after a random step was logged
    sigterm     at a random moment: the run saves and exits with 75
    disk full   SIGKILL, then no file may grow past 60 kB (RLIMIT_FSIZE), so that no checkpoint can be written; SIGKILL
    truncated   SIGKILL, and half of the newest checkpoint's file is lost

A run passes when every leaf of its last state has the bits of the run that nobody killed, and its logged losses, too.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from daag_jax.training import checkpoint
from daag_jax.training.report import read_metrics
from experiments.records import provenance, write_json

DIED = {-signal.SIGKILL, 75}  # exit codes of a run that was killed in time


@dataclass(frozen=True)
class Config:
    """How many runs, and how long."""

    runs: int = 20
    program: str = "diffusion_bc"
    steps: int = 3000
    checkpoint_every: int = 100
    seed: int = 0  # of the moments
    directory: Path = Path("runs/experiments/scaling/kills")


def start(folder: Path, config: Config, file_bytes: int | None = None) -> subprocess.Popen:
    """Begins or goes on with a run; no file of it may grow past ``file_bytes``."""
    command = [sys.executable, "-m", "experiments.scaling.programs", config.program, str(folder)]
    command += ["--steps", str(config.steps), "--log-every", "50"]
    command += ["--checkpoint-every", str(config.checkpoint_every)]
    limit = None
    if file_bytes is not None:
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    environ = dict(os.environ)
    if file_bytes is not None:  # compiled programs would be cut short, too
        environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environ, preexec_fn=limit, **pipes)


def finished(process: subprocess.Popen) -> str:
    """What a run said that came to its end.

    Raises:
        RuntimeError: it failed.
    """
    said = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"a run failed with {process.returncode}:\n{said}")
    return said


def killed(
    process: subprocess.Popen,
    folder: Path,
    number: int,
    step: int,
    wait: float,
) -> bool:
    """Sends a signal ``wait`` seconds after ``step`` was logged, and a state saved; whether the run had not ended."""
    reader = threading.Thread(target=process.stdout.read)  # else a run that says much would wait
    reader.start()
    while process.poll() is None and not (has_checkpoint(folder) and has_logged(folder, step)):
        time.sleep(0.005)
    time.sleep(wait)
    process.send_signal(number)
    process.wait()
    reader.join()
    return process.returncode in DIED


def has_checkpoint(folder: Path) -> bool:
    """Whether the run has saved a state."""
    return checkpoint.latest(folder / "checkpoints") is not None


def has_logged(folder: Path, step: int) -> bool:
    """Whether the run has logged this step or a later one."""
    path = folder / "metrics.jsonl"
    return path.is_file() and any(row["step"] >= step for row in read_metrics(path))


def truncate_newest(folder: Path, chance: random.Random) -> str:
    """Half of a file of the newest checkpoint is lost; which."""
    step = checkpoint.latest(folder / "checkpoints")
    newest = checkpoint.Checkpoints(folder / "checkpoints").path(step)
    files = sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size > 1)
    chosen = chance.choice(files)
    with open(chosen, "r+b") as file:
        file.truncate(chosen.stat().st_size // 2)
    return str(chosen.relative_to(newest))


def end_of(folder: Path) -> tuple[dict[str, np.ndarray], dict[int, float]]:
    """The last state, leaf by leaf, and the logged losses by step."""
    state = checkpoint.restore(folder / "checkpoints").state
    rows = read_metrics(folder / "metrics.jsonl")
    losses = {
        row["step"]: [v for k, v in row.items() if k.startswith("loss/")]
        for row in rows
        if "steps_per_second" in row
    }
    return state, losses


def same(one: tuple, two: tuple) -> bool:
    """Whether two runs ended with the same bits."""
    (state, losses), (other, others) = one, two
    common = {step: losses[step] == others[step] for step in losses.keys() & others.keys()}
    return (
        state.keys() == other.keys()
        and all(np.array_equal(state[k], other[k]) for k in state)
        and all(common.values())
        and set(losses) <= set(others)
    )


def one_run(
    kind: str, folder: Path, config: Config, chance: random.Random, seconds: float
) -> dict[str, Any]:
    """Kills a run in one way, and lets it go on to its end.

    Args:
        seconds: between two checkpoints, about.
    """
    number = signal.SIGTERM if kind == "sigterm" else signal.SIGKILL
    last = config.steps - 2 * config.checkpoint_every

    def kill(process: subprocess.Popen, low: int, high: int) -> bool:
        return killed(
            process, folder, number, chance.randint(low, high), chance.uniform(0, seconds)
        )

    # before damage there must be a checkpoint to fall back to
    first = 3 * config.checkpoint_every if kind == "truncated" else 0
    middle = config.steps // 2
    in_time = kill(start(folder, config), first, middle if kind == "disk full" else last)
    row = {"kind": kind, "in time": in_time, "killed at": checkpoint.latest(folder / "checkpoints")}
    if kind == "disk full":
        before = row["killed at"]
        process = start(folder, config, file_bytes=60_000)
        row["in time"] &= kill(process, middle + config.checkpoint_every, last)
        row["kept"] = checkpoint.latest(folder / "checkpoints") == before
    if kind == "truncated":
        row["file"] = truncate_newest(folder, chance)
    said = finished(start(folder, config))
    if kind == "truncated":
        row["fell back"] = "falling back to the one before" in said
    return row


def main(config: Config) -> list[dict[str, Any]]:
    """One row per run."""
    if config.directory.exists():
        raise FileExistsError(f"{config.directory} exists; remove it, or name another directory.")
    chance = random.Random(config.seed)
    whole = config.directory / "whole"
    finished(start(whole, config))
    logged = [r["time"] for r in read_metrics(whole / "metrics.jsonl")]
    seconds = (logged[-1] - logged[0]) * config.checkpoint_every / config.steps
    expected, rows = end_of(whole), []
    kinds = ("sigkill", "sigterm", "disk full", "truncated")
    for index in range(config.runs):
        folder = config.directory / f"{index:02d}"
        row = one_run(kinds[index % 4], folder, config, chance, seconds)
        row["identical"] = same(expected, end_of(folder))
        rows.append(row)
        print(row, flush=True)
        content = {"rows": rows, "seconds between checkpoints": seconds, "made": provenance()}
        write_json(config.directory / "results.json", content)
    table = Table(
        "killed by",
        "runs",
        "in time",
        "identical",
        title=f"{config.runs} runs killed at random moments",
    )
    for kind in kinds:
        own = [row for row in rows if row["kind"] == kind]
        count = lambda name, own=own: str(sum(row[name] for row in own))
        table.add_row(kind, str(len(own)), count("in time"), count("identical"))
    Console(width=120).print(table)
    return rows


if __name__ == "__main__":
    main(tyro.cli(Config))

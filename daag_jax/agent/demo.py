"""The main job, end to end: an agent turns failed episodes of one task into training data for another.

    make demo        or        daag demo

Two tasks in sequence; the second one's successes never occur in the first one's data.  Three arms on the same seed:
environment reward only, CLIP sub-goals, and hindsight experience augmentation with the diffusion editor.  Everything is
real: simulated physics, rendered pixels, the shipped models.  Takes about 9 minutes on two CPU cores.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from daag_jax.agent.daag import EPISODES, memory_of, run_daag
from daag_jax.agent.daag_config import DaagConfig
from daag_jax.agent.demo_report import (
    ARM_NAMES,
    DETECTORS,
    edited_films,
    print_table,
    report_page,
    summarise,
)
from daag_jax.agent.programs import Programs
from daag_jax.agent.reward import DetectorConfig
from daag_jax.agent.setup import SetupConfig, make_world, prepare
from daag_jax.evaluation import html


@dataclass(frozen=True)
class DemoConfig:
    """Sizes that fit two CPU cores and ten minutes."""

    directory: str = "runs/demo"
    iterations: int = 2  # of each task
    episodes: int = 96  # per iteration
    train_steps: int = 80  # per iteration, and on what a new task finds in earlier episodes
    capacity: int = 1024  # steps of the task buffer
    setup: Annotated[SetupConfig, tyro.conf.arg(name="")] = SetupConfig(
        edited=256, tested=256, detector=DetectorConfig(steps=120)
    )

    def __post_init__(self):
        missing = {name for name in DETECTORS.values() if name} - set(self.setup.detectors)
        if missing:
            raise ValueError(
                f"detectors={self.setup.detectors} lack {sorted(missing)}; the arms need both."
            )


class Progress:
    """Lines with the time since the start."""

    def __init__(self):
        self.start = time.monotonic()

    def say(self, text: str) -> None:
        """Prints one line at once."""
        print(f"[{time.monotonic() - self.start:5.0f} s] {text}", flush=True)


def run(config: DemoConfig = DemoConfig()) -> dict:
    """Builds everything, runs the three arms, prints the table, writes ``report.html`` and ``results.json``."""
    progress = Progress()
    directory = Path(config.directory)
    directory.mkdir(parents=True, exist_ok=True)
    progress.say("loading the shipped models")
    tasks = config.setup.tasks
    base = loop_config(config)
    programs = Programs(make_world(config.setup), base)
    with ThreadPoolExecutor(
        1
    ) as beside:  # a compiler uses one core, most of what is prepared another
        compiled = beside.submit(programs.compile)
        setup = prepare(config.setup, directory, progress.say)
        compiled.result()
    arms = {}
    for arm in ARM_NAMES:
        detector, own = setup.detectors.get(DETECTORS[arm]), replace(base, arm=arm)
        show = lambda row, arm=arm: progress.say(line_of(row, arm, tasks))
        arms[arm] = run_daag(setup.world, detector, own, directory / arm, show, programs)
    results = {"seed": config.setup.seed} | summarise(tasks, setup, arms)
    (directory / "results.json").write_text(json.dumps(results, indent=1))
    print_table(results)
    files = [directory / "hindsight" / EPISODES.format(i) for i in range(config.iterations)]
    detector = setup.detectors[DETECTORS["hindsight"]]
    films = edited_films(memory_of(setup.world, detector, base), files, tasks[-1])
    page = html.write(report_page(tasks, setup, arms, results, films), directory / "report.html")
    progress.say(f"report: {page}")
    return results


def loop_config(config: DemoConfig) -> DaagConfig:
    """The loop of the demo, but for its arm."""
    return DaagConfig(
        tasks=config.setup.tasks,
        iterations=config.iterations,
        episodes=config.episodes,
        train_steps=config.train_steps,
        capacity=config.capacity,
        warm_start=True,
        seed=config.setup.seed,
    )


def line_of(row: dict, arm: str, tasks: Sequence[str]) -> str:
    """One line of progress."""
    return (
        f"{ARM_NAMES[arm]:26s} task {tasks.index(row['task']) + 1}, "
        f"{row['episodes_of_task']:4d} episodes: {row['kept']:3d} kept, {row['edited']:3d} edited, "
        f"buffer {row['buffer']:4d}, sub-goals reached "
        + " ".join(f"{x:.2f}" for x in row["reached"])
    )

"""Episodes until a new task is mastered, with and without hindsight augmentation (DAAG's second claim).

    python -m experiments.daag.exploration                  # about 4 h on two CPU cores
    python -m experiments.daag.exploration --preset smoke   # 8 min

"Stack the red object on top of the blue object" from nothing, three arms on paired seeds.  The measure is the number of
episodes at which the success rate without exploration first reaches 50 %; a run that never does counts as the budget.
Every run has its own folder and continues there, so seeds may be shared out among processes (``--seeds 0 1``) once a
call without seeds (``--seeds``) has made the detector; a last call with all seeds reports.  ``--only-report`` reports
what is there: a baseline that was stopped counts the episodes that it had, which is less than it needed.
``--setup.means oracle`` in another ``--directory`` gives the upper bound: edits by re-rendering.

Expect: hindsight needs about 1,500 episodes fewer than sub-goals alone, and the paired interval excludes zero.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from daag_jax.agent.daag import run_daag
from daag_jax.agent.daag_config import DaagConfig
from daag_jax.agent.demo_report import ARM_NAMES
from daag_jax.agent.programs import Programs
from daag_jax.agent.reward import DetectorConfig
from daag_jax.agent.setup import SetupConfig, prepare
from daag_jax.evaluation import figures, html
from daag_jax.evaluation.scores import episodes_to, paired_difference
from daag_jax.training.checkpoint import Checkpoints
from daag_jax.training.devices import every_core_a_device
from experiments.records import provenance, write_json


@dataclass(frozen=True)
class Config:
    """Seeds, budget, and the size of the agent."""

    preset: Literal["full", "smoke"] = "full"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    iterations: int = 10
    episodes: int = 512  # per iteration
    train_steps: int = 800  # of each iteration's new policy
    threshold: float = 0.5
    arms: tuple[str, ...] = ("hindsight", "subgoals", "reward")
    setup: SetupConfig = SetupConfig(
        labelled=6144,
        validated=4096,
        edited=768,
        detector=DetectorConfig(steps=1500, learning_rate=5e-4),
        detectors=("edits",),
    )
    directory: str = "runs/experiments/daag/exploration"
    only_report: bool = False  # of runs that are there, whether they have ended or not


def main(config: Config) -> None:
    every_core_a_device()
    if config.preset == "smoke":
        small = DetectorConfig(steps=100)
        setup = replace(config.setup, labelled=512, edited=64, detector=small)
        folder = str(Path(config.directory) / "smoke")
        config = replace(
            config, seeds=(0,), iterations=2, episodes=128, setup=setup, directory=folder
        )
    if config.only_report:
        stored = lambda arm: [stored_rows(config, arm, seed) for seed in config.seeds]
        report(config, {arm: stored(arm) for arm in config.arms})
        return
    setup = prepare(config.setup, config.directory)
    # one detector for all arms: the difference is hindsight alone
    world, detector = setup.world, setup.detectors["edits"]
    base = DaagConfig(
        tasks=config.setup.tasks[:1],
        iterations=config.iterations,
        episodes=config.episodes,
        train_steps=config.train_steps,
        success_threshold=config.threshold,
    )
    programs = Programs(world, base)
    runs: dict[str, list[list[dict]]] = {arm: [] for arm in config.arms}
    for seed in config.seeds:
        for arm in config.arms:
            show = lambda row, seed=seed, arm=arm: print(seed, arm, brief(row), flush=True)
            folder = Path(config.directory) / f"{arm}-{seed}"
            one = replace(base, arm=arm, seed=seed)
            rows = run_daag(
                world, None if arm == "reward" else detector, one, folder, show, programs
            )
            runs[arm].append(rows)
    if config.seeds:
        report(config, runs)


def stored_rows(config: Config, arm: str, seed: int) -> list[dict]:
    """What a run has stored.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: it is one of hindsight's and has not ended: its episodes so far would speak for it.
    """
    folder = Path(config.directory) / f"{arm}-{seed}"
    rows = Checkpoints(folder / "checkpoints").restore().metadata["rows"]
    has_ended = len(rows) == config.iterations or rows[-1]["success"] >= config.threshold
    if arm == "hindsight" and not has_ended:
        raise ValueError(f"{folder} has not ended; run it on (--seeds {seed} --arms {arm}).")
    return rows


def brief(row: dict) -> str:
    """One line of progress."""
    usable, valid = row["kept"] + row["edited"], row["kept_valid"] + row["edited_valid"]
    return (
        f"{row['episodes_of_task']} episodes, {row['kept']} kept, {row['edited']} edited, {valid}/{usable} valid, "
        f"success {row['success']:.2f}"
    )


def report(config: Config, runs: dict[str, list[list[dict]]]) -> None:
    """Episodes to the threshold, paired differences, label validity, and a figure."""
    budget = config.iterations * config.episodes
    grid = np.arange(1, config.iterations + 1) * config.episodes
    curves = {
        # a run that reached the threshold, or was stopped, has ended: its last value stands for the rest
        arm: np.array(
            [
                [rows[min(i, len(rows) - 1)]["success"] for i in range(len(grid))]
                for rows in all_rows
            ]
        )
        for arm, all_rows in runs.items()
    }
    needed = {
        arm: [
            min(episodes_to(config.threshold, curve, grid), rows[-1]["episodes_of_task"])
            for curve, rows in zip(found, runs[arm], strict=True)
        ]
        for arm, found in curves.items()
    }
    reached = {
        arm: [bool(curve[-1] >= config.threshold) for curve in found]
        for arm, found in curves.items()
    }
    results = {
        "config": repr(config),
        "budget": budget,
        "episodes": needed,  # of runs that reached the threshold; of others, what they had
        "reached": reached,
        "validity": validity(runs),
    }
    if len(config.seeds) > 1 and {"hindsight", "subgoals"} <= set(needed):
        difference = paired_difference(needed["hindsight"], needed["subgoals"])
        results["episodes, hindsight minus subgoals"] = list(difference)
    results["curves"] = {arm: found.tolist() for arm, found in curves.items()}
    directory = Path(config.directory)
    write_json(directory / "results.json", results | {"made": provenance()})
    lines = {ARM_NAMES[arm]: (grid, found) for arm, found in curves.items()}
    drawn = html.figure(figures.curves(lines, title=config.setup.tasks[0], limits=(0, 1)))
    page = html.Page("Exploration", [html.Section("Success without exploration", [drawn])])
    html.write(page, directory / "report.html")
    print(json.dumps({k: v for k, v in results.items() if k not in ("config", "curves")}))


def validity(runs: dict[str, list[list[dict]]]) -> dict[str, dict[str, float | None]]:
    """Share of stored pieces whose label is true, by arm and by whether they were edited; None of no piece."""
    out = {}
    for arm, all_rows in runs.items():
        count = lambda name, all_rows=all_rows: sum(row[name] for rows in all_rows for row in rows)
        out[arm] = {
            kind: count(f"{kind}_valid") / count(kind) if count(kind) else None
            for kind in ("kept", "edited")
        }
    return out


if __name__ == "__main__":
    main(tyro.cli(Config))

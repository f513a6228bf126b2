"""Episodes until a new task is mastered, with and without hindsight augmentation (DAAG's second claim; specs 3.3).

    python -m experiments.daag.exploration                  # about 90 min on two CPU cores
    python -m experiments.daag.exploration --preset smoke   # 5 min

"Stack the red object on top of the blue object" from nothing, three arms on paired seeds.  The measure is the number of
episodes at which the success rate without exploration first reaches 50 %; a run that never does counts as the budget.
Expect: hindsight needs fewer episodes than sub-goals alone, and the paired interval excludes zero.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from daag_jax.agent.daag import DaagConfig, Programs, run_daag
from daag_jax.agent.demo import ARM_NAMES, DemoConfig, build
from daag_jax.evaluation import figures, html
from daag_jax.evaluation.scores import episodes_to, paired_difference


@dataclass(frozen=True)
class Config:
    """Seeds, budget, and the size of the agent."""

    preset: Literal["full", "smoke"] = "full"
    seeds: int = 5
    iterations: int = 16
    episodes: int = 64
    train_steps: int = 60
    threshold: float = 0.5
    arms: tuple[str, ...] = ("reward", "subgoals", "hindsight")
    setup: DemoConfig = DemoConfig()
    directory: str = "runs/experiments/daag/exploration"


def main(config: Config) -> None:
    smoke = config.preset == "smoke"
    seeds, iterations = (1, 2) if smoke else (config.seeds, config.iterations)
    setup_config = replace(config.setup, tested=128)
    if smoke:
        setup_config = replace(setup_config, labelled=128, edited=64)
    setup = build(setup_config)
    base = DaagConfig(
        tasks=config.setup.tasks[:1],
        iterations=iterations,
        episodes=config.episodes,
        train_steps=config.train_steps,
    )
    programs = Programs(setup.world, base)
    curves: dict[str, list[list[float]]] = {arm: [] for arm in config.arms}
    for seed in range(seeds):
        for arm in config.arms:
            # both arms with a detector have the same one: the difference is hindsight alone
            detector = None if arm == "reward" else setup.edited
            rows = run_daag(
                setup.world,
                detector,
                replace(base, arm=arm, seed=seed),
                Path(config.directory) / f"{arm}-{seed}",
                programs=programs,
            )
            curves[arm].append([row["success"] for row in rows])
            print(seed, arm, [round(row["success"], 2) for row in rows], flush=True)
    report(config, curves)


def report(config: Config, curves: dict[str, list[list[float]]]) -> None:
    """Episodes to the threshold, paired differences, and a figure."""
    budget = len(next(iter(curves.values()))[0]) * config.episodes
    grid = np.arange(1, budget // config.episodes + 1) * config.episodes
    needed = {
        arm: [min(episodes_to(config.threshold, np.array(c), grid), budget) for c in runs]
        for arm, runs in curves.items()
    }
    results = {"episodes": needed, "curves": curves, "budget": budget, "area": {}}
    results["area"] = {arm: [float(np.mean(c)) for c in runs] for arm, runs in curves.items()}
    if len(needed["hindsight"]) > 1:
        for name, table in (("episodes", needed), ("area", results["area"])):
            difference = paired_difference(table["hindsight"], table["subgoals"])
            results[f"{name}, hindsight minus subgoals"] = list(difference)
    directory = Path(config.directory)
    (directory / "results.json").write_text(json.dumps(results, indent=1))
    lines = {ARM_NAMES[arm]: (grid, np.array(runs)) for arm, runs in curves.items()}
    drawn = html.figure(figures.curves(lines, title=config.setup.tasks[0], limits=(0, 1)))
    page = html.Page("Exploration", [html.Section("Success without exploration", [drawn])])
    html.write(page, directory / "report.html")
    print(json.dumps({k: v for k, v in results.items() if k != "curves"}))


if __name__ == "__main__":
    main(tyro.cli(Config))

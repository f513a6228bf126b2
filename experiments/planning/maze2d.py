"""Maze2D and Multi2D: what Diffuser scores, by the protocol that draws and follows its plans.

    python -m experiments.planning.maze2d                    # an hour on two CPU cores; states are kept
    python -m experiments.planning.maze2d --preset smoke     # a minute or two

The score is D4RL's: 0 for a random policy, 100 for its reference controller, which from its second episode on steers
at the goal whatever stands between (one that knows the way has 146, 156, 207).  The low-level follower is a part
of every protocol, for it does much of the work.  Levels to pass, quoted from memory: Diffuser 113.9, 121.5, 123.0
(Multi2D 128.9, 127.2, 132.1), Hierarchical Diffuser 128, 136, 156.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from daag_jax.evaluation.studies import rows_of
from experiments.planning import mazes
from experiments.records import write_study

BASELINE = "one plan, pd"


@dataclass(frozen=True)
class Config:
    """What is measured; without seeds, those of the preset."""

    preset: Literal["paper", "cpu", "smoke"] = "cpu"
    layouts: tuple[str, ...] = ("umaze", "medium", "large")
    families: tuple[str, ...] = mazes.FAMILIES
    protocols: tuple[str, ...] = tuple(mazes.PROTOCOLS)
    seeds: tuple[int, ...] = ()
    directory: str = "runs/experiments/planning"

    def __post_init__(self) -> None:
        mazes.check_choices(self)


def main(config: Config) -> dict:
    """Trains (or reads) every layout's planner and scores it; returns the "details" of each one's ``results.json``."""
    directory = Path(config.directory) / config.preset
    details = {}
    for layout in config.layouts:
        loaded = mazes.load(layout, config.preset, directory)
        seeds = config.seeds or tuple(range(loaded.sizes.seeds))
        states, seconds, made = mazes.trained(loaded, seeds, directory)
        rows, of_layout = [], {}
        for family in config.families:
            best = mazes.controller_returns(loaded, family)
            found = {}
            for name in config.protocols:
                planned = mazes.evaluate(loaded, states, family, mazes.PROTOCOLS[name], seeds)
                found[name] = mazes.facts(loaded, planned, best)
                told = {k: v for k, v in found[name].items() if k != "scores"}
                print(f"{family}-{layout}, {name}: {found[name]['scores']} {told}", flush=True)
            scores = {name: {"": one["scores"]} for name, one in found.items()}
            rows += rows_of(f"{family}-{layout}", scores, BASELINE, "normalized score")
            of_layout[f"{family}-{layout}"] = {
                "controller": best,
                "updates": loaded.sizes.updates,
                "training seconds": seconds,
                "training made": made,
                "protocols": found,
            }
        folder = directory / "maze2d" / layout
        write_study(rows, f"Diffuser on {layout}", folder, BASELINE, {"details": of_layout})
        details |= of_layout
    return details


if __name__ == "__main__":
    main(tyro.cli(Config))

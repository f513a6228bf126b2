"""Fewer demonstrations, and fewer places: BC, tuned BC and DBC over data size and coverage.

    python -m experiments.dbc.data                     # three hours on one core; half of it with five seeds
    python -m experiments.dbc.data --preset smoke      # minutes

"size" takes the first demonstrations of the problem; "coverage" lets starts and goals of the Maze's demonstrations lie
in a share of its cells, and evaluates in all of them.  The tuned baselines are BC with observation noise, weight decay
and the absolute loss, and stopped early.  Expect DBC and BC to stay together, and early stopping to lose from 25 on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro

from daag_jax.data.datasets import subset
from experiments.dbc.arms import Arm, bc_arm, dbc_arm, run_arms
from experiments.dbc.problems import Loaded, weight_of, with_episodes
from experiments.dbc.study import Options, Results, write


@dataclass(frozen=True)
class Config(Options):
    """Shares of the demonstrations, and of the Maze's cells."""

    shares: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    coverages: tuple[float, ...] = (0.25, 0.5, 0.75)


def arms(loaded: Loaded) -> Mapping[str, Arm]:
    """Baselines and DBC."""
    sizes = loaded.sizes
    return {
        "BC": bc_arm(sizes),
        "BC, noise 0.03": bc_arm(sizes, observation_noise=0.03),
        "BC, decay 0.01": bc_arm(sizes, weight_decay=1e-2),
        "BC, absolute": bc_arm(sizes, likelihood="absolute"),
        "BC, stopped early": bc_arm(sizes, stops_early=True),
        "DBC": dbc_arm(sizes, weight_of(loaded)),
    }


def main(config: Config) -> Results:
    directory = f"{config.directory}/{config.preset}"
    results: Results = {}
    for name in config.problems:
        whole = config.load(name)
        cases = {}
        for share in config.shares:
            num = max(2, round(share * len(whole.episodes.length)))
            cases[f"{name}, {num} demonstrations"] = with_episodes(
                whole, subset(whole.episodes, num)
            )
        for coverage in config.coverages if name == "maze" else ():
            covered = config.load(name, demonstrated={"coverage": coverage})
            cases[f"{name}, {coverage:.0%} of the cells"] = covered
        for case, loaded in cases.items():
            results[case] = run_arms(loaded, arms(loaded), config.run(loaded.sizes))
    write(results, "data", Path(directory) / "data")
    return results


if __name__ == "__main__":
    main(tyro.cli(Config))

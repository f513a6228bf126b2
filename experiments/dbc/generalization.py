"""Picking, pushing and turning further from the demonstrations: success over the noise k (arXiv 2302.13335).

    python -m experiments.dbc.generalization --methods BC DBC    # two hours on one core, most of it for ten models
    python -m experiments.dbc.generalization --problems hand --methods BC DBC --noises 1 2 3    # 15 min
    python -m experiments.dbc.generalization --preset smoke      # minutes

Objects and goals of the demonstrations lie in boxes of size k = 1; in the hand k scales the noise of the block's first
position.  The paper has BC at 92, 92, 86, 78, 67 percent on Pick and DBC at 100, 98, 92, 83, 74.  Expect DBC seven to
twelve points above BC there (with a model of 128 instead of 512 and a tuned BC it was below from k = 1.25 on), and no
difference in the hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tyro

from daag_jax.envs.env import Env
from daag_jax.envs.worlds import make_world
from experiments.dbc import main_table
from experiments.dbc.problems import Loaded
from experiments.dbc.study import Results, study


@dataclass(frozen=True)
class Config(main_table.Config):
    """Problems, methods and noises."""

    problems: tuple[str, ...] = ("pick",)
    methods: tuple[str, ...] = ("BC", "DP", "DBC")
    noises: tuple[float, ...] = (1.0, 1.25, 1.5, 1.75, 2.0)


def main(config: Config) -> Results:
    def worlds(loaded: Loaded) -> Mapping[str, Env]:
        make = lambda k: make_world(
            loaded.problem.world, **{**loaded.problem.evaluated, "noise": k}
        )
        return {f"k = {k:g}": make(k) for k in config.noises}

    return study(config, "generalization", lambda loaded: main_table.arms(loaded, config), worlds)


if __name__ == "__main__":
    main(tyro.cli(Config))

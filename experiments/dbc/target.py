"""Which model: of state and action, of the action given the state, or of the action alone?

    python -m experiments.dbc.target                     # about 1 h on two cores
    python -m experiments.dbc.target --preset smoke      # two minutes

The three have the same hidden layers.  A model of the action alone knows no state, so it can only say which actions
the expert ever takes.  Expect joint and conditional near each other, and the action alone useless without BC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tyro

from experiments.dbc.arms import Arm, bc_arm, dbc_arm
from experiments.dbc.problems import Loaded
from experiments.dbc.study import Options, Results, study


@dataclass(frozen=True)
class Config(Options):
    """Which models, and whether they are also tried without BC."""

    targets: tuple[str, ...] = ("joint", "conditional", "action")
    alone: bool = True


def main(config: Config) -> Results:
    def arms(loaded: Loaded) -> Mapping[str, Arm]:
        make = lambda **changes: dbc_arm(loaded.sizes, loaded.problem.weight, **changes)
        made = {"BC": bc_arm(loaded.sizes)}
        for target in config.targets:
            made[f"BC + {target}"] = make(target=target)
            if config.alone:
                made[f"{target} alone"] = make(target=target, bc_weight=0.0)
        return made

    return study(config, "target", arms)


if __name__ == "__main__":
    main(tyro.cli(Config))

"""Which model: of state and action, of the action given the state, or of the action alone?

    python -m experiments.dbc.target                     # about 40 min on one core
    python -m experiments.dbc.target --preset smoke      # minutes

The three have the same hidden layers, and lambda is scaled so that the error of an action weighs the same in each:
the loss is a mean over noised entries, of which a joint model has more.  A model of the action alone knows no state,
so it can only say which actions the expert ever takes.  Expect joint and conditional near each other, and the action
alone useless without BC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tyro

from experiments.dbc.arms import Arm, bc_arm, dbc_arm
from experiments.dbc.problems import Loaded, weight_of
from experiments.dbc.study import Options, Results, study


@dataclass(frozen=True)
class Config(Options):
    """Which models, and whether they are also tried without BC."""

    targets: tuple[str, ...] = ("joint", "conditional", "action")
    alone: bool = True


def main(config: Config) -> Results:
    def arms(loaded: Loaded) -> Mapping[str, Arm]:
        spec = loaded.env.spec
        share = spec.action_dim / (spec.observation_dim + spec.action_dim)
        weights = {"joint": 1.0, "conditional": share, "action": share}
        make = lambda target, **changes: dbc_arm(
            loaded.sizes, weights[target] * weight_of(loaded), target=target, **changes
        )
        made = {"BC": bc_arm(loaded.sizes)}
        for target in config.targets:
            made[f"BC + {target}"] = make(target)
            if config.alone:
                made[f"{target} alone"] = make(target, bc_weight=0.0)
        return made

    return study(config, "target", arms)


if __name__ == "__main__":
    main(tyro.cli(Config))

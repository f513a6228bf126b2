"""How much the guidance may weigh: success over lambda (arXiv 2302.13335).

    python -m experiments.dbc.weight                     # about 45 min on one core, nine arms
    python -m experiments.dbc.weight --preset smoke      # minutes

Expect a plateau: success rises from BC's with lambda and falls again where guidance drowns the demonstrations.  On
Pick the learning rate of the policy matters as much: lambda 4 does better at 5e-4 than at 1e-3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from experiments.dbc.arms import bc_arm, dbc_arm
from experiments.dbc.study import Options, Results, study


@dataclass(frozen=True)
class Config(Options):
    """The weights, and where the guidance is clipped at the expert's loss."""

    weights: tuple[float, ...] = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 100.0)
    clip: Literal["batch", "sample", "none"] = "batch"  # none: L_expert is left out


def main(config: Config) -> Results:
    return study(
        config,
        "weight",
        lambda loaded: (
            {"BC": bc_arm(loaded.sizes)}
            | {f"lambda {w:g}": dbc_arm(loaded.sizes, w, clip=config.clip) for w in config.weights}
        ),
    )


if __name__ == "__main__":
    main(tyro.cli(Config))

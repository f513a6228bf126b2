"""When the model helps: number of steps T, the range of times it is asked at, weighting, and the Jacobian.

    python -m experiments.dbc.times                     # about half an hour on two cores (JAX_NUM_CPU_DEVICES=2)
    python -m experiments.dbc.times --preset smoke      # minutes

A range keeps the weight that its times have in the whole: lambda is multiplied by its length.  The loss of perturbed
actions differs from the expert's at early times alone (``.model_quality``), whence we expected T of 10 to be enough
and early times to do all the work.  On Maze only all of a thousand steps was above BC, and no range showed an effect.
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
    """Numbers of steps and ranges of time."""

    num_steps: tuple[int, ...] = (5, 10, 50, 100, 1000)
    ranges: tuple[tuple[float, float], ...] = ((0.0, 0.1), (0.0, 0.4), (0.4, 1.0))
    with_variants: bool = True  # min-SNR weights, and the gradient without the Jacobian


def main(config: Config) -> Results:
    def arms(loaded: Loaded) -> Mapping[str, Arm]:
        make = lambda **changes: dbc_arm(loaded.sizes, weight_of(loaded), **changes)
        by_steps = {f"T = {n}": make(num_steps=n) for n in config.num_steps}
        by_range = {
            f"t in {a:g} to {b:g}": dbc_arm(
                loaded.sizes, (b - a) * weight_of(loaded), time_range=(a, b)
            )
            for a, b in config.ranges
        }
        variants = {
            "min-SNR weights": make(weighting="min_snr"),
            "no Jacobian": make(gradient="distillation"),
        }
        found = {"BC": bc_arm(loaded.sizes)} | by_steps | by_range
        return found | variants if config.with_variants else found

    return study(config, "times", arms)


if __name__ == "__main__":
    main(tyro.cli(Config))

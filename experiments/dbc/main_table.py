"""The main table of Diffusion-BC: BC, implicit BC, diffusion policy, DBC on every problem (arXiv 2302.13335).

    python -m experiments.dbc.main_table                              # implicit BC: 25 min of one core for each seed
    python -m experiments.dbc.main_table --preset smoke               # minutes
    python -m experiments.dbc.main_table --preset paper --problems maze pick push cheetah walker ant hand

Every arm has the policy sizes and batches of its problem; implicit BC is given a box that holds the demonstrated
actions.  A reproduction should have (success in percent): Maze BC 88 to 95, DBC 92 to 97; Pick at k = 1.25 BC 80 to 95,
DBC 93 to 99.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tyro

from daag_jax.algorithms.diffusion_policy import diffusion_policy, single_step
from daag_jax.algorithms.implicit_bc import ImplicitBcConfig, action_box, implicit_bc
from daag_jax.data.datasets import transitions
from experiments.dbc.arms import Arm, bc_arm, dbc_arm
from experiments.dbc.problems import Loaded, weight_of
from experiments.dbc.study import Options, Results, study


@dataclass(frozen=True)
class Config(Options):
    """Which methods, and what their sampling may cost."""

    methods: tuple[str, ...] = ("BC", "IBC", "DP", "DBC")
    num_inference_steps: int = 10  # of the diffusion policy, DDIM; the paper: 1000, ancestral
    num_negatives: int = 64
    num_samples: int = 256  # of implicit BC, when deciding


def box_of(loaded: Loaded) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The demonstrated actions' box, in the units that a learner sees."""
    actions = transitions(loaded.episodes)[1]
    if loaded.stats is not None:
        actions = (actions - np.asarray(loaded.stats.action_mean)) / np.asarray(
            loaded.stats.action_std
        )
    return action_box(actions)


def ibc_arm(loaded: Loaded, config: Config) -> Arm:
    """Implicit BC with the policy's hidden layers."""
    sizes, (low, high) = loaded.sizes, box_of(loaded)
    own = ImplicitBcConfig(
        sizes.policy_dims,
        low,
        high,
        config.num_negatives,
        num_samples=config.num_samples,
        learning_rate=sizes.policy_rate,
        decay_steps=sizes.policy_steps,
        max_grad_norm=0.5,
    )
    return Arm(lambda spec: implicit_bc(own, spec), sizes.policy_steps, ("ibc", own))


def dp_arm(loaded: Loaded, config: Config) -> Arm:
    """The paper's kind of diffusion policy, one step, in our sizes: the policy's hidden layers and one more.

    It learns at 3e-4, or at the policy's rate where that is higher (the paper: 4 x 1200 at 1e-5 on Pick).
    """
    sizes, (low, high) = loaded.sizes, box_of(loaded)
    own = single_step(
        hidden_dims=(*sizes.policy_dims, sizes.policy_dims[-1]),
        action_low=low,
        action_high=high,
        sampler="ddim",
        num_inference_steps=config.num_inference_steps,
        learning_rate=max(sizes.policy_rate, 3e-4),
        decay_steps=sizes.policy_steps,
    )
    return Arm(lambda spec: diffusion_policy(own, spec), sizes.policy_steps, ("dp", own))


def arms(loaded: Loaded, config: Config) -> Mapping[str, Arm]:
    """The methods by name."""
    made = {
        "BC": lambda: bc_arm(loaded.sizes),
        "IBC": lambda: ibc_arm(loaded, config),
        "DP": lambda: dp_arm(loaded, config),
        "DBC": lambda: dbc_arm(loaded.sizes, weight_of(loaded)),
    }
    return {name: made[name]() for name in config.methods}


def main(config: Config) -> Results:
    return study(config, "main_table", lambda loaded: arms(loaded, config))


if __name__ == "__main__":
    main(tyro.cli(Config))

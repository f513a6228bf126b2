"""Policies that were trained: small networks shipped in ``assets/expert_WORLD.safetensors``.

``experiments/pretrain/experts.py`` makes them (soft actor-critic of brax); experts act with the squashed mean of their
policy, so a demonstration's only randomness is where it starts.

The file holds "observation/mean" and "observation/std" [O], then "layer_N/kernel" [in, out] and "layer_N/bias" [out]
of a network with ReLU between layers; the last one is squashed by tanh.

``assets/learning_WORLD.safetensors`` holds the policies that a training met on its way to a third of D4RL's reference,
with a leading axis K; their last layer gives the deviations too.  D4RL's *medium* is the last of them, and its
*medium-replay* what all of them did (Fu et al. 2020, appendix).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from safetensors.numpy import load_file

from daag_jax.assets import asset
from daag_jax.envs.env import Env
from daag_jax.envs.experts.expert import Expert, always
from daag_jax.types import Key

WORLD_NAMES = {
    "HalfCheetah": "halfcheetah",
    "Walker2d": "walker2d",
    "Hopper": "hopper",
    "AntReach": "ant-reach",
    "HandRotate": "hand-rotate",
}
ENDS_AT_GOAL = ("AntReach", "HandRotate")
MIN_DEVIATION = 1e-3  # of brax's policies, before tanh
Weights = Mapping[str, Array]


def trained(env: Env) -> Expert:
    """The shipped expert of a world, by the name of its class.

    HalfCheetah, Walker2d and Hopper run to the horizon, and an attempt that falls before it is no demonstration;
    AntReach and HandRotate end at the goal, and an attempt that does not reach it is none.

    Raises:
        ValueError: there is no such expert.
        FileNotFoundError: its weights are not there.
    """
    kind = type(env).__name__
    if kind not in WORLD_NAMES:
        raise ValueError(
            f"no expert was trained for {kind}; there is one for {sorted(WORLD_NAMES)}."
        )
    weights = load(asset(f"expert_{WORLD_NAMES[kind]}.safetensors"))
    is_reaching = kind in ENDS_AT_GOAL
    has_reached = lambda state: state.metrics["success"] > 0
    return Expert(
        start=lambda state, key: (),
        act=lambda memory, state, key: (mean_action(weights, state.obs), memory),
        is_finished=lambda memory, state: (state.done > 0) | has_reached(state),
        max_steps=env.horizon,
        min_steps=1 if is_reaching else env.horizon,
        is_accepted=has_reached if is_reaching else always,
    )


def load(path: Path) -> Weights:
    """The weights in a file."""
    return {name: jnp.asarray(value) for name, value in load_file(path).items()}


def mean_action(weights: Weights, observation: Float[Array, "*B O"]) -> Float[Array, "*B A"]:
    """What the expert does, in [-1, 1]."""
    return jnp.tanh(_last_layer(weights, observation))


def sampled_action(
    weights: Weights, observation: Float[Array, "*B O"], key: Key
) -> Float[Array, "*B A"]:
    """What a policy with deviations does while it learns, in [-1, 1]: brax's squashed Gaussian."""
    mean, spread = jnp.split(_last_layer(weights, observation), 2, axis=-1)
    noise = jax.random.normal(key, mean.shape)
    return jnp.tanh(mean + (jax.nn.softplus(spread) + MIN_DEVIATION) * noise)


def _last_layer(weights: Weights, observation: Float[Array, "*B O"]) -> Float[Array, "*B N"]:
    lead = (1,) * (observation.ndim - 1)
    row = lambda name: weights[name].reshape(*lead, -1)
    x = (observation - row("observation/mean")) / row("observation/std")
    num_layers = sum(name.endswith("/kernel") for name in weights)
    for layer in range(num_layers):
        x = x @ weights[f"layer_{layer}/kernel"] + row(f"layer_{layer}/bias")
        x = jnp.maximum(x, 0.0) if layer + 1 < num_layers else x
    return x

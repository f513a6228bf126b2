"""What learners of values share: transitions, their temporal-difference targets, expectiles, weights of advantages.

    y = r + discount (1 - terminal) V(s'),      L = sum_e mean_w (Q_e(s, a) - y)^2

A window of two steps is a transition (s, a, r, s').  Where the second step is padding, s' is not known: such a
transition counts if a terminal ended the episode, for then s' is not asked for; a time limit weighs nothing.
Inside of a learner, actions are in half-ranges of their bounds, [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from daag_jax.algorithms.bc import flat_inputs
from daag_jax.algorithms.parts.action_head import ActionHead, from_unit, to_unit
from daag_jax.networks.critics import Critic, apply_ensemble, init_ensemble
from daag_jax.types import Actions, Batch, Key, Params, Spec, Window


class Transition(NamedTuple):
    """B steps of experience; an observation holds the instruction where there is one."""

    observations: Float[Array, "B I"]
    actions: Float[Array, "B A"]  # in [-1, 1]
    rewards: Float[Array, "B"]
    next_observations: Float[Array, "B I"]
    is_terminal: Bool[Array, "B"]
    weight: Float[Array, "B"]  # 0: what follows is not known


class Critics(NamedTuple):
    """An ensemble of Q."""

    init: Callable[[Key], Params]
    values: Callable[[Params, Array, Array], Array]  # of observations and actions, [E, *B]


def make_critics(hidden_dims: tuple[int, ...], num: int, spec: Spec) -> Critics:
    """``num`` critics of a world's observations (with the instruction) and actions."""
    net = Critic(hidden_dims)
    blank = jnp.zeros((1, input_dim(spec))), jnp.zeros((1, spec.action_dim))
    return Critics(
        lambda key: init_ensemble(net, key, num, *blank),
        lambda params, observations, actions: apply_ensemble(net, params, observations, actions),
    )


def input_dim(spec: Spec) -> int:
    """Numbers of an observation, and of the instruction where there is one."""
    return spec.observation_dim + spec.task_dim


def transition_window(spec: Spec) -> Window:
    """Windows of two steps that say which step was a terminal."""
    return Window(1, 2, 1, ("terminal", "task") if spec.task_dim else ("terminal",))


def transitions(batch: Batch, head: ActionHead, spec: Spec) -> Transition:
    """The transition of each window; ``extras["terminal"]`` is bool [B, T]."""
    is_terminal = batch.extras["terminal"][:, 0].astype(bool)
    is_known = batch.mask[:, 0] & (batch.mask[:, 1] | is_terminal)
    return Transition(
        flat_inputs(batch, 1, spec),
        to_unit(head, batch.actions[:, :1])[:, 0],
        batch.rewards[:, 0],
        flat_inputs(batch._replace(observations=batch.observations[:, 1:]), 1, spec),
        is_terminal,
        is_known.astype(jnp.float32),
    )


def bounded(head: ActionHead, unit: Float[Array, "B A"]) -> Actions:
    """One action to do, in the world's units."""
    return from_unit(head, jnp.clip(unit, -1.0, 1.0)[:, None])


def weighted_mean(values: Float[Array, "B"], weight: Float[Array, "B"]) -> Float[Array, ""]:
    """sum w v / sum w; 0 where nothing weighs."""
    return jnp.sum(weight * values) / jnp.maximum(jnp.sum(weight), 1.0)


def td_target(
    step: Transition, next_values: Float[Array, "B"], discount: float
) -> Float[Array, "B"]:
    """r + discount V(s'), and r alone where the episode ended; no gradient."""
    later = jnp.where(step.is_terminal, 0.0, next_values)
    return jax.lax.stop_gradient(step.rewards + discount * later)


def td_loss(
    values: Float[Array, "E B"], target: Float[Array, "B"], weight: Float[Array, "B"]
) -> Float[Array, ""]:
    """The squared errors of the critics, summed over them and averaged over the batch."""
    errors = jnp.sum(jnp.square(values - target[None]), axis=0)
    return weighted_mean(errors, weight)


def expectile_loss(difference: Float[Array, "B"], expectile: float) -> Float[Array, "B"]:
    """|expectile - 1[u < 0]| u^2 of u = sample - estimate  (section 4.1, Kostrikov et al. 2021)."""
    side = jnp.where(difference < 0, 1.0 - expectile, expectile)
    return side * jnp.square(difference)


def advantage_weights(
    advantages: Float[Array, "B"], scale: float, largest: float
) -> Float[Array, "B"]:
    """min(exp(scale A), largest), without a gradient; cut before the exponential, so that nothing overflows."""
    exponent = jnp.minimum(scale * advantages, jnp.log(largest))
    return jax.lax.stop_gradient(jnp.exp(exponent))


def check_learner(config: Any) -> None:
    """Raises ValueError for what no learner of values can use: a field's name, its value, the cure."""
    for field in ("hidden_dims", "actor_dims"):
        if not getattr(config, field, (1,)):
            raise ValueError(f"{field} is empty; name the width of each layer, try (256, 256).")
    if not 0.0 <= config.discount <= 1.0:
        raise ValueError(f"discount={config.discount} is outside 0 to 1; try 0.99.")
    if not 0.0 <= config.target_decay < 1.0:
        raise ValueError(
            f"target_decay={config.target_decay} is outside [0, 1), and at 1 the targets stand still; try 0.995."
        )
    for field in ("learning_rate", "actor_learning_rate"):
        if getattr(config, field, 1.0) <= 0:
            raise ValueError(f"{field}={getattr(config, field)} is not positive; try 3e-4.")
    if config.num_critics < 1:
        raise ValueError(f"num_critics={config.num_critics} is not positive; try 2.")

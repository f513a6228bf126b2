"""What a planner gives, and how it is carried out.

A plan is a trajectory of states, ``stride`` steps of the world apart, of which the first is the present one.  What
turns it into actions is a *follower*: it sees the present state and the plan, and nothing of the world.  In the
published protocol of Diffuser on Maze2D the follower, a proportional-derivative law, does much of the work;
hence it is a part of its own, and every score names it:

    actions    the planned action (Janner et al. 2022 on locomotion, where every step is planned anew)
    pd         a = (x' - x) + (v' - v)  to the planned state of the next step (Diffuser's release on Maze2D)
    pursuit    a = 10 (x' - x) - v  to the point of the plan that is ``lookahead`` units of length ahead, at full force
    inverse    a = f(s, s') of a learnt inverse model, to the planned state of the next step (Decision Diffuser)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from daag_jax.algorithms.parts.combinators import restore, standardize, standardized_context
from daag_jax.data.normalize import Stats
from daag_jax.types import Context, Key, State

FOLLOWERS = ("actions", "pd", "pursuit")
POSITION_GAIN, VELOCITY_GAIN = 10.0, 1.0  # of "pursuit": those of D4RL's controller


class Plan(NamedTuple):
    """B plans of H states, ``stride`` steps of the world apart.  The first state is the present one."""

    observations: Float[Array, "B H O"]
    actions: Float[Array, "B H A"]  # A is 0 where a planner plans states alone
    score: Float[Array, "B"]  # what it was chosen by; higher is better
    is_possible: Bool[Array, "B"]  # no step of it is much longer than any that was learnt from


class Planner(NamedTuple):
    """``plan`` looks ahead, ``follow`` acts; both are pure."""

    plan: Callable[[State, Context, Plan | None, Key], Plan]
    follow: Callable[[State, Plan, Int[Array, ""], Float[Array, "B O"]], Float[Array, "B A"]]
    every: int  # steps of the world between two plans
    stride: int  # steps of the world between two states of a plan


def at_step(states: Float[Array, "B H D"], step: Array, stride: int) -> Float[Array, "B D"]:
    """The plan at a step of the world: between two of its states on a line, and past the end the last one."""
    position = jnp.minimum(step / stride, states.shape[1] - 1.0)
    low = jnp.minimum(jnp.floor(position).astype(jnp.int32), states.shape[1] - 1)
    high = jnp.minimum(low + 1, states.shape[1] - 1)
    return states[:, low] + (position - low) * (states[:, high] - states[:, low])


def follow_actions(stride: int) -> Callable:
    """Carries out the planned action of the step."""

    def follow(state: State, plan: Plan, step: Array, observations: Array) -> Array:
        index = jnp.minimum(step // stride, plan.actions.shape[1] - 1)
        return plan.actions[:, index]

    return follow


def follow_pd(stride: int, position_dims: tuple[int, ...], velocity_dims: tuple[int, ...]):
    """Diffuser's law, with gains of 1; past the end of the plan the last position, at rest."""
    position, velocity = jnp.array(position_dims), jnp.array(velocity_dims)

    def follow(state: State, plan: Plan, step: Array, observations: Array) -> Array:
        wanted = at_step(plan.observations, step + 1, stride)
        is_over = step + 1 > stride * (plan.observations.shape[1] - 1)
        speed = jnp.where(is_over, 0.0, wanted[:, velocity])
        return wanted[:, position] - observations[:, position] + speed - observations[:, velocity]

    return follow


def follow_pursuit(
    stride: int, position_dims: tuple[int, ...], velocity_dims: tuple[int, ...], lookahead: float
):
    """Heads for the first point of the plan that is ``lookahead`` past the nearest one, along it.

    The plan's timing is ignored, its way is kept.
    """
    position, velocity = jnp.array(position_dims), jnp.array(velocity_dims)

    def one(path: Float[Array, "N P"], place: Float[Array, " P"]) -> Float[Array, " P"]:
        fine = resampled(path, stride)
        passed = jnp.linalg.norm(jnp.diff(fine, axis=0), axis=1)
        along = jnp.concatenate([jnp.zeros(1), jnp.cumsum(passed)])
        nearest = jnp.argmin(jnp.sum(jnp.square(fine - place[None]), axis=1))
        ahead = jnp.searchsorted(along, along[nearest] + lookahead)
        return fine[jnp.minimum(ahead, fine.shape[0] - 1)]

    def follow(state: State, plan: Plan, step: Array, observations: Array) -> Array:
        place = observations[:, position]
        target = jax.vmap(one)(plan.observations[:, :, position], place)
        return POSITION_GAIN * (target - place) - VELOCITY_GAIN * observations[:, velocity]

    return follow


def follow_inverse(stride: int, inverse: Callable[[State, Array, Array], Array]):
    """``inverse(state, present [B, O], next [B, O]) -> actions [B, A]``, to the plan's next state."""

    def follow(state: State, plan: Plan, step: Array, observations: Array) -> Array:
        wanted = at_step(plan.observations, step + stride, stride)
        return inverse(state, observations, wanted)

    return follow


def resampled(path: Float[Array, "H P"], stride: int) -> Float[Array, "N P"]:
    """Points on the lines between those of a path, ``stride`` to each."""
    share = jnp.arange(stride) / stride
    between = path[:-1, None] + share[None, :, None] * (path[1:, None] - path[:-1, None])
    return jnp.concatenate([between.reshape(-1, path.shape[1]), path[-1:]])


def shifted(plan: Float[Array, "B H D"], steps: int, stride: int) -> Float[Array, "B H D"]:
    """A plan as it looks ``steps`` steps of the world later; its end is repeated."""
    times = steps + stride * jnp.arange(plan.shape[1])
    return jax.vmap(lambda step: at_step(plan, step, stride), out_axes=1)(times)


def longest_step(path: Float[Array, "*B H P"]) -> Float[Array, "*B"]:
    """The length of the longest step between two states."""
    return jnp.max(jnp.linalg.norm(jnp.diff(path, axis=-2), axis=-1), axis=-1)


def arrival(
    path: Float[Array, "*B H P"], goal: Float[Array, "*B P"], tolerance: float
) -> Float[Array, "*B"]:
    """The first state of a path within ``tolerance`` of the goal; H where there is none."""
    is_near = jnp.linalg.norm(path - goal[..., None, :], axis=-1) <= tolerance
    first = jnp.argmax(is_near, axis=-1).astype(jnp.float32)
    return jnp.where(jnp.any(is_near, axis=-1), first, jnp.float32(path.shape[-2]))


def normalized_planner(planner: Planner, stats: Stats) -> Planner:
    """``planner`` sees (x - mean) / std, as the ``normalized`` learner of its state; followers see the world.

    So does whatever reads the context in planning: a guide, or what is asked for.
    """

    def inward(plan: Plan) -> Plan:
        states = standardize(plan.observations, stats.observation_mean, stats.observation_std)
        actions = plan.actions
        if actions.shape[-1]:
            actions = standardize(actions, stats.action_mean, stats.action_std)
        return plan._replace(observations=states, actions=actions)

    def plan(state: State, context: Context, previous: Plan | None, key: Key) -> Plan:
        previous = None if previous is None else inward(previous)
        made = planner.plan(state, standardized_context(context, stats), previous, key)
        states = restore(made.observations, stats.observation_mean, stats.observation_std)
        actions = made.actions
        if actions.shape[-1]:
            actions = restore(actions, stats.action_mean, stats.action_std)
        return made._replace(observations=states, actions=actions)

    return planner._replace(plan=plan)

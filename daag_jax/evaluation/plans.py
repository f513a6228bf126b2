"""How well a planner does: plans and what follows them, inside the world, as one program.

Every ``planner.every`` steps all worlds plan at once, from the present state and (but the first time) from their
last plan; in between the planner's follower acts on what it sees.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from daag_jax.algorithms.parts.planning import Plan, Planner
from daag_jax.data.blocks import action_bounds
from daag_jax.envs.env import Env
from daag_jax.envs.point_mass import ORIGIN
from daag_jax.evaluation.outcomes import Outcomes, context_of, frozen
from daag_jax.types import Key, State


class Planned(NamedTuple):
    """What became of B episodes, and what was planned for them at first."""

    outcomes: Outcomes
    plan: Plan
    path: Float[Array, "B N O"]  # observations, one every ``planner.stride`` steps


def evaluate_planner(env: Env, planner: Planner, policy: State, key: Key, num: int) -> Planned:
    """``num`` episodes; actions are kept inside the bounds of ``env.spec``."""
    reset_key, first_key, plan_key = jax.random.split(key, 3)
    state = jax.vmap(env.reset)(jax.random.split(reset_key, num))
    low, high = (bound[None] for bound in action_bounds(env.spec))
    context = lambda state: context_of(env, state, state.obs[:, None])
    blank = Outcomes(jnp.zeros(num, bool), jnp.zeros(num), jnp.zeros(num, jnp.int32))
    first = planner.plan(policy, context(state), None, first_key)

    def step(carry: tuple, n: Array) -> tuple[tuple, Array]:
        state, plan, found = carry
        was_done = state.done > 0
        action = jnp.clip(planner.follow(policy, plan, n, state.obs), low, high)
        after = frozen(was_done, state, jax.vmap(env.step)(state, action))
        found = Outcomes(
            found.success | (~was_done & (after.metrics["success"] > 0)),
            found.returns + jnp.where(was_done, 0.0, after.reward),
            found.length + ~was_done,
        )
        return (after, plan, found), state.obs

    every = min(planner.every, env.horizon)

    def follow(carry: tuple) -> tuple[tuple, Array]:
        return jax.lax.scan(step, carry, jnp.arange(every))

    def decide(carry: tuple, key: Key) -> tuple[tuple, Array]:
        state, plan, found = carry
        return follow((state, planner.plan(policy, context(state), plan, key), found))

    carry, path = follow((state, first, blank))
    decisions = -(-env.horizon // every) - 1
    if decisions:
        carry, rest = jax.lax.scan(decide, carry, jax.random.split(plan_key, decisions))
        path = jnp.concatenate([path, rest.reshape(-1, *path.shape[1:])])
    path = jnp.moveaxis(path[:: planner.stride], 0, 1)
    return Planned(carry[2], first, path)


def crosses(walls: Any, path: Float[Array, "B N 2"]) -> Bool[Array, "B"]:
    """Whether a path's lines pass through a wall of PointMaze (``Maze.walls``), by the centre of the ball.

    The ball's place is 0.2 m off the middle of its cell: cell i reaches from i - 0.7 to i + 0.3
    (``envs/point_mass.py``).
    """
    share = jnp.linspace(0.0, 1.0, 9)[:-1]
    between = path[:, :-1, None] + share[None, None, :, None] * jnp.diff(path, axis=1)[:, :, None]
    points = jnp.concatenate([between.reshape(path.shape[0], -1, 2), path[:, -1:]], axis=1)
    cells = jnp.floor(points + ORIGIN - 0.5).astype(jnp.int32)
    cells = jnp.clip(cells, 0, jnp.array(walls.shape)[None, None] - 1)
    return jnp.any(jnp.asarray(walls)[cells[..., 0], cells[..., 1]], axis=1)

"""Many worlds at once: vectorised steps, automatic reset with fresh states, rollouts split over devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from daag_jax.envs.env import Env, State
from daag_jax.types import Key


def vector_reset(env: Env, key: Key, num: int) -> State:
    """``num`` independent fresh states, leading axis B."""
    return jax.vmap(env.reset)(jax.random.split(key, num))


def auto_reset(env: Env) -> Callable[[State, jax.Array, Key], State]:
    """``step(state, action, key)`` for one world, which starts a *fresh* episode where the last one ended.

    Task and colours stay.  The reward and ``done`` are those of the step that was taken; everything else belongs to the
    new episode.  (brax's own wrapper returns to the first state of the run, which correlates all episodes.)
    """

    def step(state: State, action: jax.Array, key: Key) -> State:
        after = env.step(state, action)
        fresh = env.reset(key, state.info.get("task"), state.info.get("colors"))
        pick = lambda new, old: jnp.where(after.done > 0, new, old)
        kept = jax.tree.map(pick, fresh, after)
        return kept.replace(reward=after.reward, done=after.done, metrics=after.metrics)

    return step


def sharded(function: Callable[..., Any], mesh: Mesh, axis: str = "data") -> Callable[..., Any]:
    """``function`` of arrays with a leading axis of worlds, each device running its own part.

    Under one global ``jit`` the solver's loop inside a vmapped step would wait for all devices at every iteration; here
    each device ends when its own worlds do.
    """
    spec = PartitionSpec(axis)
    return jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    )

"""Episodes from many worlds at once: one compiled program of physics, pixels and policy.

``rollout(env, act, ...)`` resets B worlds and runs all of them to the horizon, as a scan over decisions (chunks of k
actions) of a scan over steps; a world that is done stands still, and its ``length`` says how many actions count.  The
same function collects experience (``act`` explores) and evaluates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from daag_jax.envs.env import PixelEnv, State
from daag_jax.types import Context, Episode, Key, Window

Act = Callable[[Any, Context, Key], Array]  # (policy state, [B, K, O] context, key) -> [B, k, A]


def rollout(
    env: PixelEnv,
    act: Act,
    policy: Any,
    key: Key,
    num: int,
    task: Any = None,
    colors: Array | None = None,
    instruction: Array | None = None,
    explore: Array | float | None = None,
    window: Window = Window(),
) -> Episode:
    """B = ``num`` episodes.

    Args:
        task, colors: of all worlds alike; None takes the environment's own.
        instruction: the embedding [D] that the policy is told.
        explore: scales the exploration of the policy: one number, or one per world and decision [B, D]; None leaves it
            to the policy.
        window: how many observations ``act`` sees (the first one repeated before the start) and actions it gives.

    Returns:
        Episode with leading axis B.  ``extras`` hold what only a simulator knows: qpos [B, T + 1, Q], colors [B, 3],
        labels [B, T + 1, M] (truth of every caption) and success [B].
    """
    reset_key, act_key = jax.random.split(key)
    reset = lambda key: env.reset(key, task, colors)
    state = jax.vmap(reset)(jax.random.split(reset_key, num))

    def observed(state: State) -> tuple[Array, Array]:
        return state.obs, jax.vmap(env.render)(state).rgb

    decisions = -(-env.horizon // window.execute)
    scales = None
    if explore is not None:
        if jnp.ndim(explore) not in (0, 2):
            raise ValueError(
                f"explore has shape {jnp.shape(explore)}; give one number, or one per world and decision [B, D]."
            )
        scales = jnp.broadcast_to(jnp.asarray(explore, jnp.float32), (num, decisions)).T

    def context(history: tuple[Array, Array], scale: Array | None) -> Context:
        extras = {"image": history[1]}
        if instruction is not None:
            extras["task"] = jnp.broadcast_to(instruction[None], (num, *instruction.shape))
        if scale is not None:
            extras["explore"] = scale
        return Context(history[0], extras)

    def step(carry: tuple, action: Array) -> tuple[tuple, dict]:
        state, history = carry
        after = jax.vmap(env.step)(state, action)
        was_done = state.done > 0
        frozen = lambda new, old: jnp.where(
            was_done.reshape((-1,) + (1,) * (new.ndim - 1)), old, new
        )
        after = jax.tree.map(frozen, after, state)
        after = after.replace(reward=jnp.where(was_done, 0.0, after.reward))
        seen = observed(after)
        history = tuple(
            jnp.concatenate([h[:, 1:], s[:, None]], 1) for h, s in zip(history, seen, strict=True)
        )
        out = record(env, after) | {
            "observations": seen[0],
            "images": seen[1],
            "actions": action,
            "rewards": after.reward,
            "alive": ~was_done,
        }
        return (after, history), out

    def decide(carry: tuple, decision: tuple[Key, Array | None]) -> tuple[tuple, dict]:
        step_key, scale = decision
        actions = act(policy, context(carry[1], scale), step_key)
        return jax.lax.scan(step, carry, jnp.moveaxis(actions[:, : window.execute], 1, 0))

    first = observed(state)
    begin = record(env, state) | {"observations": first[0], "images": first[1]}
    history = tuple(jnp.repeat(x[:, None], window.history, axis=1) for x in first)
    keys = jax.random.split(act_key, decisions)
    (last, _), path = jax.lax.scan(decide, (state, history), (keys, scales))
    flat = lambda x: x.reshape(-1, *x.shape[2:])[: env.horizon]  # decisions x k -> steps
    path = {name: jnp.moveaxis(flat(value), 0, 1) for name, value in path.items()}
    whole = {n: jnp.concatenate([v[:, None], path[n]], axis=1) for n, v in begin.items()}
    return Episode(
        whole["observations"],
        whole["images"],
        path["actions"],
        path["rewards"],
        path["alive"].sum(axis=1),
        {
            "qpos": whole["qpos"],
            "labels": whole["labels"],
            "colors": last.info["colors"],
            "success": jnp.max(path["rewards"], axis=1) > 0,
        },
    )


def record(env: PixelEnv, state: State) -> dict[str, Array]:
    """What the simulator knows of B worlds."""
    return {"qpos": state.pipeline_state.qpos, "labels": jax.vmap(env.labels)(state)}


def grouped_rollout(run: Callable[[Any, Key, Any], Episode], mesh: Mesh) -> Callable[..., Episode]:
    """``(shared, keys [G], split [G, ...]) -> Episode`` of G groups of worlds, each ``run(shared, key, split)``.

    Groups are spread over the devices of a mesh, whose size divides G; what they give does not depend on it.  A CPU
    runs one group after the other, for a small group stays in its cache; an accelerator all together.  Under one global
    ``jit`` a vmapped solver loop would wait for all devices at every iteration; here each device goes its own pace.
    """
    is_cpu = mesh.devices.flat[0].platform == "cpu"

    def local(shared: Any, keys: Array, split: Any) -> Episode:
        one = lambda group: run(shared, *group)
        groups = (keys, split)
        found = jax.lax.map(one, groups) if is_cpu else jax.vmap(one)(groups)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)

    cut = PartitionSpec(mesh.axis_names)
    return jax.jit(
        jax.shard_map(
            local, mesh=mesh, in_specs=(PartitionSpec(), cut, cut), out_specs=cut, check_vma=False
        )
    )


def random_actions(spec) -> Act:
    """Actions drawn uniformly from the whole range."""

    def act(policy: Any, context: Context, key: Key) -> Array:
        del policy
        batch = context.observations.shape[0]
        return jax.random.uniform(key, (batch, 1, spec.action_dim), minval=-1.0, maxval=1.0)

    return act

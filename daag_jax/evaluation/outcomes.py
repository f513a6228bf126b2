"""Worlds without pixels: how well a policy does, and demonstrations of an expert.

Both are scans over steps of B worlds at once; a world that is done stands still.  An evaluation keeps nothing but
success, return and length, so thousands of episodes of many policies fit (``jax.vmap`` over states of the policy).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from daag_jax.data.blocks import action_bounds
from daag_jax.envs.env import Env, State
from daag_jax.envs.experts.expert import Expert
from daag_jax.evaluation.rollout import Act
from daag_jax.training.devices import replicate
from daag_jax.training.processes import gathered
from daag_jax.types import Context, Episode, Key, Window


class Outcomes(NamedTuple):
    """What became of B episodes."""

    success: Bool[Array, "*B"]  # at any step
    returns: Float[Array, "*B"]  # undiscounted
    length: Int[Array, "*B"]


class History(NamedTuple):
    """The last K steps of B worlds, the present one last; the first is repeated before the start."""

    observations: Float[Array, "B K O"]
    actions: Float[Array, "B K A"]  # that of the present step is blank
    earned: Float[Array, "B K"]  # rewards of the episode before each step


def evaluate_policy(
    env: Env, act: Act, policy: Any, key: Key, num: int, window: Window = Window()
) -> Outcomes:
    """``num`` episodes of ``act(policy, context, key)``; its actions are kept inside the bounds of ``env.spec``.

    Where the window has the field "returns", contexts hold "actions" [B, K, A] and "earned" [B, K], too: what was done
    in the steps of the history, and what the episode had earned before each.
    """
    reset_key, act_key = jax.random.split(key)
    state = jax.vmap(env.reset)(jax.random.split(reset_key, num))
    size = num, window.history
    history = History(
        jnp.repeat(state.obs[:, None], window.history, axis=1),
        jnp.zeros((*size, env.spec.action_dim)),
        jnp.zeros(size),
    )
    blank = Outcomes(jnp.zeros(num, bool), jnp.zeros(num), jnp.zeros(num, jnp.int32))
    low, high = (bound[None] for bound in action_bounds(env.spec))

    def step(carry: tuple, action: Array) -> tuple[tuple, None]:
        state, history, found = carry
        was_done, action = state.done > 0, jnp.clip(action, low, high)
        after = frozen(was_done, state, jax.vmap(env.step)(state, action))
        reward = jnp.where(was_done, 0.0, after.reward)
        history = History(
            jnp.concatenate([history.observations[:, 1:], after.obs[:, None]], axis=1),
            jnp.concatenate(
                [history.actions[:, 1:-1], action[:, None], jnp.zeros_like(action)[:, None]], axis=1
            )[:, -window.history :],
            jnp.concatenate(
                [history.earned[:, 1:], history.earned[:, -1:] + reward[:, None]], axis=1
            ),
        )
        found = Outcomes(
            found.success | (~was_done & (after.metrics["success"] > 0)),
            found.returns + reward,
            found.length + ~was_done,
        )
        return (after, history, found), None

    def decide(carry: tuple, key: Key) -> tuple[tuple, None]:
        state, history, _ = carry
        context = context_of(env, state, history.observations)
        if "returns" in window.fields:
            told = {"actions": history.actions, "earned": history.earned}
            context = context._replace(extras={**context.extras, **told})
        actions = act(policy, context, key)
        return jax.lax.scan(step, carry, jnp.moveaxis(actions[:, : window.execute], 1, 0))

    decisions = -(-env.horizon // window.execute)
    keys = jax.random.split(act_key, decisions)
    return jax.lax.scan(decide, (state, history, blank), keys)[0][2]


def spread_evaluation(
    env: Env, act: Act, num: int, mesh: Mesh, window: Window = Window()
) -> Callable[[Any, Key], Outcomes]:
    """``(policy, key) -> Outcomes`` of ``num`` episodes, each device simulating its part; whole, on every host.

    Each device has a key of its own: which episodes they are depends on the number of devices.

    Raises:
        ValueError: the devices do not divide ``num``.
    """
    if num % mesh.size:
        raise ValueError(
            f"{num} episodes are not a multiple of {mesh.size} devices; try {mesh.size * -(-num // mesh.size)}."
        )

    def local(policy: Any, keys: Array) -> Outcomes:
        return evaluate_policy(env, act, policy, keys[0], num // mesh.size, window)

    cut = PartitionSpec(mesh.axis_names)
    run = jax.jit(
        jax.shard_map(
            local, mesh=mesh, in_specs=(PartitionSpec(), cut), out_specs=cut, check_vma=False
        )
    )
    return lambda policy, key: gathered(
        run(*replicate((policy, jax.random.split(key, mesh.size)), mesh))
    )


def context_of(env: Env, state: State, history: Float[Array, "B K O"]) -> Context:
    """What is known of B worlds: the last observations and, where the world has tasks, its goals as ``task`` [B, D]."""
    return Context(history, {"task": state.info["goal"]} if env.spec.task_dim else {})


def attempts(env: Env, expert: Expert, key: Key, num: int) -> Episode:
    """``num`` attempts of an expert [B, max_steps, ..]; ``extras["accepted"]`` [B] says which are demonstrations.

    The world's own horizon and success do not end an attempt, only the expert does.  ``extras`` also hold the success
    [B], whether the last state is an end for good (``terminated`` [B]: the world is done, and not for its horizon), and
    qpos of the first state, from which the attempt can be replayed.
    """
    reset_key, start_key, act_key = jax.random.split(key, 3)
    state = jax.vmap(env.reset)(jax.random.split(reset_key, num))
    memory = jax.vmap(expert.start)(state, jax.random.split(start_key, num))
    low, high = (bound[None] for bound in action_bounds(env.spec))

    def step(carry: tuple, key: Key) -> tuple[tuple, tuple]:
        state, memory, is_over = carry
        action, remembered = jax.vmap(expert.act)(memory, state, jax.random.split(key, num))
        after = jax.vmap(env.step)(state, jnp.clip(action, low, high))
        after = frozen(is_over, state, after)
        memory = frozen(is_over, memory, remembered)
        ends = is_over | jax.vmap(expert.is_finished)(memory, after)
        return (after, memory, ends), (after.obs, action, after.reward, ~is_over, after.metrics)

    blank = jnp.zeros(num, bool)
    keys = jax.random.split(act_key, expert.max_steps)
    (last, _, ended), path = jax.lax.scan(step, (state, memory, blank), keys)
    observations, actions, rewards, alive, metrics = (
        jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), part) for part in path
    )
    length = jnp.sum(alive, axis=1)
    accepted = ended & (length >= expert.min_steps) & jax.vmap(expert.is_accepted)(last)
    return Episode(
        jnp.concatenate([state.obs[:, None], observations], axis=1),
        jnp.zeros((num, expert.max_steps + 1, 0, 0, 0, 3), jnp.uint8),
        actions,
        jnp.where(alive, rewards, 0.0),
        length,
        {
            "accepted": accepted,
            "success": jnp.any(alive & (metrics["success"] > 0), axis=1),
            "terminated": (last.done > 0) & (last.info["steps"] < env.horizon),
            "qpos": state.pipeline_state.qpos,
        },
    )


def demonstrations(env: Env, expert: Expert, seed: int, num: int, batch: int = 64) -> Episode:
    """Exactly ``num`` accepted demonstrations, the same for the same seed; attempts run ``batch`` at a time.

    Raises:
        ValueError: after 20 batches fewer than one attempt in ten was accepted.
    """
    attempt = jax.jit(lambda key: attempts(env, expert, key, batch))
    root, kept, count, tried = jax.random.key(seed), [], 0, 0
    while count < num:
        episodes = jax.device_get(attempt(jax.random.fold_in(root, tried)))
        rows = np.flatnonzero(episodes.extras["accepted"])
        kept.append(jax.tree.map(lambda x, rows=rows: np.asarray(x)[rows], episodes))
        count, tried = count + len(rows), tried + 1
        if tried >= 20 and count < 0.1 * tried * batch:
            raise ValueError(
                f"{count} of {tried * batch} attempts of the expert were accepted; it does not fit this world."
            )
    episodes = jax.tree.map(lambda *x: np.concatenate(x)[:num], *kept)
    longest = int(episodes.length.max())
    return episodes._replace(
        observations=episodes.observations[:, : longest + 1],
        images=episodes.images[:, : longest + 1],
        actions=episodes.actions[:, :longest],
        rewards=episodes.rewards[:, :longest],
    )


def frozen(is_over: Bool[Array, "B"], old: Any, new: Any) -> Any:
    """``old`` in the rows that are over, ``new`` in the others."""
    pick = lambda a, b: jnp.where(is_over.reshape((-1,) + (1,) * (b.ndim - 1)), a, b)
    return jax.tree.map(pick, old, new)

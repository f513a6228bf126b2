"""Data sets of the runners by D4RL's recipe (Fu et al. 2020), from our own policies: ``hopper-medium-replay-ours``.

    random          actions drawn uniformly
    medium          the policy with which a training came to a third of D4RL's reference
    medium-replay   what the training did until then: as long with each of the policies that it met, random ones first
    expert          the shipped expert, which acts without noise
    medium-expert   medium, and as many steps of expert

The worlds pay Gym's rewards, so that D4RL's scores apply; the data are ours, hence the names.  D4RL's sets have
1,000,000 steps each (medium-expert twice as many, medium-replay 200,000 to 400,000).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from daag_jax.assets import asset
from daag_jax.data.blocks import Trajectory, action_bounds, padded
from daag_jax.envs.env import Env
from daag_jax.envs.experts.trained import load, mean_action, sampled_action
from daag_jax.envs.worlds import make_world
from daag_jax.evaluation.rollout import Act, random_actions
from daag_jax.names import check_name
from daag_jax.types import Context, Episode, Key

RUNNERS = ("halfcheetah", "hopper", "walker2d")
QUALITIES = ("random", "medium", "medium-replay", "medium-expert", "expert")
DATA_SETS = {
    f"{world}-{quality}-ours": (world, quality) for world in RUNNERS for quality in QUALITIES
}
STEPS = 100_000  # without another number
RUN_STEPS = 10_000  # that one world makes; the last episode of a run is cut


class Runs(NamedTuple):
    """B worlds that never stand still, T steps each."""

    observations: Float[Array, "B T O"]
    actions: Float[Array, "B T A"]
    rewards: Float[Array, "B T"]
    reached: Float[Array, "B T O"]  # what was observed after the action
    done: Bool[Array, "B T"]
    terminated: Bool[Array, "B T"]  # done before the horizon


def collected(name: str, seed: int, steps: int = STEPS) -> Episode:
    """A data set of :data:`DATA_SETS`; ``extras["terminated"]`` says which episodes did not end by the horizon.

    The same name, seed and number of steps give the same data.

    Raises:
        ValueError: the name is unknown, or ``steps`` is not positive.
        FileNotFoundError: a policy's weights are not there.
    """
    check_name("data set", name, DATA_SETS)
    if steps < 1:
        raise ValueError(f"steps={steps} is not a number of steps; try {STEPS}.")
    world, quality = DATA_SETS[name]
    env, key = make_world(world), jax.random.key(seed)
    parts = ("medium", "expert") if quality == "medium-expert" else (quality,)
    num, size = -(-steps // RUN_STEPS), min(steps, RUN_STEPS)
    paths, terminated = [], []
    for number, part in enumerate(parts):
        policy, act = behaviour(world, part, env)
        run = jax.jit(lambda policy, key, act=act: runs(env, act, policy, key, num, size))
        made = jax.device_get(run(policy, jax.random.fold_in(key, number)))
        found = episodes_of(made, steps)
        paths += found[0]
        terminated += found[1]
    extras = {"terminated": np.asarray(terminated, bool)}
    return padded(paths, env.spec.observation_dim, env.spec.action_dim, extras)


def behaviour(world: str, quality: str, env: Env) -> tuple[Any, Act]:
    """The policy behind one quality (but medium-expert), and its ``act``; contexts tell the share of steps made."""
    if quality == "random":
        return (), random_actions(env.spec)
    if quality == "expert":
        expert = load(asset(f"expert_{world}.safetensors"))
        return expert, lambda policy, context, key: mean_action(policy, context.observations)
    learning = load(asset(f"learning_{world}.safetensors"))
    policies = {k: v for k, v in learning.items() if k not in ("steps", "returns")}
    if quality == "medium":
        last = jax.tree.map(lambda x: x[-1], policies)
        return last, lambda policy, context, key: sampled_action(policy, context.observations, key)
    return policies, replayed(random_actions(env.spec))


def replayed(explore: Act) -> Act:
    """``explore`` first, then policies [K, ..] in their order, each for as long; the last one is where they led."""

    def act(policies: Any, context: Context, key: Key) -> Array:
        num = len(policies["observation/mean"])
        turn = jnp.floor(context.extras["progress"] * num).astype(jnp.int32) - 1  # -1 explores
        chosen = jax.tree.map(lambda x: x[jnp.clip(turn, 0, num - 1)], policies)
        explore_key, sample_key = jax.random.split(key)
        keys = jax.random.split(sample_key, len(turn))
        learnt = jax.vmap(sampled_action)(chosen, context.observations, keys)
        return jnp.where(turn[:, None, None] < 0, explore((), context, explore_key), learnt)

    return act


def runs(env: Env, act: Act, policy: Any, key: Key, num: int, steps: int) -> Runs:
    """``num`` worlds for ``steps`` steps; one that is done is begun anew."""
    reset_key, step_key = jax.random.split(key)
    low, high = (bound[None] for bound in action_bounds(env.spec))
    reset = lambda key: jax.vmap(env.reset)(jax.random.split(key, num))
    begun = (jnp.arange(num) * steps) / (num * steps)  # each world makes another part of the whole

    def step(state: Any, n: Array) -> tuple[Any, Runs]:
        act_key, fresh_key = jax.random.split(jax.random.fold_in(step_key, n))
        context = Context(state.obs[:, None], {"progress": begun + n / (num * steps)})
        action = jnp.clip(act(policy, context, act_key)[:, 0], low, high)
        after = jax.vmap(env.step)(state, action)
        done = after.done > 0
        terminated = done & (after.info["steps"] < env.horizon)
        pick = lambda new, old: jnp.where(done.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)
        made = Runs(state.obs, action, after.reward, after.obs, done, terminated)
        return jax.tree.map(pick, reset(fresh_key), after), made

    made = jax.lax.scan(step, reset(reset_key), jnp.arange(steps))[1]
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), made)


def episodes_of(made: Runs, steps: int) -> tuple[list[Trajectory], list[bool]]:
    """The first ``steps`` steps, world by world, cut into episodes; and which of them terminated."""
    paths, terminated = [], []
    for row in range(len(made.done)):
        run = Runs(*(np.asarray(x)[row] for x in made))
        length = min(len(run.done), steps - row * len(run.done))
        stops = np.unique(np.append(np.flatnonzero(run.done[:length]) + 1, length))
        for start, stop in zip(np.append(0, stops[:-1]), stops, strict=True):
            seen = np.concatenate([run.observations[start:stop], run.reached[stop - 1 : stop]])
            paths.append(Trajectory(seen, run.actions[start:stop], run.rewards[start:stop]))
            terminated.append(bool(run.terminated[stop - 1]))
    return paths, terminated


def mean_return(episodes: Episode, horizon: int) -> float:
    """Of the episodes that are whole: terminated, or as long as the horizon; NaN where there are none."""
    is_whole = episodes.extras["terminated"] | (episodes.length == horizon)
    returns = np.sum(episodes.rewards, axis=1)[is_whole]
    return float(np.mean(returns)) if len(returns) else float("nan")

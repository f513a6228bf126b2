"""Our worlds for brax's trainers, and brax's policies in our form."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs import base as brax_env
from brax.envs.wrappers.training import EpisodeWrapper, VmapWrapper

from daag_jax.envs.env import Env, State


class Adapter(brax_env.Env):
    """One of our worlds with brax's interface; our state is its pipeline state, so that brax's counters stand apart.

    Args:
        distance: the metric that measures how far the goal is; None adds no reward.
        progress: reward of a unit of it nearer to the goal, on top of the world's own.
    """

    def __init__(self, env: Env, distance: str | None = None, progress: float = 0.0):
        self.env, self.distance, self.progress = env, distance, progress

    def reset(self, rng: jax.Array) -> State:
        state = self.env.reset(rng)
        return State(state, state.obs, state.reward, state.done, dict(state.metrics), {})

    def step(self, state: State, action: jax.Array) -> State:
        before = state.pipeline_state
        after = self.env.step(before, action)
        reward = after.reward
        if self.distance is not None:
            nearer = before.metrics[self.distance] - after.metrics[self.distance]
            reward += self.progress * nearer
        return state.replace(
            pipeline_state=after,
            obs=after.obs,
            reward=reward,
            done=after.done,
            metrics={**state.metrics, **after.metrics},
        )

    observation_size = property(lambda self: self.env.spec.observation_dim)
    action_size = property(lambda self: self.env.spec.action_dim)
    backend = property(lambda self: "daag_jax")


class FreshResets(brax_env.Wrapper):
    """Begins a new episode after the last one, elsewhere each time (brax's own wrapper repeats the first reset).

    Args:
        bank: first states [N], of which one is drawn (:func:`first_states`); None makes a new one at every step.
    """

    def __init__(self, env: brax_env.Env, bank: State | None = None):
        super().__init__(env)
        self.bank = bank

    def _first(self, keys: jax.Array) -> State:
        if self.bank is None:
            return self.env.reset(keys)
        size = len(self.bank.done)
        rows = jax.vmap(lambda key: jax.random.randint(key, (), 0, size))(keys)
        return jax.tree.map(lambda x: x[rows], self.bank)

    def reset(self, rng: jax.Array) -> State:
        keys = jax.vmap(jax.random.split)(rng)
        state = self._first(keys[:, 0])
        return state.replace(info={**state.info, "reset_key": keys[:, 1]})

    def step(self, state: State, action: jax.Array) -> State:
        steps = jnp.where(state.done > 0, 0.0, state.info["steps"])
        state = state.replace(done=jnp.zeros_like(state.done), info={**state.info, "steps": steps})
        after = self.env.step(state, action)
        keys = jax.vmap(jax.random.split)(state.info["reset_key"])
        fresh = self._first(keys[:, 0])
        choose = lambda new, old: jnp.where(
            after.done.reshape((-1,) + (1,) * (new.ndim - 1)) > 0, new, old
        )
        return after.replace(
            pipeline_state=jax.tree.map(choose, fresh.pipeline_state, after.pipeline_state),
            obs=choose(fresh.obs, after.obs),
            info={**after.info, "reset_key": keys[:, 1]},
        )


def wrapped(
    env: Adapter,
    episode_length: int,
    action_repeat: int = 1,
    randomization_fn=None,
    bank: State | None = None,
):
    """Many worlds, cut at ``episode_length``, each begun anew."""
    del randomization_fn
    return FreshResets(EpisodeWrapper(VmapWrapper(env), episode_length, action_repeat), bank)


def first_states(env: Adapter, num: int, seed: int) -> State:
    """First states [N] for :func:`wrapped`, made once where each takes long to settle."""
    keys = jax.random.split(jax.random.PRNGKey(seed), num)  # as brax has them
    return jax.jit(EpisodeWrapper(VmapWrapper(env), 1, 1).reset)(keys)


def as_weights(params: tuple, with_deviations: bool = False) -> dict[str, np.ndarray]:
    """Brax's policy, or its mean alone, in the form of ``envs/experts/trained.py``."""
    statistics, policy = params
    of = lambda tree, name: tree[name] if isinstance(tree, Mapping) else getattr(tree, name)
    weights = {f"observation/{name}": of(statistics, name) for name in ("mean", "std")}
    layers = [policy["params"][name] for name in sorted(policy["params"])]
    for i, layer in enumerate(layers):
        is_cut = i + 1 == len(layers) and not with_deviations
        size = layer["bias"].shape[-1] // (2 if is_cut else 1)
        weights[f"layer_{i}/kernel"] = layer["kernel"][:, :size]
        weights[f"layer_{i}/bias"] = layer["bias"][:size]
    return {name: np.asarray(value, np.float32) for name, value in weights.items()}

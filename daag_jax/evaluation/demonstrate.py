"""Demonstrations: episodes of a scripted expert, recorded by the same rollout as a policy's.

An expert reads the state of the simulator, which a policy never sees.  It whispers: the world's observation carries the
expert's action behind its own, the "policy" repeats what it hears, and the whisper is cut from the record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from daag_jax.envs.env import PixelEnv, State
from daag_jax.envs.renderer import Frame
from daag_jax.evaluation.rollout import rollout
from daag_jax.types import Context, Episode, Key


class Whispering:
    """A world whose observation ends with what the expert would do."""

    def __init__(self, env: PixelEnv, expert: Callable[[State], Array]):
        self.env, self.expert = env, expert
        self.spec, self.horizon, self.captions = env.spec, env.horizon, env.captions

    def reset(self, *args: Any) -> State:
        return self._whisper(self.env.reset(*args))

    def step(self, state: State, action: Array) -> State:
        return self._whisper(self.env.step(self._plain(state), action))

    def render(self, state: State) -> Frame:
        return self.env.render(self._plain(state))

    def labels(self, state: State) -> Array:
        return self.env.labels(self._plain(state))

    def _plain(self, state: State) -> State:
        return state.replace(obs=state.obs[: self.spec.observation_dim])

    def _whisper(self, state: State) -> State:
        return state.replace(obs=jnp.concatenate([state.obs, self.expert(state)]))


def demonstrate(
    env: PixelEnv,
    expert: Callable[[State], Array],
    key: Key,
    num: int,
    task: Any = None,
    colors: Array | None = None,
    noise: float = 0.0,
    epsilon: float = 0.0,
) -> Episode:
    """``num`` episodes of the expert; what is recorded is what was executed.

    Args:
        noise: standard deviation of the Gaussian that disturbs each action.
        epsilon: probability that an action is uniformly random instead.
    """
    world, observation_dim = Whispering(env, expert), env.spec.observation_dim

    def act(policy: Any, context: Context, key: Key) -> Array:
        heard = context.observations[:, -1:, observation_dim:]
        if noise > 0.0 or epsilon > 0.0:
            noise_key, random_key, choice_key = jax.random.split(key, 3)
            heard = heard + noise * jax.random.normal(noise_key, heard.shape)
            uniform = jax.random.uniform(random_key, heard.shape, minval=-1.0)
            is_random = jax.random.uniform(choice_key, (heard.shape[0], 1, 1)) < epsilon
            heard = jnp.where(is_random, uniform, heard)
        return jnp.clip(heard, -1.0, 1.0)

    episodes = rollout(world, act, (), key, num, task, colors)
    return episodes._replace(observations=episodes.observations[..., :observation_dim])

"""The contract of a world: ``reset`` and ``step`` on brax's ``State``, and pixels on request.

    state = env.reset(key)                      # pipeline_state, obs, reward, done, metrics, info
    state = env.step(state, action)
    frame = env.render(state)                   # leading axis V of camera views

Everything is pure and for one world: the caller vmaps, and under ``jax.shard_map`` splits worlds over devices.  ``obs``
is what a robot feels (no privileged state); pixels are rendered only where they are needed.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Bool

from daag_jax.envs.renderer import Frame
from daag_jax.types import Key, Spec

with contextlib.redirect_stdout(io.StringIO()):  # MJX prints that its optional Warp is missing
    from brax.envs.base import State

__all__ = ["Env", "PixelEnv", "State"]


@runtime_checkable
class Env(Protocol):
    """A world."""

    spec: Spec
    horizon: int  # steps of an episode

    def reset(self, key: Key) -> State:
        """A fresh state; the same key gives the same state, another key another one."""
        ...

    def step(self, state: State, action: jax.Array) -> State:
        """The state after one action [A]."""
        ...


@runtime_checkable
class PixelEnv(Env, Protocol):
    """A world that can be seen and talked about."""

    captions: tuple[str, ...]

    def reset(self, key: Key, task: Any = None, colors: Array | None = None) -> State:
        """A fresh state; ``task`` and ``colors`` [J] replace the world's own, and both are kept in ``info``."""
        ...

    def render(self, state: State) -> Frame:
        """What every camera sees, leading axis V."""
        ...

    def render_qpos(self, qpos: Array, colors: Array) -> Frame:
        """A stored configuration in any colours: with others than it had, the oracle of an edit."""
        ...

    def labels(self, state: State) -> Bool[Array, "M"]:
        """Which captions are true."""
        ...

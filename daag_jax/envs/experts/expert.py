"""What a demonstrator is: it reads the simulator's state, may remember, and says when a demonstration is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from daag_jax.envs.env import State
from daag_jax.types import Key

Memory = Any  # a pytree of arrays, or ()


def always(state: State) -> Bool[Array, ""]:
    """Every end is one to learn from."""
    return jnp.ones_like(state.done, bool)


class Expert(NamedTuple):
    """Pure functions for one world, meant for ``jax.vmap``.

    A demonstration ends with the step after which ``is_finished`` holds, or is cut (and of no use) at ``max_steps``.
    Its last state must satisfy ``is_accepted``, else it is dropped.
    """

    start: Callable[[State, Key], Memory]
    act: Callable[[Memory, State, Key], tuple[Array, Memory]]  # -> action [A], what it remembers
    is_finished: Callable[[Memory, State], Bool[Array, ""]]
    max_steps: int
    min_steps: int = 1  # shorter demonstrations are dropped
    is_accepted: Callable[[State], Bool[Array, ""]] = always


def until_done(max_steps: int) -> dict[str, Any]:
    """The fields of an expert whose demonstrations end with the episode."""
    return {"is_finished": lambda memory, state: state.done > 0, "max_steps": max_steps}

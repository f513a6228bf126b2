"""The vocabulary of the library, on one page.  Read this first.

Every learner, planner and synthesizer is an :class:`Algorithm`: ``init`` plus up to three verbs, and every verb
has the same signature, ``verb(state, data, key)``.  *update* learns, *act* decides, *augment* imagines.

Letters of shapes: B batch, T horizon or frames, K history, k chunk, O observation, A action, V camera views,
H W C pixels, E ensemble, N steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

Key = PRNGKeyArray  # a typed key, jax.random.key(seed); never raw uint32 pairs
Params = Any  # a pytree of arrays
State = Any  # everything of an algorithm that must survive a step
Metrics = Mapping[str, jax.Array]  # flat scalars: "loss/policy"
Actions = Float[Array, "B k A"]


class Spec(NamedTuple):
    """What a world looks like to an algorithm: sizes and bounds, no physics."""

    observation_dim: int  # O: proprioception, no privileged state
    action_dim: int  # A
    action_low: tuple[float, ...] = ()  # per dimension; () means -1
    action_high: tuple[float, ...] = ()  # per dimension; () means +1
    image_shape: tuple[int, ...] = ()  # (V, H, W, 3), () where there are no pixels
    task_dim: int = 0  # length of the embedding of an instruction, 0 where there is none


class Window(NamedTuple):
    """What one training example is, and how far a decision commits."""

    history: int = 1  # K  observations seen before deciding
    horizon: int = 1  # T  steps in an example (1 = transitions)
    execute: int = 1  # k  actions carried out before deciding again
    fields: tuple[str, ...] = ()  # extras wanted: "returns", "cost", "task", "image", "index"


class Batch(NamedTuple):
    """B windows of experience.  ``mask`` is False on padding past the end of an episode."""

    observations: Float[Array, "B T O"]
    actions: Float[Array, "B T A"]
    rewards: Float[Array, "B T"]
    mask: Bool[Array, "B T"]
    extras: Mapping[
        str, Array
    ] = {}  # the Window's fields, e.g. image: uint8 [B, T, V, H, W, 3], task: [B, D]


class Context(NamedTuple):
    """What is known when a decision is made."""

    observations: Float[Array, "B K O"]
    extras: Mapping[str, Array] = {}  # e.g. image: uint8 [B, K, V, H, W, 3], task: [B, D]


class Episode(NamedTuple):
    """One episode (or, with one more leading axis, many), padded to T actions and T + 1 observations."""

    observations: Float[Array, "*B T1 O"]
    images: UInt8[Array, "*B T1 V H W 3"]
    actions: Float[Array, "*B T A"]
    rewards: Float[Array, "*B T"]
    length: Int[Array, "*B"]  # actions that happened; observations 0..length are valid
    extras: Mapping[
        str, Array
    ] = {}  # of the simulator alone, e.g. "qpos"; never read by a policy or a detector


class Algorithm(NamedTuple):
    """A learner as a tuple of pure functions (as in optax).  No verb jits, logs, saves, or knows devices."""

    window: Window
    init: Callable[[Key], State]
    update: Callable[[State, Batch, Key], tuple[State, Metrics]]  # experience -> a better state
    act: Callable[[State, Context, Key], Actions] | None = (
        None  # [B, K, O] observed -> [B, k, A] to do
    )
    augment: Callable[[State, Batch, Key], Batch] | None = None  # experience -> more experience

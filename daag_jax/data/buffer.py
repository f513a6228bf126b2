"""The two buffers of Diffusion Augmented Agents (arXiv 2407.20798).

``LifelongBuffer``   every episode of every task, never emptied; edits are kept beside it, by (episode, swap)
``TaskBuffer``       emptied at the start of a task; steps of rewarded (pieces of) episodes, real or edited

The lifelong buffer lives on the host, as its size is that of a lifetime; the task buffer has a fixed capacity, so that
a policy's compiled update sees one shape for ever.  Both are values: adding returns a new one.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from daag_jax.types import Batch, Episode, Key, Spec


class LifelongBuffer(NamedTuple):
    """Episodes in the order of their collection, in blocks of equal shape, and the task each was collected for."""

    blocks: tuple[Episode, ...] = ()
    tasks: tuple[str, ...] = ()  # of each block

    @property
    def num_episodes(self) -> int:
        """Episodes of all blocks."""
        return sum(int(block.length.shape[0]) for block in self.blocks)

    def add(self, episodes: Episode, task: str) -> LifelongBuffer:
        """The buffer with one more block; refuses images or numbers that are broken.

        Raises:
            ValueError: an observation, action, reward or extra is not finite.
        """
        block = jax.tree.map(np.asarray, jax.device_get(episodes))
        numbers = {name: getattr(block, name) for name in ("observations", "actions", "rewards")}
        for name, value in (numbers | block.extras).items():
            if not np.isfinite(value).all():
                raise ValueError(
                    f"{name} of the episodes hold NaN or infinity; they are not stored."
                )
        return LifelongBuffer((*self.blocks, block), (*self.tasks, task))


MAX_GOALS = 16  # of one task


class Steps(NamedTuple):
    """Single decisions: what was seen and felt, and what was done."""

    images: UInt8[np.ndarray, "N V H W 3"]
    observations: Float[np.ndarray, "N O"]
    actions: Float[np.ndarray, "N A"]
    weights: Float[np.ndarray, "N"]
    is_edited: Bool[np.ndarray, "N"]
    goals: Int[np.ndarray, "N"]  # which sub-goal of the task they lead to, below MAX_GOALS


class TaskBuffer(NamedTuple):
    """``size`` steps in arrays of fixed capacity; the oldest are overwritten."""

    steps: Steps
    size: Int[np.ndarray, ""]
    added: Int[np.ndarray, ""]  # ever; the next one goes to added % capacity


def empty_task_buffer(spec: Spec, capacity: int) -> TaskBuffer:
    """A task buffer with nothing in it."""
    if capacity < 1:
        raise ValueError(f"capacity={capacity} holds nothing; try 4096.")
    steps = Steps(
        np.zeros((capacity, *spec.image_shape), np.uint8),
        np.zeros((capacity, spec.observation_dim), np.float32),
        np.zeros((capacity, spec.action_dim), np.float32),
        np.zeros(capacity, np.float32),
        np.zeros(capacity, bool),
        np.zeros(capacity, np.int32),
    )
    return TaskBuffer(steps, np.int32(0), np.int32(0))


def add_steps(buffer: TaskBuffer, steps: Steps) -> TaskBuffer:
    """The buffer with more steps."""
    num, capacity = steps.weights.shape[0], buffer.steps.weights.shape[0]
    if num == 0:
        return buffer
    kept = jax.tree.map(lambda x: x[-capacity:], steps)
    first = int(buffer.added) + num - kept.weights.shape[0]
    places = (first + np.arange(kept.weights.shape[0])) % capacity

    def written(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        old = old.copy()
        old[places] = new
        return old

    size = np.int32(min(int(buffer.size) + num, capacity))
    return TaskBuffer(
        jax.tree.map(written, buffer.steps, kept), size, np.int32(int(buffer.added) + num)
    )


def episode_steps(
    episode: Episode,
    index: int,
    end: int,
    discount: float,
    goal: int = 0,
    images: np.ndarray | None = None,
    is_edited: bool = False,
    confidence: float = 1.0,
) -> Steps:
    """The decisions before observation ``end`` of one episode; ``images`` [>= end, V, H, W, 3] replace its own.

    A decision ``n`` steps before the last one weighs ``discount^n``: what came long before may not have mattered.
    """
    shown = episode.images[index, :end] if images is None else images[:end]
    weights = confidence * discount ** np.arange(end - 1, -1, -1, dtype=np.float32)
    return Steps(
        np.asarray(shown),
        np.asarray(episode.observations[index, :end]),
        np.asarray(episode.actions[index, :end]),
        weights.astype(np.float32),
        np.full(end, is_edited),
        np.full(end, goal, np.int32),
    )


def sample_steps(
    steps: Steps,
    size: Array,
    key: Key,
    batch: int,
    task: Float[Array, "D"] | None,
    edited_share: float,
) -> Batch:
    """A batch of single decisions, drawn by their weight (see :func:`balanced`)."""
    is_there = jnp.arange(steps.weights.shape[0]) < size
    weights = balanced(steps, is_there, edited_share)
    index = jax.random.categorical(key, jnp.log(weights), shape=(batch,))
    extras = {"image": steps.images[index][:, None]}
    if task is not None:
        extras["task"] = jnp.broadcast_to(task[None], (batch, task.shape[0]))
    return Batch(
        steps.observations[index][:, None],
        steps.actions[index][:, None],
        jnp.zeros((batch, 1)),
        jnp.ones((batch, 1), bool),
        extras,
    )


def balanced(steps: Steps, is_there: Bool[Array, "N"], edited_share: float) -> Float[Array, "N"]:
    """Weights by which steps are drawn: every sub-goal that has any weighs alike, for the rare one is the hard one.

    Args:
        edited_share: the part of a sub-goal's weight that its edited steps have, where it has both kinds; below 0 as
            they come.
    """
    weights = steps.weights * is_there

    def total(weights: Array) -> Array:
        """The weight of each step's sub-goal."""
        return jax.ops.segment_sum(weights, steps.goals, MAX_GOALS)[steps.goals]

    if edited_share >= 0:
        edited, real = total(weights * steps.is_edited), total(weights * ~steps.is_edited)
        share = jnp.where(steps.is_edited, edited_share, 1.0 - edited_share)
        mine = jnp.where(steps.is_edited, edited, real)
        weights = jnp.where((edited > 0) & (real > 0), share * weights / (mine + 1e-9), weights)
    return weights / jnp.maximum(total(weights), 1e-9)

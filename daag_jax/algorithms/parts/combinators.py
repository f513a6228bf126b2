"""Algorithms to algorithms: normalise the data, train several at once, learn from what another one imagines.

augmented(normalized(bc(config, normalized_spec(spec, stats)), stats), dreamer, ratio=0.5)
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from daag_jax.data.normalize import Stats
from daag_jax.types import Actions, Algorithm, Batch, Context, Key, Metrics, State


def normalized(algorithm: Algorithm, stats: Stats, observation_limit: float = 0.0) -> Algorithm:
    """``algorithm`` sees (x - mean) / std; what it returns is in the world's units again.

    Build it for ``data.normalize.normalized_spec(spec, stats)``, so that its bounds are in the units that it sees.

    Args:
        observation_limit: deviations at which observations are cut, so that a number that hardly varied in the data
            cannot drown the others where it learns and acts; 0 does not cut.

    Raises:
        ValueError: the limit is negative.
    """
    if observation_limit < 0:
        raise ValueError(f"observation_limit={observation_limit} is negative; 0 does not cut.")

    def cut(observations: Array) -> Array:
        if not observation_limit:
            return observations
        return jnp.clip(observations, -observation_limit, observation_limit)

    def inward(batch: Batch) -> Batch:
        context = standardized_context(Context(batch.observations, batch.extras), stats)
        actions = standardize(batch.actions, stats.action_mean, stats.action_std)
        return batch._replace(
            observations=context.observations, actions=actions, extras=context.extras
        )

    def outward(batch: Batch) -> Batch:
        observations = restore(batch.observations, stats.observation_mean, stats.observation_std)
        actions, extras = restore(batch.actions, stats.action_mean, stats.action_std), batch.extras
        if stats.task_mean is not None and "task" in extras:
            extras = {**extras, "task": restore(extras["task"], stats.task_mean, stats.task_std)}
        return batch._replace(observations=observations, actions=actions, extras=extras)

    def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        seen = inward(batch)
        seen = seen._replace(observations=cut(seen.observations))
        return algorithm.update(state, seen, key)

    def act(state: State, context: Context, key: Key) -> Actions:
        seen = standardized_context(context, stats)
        seen = seen._replace(observations=cut(seen.observations))
        actions = algorithm.act(state, seen, key)
        return restore(actions, stats.action_mean, stats.action_std)

    def augment(state: State, batch: Batch, key: Key) -> Batch:
        return outward(algorithm.augment(state, inward(batch), key))

    return algorithm._replace(
        update=update,
        act=act if algorithm.act else None,
        augment=augment if algorithm.augment else None,
    )


def ensemble(algorithm: Algorithm, num_members: int) -> Algorithm:
    """``num_members`` independent learners of the same batches; they act by their mean, and imagine in turn."""
    if num_members < 1:
        raise ValueError(f"num_members={num_members} is not positive; try 5.")

    def init(key: Key) -> State:
        return jax.vmap(algorithm.init)(jax.random.split(key, num_members))

    def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        keys = jax.random.split(key, num_members)
        state, metrics = jax.vmap(algorithm.update, in_axes=(0, None, 0))(state, batch, keys)
        return state, {name: jnp.mean(values, axis=0) for name, values in metrics.items()}

    def act(state: State, context: Context, key: Key) -> Actions:
        keys = jax.random.split(key, num_members)
        return jnp.mean(jax.vmap(algorithm.act, in_axes=(0, None, 0))(state, context, keys), axis=0)

    def augment(state: State, batch: Batch, key: Key) -> Batch:
        member_key, augment_key = jax.random.split(key)
        member = jax.random.randint(member_key, (), 0, num_members)
        one = jax.tree.map(lambda leaf: leaf[member], state)
        return algorithm.augment(one, batch, augment_key)

    return Algorithm(
        algorithm.window,
        init,
        update,
        act if algorithm.act else None,
        augment if algorithm.augment else None,
    )


class Augmented(NamedTuple):
    """State of :func:`augmented`."""

    student: State
    dreamer: State


def augmented(
    student: Algorithm, dreamer: Algorithm, ratio: float, learn_dreamer: bool = True
) -> Algorithm:
    """The student learns from batches of which a share ``ratio`` is imagined by the dreamer.

    Args:
        ratio: 0 is the student alone, 1 is imagined data alone; rounded to whole rows of the batch.
        learn_dreamer: whether the dreamer learns from the same real batches; False freezes it.

    Raises:
        ValueError: ratio is outside [0, 1], the dreamer cannot augment, or the windows differ.
    """
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"ratio={ratio} is no share; try 0.5.")
    if dreamer.augment is None:
        raise ValueError("the dreamer has no verb `augment`; use a synthesizer.")
    for field in ("history", "horizon"):
        own, other = getattr(student.window, field), getattr(dreamer.window, field)
        if own != other:
            raise ValueError(
                f"the student's {field} {own} differs from the dreamer's {other}; build both for the same window."
            )
    fields = tuple(dict.fromkeys(student.window.fields + dreamer.window.fields))

    def init(key: Key) -> Augmented:
        student_key, dreamer_key = jax.random.split(key)
        return Augmented(student.init(student_key), dreamer.init(dreamer_key))

    def update(state: Augmented, batch: Batch, key: Key) -> tuple[Augmented, Metrics]:
        student_key, dreamer_key, augment_key = jax.random.split(key, 3)
        dream, metrics = state.dreamer, {}
        if learn_dreamer:
            dream, learnt = dreamer.update(dream, batch, dreamer_key)
            metrics = {f"dreamer/{name}": value for name, value in learnt.items()}
        mixed = mix(batch, dreamer.augment(dream, batch, augment_key), ratio) if ratio else batch
        learner, learnt = student.update(state.student, mixed, student_key)
        return Augmented(learner, dream), metrics | learnt

    def act(state: Augmented, context: Context, key: Key) -> Actions:
        return student.act(state.student, context, key)

    window = student.window._replace(fields=fields)
    return Algorithm(window, init, update, act if student.act else None)


def mix(real: Batch, imagined: Batch, ratio: float) -> Batch:
    """The first round(ratio B) rows of ``imagined`` and the others of ``real``."""
    size = real.mask.shape[0]
    is_imagined = jnp.arange(size) < round(ratio * size)

    def choose(new: Array, old: Array) -> Array:
        if old.ndim == 0 or old.shape[0] != size:
            return old
        return jnp.where(is_imagined.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(choose, imagined, real)


def standardize(x: Array, mean: Array | None, std: Array | None) -> Array:
    """(x - mean) / std along the last axis; a dimension that never varies is only centred."""
    if mean is None:
        return x
    shape = (1,) * (x.ndim - 1) + (-1,)
    return (x - mean.reshape(shape)) / spread(std).reshape(shape)


def standardized_context(context: Context, stats: Stats) -> Context:
    """Observations, past actions, and the task where its statistics are known."""
    seen = standardize(context.observations, stats.observation_mean, stats.observation_std)
    extras = dict(context.extras)
    if "actions" in extras:
        extras["actions"] = standardize(extras["actions"], stats.action_mean, stats.action_std)
    if stats.task_mean is not None and "task" in extras:
        extras["task"] = standardize(extras["task"], stats.task_mean, stats.task_std)
    return Context(seen, extras)


def restore(x: Array, mean: Array | None, std: Array | None) -> Array:
    """The inverse of :func:`standardize`."""
    if mean is None:
        return x
    shape = (1,) * (x.ndim - 1) + (-1,)
    return x * spread(std).reshape(shape) + mean.reshape(shape)


def spread(std: Array) -> Array:
    """Deviations without zeros."""
    return jnp.where(std > 1e-6, std, 1.0)

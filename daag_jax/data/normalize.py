"""Means and deviations of a data set, and the bounds of a world in their units."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from daag_jax.data.blocks import action_bounds, happened
from daag_jax.types import Episode, Spec

CONSTANT = 1e-6  # a deviation below this is rounding of a number that never varies


class Stats(NamedTuple):
    """Means and deviations over decisions; actions are left alone where theirs are None (they are bounded already)."""

    observation_mean: Float[Array, "O"]
    observation_std: Float[Array, "O"]
    action_mean: Float[Array, "A"] | None = None
    action_std: Float[Array, "A"] | None = None
    task_mean: Float[Array, "D"] | None = None  # of a task that names a part of an observation
    task_std: Float[Array, "D"] | None = None


Pair = tuple[Float[np.ndarray, "O"], Float[np.ndarray, "A"]]  # of observations and actions


class Moments(NamedTuple):
    """What statistics need of the decisions of a block, in double precision, and blocks can be merged by."""

    count: int
    mean: Pair
    squares: Pair  # sum of (x - mean)^2
    low: Pair
    high: Pair


def stats_of(episodes: Episode) -> Stats:
    """Of the steps that happened: padding and the observation after the last action do not count.

    The deviation of what never varies is 1, so that it is only centred.
    """
    return stats_of_moments(moments_of(episodes))


def moments_of(episodes: Episode) -> Moments:
    """Of the same steps as :func:`stats_of`."""
    is_there = happened(episodes)
    rows = [
        np.asarray(values)[is_there].astype(np.float64)
        for values in (episodes.observations[:, :-1], episodes.actions)
    ]
    means = [x.sum(axis=0) / max(1, len(x)) for x in rows]
    squares = [np.square(x - mean).sum(axis=0) for x, mean in zip(rows, means, strict=True)]
    low = [x.min(axis=0, initial=np.inf) for x in rows]
    high = [x.max(axis=0, initial=-np.inf) for x in rows]
    return Moments(int(is_there.sum()), *(tuple(pair) for pair in (means, squares, low, high)))


def merged(a: Moments, b: Moments) -> Moments:
    """Of two blocks together: M = M_a + M_b + (mean_b - mean_a)^2 n_a n_b / n  (Chan, Golub and LeVeque 1983)."""
    count = max(1, a.count + b.count)
    far = [y - x for x, y in zip(a.mean, b.mean, strict=True)]
    means = [x + d * (b.count / count) for x, d in zip(a.mean, far, strict=True)]
    both = zip(a.squares, b.squares, far, strict=True)
    squares = [x + y + d**2 * (a.count * b.count / count) for x, y, d in both]
    low, high = (
        [bound(x, y) for x, y in zip(one, other, strict=True)]
        for bound, one, other in ((np.minimum, a.low, b.low), (np.maximum, a.high, b.high))
    )
    return Moments(a.count + b.count, *(tuple(pair) for pair in (means, squares, low, high)))


def stats_of_moments(moments: Moments) -> Stats:
    """Means, and deviations that are 1 where nothing varies."""
    found = []
    for mean, squares in zip(moments.mean, moments.squares, strict=True):
        std = np.sqrt(squares / max(1, moments.count))
        found += [mean, np.where(std > CONSTANT, std, 1.0)]
    return Stats(*(jnp.asarray(x, jnp.float32) for x in found))


def limits_of(episodes: Episode, task_dims: tuple[int, ...] = ()) -> Stats:
    """Centres and half ranges, so that the data lie in [-1, 1] (the limits' normaliser of Diffuser's release).

    Args:
        task_dims: of an observation, which the task names (a goal): a task is put into their units.

    Raises:
        ValueError: no episode has a step.
    """
    return limits_of_moments(moments_of(episodes), task_dims)


def limits_of_moments(moments: Moments, task_dims: tuple[int, ...] = ()) -> Stats:
    """What :func:`limits_of` finds in the blocks that were merged."""
    if not moments.count:
        raise ValueError("no episode has a step, and so the data have no limits; collect again.")
    found = []
    for low, high in zip(moments.low, moments.high, strict=True):
        half = (high - low) / 2
        found += [(low + high) / 2, np.where(half > CONSTANT, half, 1.0)]
    stats = Stats(*(jnp.asarray(x, jnp.float32) for x in found))
    if not task_dims:
        return stats
    chosen = jnp.array(task_dims)
    return stats._replace(
        task_mean=stats.observation_mean[chosen], task_std=stats.observation_std[chosen]
    )


def normalized_spec(spec: Spec, stats: Stats) -> Spec:
    """The world as a learner of normalised data sees it: bounds (bound - mean) / std, where actions are normalised."""
    if stats.action_mean is None:
        return spec
    mean, std = np.asarray(stats.action_mean), np.asarray(stats.action_std)
    low, high = action_bounds(spec)
    unit = lambda bound: tuple(((bound - mean) / std).tolist())
    return spec._replace(action_low=unit(low), action_high=unit(high))

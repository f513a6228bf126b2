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


def stats_of(episodes: Episode) -> Stats:
    """Of the steps that happened: padding and the observation after the last action do not count.

    The deviation of what never varies is 1, so that it is only centred.
    """
    found, is_there = [], happened(episodes)
    for values in (episodes.observations[:, :-1], episodes.actions):
        rows = np.asarray(values)[is_there].astype(np.float64)
        std = rows.std(axis=0)
        found += [rows.mean(axis=0), np.where(std > CONSTANT, std, 1.0)]
    return Stats(*(jnp.asarray(x, jnp.float32) for x in found))


def normalized_spec(spec: Spec, stats: Stats) -> Spec:
    """The world as a learner of normalised data sees it: bounds (bound - mean) / std."""
    mean, std = np.asarray(stats.action_mean), np.asarray(stats.action_std)
    low, high = action_bounds(spec)
    unit = lambda bound: tuple(((bound - mean) / std).tolist())
    return spec._replace(action_low=unit(low), action_high=unit(high))

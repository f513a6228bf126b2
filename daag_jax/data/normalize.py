"""Means and deviations of a data set, and the bounds of a world in their units."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from daag_jax.data.blocks import action_bounds, happened
from daag_jax.types import Episode, Spec

CONSTANT = 1e-6  # a deviation below this is rounding of a number that never varies


class DatasetStats(NamedTuple):
    """Over the decisions of a data set; the deviation of what never varies is 1, so that it is only centred."""

    observation_mean: Float[Array, "O"]
    observation_std: Float[Array, "O"]
    action_mean: Float[Array, "A"]
    action_std: Float[Array, "A"]


def stats_of(episodes: Episode) -> DatasetStats:
    """Of the steps that happened: padding and the observation after the last action do not count."""
    found, is_there = [], happened(episodes)
    for values in (episodes.observations[:, :-1], episodes.actions):
        rows = np.asarray(values)[is_there].astype(np.float64)
        std = rows.std(axis=0)
        found += [rows.mean(axis=0), np.where(std > CONSTANT, std, 1.0)]
    return DatasetStats(*(jnp.asarray(x, jnp.float32) for x in found))


def normalized_spec(spec: Spec, stats: DatasetStats) -> Spec:
    """The world as a learner of normalised data sees it: bounds (bound - mean) / std."""
    mean, std = np.asarray(stats.action_mean), np.asarray(stats.action_std)
    low, high = action_bounds(spec)
    unit = lambda bound: tuple(((bound - mean) / std).tolist())
    return spec._replace(action_low=unit(low), action_high=unit(high))

"""Means over pixels, frames and episodes in which nothing to measure is NaN, and is counted, never 0.

Every metric of an edit is a mean over pixels, then over frames, then over episodes.  The interval of a mean is a
bootstrap over *episodes*, because frames of one episode are no independent samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from daag_jax.types import Key


class Summary(NamedTuple):
    """A mean over episodes, its 95 % interval, and how many episodes had something to measure."""

    mean: float
    low: float
    high: float
    measured: int
    empty: int


def masked_mean(values: Array, mask: Array, axes: int | tuple[int, ...] = (-2, -1)) -> Array:
    """Mean over the pixels of a mask; NaN where there are none."""
    weights = mask.astype(jnp.float32)
    count = weights.sum(axis=axes)
    # a value may be NaN where it is not asked for
    total = jnp.where(weights > 0, values * weights, 0.0).sum(axis=axes)
    return jnp.where(count > 0, total / jnp.maximum(count, 1.0), jnp.nan)


def known_mean(values: Array, axes: int | tuple[int, ...] | None = None) -> Array:
    """Mean over the entries that are numbers; NaN where none is."""
    axes = tuple(range(values.ndim)) if axes is None else axes
    return masked_mean(values, ~jnp.isnan(values), axes)


def ratio_of(part: Array, whole: Array) -> Array:
    """A quotient of counts; NaN where the whole is 0."""
    return jnp.where(whole > 0, part / jnp.maximum(whole, 1e-12), jnp.nan)


def summarise(
    metrics: Mapping[str, Float[Array | np.ndarray, " N"]], key: Key, draws: int = 1000
) -> dict[str, Summary]:
    """Means over N episodes with bootstrap intervals; episodes without the thing measured are counted apart."""
    if not metrics:
        return {}
    size = len(next(iter(metrics.values())))
    picks = np.asarray(jax.random.randint(key, (draws, size), 0, size))
    return {name: _summary(np.asarray(values), picks) for name, values in metrics.items()}


def _summary(values: Float[np.ndarray, " N"], picks: np.ndarray) -> Summary:
    is_known = ~np.isnan(values)
    measured = int(is_known.sum())
    if measured == 0:
        return Summary(np.nan, np.nan, np.nan, 0, values.size)
    weights = is_known[picks].sum(axis=1)
    means = np.where(is_known, values, 0.0)[picks].sum(axis=1)[weights > 0] / weights[weights > 0]
    low, high = np.quantile(means, (0.025, 0.975))
    return Summary(
        float(values[is_known].mean()), float(low), float(high), measured, values.size - measured
    )

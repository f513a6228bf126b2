"""Statistics of blocks, merged, are those of the whole."""

import jax
import numpy as np
import pytest

from daag_jax.data.blocks import happened
from daag_jax.data.normalize import (
    limits_of,
    limits_of_moments,
    merged,
    moments_of,
    stats_of,
    stats_of_moments,
)
from daag_jax.types import Episode


def far_from_zero(num: int = 12, longest: int = 9) -> Episode:
    """Small deviations around large means, which differ between episodes; one number never varies."""
    rng = np.random.default_rng(0)
    observations = 1e4 + rng.normal(size=(num, longest + 1, 3)) + np.arange(num)[:, None, None]
    observations[..., 2] = 7.0
    return Episode(
        observations.astype(np.float32),
        np.zeros((num, longest + 1, 0, 0, 0, 3), np.uint8),
        rng.uniform(-1, 1, (num, longest, 2)).astype(np.float32),
        np.zeros((num, longest), np.float32),
        rng.integers(0, longest + 1, num).astype(np.int32),
    )


@pytest.mark.parametrize("cuts", [(1,), (6,), (1, 2, 11), tuple(range(1, 12))])
def test_merged_statistics_are_those_of_the_whole(cuts):
    whole, bounds = far_from_zero(), (0, *cuts, 12)
    parts = [
        moments_of(jax.tree.map(lambda x, a=a, b=b: x[a:b], whole))
        for a, b in zip(bounds, bounds[1:], strict=False)
    ]
    moments = parts[0]
    for part in parts[1:]:
        moments = merged(moments, part)
    assert moments.count == whole.length.sum()
    for found, expected in zip(stats_of_moments(moments)[:4], stats_of(whole)[:4], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert stats_of_moments(moments).observation_std[2] == 1.0
    for found, expected in zip(
        limits_of_moments(moments, (1,)), limits_of(whole, (1,)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_limits_put_what_happened_between_minus_one_and_one():
    whole = far_from_zero()
    stats, is_there = limits_of(whole, (1,)), happened(whole)
    mean, half = np.asarray(stats.observation_mean), np.asarray(stats.observation_std)
    varying = ((whole.observations[:, :-1] - mean) / half)[is_there][:, :2]
    np.testing.assert_allclose(varying.min(axis=0), -1, atol=1e-4)
    np.testing.assert_allclose(varying.max(axis=0), 1, atol=1e-4)
    assert stats.task_mean[0] == stats.observation_mean[1]
    with pytest.raises(ValueError, match="no episode has a step"):
        limits_of(whole._replace(length=np.zeros(12, np.int32)))


def test_a_block_without_a_step_changes_nothing():
    whole = far_from_zero()
    moments = moments_of(whole)
    nothing = moments_of(whole._replace(length=np.zeros(12, np.int32)))
    for both in (merged(moments, nothing), merged(nothing, moments)):
        assert both.count == moments.count
        jax.tree.map(np.testing.assert_array_equal, both, moments)

"""Scores whose answers are known."""

import math

import numpy as np
import pytest

from daag_jax.evaluation.scores import (
    Estimate,
    episodes_to,
    interquartile_mean,
    normalized_score,
    paired_difference,
    success_rate,
)


def test_wilsons_interval_is_that_of_the_tables():
    estimate = success_rate(8, 10)
    np.testing.assert_allclose(estimate, (0.8, 0.4902, 0.9433), atol=2e-4)


def test_a_rate_of_zero_has_an_interval_above_zero():
    value, low, high = success_rate(0, 20)
    assert value == 0 and low == 0 and 0.1 < high < 0.2


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="successes=3 of episodes=2"):
        success_rate(3, 2)


def test_the_interquartile_mean_ignores_an_outlier():
    assert interquartile_mean([0.5] * 11 + [100.0], reps=50).value == pytest.approx(0.5)


def test_a_report_is_the_same_every_time_and_leaves_the_global_generator_alone():
    scores = np.random.default_rng(0).normal(size=10)
    before = np.random.get_state()[1].copy()
    first, second = interquartile_mean(scores, reps=200), interquartile_mean(scores, reps=200)
    assert first == second and first.low < first.value < first.high
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_pairs_show_a_difference_that_the_spread_of_seeds_hides():
    seeds = np.random.default_rng(0).normal(size=10)
    difference = paired_difference(seeds + 0.1, seeds, reps=200)
    assert difference.value == pytest.approx(0.1) and difference.excludes(0.0)
    with pytest.raises(ValueError, match="do not pair up"):
        paired_difference([1.0], [1.0, 2.0])


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite numbers"):
        interquartile_mean([1.0, math.nan])


def test_the_crossing_of_a_threshold_is_interpolated():
    assert episodes_to(0.5, np.array([0.0, 1.0]), np.array([0.0, 10.0])) == 5.0
    assert episodes_to(0.5, np.array([0.0, 0.1]), np.array([0.0, 10.0])) == math.inf
    assert str(Estimate(0.5, 0.25, 0.75)) == "0.5 [0.25, 0.75]"


def test_a_random_policy_scores_0_and_the_reference_100():
    assert normalized_score("maze2d-umaze", 161.86) == 100.0
    scores = normalized_score("hopper", np.array([-20.27, 3234.3, 1607.015]))
    np.testing.assert_allclose(scores, [0.0, 100.0, 50.0], atol=1e-9)


def test_an_unknown_reference_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="'maze2d-larg'; the nearest is 'maze2d-large'"):
        normalized_score("maze2d-larg", 1.0)

"""The detector's operating points, its metrics, and what an exchange of colours does to truths."""

import numpy as np
import pytest

from daag_jax.agent.detectors import permuted_truth
from daag_jax.agent.reward import (
    DetectorConfig,
    average_precision,
    calibrate,
    calibration_error,
    detector_metrics,
    false_success_rate,
    goal_baseline,
    threshold_for,
)
from daag_jax.envs.tasks.rgb_stacking_scenes import captions


def test_average_precision_of_known_rankings():
    truth = np.array([True, False, True, False])
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.1]), truth) == pytest.approx(
        (1 + 2 / 3) / 2
    )
    assert average_precision(np.array([0.9, 0.1, 0.8, 0.0]), truth) == 1.0
    assert np.isnan(average_precision(np.array([0.5]), np.array([False])))


def test_a_threshold_keeps_its_precision():
    rng = np.random.default_rng(0)
    truth = rng.random(4000) < 0.1
    scores = np.clip(0.4 * truth + 0.3 * rng.random(4000) + 0.2 * rng.random(4000), 0, 1)
    threshold = threshold_for(scores, truth, 0.95)
    found = scores > threshold
    assert truth[found].mean() >= 0.95 and truth[found].sum() > 0
    assert threshold_for(scores, np.zeros(4000, bool), 0.95) is None


def test_a_rare_caption_takes_the_threshold_of_all():
    scores = np.random.default_rng(1).random((200, 2))
    truth = np.zeros((200, 2), bool)
    truth[:, 0] = scores[:, 0] > 0.6
    truth[0, 1] = True
    thresholds = calibrate(scores, truth, DetectorConfig(min_positives=20))
    assert thresholds[0] == pytest.approx(0.6, abs=0.02)
    assert thresholds[1] == pytest.approx(threshold_for(scores.ravel(), truth.ravel(), 0.95) or 0.8)


def test_perfect_scores_have_perfect_metrics():
    truth = np.random.default_rng(2).random((50, 3)) < 0.4
    found = detector_metrics(truth.astype(float), truth, np.full(3, 0.5))
    assert found["average_precision"] == found["precision"] == found["recall"] == 1.0
    assert found["brier"] == 0.0 and calibration_error(truth.ravel() * 1.0, truth.ravel()) == 0.0


def test_false_successes_count_episodes_not_frames():
    truth = np.zeros((4, 10, 1), bool)
    scores = np.zeros((4, 10, 1))
    scores[0, 3] = 0.9
    assert false_success_rate(scores, truth, np.array([0.5])) == 0.25


def test_goal_baseline_without_the_line_is_the_cosine():
    rng = np.random.default_rng(3)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    states, goal, base = (
        unit(rng.normal(size=(5, 8))),
        unit(rng.normal(size=8)),
        unit(rng.normal(size=8)),
    )
    np.testing.assert_allclose(goal_baseline(states, goal, base, 0.0), states @ goal, atol=1e-5)


def test_truths_follow_an_exchange_of_colours():
    names = captions()
    truth = np.zeros(len(names), bool)
    truth[names.index("The red object is on top of the blue object")] = True
    swapped = permuted_truth(truth, {"red": "green", "blue": "red", "green": "blue"}, names)
    assert swapped[names.index("The green object is on top of the red object")]
    assert swapped.sum() == 1

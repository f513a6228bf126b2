"""Rewards of CLIP without finetuning, against their formulas."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.agent.reward import DetectorConfig, tokens_of
from daag_jax.agent.zero_shot import among_negatives, goal_baseline, unit_mean, zero_shot_scores
from daag_jax.networks.clip.config import COMPACT_CLIP, ClipVisionConfig
from daag_jax.networks.clip.model import make_clip

SMALL = replace(
    COMPACT_CLIP,
    text_config=replace(
        COMPACT_CLIP.text_config, hidden_size=16, intermediate_size=16, num_hidden_layers=1
    ),
    vision_config=ClipVisionConfig(16, 16, 1, 2, image_size=16, patch_size=8),
    projection_dim=8,
)


def units(num, seed, dim=8):
    x = np.random.default_rng(seed).normal(size=(num, dim))
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32)


STATES, GOAL, BASELINE = units(5, 0), units(1, 1)[0], units(1, 2)[0]


def test_goal_baseline_without_the_line_is_the_cosine():
    found = goal_baseline(STATES, GOAL, BASELINE, 0.0)
    np.testing.assert_allclose(found, STATES @ GOAL, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_goal_baseline_is_the_projection_matrix_of_the_paper(alpha):
    line = np.asarray(GOAL - BASELINE, np.float64)
    matrix = alpha * np.outer(line, line) / (line @ line) + (1 - alpha) * np.eye(line.size)
    expected = 1 - 0.5 * np.sum(((np.asarray(STATES) - np.asarray(GOAL)) @ matrix) ** 2, axis=-1)
    np.testing.assert_allclose(goal_baseline(STATES, GOAL, BASELINE, alpha), expected, atol=1e-5)


def test_with_all_of_the_line_what_is_beside_it_does_not_count():
    aside = np.random.default_rng(3).normal(size=8)
    line = np.asarray(GOAL - BASELINE)
    aside = aside - line * (aside @ line) / (line @ line)
    moved = STATES + jnp.asarray(aside, jnp.float32)[None]
    rewards = [goal_baseline(x, GOAL, BASELINE, 1.0) for x in (STATES, moved)]
    np.testing.assert_allclose(*rewards, atol=1e-5)


def test_the_goal_among_its_negatives_is_a_softmax():
    negatives = units(3, 4)
    logits = np.asarray(STATES @ jnp.concatenate([GOAL[None], negatives]).T, np.float64) / 0.1
    expected = np.exp(logits[:, 0]) / np.exp(logits).sum(-1)
    np.testing.assert_allclose(among_negatives(STATES, GOAL, negatives, 0.1), expected, rtol=1e-4)
    assert among_negatives(GOAL[None], GOAL, negatives)[0] > 0.99


def test_sentences_that_say_the_same_have_a_unit_mean():
    mean = unit_mean(units(4, 5))
    assert float(jnp.linalg.norm(mean)) == pytest.approx(1.0, abs=1e-5)


def test_scores_of_frames_are_the_formulas_of_their_embeddings():
    clip = make_clip(SMALL)
    params = jax.jit(clip.init)(jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 16, 16, 3)).astype(np.uint8)
    names, config = ("the red cube", "the blue cube", "the green cube"), DetectorConfig(clip=SMALL)
    found = zero_shot_scores(config, params, names, images, "the table", 0.5, batch=2)
    texts = clip.encode_text(params, tokens_of(config, (*names, "the table")))
    for frame in range(3):
        seen = clip.encode_image(params, images[frame])
        expected = goal_baseline(seen, texts[1], texts[3], 0.5).mean()
        np.testing.assert_allclose(found["goal baseline"][frame, 1], expected, atol=1e-4)
        share = among_negatives(seen, texts[1], texts[jnp.array([0, 2])]).mean()
        np.testing.assert_allclose(found["among negatives"][frame, 1], share, atol=1e-4)

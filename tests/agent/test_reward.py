"""The detector's operating points, its metrics, and what an exchange of colours does to truths."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from daag_jax.agent.calibration import (
    average_precision,
    calibrate,
    calibration_error,
    detector_metrics,
    hard_negative_accuracy,
    roc_auc,
    threshold_for,
)
from daag_jax.agent.detectors import permuted_truth
from daag_jax.agent.orchestrator import grasping, on_top
from daag_jax.agent.reward import (
    HEAD_BIAS,
    DetectorConfig,
    Labelled,
    finetune,
    load_clip,
    make_detector,
    make_scorer,
    sized,
)
from daag_jax.algorithms.clip_finetuning import ClipFinetuningConfig, clip_finetuning, start
from daag_jax.algorithms.contrastive import ContrastiveConfig
from daag_jax.envs.palette import PALETTE_NAMES, rgb_of
from daag_jax.envs.tasks.rgb_stacking_scenes import captions
from daag_jax.networks import folders
from daag_jax.networks.clip.config import COMPACT_CLIP, ClipVisionConfig
from daag_jax.networks.clip.model import make_clip
from daag_jax.networks.clip.tokenizer import VOCABULARY

SMALL = replace(
    COMPACT_CLIP,
    text_config=replace(
        COMPACT_CLIP.text_config, hidden_size=16, intermediate_size=16, num_hidden_layers=1
    ),
    vision_config=ClipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    ),
    projection_dim=8,
    logit_bias_init_value=-2.0,
)
CONFIG = DetectorConfig(clip=SMALL, steps=60, batch=16, learning_rate=1e-2)


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


RANKINGS = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=40)


@given(RANKINGS, st.sampled_from([0.5, 0.8, 0.95]))
def test_a_threshold_is_the_smallest_that_is_precise_enough(rows, precision):
    """Against the naive search, with many equal scores: a saturated sigmoid gives them."""
    scores, truth = (np.array(x) for x in zip(*rows, strict=True))
    scores = scores / 4
    good = [
        level
        for level in np.unique(scores)
        if truth[scores >= level].mean() >= precision and truth[scores == level].any()
    ]
    threshold = threshold_for(scores, truth, precision)
    assert (threshold is None) == (not good)
    if good:
        np.testing.assert_array_equal(scores > threshold, scores >= min(good))


@given(RANKINGS)
def test_area_under_the_roc_is_the_share_of_right_pairs(rows):
    scores, truth = (np.array(x) for x in zip(*rows, strict=True))
    gaps = scores[truth][:, None] - scores[~truth][None, :]
    naive = np.mean((gaps > 0) + 0.5 * (gaps == 0)) if gaps.size else np.nan
    np.testing.assert_allclose(roc_auc(scores / 4, truth), naive)


def test_metrics_do_not_depend_on_the_order_of_equal_scores():
    scores, truth = np.ones(4), np.array([True, True, False, False])
    assert average_precision(scores, truth) == average_precision(scores, truth[::-1]) == 0.5


def test_hard_negatives_are_other_colours_of_the_same_relation():
    names = (on_top("red", "blue"), on_top("blue", "red"), grasping("red"))
    truth = np.array([[True, False, False], [True, False, False]])
    scores = np.array([[0.9, 0.1, 1.0], [0.2, 0.3, 0.0]])  # the grasp does not compete
    assert hard_negative_accuracy(scores, truth, names) == 0.5
    assert np.isnan(hard_negative_accuracy(scores, truth & False, names))


def test_a_rare_caption_takes_the_threshold_of_all():
    scores = np.random.default_rng(1).random((200, 2))
    truth = np.zeros((200, 2), bool)
    truth[:, 0] = scores[:, 0] > 0.6
    truth[0, 1] = True
    thresholds = calibrate(scores, truth, DetectorConfig(min_positives=20))
    assert thresholds[0] == pytest.approx(0.6, abs=0.02)
    assert thresholds[1] == thresholds[0]  # the strictest of the others
    blank = calibrate(scores, truth & False, DetectorConfig())
    np.testing.assert_allclose(blank, DetectorConfig().default_threshold)


def test_a_rarer_sub_goal_asks_for_a_higher_threshold():
    rng = np.random.default_rng(3)
    truth = np.arange(4000) % 4 == 0
    scores = rng.normal(size=4000) + 3.0 * truth
    often, rarely = (threshold_for(scores, truth, 0.95, share) for share in (0.25, 0.01))
    assert often == threshold_for(scores, truth, 0.95) and rarely > often + 0.5
    hits, alarms = (np.mean(scores[truth == side] > rarely) for side in (True, False))
    assert 0.01 * hits >= 0.949 * (0.01 * hits + 0.99 * alarms)


def test_perfect_scores_have_perfect_metrics():
    truth = np.random.default_rng(2).random((50, 3)) < 0.4
    found = detector_metrics(truth.astype(float), truth, np.full(3, 0.5))
    assert found["average_precision"] == found["precision"] == found["recall"] == 1.0
    assert found["roc_auc"] == found["f1"] == 1.0 and found["false_positive_rate"] == 0.0
    assert np.isnan(detector_metrics(truth * 0.0, truth & False, np.ones(3))["average_precision"])
    assert found["brier"] == 0.0 and calibration_error(truth.ravel() * 1.0, truth.ravel()) == 0.0


def test_truths_follow_an_exchange_of_colours():
    names = captions()
    truth = np.zeros(len(names), bool)
    truth[names.index("The red object is on top of the blue object")] = True
    swapped = permuted_truth(truth, {"red": "green", "blue": "red", "green": "blue"}, names)
    assert swapped[names.index("The green object is on top of the red object")]
    assert swapped.sum() == 1


def colored_frames(num, seed):
    """Two views of a uniform colour with a little noise; the robot "is grasping" that colour."""
    rng = np.random.default_rng(seed)
    names = PALETTE_NAMES[:4]
    which = rng.integers(0, 4, num)
    paint = 255 * np.asarray(rgb_of(jnp.asarray(which)))[:, None, None, None]
    noise = rng.normal(0, 8, (num, 2, 16, 16, 3))
    images = np.clip(paint + noise, 0, 255).astype(np.uint8)
    truth = which[:, None] == np.arange(4)[None]
    return Labelled(images, truth, np.ones_like(truth)), [grasping(name) for name in names]


@pytest.fixture(scope="module")
def params():
    return jax.jit(make_clip(SMALL).init)(jax.random.key(0))


def test_finetuning_teaches_what_is_labelled_and_repeats(params):
    data, names = colored_frames(128, 0)
    test, _ = colored_frames(64, 1)
    scores = jax.jit(make_scorer(CONFIG))
    tuned = finetune(params, names, data, CONFIG, seed=3)
    again = finetune(params, names, data, CONFIG, seed=3)
    jax.tree.map(np.testing.assert_array_equal, tuned, again)
    before, after = (
        detector_metrics(
            np.asarray(scores(make_detector(p, names, CONFIG), jnp.asarray(test.images))),
            test.truth,
            np.full(4, 0.5),
        )
        for p in (params, tuned)
    )
    assert after["average_precision"] > 0.95 > before["average_precision"]


def test_adapters_learn_and_leave_the_other_parameters(params):
    data, names = colored_frames(128, 0)
    tuned = finetune(params, names, data, replace(CONFIG, part="lora", rank=2), seed=3)
    changed = {
        "/".join(path)
        for path, leaf in flatten_dict(tuned["params"]).items()
        if not np.array_equal(leaf, flatten_dict(params["params"])[path])
    }
    assert {"logit_scale", "logit_bias"} < changed
    rest = changed - {"logit_scale", "logit_bias"}
    assert rest and all(re.search("self_attn/(q|k|v|out)_proj/kernel", name) for name in rest)
    scores = jax.jit(make_scorer(CONFIG))
    losses = [
        binary_entropy(scores(make_detector(p, names, CONFIG), jnp.asarray(data.images)), data)
        for p in (params, tuned)
    ]
    assert losses[1] < 0.8 * losses[0]


def binary_entropy(scores, data) -> float:
    """Cross-entropy of the labels."""
    return float(-np.log(np.where(data.truth, scores, 1 - np.asarray(scores))).mean())


def test_slices_of_the_optimiser_change_nothing_but_the_order_of_sums(params):
    data, names = colored_frames(32, 0)
    short = replace(CONFIG, steps=3)
    whole = finetune(params, names, data, short)
    sliced = finetune(params, names, data, replace(short, fsdp=2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), whole, sliced)
    words = lambda p: p["params"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    assert "fsdp" in words(sliced).sharding.spec and "fsdp" not in words(whole).sharding.spec


@pytest.mark.parametrize("part", ["full", "lora"])
def test_a_state_that_begins_at_a_clip_can_be_donated(params, part):
    config = ClipFinetuningConfig(ContrastiveConfig(clip=SMALL), part, rank=2)
    algorithm = clip_finetuning(config, jnp.array([[2, 3, 1]]))
    state = start(config, jax.jit(algorithm.init)(jax.random.key(0)), params)
    jax.block_until_ready(
        jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s.trained), donate_argnums=0)(
            state._replace(frozen={})
        )
    )
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(("field", "value"), [("part", "Lora"), ("rank", 0), ("fsdp", 3)])
def test_a_wrong_finetuning_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        replace(CONFIG, **{field: value})


@pytest.fixture(scope="module")
def openai_folder(params, tmp_path_factory):
    """A small CLIP without a bias in the layout of Hugging Face, with a tokenizer of a few words."""
    folder = tmp_path_factory.mktemp("clip")
    config = replace(SMALL, logit_bias_init_value=None)
    inner = {name: leaf for name, leaf in params["params"].items() if name != "logit_bias"}
    folders.save(folder, config, {"params": inner})
    words = ("<unk>", "<|startoftext|>", "<|endoftext|>", *VOCABULARY)
    table = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    tokenizer = Tokenizer(table)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_clip_from_a_folder_gets_a_bias_and_its_own_tokenizer(openai_folder, params):
    config = sized(replace(CONFIG, weights=openai_folder, steps=2))
    assert config.clip.logit_bias_init_value == HEAD_BIAS and sized(config) == config
    loaded = load_clip(config)
    assert float(loaded["params"]["logit_bias"]) == HEAD_BIAS
    np.testing.assert_array_equal(
        loaded["params"]["text_projection"]["kernel"], params["params"]["text_projection"]["kernel"]
    )
    data, names = colored_frames(32, 0)
    tuned = finetune(loaded, names, data, config)
    assert make_detector(tuned, names, config).texts.shape == (4, SMALL.projection_dim)
    with pytest.raises(ValueError, match=r"clip is not that of .*; use sized"):
        load_clip(replace(CONFIG, weights=openai_folder))


def test_weights_of_another_network_are_refused(tmp_path, params):
    folders.save(tmp_path, SMALL.text_config, {"params": params["params"]["text_model"]})
    with pytest.raises(ValueError, match="holds a ClipText, not a CLIP with both towers"):
        sized(replace(CONFIG, weights=tmp_path))


def test_a_score_is_the_sigmoid_of_the_mean_logit_of_the_views(params):
    data, names = colored_frames(2, 2)
    images, clip = jnp.asarray(data.images), make_clip(SMALL)
    detector = make_detector(params, names, CONFIG)

    @jax.jit
    def expected(detector, images):
        seen = [clip.encode_image(detector.params, images[:, v]) for v in range(2)]
        first, second = (clip.logits(detector.params, x, detector.texts) for x in seen)
        return jax.nn.sigmoid((first + second) / 2)

    found = jax.jit(make_scorer(CONFIG))(detector, images)
    np.testing.assert_allclose(found, expected(detector, images), atol=1e-5)


def test_finetuning_on_nothing_is_refused(params):
    data, names = colored_frames(1, 0)
    with pytest.raises(ValueError, match="no frames"):
        finetune(params, names, Labelled(*(x[:0] for x in data)), CONFIG)

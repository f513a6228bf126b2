"""Silhouettes and the constraints that an edit may break; labels that are right, and whose fault it is if not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from editing_clips import clip, jit, sliding_qpos

from daag_jax.editing.masks import dilate
from daag_jax.editing.silhouettes import area_of, census, centroids, ghosts, pieces, silhouettes
from daag_jax.editing.validity import Truths, judge_labels, validity_rates
from daag_jax.editing.violations import (
    CODES,
    ViolationConfig,
    Violations,
    read_names,
    violation_rates,
    violations,
)
from daag_jax.envs.palette import PALETTE, PALETTE_NAMES
from daag_jax.envs.tasks.rgb_stacking_scenes import caption_truth, captions, relations_of

pytestmark = pytest.mark.nan_is_an_answer

judge = jit(violations, static_argnames="config")
read = jit(read_names)


def flags_of(video, config=ViolationConfig(), depths=None) -> dict[str, list[bool]]:
    """Flags of a video of the clip, by code."""
    truth = clip()
    found = judge(
        video,
        truth,
        read(video, truth),
        read(truth.oracle, truth),
        config=config,
        depth_estimates=depths,
    )
    return dict(zip(CODES, np.asarray(found.flags).T.tolist(), strict=True))


def painted(video, mask, color: str):
    """A video with some pixels in a palette colour."""
    paint = jnp.asarray(np.array(PALETTE[color]) * 255).astype(jnp.uint8)
    return jnp.where(mask[..., None], paint[None, None, None], video)


def test_pieces_follow_winding_shapes_and_do_not_join_at_corners():
    picture = np.array(
        [
            [0, 0, 0, 0, 0],
            [-1, -1, -1, -1, 0],
            [0, 0, 0, -1, 0],
            [0, -1, -1, -1, 0],
            [0, 0, 0, 0, 0],
            [-1, -1, -1, -1, -1],
            [1, -1, 0, 1, 1],
            [-1, 1, -1, 1, 0],
        ]
    )
    ids = np.asarray(jax.jit(pieces)(jnp.asarray(picture)))
    assert (ids == -1).sum() == (picture == -1).sum()
    spiral = ids[0, 0]
    assert (ids == spiral).sum() == 17 and ids[2, 2] == spiral
    assert len(np.unique(ids[ids >= 0])) == 6
    np.testing.assert_array_equal(area_of(jnp.asarray(ids), jnp.asarray(ids >= 0))[0, 0], 17)


def test_the_census_counts_pieces_that_are_large_enough():
    names = jnp.full((12, 12), -1).at[1:5, 1:5].set(2).at[7:11, 7:11].set(2).at[0, 10].set(2)
    assert jit(census, static_argnums=(1, 2))(names, 8, 5).tolist() == [0, 0, 2, 0, 0, 0, 0, 0]


def test_a_silhouette_takes_what_hangs_on_the_object_and_a_ghost_is_apart():
    segmentation = jnp.zeros((20, 20), jnp.int32).at[8:12, 8:12].set(1).at[2:4, 2:4].set(2)
    names = jnp.full((20, 20), -1).at[8:12, 8:14].set(3).at[2:4, 2:4].set(3)
    names = names.at[15:19, 15:19].set(3)
    targets, edit = jnp.array([3, 3, -1]), jnp.array([True, False, False])
    found = jit(silhouettes)(names, segmentation, targets)
    assert found.sum(axis=(1, 2)).tolist() == [24, 4, 0]
    oracle = jnp.where((segmentation == 1) | (segmentation == 2), 3, -1)
    assert int(jit(ghosts)(names, oracle, segmentation, targets, edit)) == 16
    np.testing.assert_allclose(centroids(found[:1]), [[10.5, 9.5]])


def test_paint_over_the_gripper_breaks_the_order_of_occlusion_and_the_actor():
    truth = clip()
    spoilt = flags_of(painted(truth.oracle, truth.segmentation == 4, "yellow"))
    assert all(spoilt["actor"])
    assert not any(flags_of(truth.oracle)["occlusion"])


def test_a_nearer_object_that_is_painted_over_breaks_the_order_of_occlusion():
    truth = clip()
    mask = truth.segmentation == 1
    finger = dilate(mask, 2) & (truth.segmentation == 0)  # before it, but not of it
    far = truth._replace(
        depth=truth.depth + 0.2 * mask, segmentation=jnp.where(finger, 4, truth.segmentation)
    )
    video = painted(truth.oracle, finger, "yellow")
    names, clean = read(video, far), read(truth.oracle, far)
    found = judge(video, far, names, clean, config=ViolationConfig(), depth_estimates=None)
    assert bool(found.flags[:, CODES.index("occlusion")].any())
    floor = far._replace(
        segmentation=truth.segmentation
    )  # the same paint on the floor is no occluder
    found = judge(video, floor, names, clean, config=ViolationConfig(), depth_estimates=None)
    assert not bool(found.flags[:, CODES.index("occlusion")].any())


def test_an_object_of_the_wrong_color_breaks_identity_and_census():
    truth = clip()
    spoilt = flags_of(painted(truth.oracle, truth.segmentation == 1, "green"))
    assert all(spoilt["identity"]) and all(spoilt["census"]) and all(spoilt["vanish"])


def test_a_jump_of_the_silhouette_is_a_teleport_charged_to_the_later_frame():
    truth = clip()
    columns = jnp.where(truth.segmentation == 1, jnp.arange(64)[None, None], 0)
    right = columns.max(axis=(1, 2), keepdims=True)
    half = (columns > 0) & (columns <= right - 4) & (jnp.arange(5) == 2)[:, None, None]
    grey = jnp.full_like(truth.oracle, 128)
    video = jnp.where(half[..., None], grey, truth.oracle)
    jumps = flags_of(video, ViolationConfig(teleport=2.0))["teleport"]
    assert jumps == [False, False, True, True, False]


def test_relations_of_pixels_see_the_stack_that_colors_move():
    truth = clip()
    # the edit shows the stacked object's colour on the wrong instance: who is on top changes
    targets = jnp.array([2, 1, 3])
    swapped = truth._replace(targets=targets)
    blue, yellow = (
        painted(truth.source, truth.segmentation == i, c) for i, c in ((1, "blue"), (3, "yellow"))
    )
    oracle = jnp.where((truth.segmentation == 1)[..., None], blue, yellow)
    swapped = swapped._replace(oracle=oracle)
    names = read(oracle, swapped)
    good = judge(oracle, swapped, names, names, config=ViolationConfig(), depth_estimates=None)
    relation = CODES.index("relation")
    assert not bool(good.flags[:, relation].any()) and bool(good.measured[:, relation].all())
    top = truth.segmentation == 3
    floor = (truth.segmentation == 0) & (jnp.arange(64) < 12)[None, :, None]
    wrong = names._replace(silhouettes=names.silhouettes.at[2].set(jnp.where(top, False, floor)))
    bad = judge(oracle, swapped, wrong, names, config=ViolationConfig(), depth_estimates=None)
    assert bool(bad.flags[:, relation].all())


def test_depth_is_judged_only_with_a_probe():
    truth = clip()
    assert not any(flags_of(truth.oracle)["depth"])
    assert all(flags_of(truth.oracle, depths=(1.2 * truth.depth, truth.depth))["depth"])


def test_rates_count_frames_episodes_and_codes():
    flags = jnp.zeros((4, 10), bool).at[1, 0].set(True).at[1, 4].set(True)
    measured = jnp.ones((4, 10), bool).at[:, 8].set(False)
    rates = violation_rates(Violations(flags, measured))
    assert float(rates["GVR"]) == 0.25 and float(rates["EVR"]) == 1
    assert float(rates["severity"]) == 0.5 and np.isnan(rates["V9_depth"])


def test_a_threshold_out_of_range_is_refused_by_name():
    with pytest.raises(ValueError, match="iou=1.7"):
        ViolationConfig(iou=1.7)


def test_faults_of_labels_exclude_each_other_and_add_up(key):
    tables = jax.random.bernoulli(key, 0.5, (3, 40, 6))
    achieved, desired = jax.random.randint(jax.random.key(1), (2, 40), 0, 6)
    verdicts = judge_labels(Truths(*tables), achieved, desired)
    faults = jnp.stack([verdicts.detector, verdicts.orchestrator, verdicts.diffusion])
    shown = verdicts.is_valid & ~verdicts.diffusion
    np.testing.assert_array_equal(faults.sum(axis=0) + shown, 1)
    rates = validity_rates(verdicts)
    total = rates["LV_shown"] + rates["E_vlm"] + rates["E_llm"] + rates["E_dm"]
    assert float(total) == pytest.approx(1)
    assert np.isnan(validity_rates(verdicts, jnp.zeros(40, bool))["LV"])


def test_labels_of_a_stack_are_judged_by_the_simulator():
    """Blue lies on green; edits claim that pink or red lies on green."""
    names = captions()
    relations = relations_of(sliding_qpos()[0])
    row = lambda *colors: caption_truth(
        relations, jnp.array([PALETTE_NAMES.index(c) for c in colors])
    )
    before, pink = row("red", "green", "blue"), row("red", "green", "pink")
    column = lambda top: names.index(f"The {top} object is on top of the green object")
    stack = lambda *rows: jnp.stack(rows)
    truths = Truths(
        source=stack(before, before, before, before),
        swapped=stack(pink, before, pink, before),
        shown=stack(pink, before, before, before),
    )
    achieved = jnp.array([column("blue"), column("blue"), column("blue"), column("red")])
    desired = jnp.array([column("pink"), column("red"), column("pink"), column("yellow")])
    verdicts = judge_labels(truths, achieved, desired)
    assert verdicts.is_valid.tolist() == [True, False, True, False]
    assert verdicts.orchestrator.tolist() == [False, True, False, False]
    assert verdicts.diffusion.tolist() == [False, False, True, False]
    assert verdicts.detector.tolist() == [False, False, False, True]

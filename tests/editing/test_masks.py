"""Swaps of colours, masks of pixels and latents, regions of prompts, and the classical recolouring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from editing_clips import COLORS, TARGETS, clip, jit

from daag_jax.editing.masks import (
    apply_mapping,
    dilate,
    edit_mask,
    frame_colors,
    instance_colors,
    instances_by_color,
    latent_mask,
    region_weights,
    swap_mapping,
)
from daag_jax.editing.recolor import recolor_clip
from daag_jax.envs.palette import PALETTE_NAMES

PRESENT = ("red", "green", "blue")


def mapped(mode, *swaps):
    mapping = swap_mapping(swaps, PRESENT, mode)
    return tuple(mapping[color] for color in PRESENT)


def test_replacing_alone_breaks_the_census():
    assert mapped("replace", ("red", "green")) == ("green", "green", "blue")


def test_exchanging_and_permuting_keep_the_census():
    assert mapped("exchange", ("red", "green")) == ("green", "red", "blue")
    assert mapped("permute", ("red", "green")) == ("green", "red", "blue")
    assert mapped("permute", ("red", "green"), ("blue", "red")) == ("green", "blue", "red")


@pytest.mark.parametrize("mode", ["exchange", "permute"])
@pytest.mark.parametrize(
    "pairs",
    [
        (("red", "green"), ("blue", "red")),
        (("red", "green"), ("blue", "yellow")),
        (("red", "green"), ("green", "blue"), ("blue", "red")),
        (("purple", "green"),),
    ],
)
def test_several_swaps_do_as_asked_and_keep_the_census(mode, pairs):
    present = ("red", "green", "blue", "yellow")
    mapping = swap_mapping(pairs, present, mode)
    assert sorted(mapping.values()) == sorted(present)
    assert all(mapping[source] == target for source, target in pairs if source in present)


def test_two_exchanges_stay_apart():
    mapping = swap_mapping(
        (("red", "yellow"), ("blue", "green")), ("red", "green", "blue", "yellow"), "exchange"
    )
    assert mapping == {"red": "yellow", "yellow": "red", "blue": "green", "green": "blue"}


def test_permuting_to_a_new_color_moves_nothing_else():
    assert mapped("permute", ("red", "pink")) == ("pink", "green", "blue")


def test_a_swap_of_an_absent_color_changes_nothing():
    assert mapped("replace", ("cyan", "pink")) == PRESENT


def test_unknown_colors_and_modes_are_named_with_their_cure():
    with pytest.raises(
        ValueError, match="'gren' is not in the palette; the nearest name is 'green'"
    ):
        swap_mapping([("gren", "red")], PRESENT, "replace")
    with pytest.raises(ValueError, match="swap mode 'rotate' is unknown"):
        swap_mapping([("red", "blue")], PRESENT, "rotate")
    with pytest.raises(ValueError, match="one colour two targets"):
        swap_mapping([("red", "blue"), ("red", "green")], PRESENT, "replace")
    with pytest.raises(ValueError, match="two colours one target"):
        swap_mapping([("red", "green"), ("blue", "green")], PRESENT, "permute")


def test_a_mapping_leaves_unseen_objects_unseen():
    red, green = PALETTE_NAMES.index("red"), PALETTE_NAMES.index("green")
    assert apply_mapping(jnp.array([red, -1]), {"red": "green"}).tolist() == [green, -1]


def test_instances_are_found_by_the_color_they_show_and_absent_ones_are_unknown():
    truth = clip()
    assert instance_colors(truth.source, truth.segmentation, 4).tolist() == [*COLORS, -1]
    assert instance_colors(truth.oracle, truth.segmentation).tolist() == list(TARGETS)
    rows = frame_colors(truth.source, truth.segmentation)
    assert rows.tolist() == [list(COLORS)] * truth.source.shape[0]


def test_pixels_alone_tell_the_instances_of_a_scene():
    truth = clip()
    known = jnp.where(truth.segmentation <= 3, truth.segmentation, 0)
    np.testing.assert_array_equal(instances_by_color(truth.source, jnp.array(COLORS)), known)
    # an object that is not seen is nowhere, and neither is one of a colour that nothing shows
    absent = instances_by_color(truth.source, jnp.array([-1, 1, 9]))
    np.testing.assert_array_equal(absent, jnp.where(known == 2, 2, 0))


def test_dilation_grows_a_square_and_erosion_undoes_it():
    mask = jnp.zeros((1, 9, 9), bool).at[0, 4, 4].set(True)
    assert int(dilate(mask, 2).sum()) == 25
    assert bool(jnp.all(dilate(dilate(mask, 2), -2) == mask))


def test_a_latent_is_painted_if_any_of_its_pixels_is():
    mask = jnp.zeros((1, 8, 8), bool).at[0, 3, 4].set(True)
    latents = latent_mask(mask, 4)
    assert latents[0].tolist() == [[0, 1], [0, 0]]


def test_regions_are_a_partition_of_every_latent():
    weights = region_weights(clip().segmentation, 3, 4)
    assert weights.shape == (5, 4, 16, 16)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-6)
    area = jnp.mean(clip().segmentation == 1)
    np.testing.assert_allclose(weights[:, 1].mean(), area, atol=1e-6)


def test_no_edited_instance_means_an_empty_mask():
    segmentation = clip().segmentation
    nobody = jnp.zeros((segmentation.shape[0], 3), bool)
    assert not bool(edit_mask(segmentation, nobody).any())


def test_recolouring_is_near_the_oracle_and_touches_nothing_else():
    truth, wanted = clip(), jnp.array(TARGETS)
    video = jit(recolor_clip)(truth.source, truth.segmentation, wanted != jnp.array(COLORS), wanted)
    outside = np.asarray(truth.segmentation != 1)
    np.testing.assert_array_equal(np.asarray(video)[outside], np.asarray(truth.source)[outside])
    gap = np.abs(np.asarray(video, np.int32) - np.asarray(truth.oracle, np.int32))
    assert gap[~outside].mean() < 8
    assert instance_colors(video, truth.segmentation).tolist() == list(TARGETS)


def test_masks_compile_once_for_all_swaps():
    truth = clip()
    paint = jax.jit(recolor_clip, compiler_options={"xla_backend_optimization_level": 0})
    for edited in ([True, False, False], [False, True, True]):
        paint(truth.source, truth.segmentation, jnp.array(edited), jnp.array([4, 5, 6]))
    assert paint._cache_size() == 1

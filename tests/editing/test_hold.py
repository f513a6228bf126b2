"""Holding colours: an object that flickers in colour is still afterwards, its light and all else are as before."""

import jax.numpy as jnp
import numpy as np
import pytest
from editing_clips import clip, jit

from daag_jax.editing.colors import linear_to_srgb, srgb_to_linear
from daag_jax.editing.editor_config import EditorConfig
from daag_jax.editing.hold import hold_colors, normalised

hold = jit(hold_colors, static_argnames="share")
IS_EDITED = jnp.array([True, False, False])


def light_of(video):
    return np.asarray(srgb_to_linear(jnp.asarray(video, jnp.float32) / 255.0))


def flickering():
    """The oracle of the sliding episode, its first object redder in every other frame."""
    truth = clip()
    gain = jnp.array([[1.3, 1.0, 0.8], [0.8, 1.0, 1.2]])[jnp.arange(truth.oracle.shape[0]) % 2]
    light = srgb_to_linear(truth.oracle / 255.0)
    changed = jnp.clip(light * gain[:, None, None], 0.0, 1.0)
    mask = (truth.segmentation == 1)[..., None]
    video = jnp.where(mask, jnp.round(linear_to_srgb(changed) * 255.0), truth.oracle)
    return video.astype(jnp.uint8), truth


def means(video, segmentation):
    """Mean chromaticity of the first object in every frame [T, 3]."""
    mask = np.asarray(segmentation == 1)[..., None]
    return np.asarray(normalised(jnp.asarray((light_of(video) * mask).sum((1, 2)))))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_flicker_of_colour_goes_and_light_stays(share):
    video, truth = flickering()
    held = hold(video, truth.segmentation, IS_EDITED, share=share)
    assert means(video, truth.segmentation).std(0).max() > 0.02
    assert means(held, truth.segmentation).std(0).max() < 0.003
    mask = np.asarray(truth.segmentation == 1)
    before, after = light_of(video)[mask].sum(-1), light_of(held)[mask].sum(-1)
    np.testing.assert_allclose(after, before, atol=0.03)


def test_pixels_of_other_objects_stay_bit_for_bit():
    video, truth = flickering()
    held = hold(video, truth.segmentation, IS_EDITED, share=1.0)
    others = np.asarray(truth.segmentation != 1)
    np.testing.assert_array_equal(np.asarray(held)[others], np.asarray(video)[others])


def test_a_video_that_holds_still_is_left_alone():
    truth = clip()
    held = hold(truth.oracle, truth.segmentation, IS_EDITED, share=0.0)
    change = np.abs(np.asarray(held, int) - np.asarray(truth.oracle, int))
    assert change.max() <= 3 and change.mean() < 0.05


def test_with_all_of_the_share_an_object_has_one_chromaticity():
    video, truth = flickering()
    held = hold(video, truth.segmentation, IS_EDITED, share=1.0)
    chromaticity = light_of(held)[np.asarray(truth.segmentation == 1)]
    chromaticity = chromaticity / chromaticity.sum(-1, keepdims=True)
    assert chromaticity.std(0).max() < 0.01


def test_a_share_beyond_one_is_refused():
    with pytest.raises(ValueError, match="hold=1.5"):
        EditorConfig(hold=1.5)

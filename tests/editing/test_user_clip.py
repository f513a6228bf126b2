"""Clips without a simulator."""

import numpy as np
import pytest

from daag_jax.editing.controls import ControlConfig, stack_controls
from daag_jax.editing.user_clip import clip_of_frames, segment_by_color
from daag_jax.envs.palette import PALETTE_RGB


def two_squares(side=64):
    frames = np.full((2, side, side, 3), 230, np.uint8)
    for i, color in enumerate((0, 2)):
        frames[:, 8 + 24 * i : 20 + 24 * i, 10:30] = (PALETTE_RGB[color] * 255).astype(np.uint8)
    return frames


def test_objects_are_found_by_the_colour_they_show():
    segmentation = segment_by_color(two_squares())
    assert len({int(segmentation[0, 12, 15]), int(segmentation[0, 36, 15]), 0}) == 3
    assert (segmentation > 0).sum() == 2 * 2 * 12 * 20


def test_what_is_not_given_is_left_out_of_the_controls():
    clip = clip_of_frames(two_squares())
    controls = np.asarray(
        stack_controls(clip.rgb[0], clip.depth[0], clip.normals[0], ControlConfig())
    )
    np.testing.assert_allclose(controls[..., :4], 0.0, atol=1e-6)
    assert controls[..., 4].sum() > 50


def test_frames_of_another_size_are_scaled_with_their_geometry():
    depth = np.full((2, 128, 128), 0.6, np.float32)
    clip = clip_of_frames(two_squares(128), depth=depth)
    assert clip.rgb.shape == (1, 2, 64, 64, 3) and clip.depth.shape == (1, 2, 64, 64)
    assert float(clip.depth.max()) == pytest.approx(0.6)


def test_geometry_of_another_shape_is_refused_by_name():
    with pytest.raises(ValueError, match=r"depth has shape \[2, 9, 9\]"):
        clip_of_frames(two_squares(), depth=np.zeros((2, 9, 9)))


def test_geometry_that_is_not_a_number_is_refused():
    depth = np.ones((2, 64, 64))
    depth[1, 3, 3] = np.nan
    with pytest.raises(ValueError, match="depth holds NaN, first in frame 1"):
        clip_of_frames(two_squares(), depth=depth)

"""ControlNet's conditions: no flicker, no colour, thin edges."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from editing_clips import clip, jit

from daag_jax.editing.controls import (
    ControlConfig,
    canny,
    degrade,
    depth_control,
    normal_control,
    stack_controls,
)

CONFIG = ControlConfig()
edges_of = jit(canny, static_argnums=1)


def gray(values) -> jax.Array:
    """A uint8 picture of grey levels."""
    return jnp.repeat(jnp.asarray(values, jnp.uint8)[..., None], 3, axis=-1)


def test_depth_of_one_surface_is_one_value_whatever_else_a_frame_shows():
    near, far = jnp.full((2, 4, 4), 0.7).at[1, 0, 0].set(0.45), jnp.full((1, 4, 4), 5.0)
    control = depth_control(near, CONFIG)
    assert control[0, 3, 3] == control[1, 3, 3]
    assert jnp.all(depth_control(far, CONFIG) == 0) and 0 < float(control[0, 0, 0]) < 1
    assert jnp.allclose(depth_control(jnp.full((1, 1, 1), CONFIG.near), CONFIG), 1.0)


def test_normals_map_to_colors():
    control = normal_control(jnp.array([[[[0.0, 0.0, 1.0]]], [[[-1.0, 0.0, 0.0]]]]))
    np.testing.assert_allclose(control[:, 0, 0], [[0.5, 0.5, 1.0], [0.0, 0.5, 0.5]])


def test_a_step_gives_one_line_of_one_pixel():
    for axis in (0, 1):
        picture = np.full((16, 16), 40)
        picture[(slice(8, None), slice(None))[:: 1 if axis == 0 else -1]] = 220
        edges = np.asarray(edges_of(gray(picture), CONFIG))
        assert np.all(edges.sum(axis=axis) == 1)


def test_a_flat_picture_has_no_edges():
    assert float(edges_of(gray(np.full((16, 16), 200)), CONFIG).sum()) == 0


def test_weak_edges_count_only_where_they_join_strong_ones():
    step = np.full((16, 24), 100)
    step[8:] = 130  # weak: 30 grey levels
    assert float(edges_of(gray(step), CONFIG).sum()) == 0
    step[8:] = np.linspace(130, 250, 24)[None]  # grows along the line until it is strong
    far, near = (
        np.asarray(edges_of(gray(step), dataclasses.replace(CONFIG, reach=reach))).max(axis=0)
        for reach in (24, 2)
    )
    assert np.all(far == 1)
    assert near[0] == 0 and near[-1] == 1  # hysteresis reaches as far as it is told to
    assert near.sum() > np.asarray(edges_of(gray(step), dataclasses.replace(CONFIG, reach=0))).sum()


def test_controls_of_frames_do_not_tell_the_colors():
    truth = clip()
    ours, theirs = (
        jit(stack_controls)(video, truth.depth, truth.normals)
        for video in (truth.source, truth.oracle)
    )
    assert ours.shape == (*truth.depth.shape, 5)
    assert float(ours.min()) >= 0 and float(ours.max()) <= 1
    np.testing.assert_array_equal(ours[..., :4], theirs[..., :4])


def test_degraded_controls_stay_in_range_and_lose_patches(key):
    controls = jnp.full((2, 20, 20, 5), 0.5)
    same = degrade(controls, key, noise=0.0, dropout=0.0)
    np.testing.assert_array_equal(same, controls)
    spoilt = degrade(controls, jax.random.key(1), noise=0.1, dropout=0.3)
    assert float(spoilt.min()) == 0 and float(spoilt.max()) <= 1
    assert 0.05 < float(jnp.mean(spoilt == 0)) < 0.6

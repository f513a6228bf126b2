"""Colour science: golden values of CIEDE2000, and palette names of rendered, shaded objects."""

import jax
import jax.numpy as jnp
import numpy as np
from editing_clips import camera, jit

from daag_jax.editing.colors import delta_e2000, mode_of, name_pixels, srgb_to_lab
from daag_jax.editing.corruptions import lab_to_srgb
from daag_jax.editing.masks import instance_colors
from daag_jax.envs.palette import PALETTE_NAMES, PALETTE_RGB
from daag_jax.envs.renderer import render
from daag_jax.envs.tasks import rgb_stacking_model as body
from daag_jax.envs.tasks.rgb_stacking_scenes import random_scene

# Sharma, Wu, Dalal (2005), Table 1: L a b, L a b, CIEDE2000
SHARMA = """
50 2.6772 -79.7751 50 0 -82.7485 2.0425
50 3.1571 -77.2803 50 0 -82.7485 2.8615
50 2.8361 -74.0200 50 0 -82.7485 3.4412
50 -1.3802 -84.2814 50 0 -82.7485 1.0000
50 -1.1848 -84.8006 50 0 -82.7485 1.0000
50 -0.9009 -85.5211 50 0 -82.7485 1.0000
50 0 0 50 -1 2 2.3669
50 -1 2 50 0 0 2.3669
50 2.49 -0.001 50 -2.49 0.0009 7.1792
50 2.49 -0.001 50 -2.49 0.0011 7.2195
50 2.49 -0.001 50 -2.49 0.0012 7.2195
50 -0.001 2.49 50 0.0009 -2.49 4.8045
50 -0.001 2.49 50 0.0011 -2.49 4.7461
50 2.5 0 50 0 -2.5 4.3065
50 2.5 0 73 25 -18 27.1492
50 2.5 0 61 -5 29 22.8977
50 2.5 0 56 -27 -3 31.9030
50 2.5 0 58 24 15 19.4535
50 2.5 0 50 3.1736 0.5854 1.0000
50 2.5 0 50 3.2972 0 1.0000
50 2.5 0 50 1.8634 0.5757 1.0000
50 2.5 0 50 3.2592 0.3350 1.0000
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.2630
61.2901 3.7196 -5.3901 61.4292 2.2480 -4.9620 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373
36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082
"""


def test_ciede2000_has_the_published_values():
    table = np.array([line.split() for line in SHARMA.strip().splitlines()], np.float32)
    distance = jit(delta_e2000)(table[:, :3], table[:, 3:6])
    np.testing.assert_allclose(distance, table[:, 6], atol=2e-3)


def test_ciede2000_of_equal_colors_is_zero_and_it_is_symmetric():
    one, two = jax.random.uniform(jax.random.key(2), (2, 20, 3), minval=-60.0, maxval=60.0)
    distance = jit(delta_e2000)
    np.testing.assert_array_equal(distance(one, one), 0)
    np.testing.assert_allclose(distance(one, two), distance(two, one), rtol=1e-4)


def test_lab_of_white_and_of_pure_red_are_the_known_ones():
    lab = srgb_to_lab(jnp.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(lab[0], [100, 0, 0], atol=0.02)
    np.testing.assert_allclose(lab[1], [53.24, 80.09, 67.20], atol=0.05)


def test_srgb_survives_a_trip_through_lab():
    rgb = jax.random.uniform(jax.random.key(1), (200, 3))
    back = jit(lambda rgb: lab_to_srgb(srgb_to_lab(rgb)))(rgb)
    np.testing.assert_allclose(back, rgb, atol=2e-3)


def test_a_palette_color_keeps_its_name_in_every_light():
    shades = np.linspace(0.58, 1.0, 15)[:, None, None]
    pixels = jnp.asarray(shades * PALETTE_RGB[None] * 255).astype(jnp.uint8)
    names = jit(name_pixels)(pixels)
    assert names.tolist() == [list(range(len(PALETTE_NAMES)))] * 15


def test_greys_have_no_name():
    greys = jnp.broadcast_to(jnp.arange(0, 256, 15, dtype=jnp.uint8)[:, None], (18, 3))
    assert jit(name_pixels)(greys).tolist() == [-1] * 18


def test_the_mode_of_an_empty_mask_is_unknown():
    labels = jnp.array([[2, 2, 1], [0, 1, 1]])
    assert mode_of(labels, jnp.array([[True, True, True], [False] * 3]), 4).tolist() == [2, -1]


def test_rendered_objects_show_the_color_they_are_painted_in():
    def one(key):
        qpos, colors = random_scene(key)
        scene = body.scene_at(qpos, colors)
        frame = render(body.GEOMS.kinds, scene, camera(), body.light(), 64, 64)
        seen = instance_colors(frame.rgb[None], frame.segmentation[None])
        area = jnp.stack([jnp.sum(frame.segmentation == j + 1) for j in range(3)])
        return seen, colors, area

    keys = jax.random.split(jax.random.key(7), 24)
    seen, colors, area = jit(lambda keys: jax.lax.map(one, keys))(keys)
    is_right = np.asarray(seen == colors)[np.asarray(area) >= 20]
    assert is_right.size > 50 and is_right.mean() > 0.97
    assert np.all(np.asarray(seen)[np.asarray(area) == 0] == -1)


def test_gradient_is_finite_at_grey():
    grey, red = jnp.array([50.0, 0.0, 0.0]), jnp.array([50.0, 60.0, 30.0])
    gradient = jax.grad(delta_e2000, argnums=(0, 1))
    for pair in ((grey, grey), (grey, red), (red, grey), (red, red)):
        assert all(np.isfinite(g).all() for g in gradient(*pair))

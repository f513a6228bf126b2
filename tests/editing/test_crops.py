"""Boxes around objects: they hold their object, and a crop that is put back is the frame."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from daag_jax.editing.crops import boxes_around, crop, paste

SIZE = 24
SPANS = st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(
    lambda s: (s[0], min(SIZE, s[0] + s[1]))
)


@settings(deadline=None, max_examples=40)
@given(SPANS, SPANS, st.floats(0, 2))
def test_a_box_holds_its_object_and_lies_in_the_frame(rows, columns, margin):
    mask = np.zeros((1, SIZE, SIZE), bool)
    mask[0, slice(*rows), slice(*columns)] = True
    ((top, left, side),) = np.asarray(boxes_around(jnp.asarray(mask), margin))
    assert top >= 0 and left >= 0 and max(top, left) + side <= SIZE + 1e-4
    assert top <= rows[0] + 1e-4 and left <= columns[0] + 1e-4
    assert top + side >= rows[1] - 1e-4 and left + side >= columns[1] - 1e-4
    longest = max(rows[1] - rows[0], columns[1] - columns[0])
    np.testing.assert_allclose(side, min(SIZE, (1 + margin) * longest), rtol=1e-5)


def test_an_empty_mask_has_the_box_of_the_frame():
    found = boxes_around(jnp.zeros((2, SIZE, SIZE), bool), 0.5)
    np.testing.assert_array_equal(found, [[0, 0, SIZE]] * 2)


def test_the_box_of_the_frame_is_the_identity(key):
    rgb = jax.random.randint(key, (1, 2, SIZE, SIZE, 3), 0, 256).astype(jnp.uint8)
    boxes = jnp.broadcast_to(jnp.array([0.0, 0.0, SIZE]), (1, 2, 3))
    np.testing.assert_array_equal(crop(rgb, boxes, is_smooth=True), rgb)
    np.testing.assert_array_equal(paste(rgb, boxes), rgb)


def test_a_crop_enlarges_what_is_in_the_box_and_returns_to_it():
    rows, columns = np.mgrid[:SIZE, :SIZE]
    rgb = np.stack([8 * rows, 8 * columns, 0 * rows], -1).astype(np.uint8)[None, None]
    box = jnp.array([[[6.0, 4.0, 12.0]]])
    large = np.asarray(crop(jnp.asarray(rgb), box, is_smooth=True))
    assert large.shape == rgb.shape
    np.testing.assert_allclose(large[0, 0, :, 0, 0], 8 * (6 + (np.arange(SIZE) - 0.5) / 2), atol=1)
    inside = (0, 0, slice(7, 17), slice(5, 15))
    back = np.asarray(paste(jnp.asarray(large), box))
    np.testing.assert_allclose(back[inside].astype(int), rgb[inside], atol=1)


def test_geometry_is_not_interpolated():
    numbers = jnp.asarray(
        np.repeat(np.arange(SIZE) // 12, SIZE).reshape(1, 1, SIZE, SIZE), jnp.int8
    )
    found = crop(numbers, jnp.array([[[9.0, 9.0, 7.0]]]))
    assert found.dtype == jnp.int8 and set(np.unique(found)) == {0, 1}
    depth = jnp.where(numbers > 0, 0.5, 1.0)
    assert set(np.unique(crop(depth, jnp.array([[[9.0, 9.0, 7.0]]])))) == {0.5, 1.0}

"""What the simulator says of a clip: the oracle differs in edited pixels only, and flow carries surface points."""

import jax
import jax.numpy as jnp
import numpy as np
from editing_clips import clip

from daag_jax.editing.temporal import unoccluded, warp
from daag_jax.editing.truth import areas


def test_the_oracle_of_a_swap_differs_inside_the_mask_alone():
    truth = clip()
    change = np.asarray((truth.source != truth.oracle).any(axis=-1))
    np.testing.assert_array_equal(change, np.asarray(truth.segmentation == 1))


def test_areas_are_disjoint_and_the_robot_is_its_own():
    place = areas(clip())
    assert not bool((place.edited & place.rest).any())
    assert not bool((place.core & place.band).any())
    assert bool((place.core <= place.edited).all())
    np.testing.assert_array_equal(place.robot, clip().segmentation == 4)


def test_points_of_an_object_lie_on_its_cube():
    truth = clip()
    inside = np.asarray(truth.local)[np.asarray(truth.segmentation == 1)]
    np.testing.assert_allclose(np.abs(inside).max(axis=-1), 0.025, atol=2e-4)


def test_flow_carries_visible_points_to_themselves():
    truth = clip()
    carried = jax.vmap(warp)(truth.local[1:], truth.flow)
    gap = jnp.abs(carried - truth.local[:-1]).max(axis=-1)
    seen = np.asarray(truth.visible & (truth.segmentation[:-1] == 1))
    # bilinear samples across an edge of the cube cut its corner
    assert seen.sum() > 200 and np.quantile(np.asarray(gap)[seen], 0.9) < 2e-3


def test_two_flows_alone_agree_with_the_exact_visibility_where_nothing_moves():
    still = jnp.zeros((8, 8, 2))
    assert bool(unoccluded(still, still).all())
    assert not bool(unoccluded(still + 3.0, still).any())
    assert bool(unoccluded(still + 3.0, still - 3.0).all())

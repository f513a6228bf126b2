"""Several ControlNets: weights, when they steer, and guess mode, held against their definitions."""

import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.editing.controls import ControlConfig, depth_control
from daag_jax.editing.editor_config import EditorSpec
from daag_jax.editing.steering import CHANNELS, condition, control_weights, make_steering
from daag_jax.networks.stable_diffusion.config import SD15_CONTROLNET
from daag_jax.networks.stable_diffusion.unet import Residuals

XT, STEP = jnp.ones((4, 2, 2, 3)), jnp.zeros(4)
CONTEXT, REGIONS = jnp.zeros((4, 1, 1, 5)), jnp.ones((4, 1, 2, 2))


def branch(size: float):
    """A network whose residuals are its conditions, times ``size``."""

    def run(xt, step, context, conditions, regions):
        del step, context, regions
        maps = size * conditions[:, :, :, :1] * xt
        return Residuals((maps, maps), maps)

    return run


def steer(branches, progress=0.0, **options):
    found = make_steering(branches, CONTEXT, REGIONS, **options)(XT, STEP, jnp.full(4, progress))
    return None if found is None else np.asarray(found.down[0][:, 0, 0, 0]), found


def images(value):
    return jnp.full((4, 2, 2, 3), value)


def test_residuals_are_a_weighted_sum():
    rows, _ = steer([(branch(1.0), 0.5, images(2.0)), (branch(10.0), 1.0, images(1.0))])
    np.testing.assert_allclose(rows, 11.0)


def test_a_branch_without_a_weight_is_not_run():
    def never(*_):
        raise AssertionError

    rows, _ = steer([(never, 0.0, None), (branch(1.0), 1.0, images(1.0))])
    np.testing.assert_allclose(rows, 1.0)
    assert make_steering([(never, 0.0, None)], CONTEXT, REGIONS)(XT, STEP, STEP) is None


@pytest.mark.parametrize(
    ("span", "wanted"),
    [((0.0, 1.0), [1, 1, 1, 1]), ((0.5, 1.0), [0, 0, 1, 1]), ((0.0, 0.5), [1, 1, 0, 0])],
)
def test_geometry_steers_within_its_span_of_four_steps(span, wanted):
    run = [(branch(1.0), 1.0, images(1.0))]
    rows = [steer(run, progress=i / 4, span=span, steps=4)[0][0] for i in range(4)]
    assert rows == wanted


def test_guess_mode_leaves_rows_without_a_prompt_alone_and_grows_with_depth():
    _, found = steer([(branch(1.0), 1.0, images(1.0))], guess=True, is_guided=True)
    first = [np.asarray(x[:, 0, 0, 0]) for x in (*found.down, found.mid)]
    np.testing.assert_allclose([x[0] for x in first], np.logspace(-1, 0, 3), rtol=1e-6)
    np.testing.assert_array_equal([x[2:] for x in first], 0.0)


@pytest.mark.parametrize("kind", CHANNELS)
def test_a_condition_is_an_image_in_the_unit_range(kind):
    random = np.random.default_rng(0)
    rgb = jnp.asarray(random.integers(0, 255, (2, 8, 8, 3)), jnp.uint8)
    depth = jnp.asarray(random.uniform(0.3, 2.0, (2, 8, 8)), jnp.float32)
    normals = jnp.zeros((2, 8, 8, 3)).at[..., 0].set(1.0)
    image = np.asarray(condition(kind, rgb, depth, normals, ControlConfig()))
    assert image.shape == (2, 8, 8, CHANNELS[kind])
    assert image.min() >= 0.0 and image.max() <= 1.0 + 1e-6  # of rounding
    if kind == "normals":  # a surface that looks to the right: no red
        np.testing.assert_allclose(image[0, 0, 0], [0.0, 0.5, 0.5])
    if kind == "depth":
        np.testing.assert_allclose(image[..., 1], depth_control(depth, ControlConfig()))


def test_wrong_weights_and_conditions_are_named():
    assert control_weights(0.5, 2) == (0.5, 0.5)
    with pytest.raises(ValueError, match="3 weights for 2 ControlNets"):
        control_weights((1.0, 1.0, 1.0), 2)
    with pytest.raises(ValueError, match="condition 'canny' is unknown"):
        EditorSpec(controlnets=(("canny", SD15_CONTROLNET),))
    with pytest.raises(ValueError, match="'stack' has 5 channels .* is 3"):
        EditorSpec(controlnets=(("stack", SD15_CONTROLNET),))

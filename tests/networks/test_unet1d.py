"""The temporal U-Net and the transformer: products are convolutions, shapes, what they hear, what they refuse."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.networks import unet1d
from daag_jax.networks.transformer import DenoisingTransformer
from daag_jax.networks.unet1d import Conv1D, Doubling1D, UNet1D

SMALL = UNet1D((4, 8), time_dim=4, num_groups=2)
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
quick = partial(jax.jit, compiler_options=QUICK)


def draw(index: int, *shape: int):
    return jax.random.normal(jax.random.key(index), shape)


def assert_same_with_gradient(form, reference, x, params):
    """Values and gradients of sin(form) and sin(reference) agree."""
    np.testing.assert_allclose(form(x, params), reference(x, params), atol=1e-5)
    loss = lambda f: lambda *inputs: jnp.sum(jnp.sin(f(*inputs)))
    ours, theirs = (quick(jax.grad(loss(f), (0, 1)))(x, params) for f in (form, reference))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours, theirs)


@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (3, 2), (3, 1), (1, 1)])
def test_a_convolution_by_product_is_that_of_flax(kernel, stride):
    x, ours = draw(0, 2, 8, 3), Conv1D(6, kernel, stride)
    theirs = nn.Conv(6, (kernel,), (stride,), padding=kernel // 2)
    params = theirs.init(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        jnp.shape, ours.init(jax.random.key(1), x)
    )
    assert_same_with_gradient(
        lambda x, p: ours.apply(p, x), lambda x, p: theirs.apply(p, x), x, params
    )


def test_a_doubling_by_product_is_the_transposed_convolution_of_flax():
    x, ours, theirs = draw(0, 2, 4, 3), Doubling1D(6), nn.ConvTranspose(6, (4,), (2,))
    params = theirs.init(jax.random.key(1), x)
    assert ours.apply(params, x).shape == (2, 8, 6)
    assert_same_with_gradient(
        lambda x, p: ours.apply(p, x), lambda x, p: theirs.apply(p, x), x, params
    )


def test_cpus_multiply_and_accelerators_convolve():
    x = jnp.zeros((1, 8, 8))
    for call, shape in ((unet1d.convolve, (3, 8, 8)), (unet1d.double, (4, 8, 8))):
        traced = jax.jit(call).trace(x, jnp.zeros(shape))
        for platform, is_convolution in (("cpu", False), ("cuda", True), ("tpu", True)):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert ("stablehlo.convolution" in text) == is_convolution


@pytest.mark.parametrize("has_scale", [True, False])
def test_the_prediction_hears_time_condition_and_both_ends_of_the_sequence(has_scale):
    net = SMALL.clone(has_scale=has_scale)
    x, time, condition = draw(0, 3, 8, 2), jnp.full((3,), 0.4), draw(1, 3, 5)
    params = quick(net.init)(jax.random.key(2), x, time, condition)
    apply = quick(net.apply)
    out = apply(params, x, time, condition)
    assert out.shape == x.shape
    others = (x.at[:, 0].add(1.0), time, condition), (x, time + 0.3, condition)
    for inputs in (*others, (x, time, -condition)):
        assert float(jnp.abs(apply(params, *inputs) - out)[:, -1].max()) > 1e-4
    alone = quick(net.init)(jax.random.key(2), x, time)
    assert quick(net.apply)(alone, x, time).shape == x.shape


def test_mish_is_that_of_jax():
    x = jnp.linspace(-60.0, 90.0, 501)
    np.testing.assert_allclose(unet1d.mish(x), jax.nn.mish(x), atol=1e-6, rtol=1e-6)
    ours, theirs = (jax.vmap(jax.grad(f))(x) for f in (unet1d.mish, jax.nn.mish))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_seeds_vmap():
    x, time = draw(0, 2, 4, 3), jnp.ones((2,))
    keys = jax.random.split(jax.random.key(1), 2)
    params = quick(jax.vmap(lambda key: SMALL.init(key, x, time)))(keys)
    out = quick(jax.vmap(SMALL.apply, in_axes=(0, None, None)))(params, x, time)
    one = quick(SMALL.apply)(jax.tree.map(lambda leaf: leaf[1], params), x, time)
    np.testing.assert_allclose(out[1], one, atol=1e-5)


def test_wrong_sizes_are_named_with_their_cure():
    x, time = jnp.zeros((1, 6, 2)), jnp.ones((1,))
    with pytest.raises(ValueError, match="horizon 6 is not a multiple of 4 .*try 8"):
        UNet1D((8, 8, 8), 8).init(jax.random.key(0), x, time)
    with pytest.raises(ValueError, match="width 12 is not a multiple of num_groups=8; try 16"):
        UNet1D((12,), 8).init(jax.random.key(0), x, time)


def test_a_causal_action_reads_no_later_action_and_no_later_observation():
    x, time, condition = draw(0, 1, 4, 2), jnp.ones((1,)), draw(1, 1, 2, 3)
    net = DenoisingTransformer(8, depth=2, num_heads=2)
    params = quick(net.init)(jax.random.key(2), x, time, condition)
    apply = quick(net.apply)
    out = apply(params, x, time, condition)
    later_action = apply(params, x.at[:, 2].add(1.0), time, condition)
    later_observation = apply(params, x, time, condition.at[:, 1].add(1.0))
    for changed, first in ((later_action, 2), (later_observation, 1)):
        is_same = np.isclose(changed, out, atol=1e-6).all(axis=(0, 2))
        assert list(is_same) == [True] * first + [False] * (4 - first)
    free = DenoisingTransformer(8, depth=2, num_heads=2, is_causal=False)
    apply = quick(free.apply)
    out, changed = (apply(params, y, time, condition) for y in (x, x.at[:, 3].add(1.0)))
    assert not np.allclose(changed[:, 0], out[:, 0], atol=1e-6)


def test_dropout_acts_in_training_alone():
    x, time, condition = draw(0, 2, 4, 2), jnp.ones((2,)), draw(1, 2, 1, 3)
    net = DenoisingTransformer(8, depth=1, num_heads=2, dropout=0.5)
    params = quick(net.init)(jax.random.key(2), x, time, condition)
    calm = quick(net.apply)(params, x, time, condition)

    def noisy(key):
        return net.apply(params, x, time, condition, True, rngs={"dropout": key})

    one, two = (quick(noisy)(jax.random.key(seed)) for seed in (3, 4))
    assert not np.allclose(one, two) and not np.allclose(calm, one)

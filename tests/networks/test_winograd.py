"""Winograd's filtering: it is the convolution, at any length, with fewer multiplications; where it is taken."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.networks import unet1d
from daag_jax.networks.winograd import convolve_winograd, minimal_filtering

KEY = jax.random.key(0)


def draw(*shape: int):
    return jax.random.normal(jax.random.fold_in(KEY, sum(shape)), shape)


@pytest.mark.parametrize(("taps", "length"), [(5, 8), (5, 3), (3, 6), (3, 1)])
def test_it_is_the_convolution_of_flax_with_its_gradients(taps, length):
    x, kernel = draw(2, length, 3), draw(taps, 3, 4)
    reference = nn.Conv(4, (taps,), padding=taps // 2, use_bias=False)
    theirs = lambda x, kernel: reference.apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(convolve_winograd(x, kernel), theirs(x, kernel), atol=2e-5)
    gradients = lambda f: jax.grad(lambda *inputs: jnp.sum(jnp.sin(f(*inputs))), (0, 1))(x, kernel)
    for ours, expected in zip(gradients(convolve_winograd), gradients(theirs), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("taps", [3, 5])
def test_the_matrices_give_the_sliding_sum_exactly(taps):
    outputs, of_taps, inputs = minimal_filtering(4, taps)
    filtered = np.einsum("mp,pk,pn->mkn", outputs, of_taps, inputs)
    expected = [[np.eye(taps + 3)[m + k] for k in range(taps)] for m in range(4)]
    np.testing.assert_allclose(filtered, expected, atol=1e-9)


def test_more_products_than_points_are_refused():
    with pytest.raises(ValueError, match="Take fewer outputs"):
        minimal_filtering(4, 7)


@pytest.mark.parametrize(("batch", "is_winograd"), [(64, True), (2, False)])
def test_many_rows_are_filtered_with_fewer_multiplications(batch, is_winograd):
    x, kernel = draw(batch, 8, 32), draw(5, 32, 32)
    found = jax.jit(unet1d.convolve).lower(x, kernel).compile().cost_analysis()["flops"]
    by_sums = 2 * batch * 8 * 5 * 32 * 32
    assert (found < 0.7 * by_sums) == is_winograd

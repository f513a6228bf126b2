"""The forms of convolution and attention give the numbers of the plain ones, and their gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from daag_jax.networks.stable_diffusion import attend as attention
from daag_jax.networks.stable_diffusion import convolve as convolution
from daag_jax.networks.stable_diffusion.attend import (
    attend,
    attend_in_caches,
    attend_in_memory,
)
from daag_jax.networks.stable_diffusion.convolve import (
    convolve,
    convolve_gathered,
    convolve_then_double,
    double_and_convolve,
    double_then_convolve,
)

NHWC = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def draw(index: int, *shape: int):
    return jax.random.normal(jax.random.key(index), shape)


def assert_same_with_gradient(form, reference, *inputs):
    """Values and gradients of sin(form) and sin(reference) at the inputs agree."""
    loss = lambda f: lambda *x: jnp.sum(jnp.sin(f(*x)))
    every = tuple(range(len(inputs)))
    np.testing.assert_allclose(form(*inputs), reference(*inputs), atol=2e-5, rtol=1e-5)
    for ours, theirs in zip(
        jax.grad(loss(form), every)(*inputs),
        jax.grad(loss(reference), every)(*inputs),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=1e-4)


# --- convolution -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 1), (0, 1))])
def test_gathered_patches_are_a_convolution(strides, padding):
    x, kernel = draw(0, 2, 6, 8, 3), draw(1, 3, 3, 3, 5)
    gathered = lambda x, kernel: convolve_gathered(x, kernel, strides, padding)
    plain = lambda x, kernel: lax.conv_general_dilated(x, kernel, strides, padding, **NHWC)
    assert_same_with_gradient(gathered, plain, x, kernel)


def test_products_before_doubling_are_a_convolution_after_it():
    x, kernel = draw(0, 2, 4, 6, 3), draw(1, 3, 3, 3, 5)
    doubled = lambda x, kernel: double_then_convolve(x, kernel, **NHWC)
    assert_same_with_gradient(convolve_then_double, doubled, x, kernel)


@pytest.mark.parametrize("shape", [(1, 2, 2, 512), (1, 20, 20, 4)], ids=["wide", "large"])
@pytest.mark.parametrize("size", [1, 3])
def test_every_choice_of_form_is_a_convolution(shape, size):
    x, kernel = draw(0, *shape), 0.05 * draw(1, size, size, shape[-1], shape[-1])
    padding = ((size // 2,) * 2,) * 2
    plain = lax.conv_general_dilated(x, kernel, (1, 1), padding, **NHWC)
    np.testing.assert_allclose(convolve(x, kernel, (1, 1), padding, **NHWC), plain, atol=1e-4)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_keep_the_plain_convolutions(platform):
    x, kernel = jnp.zeros((1, 2, 2, 512)), jnp.zeros((3, 3, 512, 512))
    around = ((1, 1), (1, 1))
    calls = {
        "conv": lambda x, kernel: convolve(x, kernel, (1, 1), around, **NHWC),
        "double": lambda x, kernel: double_and_convolve(x, kernel, **NHWC),
    }
    for call in calls.values():
        lowered = {
            p: jax.jit(call).trace(x, kernel).lower(lowering_platforms=(p,)).as_text()
            for p in ("cpu", platform)
        }
        assert "stablehlo.convolution" in lowered[platform]
        assert "stablehlo.convolution" not in lowered["cpu"]


def test_the_limits_choose_the_form():
    around = ((1, 1), (1, 1))
    call = lambda x, kernel: convolve(x, kernel, (1, 1), around, **NHWC)
    for side, width, is_gathered in ((16, 512, True), (17, 512, False), (16, 499, False)):
        shapes = [
            jax.ShapeDtypeStruct(shape, jnp.float32)
            for shape in ((1, side, side, width), (3, 3, width, width))
        ]
        assert is_gathered == (
            "stablehlo.convolution" not in jax.jit(call).lower(*shapes).as_text()
        )
    assert convolution.GATHERED_PIXELS == 16**2


# --- attention -------------------------------------------------------------------------------------------------------


def queries_keys_values(num_queries: int, num_keys: int):
    lengths = (num_queries, num_keys, num_keys)
    return [draw(index, 2, length, 3, 4) for index, length in enumerate(lengths)]


def mix_of_prompts(num_queries: int):
    return jax.nn.softmax(draw(6, 2, num_queries, 3))


@pytest.mark.parametrize("limit", [1, 4, 5, 9, 1000])
@pytest.mark.parametrize("form", [attend_in_caches, attend_in_memory])
def test_attention_in_pieces_is_attention(form, limit, monkeypatch):
    monkeypatch.setattr(attention, "QUERIES", limit)
    monkeypatch.setattr(attention, "CPU_SCORES", 6 * limit)
    inputs = queries_keys_values(10, 6)
    assert_same_with_gradient(
        lambda *x: form(*x, None), lambda *x: jax.nn.dot_product_attention(*x), *inputs
    )
    weights = mix_of_prompts(10)
    monkeypatch.undo()
    whole = attend(*inputs, weights)
    gradient_of_whole = jax.grad(lambda *x: jnp.sum(jnp.sin(attend(*x))), (0, 1, 2, 3))(
        *inputs, weights
    )
    monkeypatch.setattr(attention, "QUERIES", limit)
    monkeypatch.setattr(attention, "CPU_SCORES", 6 * limit)
    np.testing.assert_allclose(form(*inputs, weights), whole, atol=1e-5)
    loss = lambda f: lambda *x: jnp.sum(jnp.sin(f(*x)))
    pieces = jax.grad(loss(form), (0, 1, 2, 3))(*inputs, weights)
    for ours, theirs in zip(pieces, gradient_of_whole, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_regional_attention_is_the_weighted_sum_over_prompts():
    q, k, v = queries_keys_values(8, 6)
    mix = mix_of_prompts(8)
    expected = sum(
        mix[:, :, p, None, None] * attend(q, k[:, 2 * p : 2 * p + 2], v[:, 2 * p : 2 * p + 2])
        for p in range(3)
    )
    np.testing.assert_allclose(attend(q, k, v, mix), expected, atol=1e-5)


def test_large_scores_do_not_overflow():
    q, k, v = queries_keys_values(4, 6)
    out = attend(1e4 * q, k, v)
    np.testing.assert_allclose(out, jax.nn.dot_product_attention(1e4 * q, k, v), atol=1e-4)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_half_precision_adds_in_float32(platform):
    half = [x.astype(jnp.bfloat16) for x in queries_keys_values(4, 6)]
    lowered = jax.jit(attend).trace(*half, mix_of_prompts(4)).lower(lowering_platforms=(platform,))
    products = [x for x in lowered.as_text().splitlines() if "stablehlo.dot_general" in x]
    assert len(products) == 2 and all(re.search(r"-> tensor<[\dx]*f32>", x) for x in products)
    assert attend(*half).dtype == jnp.bfloat16


def test_doubling_in_half_precision_is_as_near_as_the_plain_convolution():
    x, kernel = draw(0, 1, 8, 8, 64), draw(1, 3, 3, 64, 64) / 24
    exact = double_then_convolve(x, kernel, **NHWC)
    half = [a.astype(jnp.bfloat16) for a in (x, kernel)]
    ours = jnp.abs(convolve_then_double(*half).astype("f4") - exact).mean()
    plain = jnp.abs(double_then_convolve(*half, **NHWC).astype("f4") - exact).mean()
    assert convolve_then_double(*half).dtype == jnp.bfloat16 and ours < 1.1 * plain


def test_many_images_are_doubled_one_after_another(monkeypatch):
    x, kernel = draw(0, 3, 5, 7, 4), draw(1, 3, 3, 4, 6)
    whole = convolve_then_double(x, kernel)
    monkeypatch.setattr(convolution, "PRODUCTS", 1)
    np.testing.assert_allclose(convolve_then_double(x, kernel), whole, atol=1e-5)


def test_a_convolution_with_dilation_or_a_precision_is_the_plain_one():
    x, kernel = draw(0, 1, 8, 8, 512), 0.05 * draw(1, 3, 3, 512, 512)
    for options in ({"rhs_dilation": (2, 2)}, {"precision": "highest"}):
        found = convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), **options, **NHWC)
        plain = lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), **options, **NHWC)
        np.testing.assert_array_equal(found, plain)
    padded = convolve(x, kernel[:1, :1], (1, 1), ((1, 1), (1, 1)), **NHWC)
    assert padded.shape == (1, 10, 10, 512)


def test_flash_attention_is_asked_for_on_cuda_alone(monkeypatch):
    asked = []

    class Cuda:
        platform_version = "PJRT C API\ncuda 12090"
        compute_capability = "8.0"

        def local_devices(self):
            return [self]

    def record(queries, *_, implementation):
        asked.append(implementation)
        return queries

    half = [x.astype(jnp.bfloat16) for x in (draw(i, 1, 4, 2, 8) for i in range(3))]
    attend(*half)
    monkeypatch.setattr(attention, "get_backend", Cuda)
    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    attend(*half)
    attend(*(x.astype(jnp.float32) for x in half))
    attend(*(x[..., :3] for x in half))
    monkeypatch.setattr(Cuda, "compute_capability", "7.5")
    attend(*half)
    assert asked == ["cudnn"]

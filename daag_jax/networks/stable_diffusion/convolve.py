"""Convolutions in the form that suits the platform; the numbers are the same everywhere (NHWC, HWIO).

Those of 1 x 1 are matrix products (on two cores 16 x 16 x 2560 to 1280 takes 6.7 instead of 10.5 ms).  Otherwise they
are ``lax.conv_general_dilated`` on TPU and GPU, and on a CPU (figures: two cores, float32, batch 1)

    few pixels, wide    one product of gathered patches: 16 x 16 x 1280 goes at 226 instead of 100 GFLOP/s, 8 x 8 x 1280
                        at 119 instead of 48; with more pixels it is slower (32 x 32 x 640: 143 against 217)
    after doubling      products on the small map, a quarter of the FLOP: 16 x 16 x 1280 takes 35 instead of 172 ms

The special forms add up in float32, and take no dilation, no groups, no precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

GATHERED_PIXELS = 256  # at most
GATHERED_WEIGHTS = 500**2  # a tap, at least
PRODUCTS = 2**26  # numbers that are held at a time by products before doubling, one image at least


def convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "h w C D"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options,
) -> Float[Array, "B H2 W2 D"]:
    """``lax.conv_general_dilated``, or on a CPU a product of gathered patches where that is faster."""
    plain = partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    if not is_plain(options):
        return plain(x, kernel)
    if kernel.shape[:2] == tuple(strides) == (1, 1) and not np.any(padding):
        return x @ kernel[0, 0]
    pixels = x.size // x.shape[-1] // (strides[0] * strides[1])
    if pixels > GATHERED_PIXELS or kernel.shape[2] * kernel.shape[3] < GATHERED_WEIGHTS:
        return plain(x, kernel)
    gathered = partial(convolve_gathered, strides=strides, padding=padding)
    return lax.platform_dependent(x, kernel, cpu=gathered, default=plain)


def is_plain(options: Mapping[str, Any]) -> bool:
    """Whether the options of a convolution ask for nothing but its layout."""
    dilations = (options.get("lhs_dilation"), options.get("rhs_dilation"))
    has_dilation = any(dilation is not None and set(dilation) != {1} for dilation in dilations)
    is_grouped = options.get("feature_group_count", 1) != 1
    return not has_dilation and not is_grouped and options.get("precision") is None


def convolve_gathered(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "h w C D"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> Float[Array, "B H2 W2 D"]:
    """A convolution as one matrix product of patches and weights."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    ends = [x.shape[1 + i] - kernel.shape[i] + 1 for i in range(2)]
    taps = [
        x[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    ]
    patches = jnp.concatenate(taps, axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def double_then_convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C D"], **options
) -> Float[Array, "B 2*H 2*W D"]:
    """Repeats every pixel in both directions, then convolves with a 3 x 3 kernel, as the reference does."""
    doubled = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return lax.conv_general_dilated(doubled, kernel, (1, 1), ((1, 1), (1, 1)), **options)


def convolve_then_double(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C D"]
) -> Float[Array, "B 2*H 2*W D"]:
    """The same with a quarter of the FLOP: every tap's product on the small map, then sums of shifted products.

    Output row 2i + a sees, at tap u, the doubled row 2i + a + u - 1, which is the small row i + (a + u - 1) // 2.
    """
    batch, height, width, channels = x.shape
    if batch > 1 and 9 * batch * height * width * kernel.shape[-1] > PRODUCTS:
        return lax.map(lambda image: convolve_then_double(image[None], kernel)[0], x)
    pixels = jnp.broadcast_to(x.reshape(-1, channels), (9, batch * height * width, channels))
    taps = kernel.reshape(9, channels, -1)
    products = jnp.matmul(pixels, taps, preferred_element_type=jnp.float32)
    products = products.reshape(3, 3, *x.shape[:3], -1)
    products = jnp.pad(products, (*((0, 0),) * 3, (1, 1), (1, 1), (0, 0)))

    def phase(a: int, b: int) -> Array:
        taps = (
            (u, v, 1 + (a + u - 1) // 2, 1 + (b + v - 1) // 2) for u in range(3) for v in range(3)
        )
        return sum(products[u, v, :, i : i + height, j : j + width] for u, v, i, j in taps)

    parts = jnp.stack([phase(0, 0), phase(0, 1), phase(1, 0), phase(1, 1)])
    parts = parts.reshape(2, 2, batch, height, width, -1).transpose(2, 3, 0, 4, 1, 5)
    return parts.reshape(batch, 2 * height, 2 * width, -1).astype(x.dtype)


def double_and_convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C D"], *_, **options
) -> Float[Array, "B 2*H 2*W D"]:
    """Upsampling and its convolution (3 x 3, its own strides and padding), in the form that suits the platform."""
    plain = partial(double_then_convolve, **options)
    if not is_plain(options):
        return plain(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=convolve_then_double, default=plain)

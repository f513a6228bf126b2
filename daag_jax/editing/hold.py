"""Holds the colours of edited objects still: each has one chromaticity over a clip, while its light may change.

    q(x) = Y(x) / sum_c Y_c(x)     chromaticity of linear RGB: under white light the surface's, whatever its shade
    q_j  = mean of Y over all pixels and frames of object j, normalised
    Y'   = (sum_c Y_c) ((1 - share) q~(x) + share q_j)                                                          (1)

q~ is q after a gain per frame and channel that brings the frame's mean light to the chromaticity q_j: the adaptive
normalisation of Huang and Belongie (2017), which Rerender-A-Video (Yang et al. 2023) uses between frames, per object.
The sum of the channels stays, where no channel is cut off at 1.  ``share`` above 0 also draws single pixels to q_j;
that suits objects of one colour, and washes out textures.

Differs from the papers: means alone, not variances; each pixel keeps its sum, so that on objects of several colours the
means agree only nearly.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from daag_jax.editing.colors import linear_to_srgb, srgb_to_linear

FLOOR = 1e-5  # of light, in sums and ratios


def hold_colors(
    video: UInt8[Array, "T H W 3"],
    segmentation: Int[Array, "T H W"],
    is_edited: Bool[Array, "J"],
    share: float = 0.0,
) -> UInt8[Array, "T H W 3"]:
    """The clip with the chromaticity of every edited object held (Eq. 1); other pixels stay bit for bit.

    Args:
        segmentation: 1 .. J are the objects.
        share: how far single pixels are drawn to their object's chromaticity, in [0, 1].
    """
    light = srgb_to_linear(video.astype(jnp.float32) / 255.0)
    held = light
    for j in range(is_edited.shape[0]):
        mask = (segmentation == j + 1)[..., None]
        held = jnp.where(mask, held_object(light, mask, share), held)
    numbers = jnp.arange(1, is_edited.shape[0] + 1)
    is_held = (segmentation[..., None] == numbers[None, None, None]) & is_edited[None, None, None]
    painted = jnp.clip(linear_to_srgb(jnp.clip(held, 0.0, 1.0)) * 255.0 + 0.5, 0.0, 255.0)
    return jnp.where(is_held.any(-1)[..., None], painted.astype(jnp.uint8), video)


def held_object(
    light: Float[Array, "T H W 3"], mask: Bool[Array, "T H W 1"], share: float
) -> Float[Array, "T H W 3"]:
    """Linear RGB as if all pixels were of one object."""
    by_frame = jnp.sum(light * mask, axis=(1, 2))
    of_object = normalised(by_frame.sum(axis=0))
    gain = of_object[None] / jnp.maximum(normalised(by_frame), FLOOR)
    sums = light.sum(axis=-1, keepdims=True)
    chromaticity = normalised(light * gain[:, None, None])
    return sums * ((1.0 - share) * chromaticity + share * of_object[None, None, None])


def normalised(light: Float[Array, "*B 3"]) -> Float[Array, "*B 3"]:
    """Chromaticity: the three channels sum to one."""
    return light / jnp.maximum(light.sum(axis=-1, keepdims=True), FLOOR)

"""The classical baseline: other colours inside the mask, no network.

Each edited pixel keeps its shading, as the ratio of its brightness to that of its old palette colour, and takes the new
palette colour times that ratio.  For flat-shaded simulator frames it is hard to beat; for textures it is not enough.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from daag_jax.editing.masks import instance_colors
from daag_jax.envs.palette import rgb_of


def recolor_clip(
    rgb: UInt8[Array, "T H W 3"],
    segmentation: Int[Array, "T H W"],
    is_edited: Bool[Array, "J"],
    wanted: Int[Array, "J"],
) -> UInt8[Array, "T H W 3"]:
    """Paints the edited instances in their new palette colours."""
    seen = instance_colors(rgb, segmentation, is_edited.shape[0])
    image, out = rgb.astype(jnp.float32) / 255.0, rgb
    for j in range(is_edited.shape[0]):
        old, new = rgb_of(jnp.maximum(seen[j], 0)), rgb_of(jnp.maximum(wanted[j], 0))
        shade = jnp.sum(image, axis=-1, keepdims=True) / jnp.sum(old)
        painted = jnp.clip(shade * new[None, None, None] * 255.0 + 0.5, 0, 255).astype(jnp.uint8)
        where = (segmentation == j + 1) & is_edited[j]
        out = jnp.where(where[..., None], painted, out)
    return out

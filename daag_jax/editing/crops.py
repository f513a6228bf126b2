"""Square boxes around an object, enlarged to whole frames and put back: an edit at the full resolution of a model.

GenAug (Chen et al. 2023, arXiv 2302.06671) repaints one object after another in a crop, guided by its depth.  Boxes are
data, crops have the size of the frames: nothing is compiled anew.

Differs from GenAug: masks and depth come from the simulator; no meshes are put in the place of objects; all objects of
a frame are painted from the same noise.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Bool, Float, Shaped, UInt8


def boxes_around(mask: Bool[Array, "*B H W"], margin: float) -> Float[Array, "*B 3"]:
    """Top, left and side [px] of the square box around each mask, ``margin`` of its side wider and inside the frame.

    A mask that is empty has the box of the whole frame.  Frames are square.
    """
    size = mask.shape[-1]

    def span(seen: Bool[Array, "*B N"]) -> tuple[Array, Array]:
        first = jnp.argmax(seen, axis=-1)
        return first, seen.shape[-1] - jnp.argmax(seen[..., ::-1], axis=-1) - first

    (top, height), (left, width) = span(mask.any(axis=-1)), span(mask.any(axis=-2))
    side = jnp.minimum((1.0 + margin) * jnp.maximum(height, width), size)
    middle = [first + 0.5 * length for first, length in ((top, height), (left, width))]
    corner = [jnp.clip(m - 0.5 * side, 0.0, size - side) for m in middle]
    return jnp.stack([*corner, side], axis=-1)


def crop(
    images: Shaped[Array, "N T H W *C"], boxes: Float[Array, "N T 3"], is_smooth: bool = False
) -> Shaped[Array, "N T H W *C"]:
    """What is in the boxes, at the size of the frames: interpolated, or (geometry) that of the nearest pixel."""
    size = images.shape[2]
    places = ((jnp.arange(size) + 0.5) / size)[None, None]
    rows = boxes[..., :1] + places * boxes[..., 2:] - 0.5
    columns = boxes[..., 1:2] + places * boxes[..., 2:] - 0.5
    return resampled(images, rows, columns, int(is_smooth))


def paste(
    crops: UInt8[Array, "N T H W 3"], boxes: Float[Array, "N T 3"]
) -> UInt8[Array, "N T H W 3"]:
    """Frames with the crops in their boxes; outside a box it is the crop's border that is seen."""
    size = crops.shape[2]
    places = (jnp.arange(size) + 0.5)[None, None]
    rows, columns = (
        (places - boxes[..., i : i + 1]) / boxes[..., 2:] * size - 0.5 for i in range(2)
    )
    return resampled(crops, rows, columns, 1)


def resampled(
    images: Shaped[Array, "N T H W *C"],
    rows: Float[Array, "N T H"],
    columns: Float[Array, "N T W"],
    order: int,
) -> Shaped[Array, "N T H W *C"]:
    """Images at other rows and columns: nearest (order 0) or linear (1); beyond the border, the border."""

    def plane(image: Shaped[Array, "H W"], rows: Array, columns: Array) -> Array:
        grid = jnp.meshgrid(rows, columns, indexing="ij")
        found = map_coordinates(image.astype(jnp.float32), grid, order, mode="nearest")
        return jnp.round(found) if jnp.issubdtype(image.dtype, jnp.integer) else found

    one = plane if images.ndim == 4 else jax.vmap(plane, (2, None, None), 2)
    return jax.vmap(jax.vmap(one))(images, rows, columns).astype(images.dtype)

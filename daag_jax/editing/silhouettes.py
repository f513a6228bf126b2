"""Where an edited object *appears*: connected pieces of its colour, found in the pixels alone.

A frame's pixels get palette names (``colors.name_pixels``).  The silhouette of object j is every pixel of its own mask
that shows the target colour, and every piece of that colour outside all objects that comes within ``reach`` of the
mask.  A piece farther away is a ghost.  Pieces of other instances with the same colour are theirs.

Pieces are 4-connected and found by spreading the largest pixel index with pointer jumping, inside the graph.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from daag_jax.editing.controls import shifted
from daag_jax.editing.masks import dilate

NEIGHBOURS = ((0, 1), (0, -1), (1, 0), (-1, 0))


def pieces(classes: Int[Array, "H W"]) -> Int[Array, "H W"]:
    """An id for every 4-connected piece of equal class: the largest flat index of its pixels; -1 where the class is."""
    height, width = classes.shape
    own = jnp.arange(height * width, dtype=jnp.int32).reshape(height, width)
    start = jnp.where(classes >= 0, own, -1)
    is_joined = [shifted(classes, d, r, -2) == classes for d, r in NEIGHBOURS]

    def spread(state: tuple[Array, Array]) -> tuple[Array, Array]:
        ids, _ = state
        best = ids
        for joined, (d, r) in zip(is_joined, NEIGHBOURS, strict=True):
            best = jnp.maximum(best, jnp.where(joined, shifted(ids, d, r, -1), -1))
        best = jnp.where(classes >= 0, best.reshape(-1)[jnp.maximum(best, 0)], -1)
        return best, jnp.any(best != ids)

    return jax.lax.while_loop(lambda state: state[1], spread, (start, jnp.asarray(True)))[0]


def area_of(ids: Int[Array, "H W"], mask: Bool[Array, "H W"]) -> Int[Array, "H W"]:
    """For every pixel, how many pixels of its piece lie in a mask; 0 outside all pieces."""
    flat = jnp.maximum(ids, 0).reshape(-1)
    counted = (mask & (ids >= 0)).reshape(-1).astype(jnp.int32)
    count = jnp.zeros(ids.size, jnp.int32).at[flat].add(counted)
    return jnp.where(ids >= 0, count[flat].reshape(ids.shape), 0)


def silhouettes(
    names: Int[Array, "H W"],
    segmentation: Int[Array, "H W"],
    targets: Int[Array, " J"],
    reach: int = 2,
) -> Bool[Array, "J H W"]:
    """Where each object appears in one frame of palette names.

    Args:
        targets: palette index that each object shall show; -1 appears nowhere.
        reach: how far [px] from its mask a piece outside all objects still belongs to the object.
    """
    num = targets.shape[0]
    is_object = (segmentation >= 1) & (segmentation <= num)
    outside = pieces(jnp.where(is_object, -1, names))
    masks = segmentation[None] == jnp.arange(1, num + 1)[:, None, None]
    near = jax.vmap(lambda mask: area_of(outside, mask))(dilate(masks, reach)) > 0
    is_color = (names[None] == targets[:, None, None]) & (targets >= 0)[:, None, None]
    return is_color & (masks | (near & ~is_object[None]))


def ghosts(
    names: Int[Array, "H W"],
    oracle_names: Int[Array, "H W"],
    segmentation: Int[Array, "H W"],
    targets: Int[Array, " J"],
    is_edited: Bool[Array, " J"],
    radius: int = 1,
) -> Int[Array, ""]:
    """Pixels of the largest piece of an edited object's colour off its mask, where the oracle shows none."""
    num = targets.shape[0]
    masks = segmentation[None] == jnp.arange(1, num + 1)[:, None, None]
    wanted = targets[:, None, None]
    off = (names[None] == wanted) & (oracle_names[None] != wanted) & ~dilate(masks, radius)
    off = off & (is_edited & (targets >= 0))[:, None, None]
    area = lambda mask: area_of(pieces(jnp.where(mask, 0, -1)), mask).max()
    return jax.vmap(area)(off).max()


def census(names: Int[Array, "H W"], num_names: int, min_area: int) -> Int[Array, " P"]:
    """Number of pieces of each palette colour that have at least ``min_area`` pixels."""
    ids = pieces(names)
    own = jnp.arange(names.size, dtype=jnp.int32).reshape(names.shape)
    is_first = (ids == own) & (
        area_of(ids, names >= 0) >= min_area
    )  # one pixel stands for its piece
    votes = jax.nn.one_hot(names, num_names, dtype=jnp.int32)
    return jnp.sum(jnp.where(is_first[..., None], votes, 0), axis=(0, 1))


def centroids(masks: Bool[Array, "*B H W"]) -> Float[Array, "*B 2"]:
    """Mean (u, v) of the pixels of masks; NaN where they are empty."""
    height, width = masks.shape[-2:]
    weights = masks.astype(jnp.float32)
    count = weights.sum(axis=(-2, -1))
    u = jnp.einsum("...hw,w->...", weights, jnp.arange(width, dtype=jnp.float32))
    v = jnp.einsum("...hw,h->...", weights, jnp.arange(height, dtype=jnp.float32))
    known = lambda total: jnp.where(count > 0, total / jnp.maximum(count, 1.0), jnp.nan)
    return jnp.stack([known(u), known(v)], axis=-1)

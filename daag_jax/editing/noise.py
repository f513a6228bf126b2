"""Initial noise of a clip: one map for all frames, one per frame, or one that travels with each object.

DAAG fixes one map for all frames ("shared").  Noise that is fixed to the screen does not move with an object, whose
surface then swims through it; "object" shifts each instance's noise by the displacement of its centre since frame 0, to
the nearest latent, so that a rigid translation carries its own noise.  Values are only moved, so each stays N(0, 1).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from daag_jax.types import Key

NOISES = ("shared", "independent", "object")


def frame_noise(
    kind: str,
    segmentation: Int[Array, "N T H W"],
    shape: tuple[int, ...],
    key: Key,
    num_objects: int,
) -> Float[Array, "NT h w D"]:
    """Noise for N clips of T frames; ``shape`` is that of one frame's latents.

    Args:
        key: one key, or one per clip [N]: then a clip's noise does not depend on the other clips.
    """
    clips, frames = segmentation.shape[:2]

    def draw(*of_clip: int) -> Array:
        if key.ndim:
            return jax.vmap(lambda one: jax.random.normal(one, of_clip))(key)
        return jax.random.normal(key, (clips, *of_clip))

    if kind == "independent":
        return draw(frames, *shape).reshape(clips * frames, *shape)
    base = draw(*shape)
    if kind == "shared":
        return jnp.repeat(base, frames, axis=0)
    factor = segmentation.shape[2] // shape[0]
    carried = jax.vmap(lambda noise, seg: carry(noise, seg, factor, num_objects))
    return carried(base, segmentation).reshape(clips * frames, *shape)


def carry(
    noise: Float[Array, "h w D"], segmentation: Int[Array, "T H W"], factor: int, num_objects: int
) -> Float[Array, "T h w D"]:
    """The noise of one clip, each instance's part moved with its centre."""
    height, width = noise.shape[:2]
    rows = jnp.broadcast_to(jnp.arange(height)[:, None], (height, width))
    columns = jnp.broadcast_to(jnp.arange(width)[None, :], (height, width))
    coarse = segmentation[:, factor // 2 :: factor, factor // 2 :: factor]

    def centre(mask: Array) -> tuple[Array, Array]:
        count = jnp.maximum(mask.sum(), 1)
        return (mask * rows).sum() / count, (mask * columns).sum() / count

    def one(frame: Array) -> Array:
        out = noise
        for j in range(1, num_objects + 1):
            first, now = coarse[0] == j, frame == j
            (r0, c0), (r1, c1) = centre(first), centre(now)
            down, right = jnp.round(r1 - r0).astype(int), jnp.round(c1 - c0).astype(int)
            moved = noise[(rows - down) % height, (columns - right) % width]
            is_known = first.any() & now.any()
            out = jnp.where((now & is_known)[..., None], moved, out)
        return out

    return jax.vmap(one)(coarse)

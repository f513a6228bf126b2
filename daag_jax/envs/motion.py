"""Exact optical flow of rigid geoms between two scenes and cameras, and exact visibility.

The point p_t(x) seen at pixel x moves with its geom, whose pose (object to world) is X:

    y = project_{t+1}( X_{t+1} X_t^{-1} p_t(x) ),   F(x) = y - x                               (1)

    V(x) = 1 iff y is in the image, the four bilinear neighbours of y show the same instance, and
           |D_{t+1}[y] - Z_{t->t+1}(x)| < 0.01 Z_{t->t+1}(x) + 2 mm                            (2)

with D the depth of frame t+1 sampled bilinearly and Z_{t->t+1} the depth of the moved point.  A
neighbour of weight 0 is none: a point that stays on its pixel has that pixel as its only neighbour.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from daag_jax.envs import raycast
from daag_jax.envs.cameras import Camera, project
from daag_jax.envs.scenes import Scene, validate
from daag_jax.envs.surfaces import FAR, Surface, cast, directions, localize, points, vector

RELATIVE_TOLERANCE = 0.01  # of depth, Eq. 2
ABSOLUTE_TOLERANCE = 0.002  # of depth [m], Eq. 2
SNAP = 1e-3  # points this close to a pixel's centre [pixels] lie on it: float32 moves them so much


class Moved(NamedTuple):
    """Where the points seen at t are in the image of t + 1."""

    u: Float[Array, "H W"]  # column [pixels]
    v: Float[Array, "H W"]  # row [pixels]
    depth: Float[Array, "H W"]  # metric z-depth [m]


def _move(
    kinds: tuple[str, ...],
    scenes: tuple[Scene, Scene],
    cameras: tuple[Camera, Camera],
    seen: Surface,
) -> Moved:
    """Carries every seen point with its geom and projects it; sky is static at the far plane."""
    height, width = seen.depth.shape
    local = localize(scenes[0], cameras[0], height, width)
    ray = directions(cameras[0].rotation, local)
    world = raycast.along(vector(cameras[0].position), seen.depth, ray)
    for g in range(len(kinds)):
        point = points(local, g, seen.depth)
        turn, shift = scenes[1].rotations[g], scenes[1].positions[g]
        carried = [shift[k] + raycast.dot(vector(turn[k]), point) for k in range(3)]
        world = [jnp.where(seen.geom == g, c, w) for c, w in zip(carried, world, strict=True)]
    return Moved(*project(cameras[1], jnp.stack(world, -1), height, width))


def _snap(coordinate: Float[Array, "H W"]) -> Float[Array, "H W"]:
    nearest = jnp.round(coordinate)
    return jnp.where(jnp.abs(coordinate - nearest) < SNAP, nearest, coordinate)


def flow(
    kinds: tuple[str, ...],
    scene_t: Scene,
    scene_t1: Scene,
    camera_t: Camera,
    camera_t1: Camera,
    height: int,
    width: int,
    far: float = FAR,
) -> Float[Array, "H W 2"]:
    """Flow [pixels: u to the right, v down] from the image at t to the image at t + 1 (Eq. 1).

    Backward flow is the same function with scenes and cameras exchanged.  A point may move behind
    another geom or out of the image; ``visibility`` says where it can be seen.  The flow of points
    that move behind the camera is meaningless, and they are never visible.
    """
    validate(kinds, scene_t, height, width)
    seen = cast(kinds, scene_t, camera_t, height, width, far)
    moved = _move(kinds, (scene_t, scene_t1), (camera_t, camera_t1), seen)
    v, u = jnp.meshgrid(
        jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32), indexing="ij"
    )
    return jnp.stack([moved.u - u, moved.v - v], -1)


def visibility(
    kinds: tuple[str, ...],
    scene_t: Scene,
    scene_t1: Scene,
    camera_t: Camera,
    camera_t1: Camera,
    height: int,
    width: int,
    far: float = FAR,
) -> Bool[Array, "H W"]:
    """Whether the point seen at t is also seen at t + 1 (Eq. 2)."""
    validate(kinds, scene_t, height, width)
    seen = cast(kinds, scene_t, camera_t, height, width, far)
    after = cast(kinds, scene_t1, camera_t1, height, width, far)
    moved = _move(kinds, (scene_t, scene_t1), (camera_t, camera_t1), seen)
    u, v = _snap(moved.u), _snap(moved.v)
    in_columns = (u >= 0) & (u <= width - 1)
    is_inside = in_columns & (v >= 0) & (v <= height - 1) & (moved.depth > 0)
    u, v = jnp.where(is_inside, u, 0.0), jnp.where(is_inside, v, 0.0)
    left, top = jnp.floor(u).astype(jnp.int32), jnp.floor(v).astype(jnp.int32)
    right, bottom = jnp.minimum(left + 1, width - 1), jnp.minimum(top + 1, height - 1)
    instances = jnp.append(scene_t.instances, 0)[seen.geom]  # geom -1, the sky, finds the last: 0
    instances_t1 = jnp.append(scene_t1.instances, 0)[after.geom]
    depth, is_same = jnp.zeros_like(moved.depth), is_inside
    for row, down in ((top, 1 - (v - top)), (bottom, v - top)):
        for column, across in ((left, 1 - (u - left)), (right, u - left)):
            weight = down * across
            depth = depth + weight * after.depth[row, column]
            is_same = is_same & ((weight == 0) | (instances_t1[row, column] == instances))
    tolerance = RELATIVE_TOLERANCE * moved.depth + ABSOLUTE_TOLERANCE
    return is_same & (jnp.abs(depth - moved.depth) < tolerance)

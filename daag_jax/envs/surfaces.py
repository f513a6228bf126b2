"""What every pixel of a camera sees: the nearest geom, its depth and its normal.

    Z(x) = min_g t_g(x),   g(x) = argmin_g t_g(x)                                              (1)

One ray goes through the centre of each pixel.  Geoms are folded into running results, so no array
has both an axis of geoms and one of pixels.

A note on speed.  XLA for CPUs turns an elementwise graph into one vectorised loop if the graph has
one result; with several results it cuts the graph at its divisions and square roots, or repeats it
for each.  Hence depth and geom have a fold each, and the geom is settled by a reduction, which XLA
never repeats: three cheap loops instead of one slow one (``benchmarks.renderer`` has the numbers).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from daag_jax.envs import raycast
from daag_jax.envs.cameras import Camera, rays
from daag_jax.envs.scenes import Scene

FAR = 10.0  # depth of pixels that show no geom [m]


class Local(NamedTuple):
    """The pixels' rays in the frames of the geoms: ``origins + Z axes (x, y, -1)``."""

    origins: Float[Array, "G 3"]  # the camera's position
    axes: Float[Array, "G 3 3"]  # from the camera's frame to the geom's
    sizes: Float[Array, "G 3"]
    x: Float[Array, "1 W"]
    y: Float[Array, "H 1"]


class Surface(NamedTuple):
    """The winner of Eq. 1 at every pixel; without one: depth far, geom -1, normal (0, 0, 1)."""

    depth: Float[Array, "H W"]  # metric z-depth [m]
    geom: Int[Array, "H W"]
    normal: raycast.Vector  # unit, outward, in the camera's frame


def vector(row: Float[Array, " 3"]) -> raycast.Vector:
    """The three components of an array as a tuple."""
    return row[0], row[1], row[2]


def localize(scene: Scene, camera: Camera, height: int, width: int) -> Local:
    """Takes the rays of a camera into the frame of each geom."""
    offset = jnp.broadcast_to(camera.position, scene.positions.shape) - scene.positions
    origins = jnp.einsum("gij,gi->gj", scene.rotations, offset, precision="highest")
    axes = jnp.einsum("gij,ik->gjk", scene.rotations, camera.rotation, precision="highest")
    return Local(origins, axes, scene.sizes, *rays(camera, height, width))


def directions(axes: Float[Array, "3 3"], local: Local) -> raycast.Vector:
    """The rays (x, y, -1) turned by a matrix: per coordinate one sum of a row and a column."""
    return tuple(axes[k, 0] * local.x + (axes[k, 1] * local.y - axes[k, 2]) for k in range(3))


def points(local: Local, g: int, depth: Float[Array, "H W"]) -> raycast.Vector:
    """The seen points in the frame of geom g."""
    return raycast.along(vector(local.origins[g]), depth, directions(local.axes[g], local))


def _nearest(
    kinds: tuple[str, ...], local: Local, far: float
) -> tuple[Float[Array, "H W"], Int[Array, "H W"]]:
    """Depth and geom of Eq. 1."""
    shape = (local.y.shape[0], local.x.shape[1])
    depth, geom = jnp.full(shape, far, jnp.float32), jnp.full(shape, -1, jnp.int32)
    for g, kind in enumerate(kinds):
        ray = vector(local.origins[g]), directions(local.axes[g], local)
        t = raycast.enter(kind, *ray, vector(local.sizes[g]))
        geom = jnp.where(t < depth, g, geom)
        depth = jnp.minimum(t, depth)
    return depth, geom


def _settled(geom: Int[Array, "H W"]) -> Int[Array, "H W"]:
    """The same array behind a reduction, so that its many users share it instead of repeating it."""
    # jnp.max would start from the least integer, and XLA's loop for that does not vectorise.
    rows = jnp.stack([geom, jnp.full_like(geom, -1)])
    return jax.lax.reduce(rows, jnp.int32(-1), jax.lax.max, (0,))


def _normal(
    kinds: tuple[str, ...], local: Local, depth: Float[Array, "H W"], geom: Int[Array, "H W"]
) -> raycast.Vector:
    """The winner's unit normal in the camera's frame."""
    zero = jnp.zeros_like(depth)
    result = (zero, zero, zero + 1.0)
    for g, kind in enumerate(kinds):
        found = raycast.normal(kind, points(local, g, depth), vector(local.sizes[g]))
        turned = [raycast.dot(vector(local.axes[g, :, k]), found) for k in range(3)]
        result = tuple(jnp.where(geom == g, n, r) for n, r in zip(turned, result, strict=True))
    scale = 1.0 / jnp.sqrt(raycast.dot(result, result))
    return tuple(n * scale for n in result)


def cast(
    kinds: tuple[str, ...], scene: Scene, camera: Camera, height: int, width: int, far: float
) -> Surface:
    """Casts one ray per pixel and keeps the nearest surface (Eq. 1)."""
    local = localize(scene, camera, height, width)
    geom = _settled(_nearest(kinds, local, far)[1])
    # The barriers keep XLA from merging the two folds back into one.
    local = jax.lax.optimization_barrier(local)
    depth, _ = _nearest(kinds, local, far)
    depth, geom, local = jax.lax.optimization_barrier((depth, geom, local))
    return Surface(depth, geom, _normal(kinds, local, depth, geom))

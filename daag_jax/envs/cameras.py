"""Pinhole cameras with MuJoCo's conventions: x right, y up, looking along -z.

A pixel (u, v) counts columns to the right and rows downwards; its *centre* has integer coordinates.
In the camera's frame its ray is

    X(u, v, Z) = Z (x, y, -1)                                                                  (1)
    x = s (2 u + 1 - W) / H,   y = s (H - 2 v - 1) / H,   s = tan(fovy / 2)

so that the parameter Z of the ray is the metric z-depth itself, not the distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float


class Camera(NamedTuple):
    """A pose in the world and a field of view."""

    position: Float[Array, " 3"]  # [m]
    rotation: Float[Array, "3 3"]  # columns: its x (right), y (up), z (backward) in the world
    fovy: Float[Array, ""]  # vertical field of view [rad]


def look_at(
    position: Sequence[float] | Float[Array, " 3"],
    target: Sequence[float] | Float[Array, " 3"],
    fovy: float | Float[Array, ""],
) -> Camera:
    """A camera at ``position`` that has ``target`` in the middle of its image, z upwards.

    Args:
        position: [m]; it must differ from target.
        target: [m].
        fovy: vertical field of view [rad].
    """
    position = jnp.asarray(position, jnp.float32)
    backward = position - jnp.asarray(target, jnp.float32)
    backward = backward / jnp.linalg.norm(backward)
    right = jnp.cross(jnp.array([0.0, 0.0, 1.0]), backward)
    # Straight down or up: the world's x serves as right.
    is_vertical = jnp.linalg.norm(right) < 1e-6
    right = jnp.where(is_vertical, jnp.array([1.0, 0.0, 0.0]), right)
    right = right / jnp.linalg.norm(right)
    rotation = jnp.stack([right, jnp.cross(backward, right), backward], axis=-1)
    return Camera(position, rotation, jnp.asarray(fovy, jnp.float32))


def camera_of(
    model: mujoco.MjModel,
    name: str,
    cam_xpos: Float[Array | np.ndarray, "N 3"],
    cam_xmat: Float[Array | np.ndarray, "N *M"],
) -> Camera:
    """The named camera of a model at the poses of its data (mjx or C, arrays of either).

    Raises:
        ValueError: the model has no camera of that name.
    """
    names = [model.camera(i).name for i in range(model.ncam)]
    if name not in names:
        raise ValueError(f"camera {name!r} is not in the model; try one of {names}.")
    index = names.index(name)
    fovy = jnp.deg2rad(jnp.float32(model.cam_fovy[index]))
    rotation = jnp.asarray(cam_xmat, jnp.float32)[index].reshape(3, 3)
    return Camera(jnp.asarray(cam_xpos, jnp.float32)[index], rotation, fovy)


def stack(cameras: Sequence[Camera]) -> Camera:
    """Several cameras as one with a leading axis V, ready for ``jax.vmap``."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *cameras)


def rays(
    camera: Camera, height: int, width: int
) -> tuple[Float[Array, "1 W"], Float[Array, "H 1"]]:
    """The slopes x of columns and y of rows of Eq. 1: the ray of a pixel is Z (x, y, -1)."""
    slope = jnp.tan(camera.fovy / 2) / height
    x = slope * (2 * jnp.arange(width, dtype=jnp.float32) + 1 - width)
    y = slope * (height - 2 * jnp.arange(height, dtype=jnp.float32) - 1)
    return x[None, :], y[:, None]


def project(
    camera: Camera, points: Float[Array, "*N 3"], height: int, width: int
) -> tuple[Float[Array, "*N"], Float[Array, "*N"], Float[Array, "*N"]]:
    """Pixel coordinates u, v and z-depth of points of the world (the inverse of Eq. 1)."""
    origin = jnp.broadcast_to(camera.position, points.shape)
    local = jnp.einsum("...i,ij->...j", points - origin, camera.rotation, precision="highest")
    depth = -local[..., 2]
    scale = height / (2 * jnp.tan(camera.fovy / 2) * depth)
    u = local[..., 0] * scale + (width - 1) / 2
    v = (height - 1) / 2 - local[..., 1] * scale
    return u, v, depth

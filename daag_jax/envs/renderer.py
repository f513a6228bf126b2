"""An analytic ray caster of primitive geoms: RGB, metric depth, normals and segmentation in one graph.

One ray goes through the centre of each pixel (no antialiasing), so masks, depth and flow are exact.
The colour of a pixel x with normal n on geom g is

    rgb(x) = c_g (ambient + diffuse V(x) max(0, n(x).l))^(1/2.2)                               (1)

with c_g the geom's sRGB colour and V the hard shadow of one directional light l.  Light is added up
in linear space and the power 2.2 stands for the sRGB curve, hence (rgb / 255)^2.2 is affine in
max(0, n.l).  There is no inter-reflection and shadows do not depend on colours, so recolouring an
object changes its own pixels only.

Everything is pure and takes one scene and one camera; ``jax.vmap`` adds views, frames and episodes.
This module is the door: cameras, scenes, flow and visibility are imported from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from daag_jax.envs import raycast
from daag_jax.envs.cameras import Camera, camera_of, look_at, stack
from daag_jax.envs.motion import flow, visibility
from daag_jax.envs.scenes import Scene, kinds_of, recolor, scene_of, validate
from daag_jax.envs.surfaces import FAR, Surface, cast, localize, points, vector

__all__ = [
    "Camera",
    "Frame",
    "Light",
    "Scene",
    "camera_of",
    "flow",
    "kinds_of",
    "look_at",
    "recolor",
    "render",
    "scene_of",
    "stack",
    "sun",
    "visibility",
]

GAMMA = 2.2  # exponent that stands for the sRGB curve
SKY = (0.80, 0.86, 0.92)  # sRGB of pixels that show no geom
CHECKER_CONTRAST = 0.12  # the dark cells of a checker floor are this much darker


class Light(NamedTuple):
    """One directional light and a constant ambient term, in linear units."""

    direction: Float[Array, " 3"]  # the way light travels, a unit vector of the world
    ambient: Float[Array, ""]
    diffuse: Float[Array, ""]


class Frame(NamedTuple):
    """What a camera sees.  Where no geom is: sky, depth ``far``, normal (0, 0, 1), instance 0."""

    rgb: UInt8[Array, "*B H W 3"]  # sRGB
    depth: Float[Array, "*B H W"]  # metric z-depth [m]
    normals: Float[Array, "*B H W 3"]  # outward, unit; camera's x right, y up, z backward
    segmentation: Int[Array, "*B H W"]  # instances


def sun(
    direction: Sequence[float] = (0.35, 0.45, -1.0), ambient: float = 0.32, diffuse: float = 0.78
) -> Light:
    """A light that shines along ``direction`` (of any length)."""
    direction = jnp.asarray(direction, jnp.float32)
    unit = direction / jnp.linalg.norm(direction)
    return Light(unit, jnp.float32(ambient), jnp.float32(diffuse))


def _brightness(
    kinds: tuple[str, ...],
    scene: Scene,
    camera: Camera,
    light: Light,
    seen: Surface,
    checker: float,
) -> Float[Array, "H W"]:
    """The factor of the geom's colour in Eq. 1, times the pattern of the floor."""
    local = localize(scene, camera, *seen.depth.shape)
    to_light = -jnp.einsum("gij,i->gj", scene.rotations, light.direction, precision="highest")
    # A convex geom hides itself only where n.l < 0, hence never has to be asked about itself.
    is_dark = jnp.zeros(seen.depth.shape, bool)
    pattern = jnp.ones_like(seen.depth)
    for g, kind in enumerate(kinds):
        if kind != "plane":
            p = points(local, g, seen.depth)
            hides = raycast.blocks(kind, p, vector(to_light[g]), vector(scene.sizes[g]))
            is_dark = is_dark | (hides & (seen.geom != g))
        elif checker:
            p = points(local, g, seen.depth)
            parity = (jnp.floor(p[0] / checker) + jnp.floor(p[1] / checker)) % 2
            pattern = jnp.where(seen.geom == g, 1.0 - CHECKER_CONTRAST * parity, pattern)
    seen_from = -jnp.einsum("ij,i->j", camera.rotation, light.direction, precision="highest")
    lambert = jnp.maximum(raycast.dot(vector(seen_from), seen.normal), 0.0)
    shade = light.ambient + light.diffuse * jnp.where(is_dark, 0.0, lambert)
    return pattern * shade ** (1 / GAMMA)


def _paint(
    scene: Scene, geom: Int[Array, "H W"], brightness: Float[Array, "H W"]
) -> UInt8[Array, "H W 3"]:
    """Eq. 1 in bytes.  Three channels travel in one word: a loop over pixels, not over channels."""
    brightness = jnp.where(geom < 0, 1.0, brightness)
    word = jnp.zeros(geom.shape, jnp.uint32)
    for c in range(3):
        color = jnp.full(geom.shape, SKY[c], jnp.float32)
        for g in range(scene.colors.shape[0]):
            color = jnp.where(geom == g, scene.colors[g, c], color)
        value = jnp.clip(color * brightness * 255.0 + 0.5, 0.0, 255.0).astype(jnp.uint32)
        word = word | (value << (8 * c))
    return jax.lax.bitcast_convert_type(word, jnp.uint8)[..., :3]


def render(
    kinds: tuple[str, ...],
    scene: Scene,
    camera: Camera,
    light: Light,
    height: int,
    width: int,
    far: float = FAR,
    checker: float = 0.0,
) -> Frame:
    """Renders one scene from one camera (Eq. 1).

    Args:
        kinds: the kind of each geom, static.
        far: geoms beyond this z-depth [m] are not seen, and pixels without a geom have it.
        checker: side of the cells of a checker drawn on planes [m]; 0 draws none.

    Raises:
        ValueError: a kind is unknown, kinds and scene disagree in length, or there are no pixels.
    """
    validate(kinds, scene, height, width)
    seen = cast(kinds, scene, camera, height, width, far)
    brightness = _brightness(kinds, scene, camera, light, seen, checker)
    instances = jnp.zeros((height, width), jnp.int32)
    for g in range(len(kinds)):
        instances = jnp.where(seen.geom == g, scene.instances[g].astype(jnp.int32), instances)
    rgb = _paint(scene, seen.geom, brightness)
    return Frame(rgb, seen.depth, jnp.stack(seen.normal, -1), instances)

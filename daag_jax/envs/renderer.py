"""An analytic ray caster of primitive geoms: RGB, metric depth, normals, segmentation and exact flow in one graph.

One ray goes through the centre of each pixel (no antialiasing), so that masks, depth and flow are exact:

    Z(x) = min_g t_g(x),   g(x) = argmin_g t_g(x)                                                             (1)
    rgb(x) = c_g (ambient + diffuse V(x) max(0, n(x).l))^(1/2.2)                                              (2)

with t_g the closed forms of ``raycast``, V the hard shadow of one directional light l, and c_g the geom's sRGB colour.
Light is added up in linear space; the power 2.2 stands for the sRGB curve, hence (rgb / 255)^2.2 is affine in
max(0, n.l).  There is no inter-reflection and shadows do not depend on colours: recolouring an object changes its own
pixels only.  The flow of a rigid geom with pose X_t (object to world) is that of specs/daag.md section 5.1:

    y = project_{t+1}( X_{t+1} X_t^{-1} p_t(x) ),   F(x) = y - x                                              (3)

Everything is pure and takes one camera and one scene; ``jax.vmap`` adds views, frames and episodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from daag_jax.envs import raycast
from daag_jax.envs.cameras import Camera, camera_of, look_at, project, rays, stack

__all__ = [
    "Camera",
    "Frame",
    "Light",
    "Scene",
    "camera_of",
    "flow",
    "kinds_of",
    "look_at",
    "render",
    "scene_of",
    "stack",
    "sun",
    "visibility",
]

FAR = 10.0  # depth of pixels that show no geom [m]
GAMMA = 2.2  # exponent that stands for the sRGB curve
SKY = (0.80, 0.86, 0.92)  # sRGB of pixels that show no geom
CHECKER_CONTRAST = 0.12  # the dark cells of a checker floor are this much darker


class Light(NamedTuple):
    """One directional light and a constant ambient term, in linear units."""

    direction: Float[Array, " 3"]  # the way light travels, a unit vector of the world
    ambient: Float[Array, ""]
    diffuse: Float[Array, ""]


class Scene(NamedTuple):
    """G posed geoms; their kinds are static and travel beside it as a tuple of names (``raycast.KINDS``)."""

    positions: Float[Array, "G 3"]  # [m]
    rotations: Float[Array, "G 3 3"]  # geom to world
    sizes: Float[Array, "G 3"]  # MuJoCo's size of each kind [m]
    colors: Float[Array, "G 3"]  # sRGB in [0, 1]
    instances: Int[Array, " G"]  # 0 is background


class Frame(NamedTuple):
    """What a camera sees.  Pixels without a geom: sky colour, depth ``far``, normal (0, 0, 1), instance 0."""

    rgb: UInt8[Array, "*B H W 3"]  # sRGB
    depth: Float[Array, "*B H W"]  # metric z-depth [m]
    normals: Float[
        Array, "*B H W 3"
    ]  # outward, unit, in the camera's frame (x right, y up, z backward)
    segmentation: Int[Array, "*B H W"]


class _Surface(NamedTuple):
    """The winner of Eq. 1 at every pixel: depth, geom (-1 for none) and unit normal in the camera's frame."""

    depth: Float[Array, "H W"]
    geom: Int[Array, "H W"]
    normal: raycast.Vector


def sun(
    direction: Sequence[float] = (0.35, 0.45, -1.0), ambient: float = 0.32, diffuse: float = 0.78
) -> Light:
    """A light that shines along ``direction`` (of any length)."""
    direction = jnp.asarray(direction, jnp.float32)
    unit = direction / jnp.linalg.norm(direction)
    return Light(unit, jnp.float32(ambient), jnp.float32(diffuse))


def _local(scene: Scene, camera: Camera) -> tuple[Float[Array, "G 3"], Float[Array, "G 3 3"]]:
    """The camera's position in each geom's frame, and the matrices from the camera's frame to the geoms'."""
    offset = jnp.broadcast_to(camera.position, scene.positions.shape) - scene.positions
    origins = jnp.einsum("gij,gi->gj", scene.rotations, offset, precision="highest")
    axes = jnp.einsum("gij,ik->gjk", scene.rotations, camera.rotation, precision="highest")
    return origins, axes


def _directions(axes: Float[Array, "3 3"], x: Array, y: Array) -> raycast.Vector:
    """The pixels' rays (x, y, -1) in a geom's frame: one sum of a row and a column per coordinate."""
    return tuple(axes[k, 0] * x + (axes[k, 1] * y - axes[k, 2]) for k in range(3))


def _vector(row: Float[Array, " 3"]) -> raycast.Vector:
    return row[0], row[1], row[2]


def _cast(
    kinds: tuple[str, ...], scene: Scene, camera: Camera, height: int, width: int, far: float
) -> _Surface:
    """Eq. 1 as a running minimum: no array ever has both an axis of geoms and one of pixels."""
    origins, axes = _local(scene, camera)
    x, y = rays(camera, height, width)
    depth = jnp.full((height, width), far, jnp.float32)
    geom = jnp.full((height, width), -1, jnp.int32)
    zero = jnp.zeros((height, width))
    normal = (zero, zero, zero + 1.0)
    for g, kind in enumerate(kinds):
        direction = _directions(axes[g], x, y)
        hit = raycast.intersect(kind, _vector(origins[g]), direction, _vector(scene.sizes[g]))
        is_nearer = hit.t < depth
        turned = [raycast.dot(_vector(axes[g, :, k]), hit.normal) for k in range(3)]
        depth = jnp.where(is_nearer, hit.t, depth)
        geom = jnp.where(is_nearer, g, geom)
        normal = tuple(jnp.where(is_nearer, n, old) for n, old in zip(turned, normal, strict=True))
    length = jnp.sqrt(raycast.dot(normal, normal))
    return _Surface(depth, geom, tuple(n / length for n in normal))


def _shadow(
    kinds: tuple[str, ...], scene: Scene, camera: Camera, light: Light, seen: _Surface
) -> Bool[Array, "H W"]:
    """Which pixels' points another geom hides from the light (a convex geom hides itself only where n.l < 0)."""
    height, width = seen.depth.shape
    origins, axes = _local(scene, camera)
    x, y = rays(camera, height, width)
    shade = jnp.zeros((height, width), bool)
    for g, kind in enumerate(kinds):
        if kind == "plane":
            continue
        to_light = -jnp.einsum("ij,i->j", scene.rotations[g], light.direction, precision="highest")
        point = raycast.along(_vector(origins[g]), seen.depth, _directions(axes[g], x, y))
        hidden = raycast.blocks(kind, point, _vector(to_light), _vector(scene.sizes[g]))
        shade = shade | (hidden & (seen.geom != g))
    return shade


def _checker(
    kinds: tuple[str, ...], scene: Scene, camera: Camera, seen: _Surface, cell: float
) -> Float[Array, "H W"]:
    """The factor of brightness of a checker on every plane."""
    height, width = seen.depth.shape
    origins, axes = _local(scene, camera)
    x, y = rays(camera, height, width)
    factor = jnp.ones((height, width))
    for g, kind in enumerate(kinds):
        if kind == "plane":
            point = raycast.along(_vector(origins[g]), seen.depth, _directions(axes[g], x, y))
            parity = (jnp.floor(point[0] / cell) + jnp.floor(point[1] / cell)) % 2
            factor = jnp.where(seen.geom == g, 1.0 - CHECKER_CONTRAST * parity, factor)
    return factor


def _validate(kinds: tuple[str, ...], scene: Scene, height: int, width: int) -> None:
    for kind in kinds:
        if kind not in raycast.KINDS:
            raise ValueError(f"kinds holds {kind!r}; try one of {raycast.KINDS}.")
    if len(kinds) != scene.positions.shape[0]:
        raise ValueError(
            f"kinds has {len(kinds)} names but scene has {scene.positions.shape[0]} geoms; "
            "pass one kind per geom, kinds_of(model) for scene_of(model, ...)."
        )
    if height < 1 or width < 1:
        raise ValueError(f"height {height} and width {width} must be at least 1; try 64.")


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
    """Renders one scene from one camera (Eqs. 1 and 2).

    Args:
        kinds: the kind of each geom, static.
        far: geoms beyond this z-depth [m] are not seen, and pixels without a geom have it.
        checker: side of the cells of a checker drawn on planes [m]; 0 draws none.

    Raises:
        ValueError: a kind is unknown, or kinds and scene disagree in length, or the image has no pixels.
    """
    _validate(kinds, scene, height, width)
    seen = _cast(kinds, scene, camera, height, width, far)
    to_light = -jnp.einsum("ij,i->j", camera.rotation, light.direction, precision="highest")
    lambert = jnp.maximum(raycast.dot(_vector(to_light), seen.normal), 0.0)
    lit = jnp.where(_shadow(kinds, scene, camera, light, seen), 0.0, lambert)
    brightness = (light.ambient + light.diffuse * lit) ** (1 / GAMMA)
    if checker:
        brightness = brightness * _checker(kinds, scene, camera, seen, checker)
    channels = []
    for c in range(3):
        value = jnp.full((height, width), SKY[c], jnp.float32)
        for g in range(len(kinds)):
            value = jnp.where(seen.geom == g, scene.colors[g, c] * brightness, value)
        channels.append(jnp.clip(value * 255.0 + 0.5, 0.0, 255.0).astype(jnp.uint8))
    instances = jnp.zeros((height, width), jnp.int32)
    for g in range(len(kinds)):
        instances = jnp.where(seen.geom == g, scene.instances[g].astype(jnp.int32), instances)
    return Frame(jnp.stack(channels, -1), seen.depth, jnp.stack(seen.normal, -1), instances)


class _Moved(NamedTuple):
    """Where the points seen at t are in the image of t + 1."""

    u: Float[Array, "H W"]
    v: Float[Array, "H W"]
    depth: Float[Array, "H W"]


def _move(
    kinds: tuple[str, ...],
    scene_t: Scene,
    scene_t1: Scene,
    camera_t: Camera,
    camera_t1: Camera,
    seen: _Surface,
) -> _Moved:
    """Carries every seen point with its geom and projects it (Eq. 3); sky is a static point at the far plane."""
    height, width = seen.depth.shape
    x, y = rays(camera_t, height, width)
    origins, axes = _local(scene_t, camera_t)
    world = raycast.along(
        _vector(camera_t.position), seen.depth, _directions(camera_t.rotation, x, y)
    )
    for g in range(len(kinds)):
        local = raycast.along(_vector(origins[g]), seen.depth, _directions(axes[g], x, y))
        turn, shift = scene_t1.rotations[g], scene_t1.positions[g]
        moved = [shift[k] + raycast.dot(_vector(turn[k]), local) for k in range(3)]
        world = [jnp.where(seen.geom == g, m, w) for m, w in zip(moved, world, strict=True)]
    return _Moved(*project(camera_t1, jnp.stack(world, -1), height, width))


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
    """Flow [pixels: u to the right, v down] of the points seen at t to their place at t + 1 (Eq. 3).

    Backward flow is the same function with the scenes and cameras exchanged.  A point may move behind another geom or
    out of the image; ``visibility`` says where it can be seen.
    """
    _validate(kinds, scene_t, height, width)
    seen = _cast(kinds, scene_t, camera_t, height, width, far)
    moved = _move(kinds, scene_t, scene_t1, camera_t, camera_t1, seen)
    u = jnp.broadcast_to(jnp.arange(width, dtype=jnp.float32)[None, :], (height, width))
    v = jnp.broadcast_to(jnp.arange(height, dtype=jnp.float32)[:, None], (height, width))
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
    """Whether the point seen at t is seen at t + 1 (specs/daag.md section 5.1).

    True iff y = x + F(x) lies in the image, its four bilinear neighbours show the same instance, and the depth sampled
    there is within 0.01 Z + 2 mm of the moved point's Z.
    """
    _validate(kinds, scene_t, height, width)
    seen = _cast(kinds, scene_t, camera_t, height, width, far)
    after = _cast(kinds, scene_t1, camera_t1, height, width, far)
    moved = _move(kinds, scene_t, scene_t1, camera_t, camera_t1, seen)
    is_inside = (moved.u >= 0) & (moved.u <= width - 1) & (moved.v >= 0) & (moved.v <= height - 1)
    is_inside = is_inside & (moved.depth > 0)
    u, v = jnp.where(is_inside, moved.u, 0.0), jnp.where(is_inside, moved.v, 0.0)
    left, top = jnp.floor(u).astype(jnp.int32), jnp.floor(v).astype(jnp.int32)
    right, bottom = jnp.minimum(left + 1, width - 1), jnp.minimum(top + 1, height - 1)
    instances = jnp.append(scene_t.instances, 0)[seen.geom]  # geom -1, the sky, is the last: 0
    instances_t1 = jnp.append(scene_t1.instances, 0)[after.geom]
    depth = jnp.zeros_like(moved.depth)
    is_same = is_inside
    for row, down in ((top, 1 - (v - top)), (bottom, v - top)):
        for column, across in ((left, 1 - (u - left)), (right, u - left)):
            depth = depth + down * across * after.depth[row, column]
            is_same = is_same & (instances_t1[row, column] == instances)
    return is_same & (jnp.abs(depth - moved.depth) < 0.01 * moved.depth + 0.002)


def _visible(model: mujoco.MjModel) -> tuple[int, ...]:
    return tuple(int(g) for g in np.flatnonzero(model.geom_rgba[:, 3] > 0))


def kinds_of(model: mujoco.MjModel) -> tuple[str, ...]:
    """The kinds of the model's visible geoms (alpha > 0), in the order of ``scene_of``.

    Raises:
        ValueError: a visible geom is not a primitive.
    """
    kinds = []
    for g in _visible(model):
        kind = mujoco.mjtGeom(int(model.geom_type[g])).name.removeprefix("mjGEOM_").lower()
        if kind not in raycast.KINDS:
            raise ValueError(
                f"geom {model.geom(g).name!r} is a {kind}, which the renderer cannot draw; "
                f"make it one of {raycast.KINDS}, or give it rgba alpha 0."
            )
        kinds.append(kind)
    return tuple(kinds)


def scene_of(
    model: mujoco.MjModel,
    geom_xpos: Float[Array, "N 3"],
    geom_xmat: Float[Array, N * M],
    instances: Mapping[str, int] | None = None,
) -> Scene:
    """The visible geoms of a model at the poses of its data (``mjx.Data`` or ``MjData``: geom_xpos, geom_xmat).

    Colours are the model's; ``scene._replace(colors=...)`` or ``recolor`` paints others.

    Args:
        instances: instance of each geom by its name, 0 where absent; None uses the id of the geom's body.
    """
    visible = np.asarray(_visible(model))
    if instances is None:
        numbers = model.geom_bodyid[visible]
    else:
        names = {model.geom(int(g)).name for g in visible}
        unknown = sorted(set(instances) - names)
        if unknown:
            raise ValueError(f"instances names {unknown[0]!r}, no visible geom; try {names}.")
        numbers = [instances.get(model.geom(int(g)).name, 0) for g in visible]
    rotations = jnp.asarray(geom_xmat, jnp.float32).reshape(-1, 3, 3)
    return Scene(
        positions=jnp.asarray(geom_xpos, jnp.float32)[visible],
        rotations=rotations[visible],
        sizes=jnp.asarray(model.geom_size[visible], jnp.float32),
        colors=jnp.asarray(model.geom_rgba[visible, :3], jnp.float32),
        instances=jnp.asarray(numbers, jnp.int32),
    )


def recolor(scene: Scene, instance: int | Int[Array, ""], rgb: Float[Array, " 3"]) -> Scene:
    """The same scene with every geom of an instance painted in one sRGB colour."""
    is_painted = (scene.instances == instance)[:, None]
    return scene._replace(colors=jnp.where(is_painted, rgb[None, :], scene.colors))

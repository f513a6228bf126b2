"""What a simulator knows of a clip, against which an edit of it is measured.

The central asset is the *oracle* I*: the same states rendered with the swapped colours.  For a swap of appearance it is
the exact answer.  Flow, visibility and the points of surfaces come from the same geometry.

    M_t   pixels of the instances to edit
    R_t = M_t + {x : |I*_t - I_t| > 4 / 255}      what an edit may touch: shadows and reflections included
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from daag_jax.editing.masks import dilate, edit_mask
from daag_jax.envs.cameras import Camera, rays
from daag_jax.envs.palette import rgb_of
from daag_jax.envs.renderer import Light, Scene, flow, render, visibility
from daag_jax.envs.tasks import rgb_stacking_model as body

INFLUENCE = 4 / 255  # a change of the oracle beyond this counts (section 5.0)


class Truth(NamedTuple):
    """One clip of T frames from one fixed camera, with J objects; a leading axis is added by ``jax.vmap``."""

    source: UInt8[Array, "T H W 3"]
    oracle: UInt8[Array, "T H W 3"]
    depth: Float[Array, "T H W"]  # [m]
    normals: Float[Array, "T H W 3"]  # camera's frame
    segmentation: Int[Array, "T H W"]  # 0 background, 1 .. J objects, above J the robot
    flow: Float[Array, "T1 H W 2"]  # [px], of frame t to t + 1
    visible: Bool[Array, "T1 H W"]  # the point is seen in frame t + 1, too
    points: Float[Array, "T H W 3"]  # [m], of the surfaces in the world
    local: Float[Array, "T H W 3"]  # [m], the same in the frame of the pixel's object; 0 elsewhere
    to_light: Float[Array, "3"]  # unit, camera's frame
    colors: Int[Array, " J"]  # palette index of each object in the source
    targets: Int[Array, " J"]  # and after the edit


class Areas(NamedTuple):
    """Masks of the places where an edit is judged."""

    everywhere: Bool[Array, "T H W"]
    edited: Bool[Array, "T H W"]  # M
    core: Bool[Array, "T H W"]  # M eroded
    rest: Bool[Array, "T H W"]  # outside R dilated
    band: Bool[Array, "T H W"]  # around the boundary of M
    robot: Bool[Array, "T H W"]


def unit_range(video: UInt8[Array, "*B"]) -> Float[Array, "*B"]:
    """sRGB in [0, 1]."""
    return video.astype(jnp.float32) / 255.0


def object_masks(truth: Truth) -> Bool[Array, "J T H W"]:
    """Pixels of every object, edited or not."""
    num = truth.colors.shape[0]
    return jnp.stack([truth.segmentation == j + 1 for j in range(num)])


def areas(truth: Truth, radius: int = 1) -> Areas:
    """The areas of a clip; ``radius`` [px] is 1 up to 64 px, 2 at 128 px."""
    frames, num = truth.source.shape[0], truth.colors.shape[0]
    is_edited = jnp.broadcast_to((truth.colors != truth.targets)[None], (frames, num))
    edited = edit_mask(truth.segmentation, is_edited)
    change = jnp.abs(unit_range(truth.oracle) - unit_range(truth.source)).max(axis=-1)
    influence = edited | (change > INFLUENCE)
    core, wide = dilate(edited, -radius), dilate(edited, radius)
    return Areas(
        jnp.ones_like(edited),
        edited,
        core,
        ~dilate(influence, radius),
        wide & ~core,
        truth.segmentation > num,
    )


def truth_of(
    kinds: tuple[str, ...],
    scenes: Scene,
    camera: Camera,
    light: Light,
    size: int,
    colors: Int[Array, " J"],
    targets: Int[Array, " J"],
) -> Truth:
    """The truth of T scenes (leading axis) whose objects 1 .. J are convex, one geom each, and change colour.

    Args:
        colors: what the objects show in ``source``; the scenes' own paint of the objects is not used.
        targets: what they must show after the edit.
    """
    num = colors.shape[0]

    def painted(scene: Scene, names: Array) -> Scene:
        paint = rgb_of(names)[jnp.clip(scene.instances - 1, 0, num - 1)]
        is_object = (scene.instances >= 1) & (scene.instances <= num)
        return scene._replace(colors=jnp.where(is_object[:, None], paint, scene.colors))

    def draw(scene: Scene, names: Array):
        return render(kinds, painted(scene, names), camera, light, size, size)

    paints = jnp.stack([colors, targets])  # two paints of one geometry
    both = jax.vmap(jax.vmap(draw, (0, None)), (None, 0))(scenes, paints)
    frames, oracle = jax.tree.map(lambda x: x[0], both), both.rgb[1]
    now, after = (jax.tree.map(lambda x, s=s: x[s], scenes) for s in (slice(-1), slice(1, None)))
    geometry = (camera, camera, size, size)
    moved = jax.vmap(lambda a, b: flow(kinds, a, b, *geometry))(now, after)
    seen = jax.vmap(lambda a, b: visibility(kinds, a, b, *geometry))(now, after)
    points = world_points(frames.depth, camera)
    local = jax.vmap(lambda p, s, scene: local_points(p, s, scene, num))(
        points, frames.segmentation, scenes
    )
    to_light = -jnp.einsum("ij,i->j", camera.rotation, light.direction, precision="highest")
    return Truth(
        frames.rgb,
        oracle,
        frames.depth,
        frames.normals,
        frames.segmentation,
        moved,
        seen,
        points,
        local,
        to_light,
        colors,
        targets,
    )


def stacking_truth(
    qpos: Float[Array, "T Q"],
    colors: Int[Array, "3"],
    targets: Int[Array, "3"],
    camera: Camera,
    size: int = 64,
) -> Truth:
    """The truth of an episode of RGB stacking, seen by one camera (``jax.vmap`` over views and episodes)."""
    scenes = jax.vmap(lambda q: body.scene_at(q, colors))(qpos)
    return truth_of(body.GEOMS.kinds, scenes, camera, body.light(), size, colors, targets)


def world_points(depth: Float[Array, "T H W"], camera: Camera) -> Float[Array, "T H W 3"]:
    """Points of the world that pixels show: E^-1 D(x) K^-1 [x, 1]."""
    height, width = depth.shape[1:]
    x, y = rays(camera, height, width)
    slopes = [jnp.broadcast_to(s, (height, width)) for s in (x, y, -jnp.ones((1, 1)))]
    directions = jnp.einsum("ij,jhw->hwi", camera.rotation, jnp.stack(slopes), precision="highest")
    return camera.position.reshape(1, 1, 1, 3) + depth[..., None] * directions[None]


def local_points(
    points: Float[Array, "H W 3"], segmentation: Int[Array, "H W"], scene: Scene, num_objects: int
) -> Float[Array, "H W 3"]:
    """The same points in the frame of the object they lie on; 0 on everything else."""
    out = jnp.zeros_like(points)
    for j in range(num_objects):
        geom = jnp.argmax(scene.instances == j + 1)
        offset = points - scene.positions[geom].reshape(1, 1, 3)
        turned = jnp.einsum("hwi,ij->hwj", offset, scene.rotations[geom], precision="highest")
        out = jnp.where((segmentation == j + 1)[..., None], turned, out)
    return out

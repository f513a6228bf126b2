"""Random rendered frames of the stacking world, made on the device: batch n is a function of (key, n)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from daag_jax.envs.renderer import Frame, render
from daag_jax.envs.tasks.rgb_stacking_model import CAMERAS, GEOMS, cameras_of, light, scene_at
from daag_jax.envs.tasks.rgb_stacking_scenes import caption_truth, random_scene, relations_of
from daag_jax.types import Batch, Key


class Scenes(NamedTuple):
    """Rendered still scenes with the truth of every caption."""

    frames: Frame
    colors: Int[Array, "B 3"]  # palette index of each cube
    truth: Bool[Array, "B M"]


def random_frames(key: Key, batch: int, size: int = 64) -> Scenes:
    """Draws still scenes, each seen by one camera drawn at random."""
    scene_key, camera_key = jax.random.split(key)
    qpos, colors = jax.vmap(random_scene)(jax.random.split(scene_key, batch))
    return drawn(camera_key, qpos, colors, size)


def drawn(key: Key, qpos: Float[Array, "B Q"], colors: Int[Array, "B 3"], size: int = 64) -> Scenes:
    """States in some colours, each seen by one camera drawn at random."""
    cameras = cameras_of(tuple(CAMERAS))
    views = jax.random.randint(key, qpos.shape[:1], 0, len(CAMERAS))

    def one(qpos: Array, colors: Array, view: Int[Array, ""]) -> Scenes:
        camera = jax.tree.map(lambda x: x[view], cameras)
        frame = render(GEOMS.kinds, scene_at(qpos, colors), camera, light(), size, size)
        return Scenes(frame, colors, caption_truth(relations_of(qpos), colors))

    return jax.vmap(one)(qpos, colors, views)


def as_batch(**extras: Array) -> Batch:
    """A batch of images has no trajectory: its observations and actions have no entries."""
    size = next(iter(extras.values())).shape[0]
    empty = jnp.zeros((size, 1, 0))
    return Batch(empty, empty, jnp.zeros((size, 1)), jnp.ones((size, 1), bool), extras)

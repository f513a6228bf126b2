"""Random still scenes of RGB stacking, without physics, and the captions that are true of a scene.

Foundation models are trained on these: every arrangement that episodes show (cubes lying, stacked, held, held above
another), in any of the palette's colours, with a truth for every caption.  Captions name colours, not objects:

    P sentences  "The robot is grasping the {a} object"
    P (P - 1)    "The {a} object is on top of the {b} object"
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from daag_jax.envs.palette import PALETTE_NAMES
from daag_jax.envs.tasks.rgb_stacking_model import (
    CUBE,
    FINGER_CLOSED,
    FINGER_OPEN,
    FINGER_RADIUS,
    NUM_OBJECTS,
    TIP,
    WORKSPACE,
    cube_positions,
)
from daag_jax.types import Key

ARRANGEMENTS = (
    0.30,
    0.26,
    0.10,
    0.20,
    0.14,
)  # odds of: apart, pair, tower, one held, one held above another
MAX_YAW = 0.5  # of a lying cube [rad]
MIN_GAP = 0.062  # least distance between the centres of two lying cubes [m]


class Relations(NamedTuple):
    """What is true of a scene, by object."""

    grasped: Bool[Array, "*B 3"]
    on_top: Bool[Array, "*B 3 3"]  # [a, b]: a is on top of b


def captions(colors: tuple[str, ...] = PALETTE_NAMES) -> tuple[str, ...]:
    """All sub-goal sentences over some colours, grasps first."""
    grasps = [f"The robot is grasping the {a} object" for a in colors]
    pairs = [
        f"The {a} object is on top of the {b} object" for a in colors for b in colors if a != b
    ]
    return tuple(grasps + pairs)


def caption_truth(relations: Relations, colors: Int[Array, "3"]) -> Bool[Array, "M"]:
    """Truth of every caption of ``captions()`` for objects painted in the given palette colours."""
    size = len(PALETTE_NAMES)
    paint = jax.nn.one_hot(colors, size)  # object x colour
    grasp = relations.grasped.astype(jnp.float32) @ paint
    pairs = paint.T @ relations.on_top.astype(jnp.float32) @ paint
    off_diagonal = [(a, b) for a in range(size) for b in range(size) if a != b]
    rows, columns = (jnp.array(index) for index in zip(*off_diagonal, strict=True))
    return jnp.concatenate([grasp, pairs[rows, columns]]) > 0


def relations_of(qpos: Float[Array, "Q"]) -> Relations:
    """Relations by geometry alone; the truth of every caption and of success."""
    cubes = cube_positions(qpos)
    palm, yaw, fingers = qpos[:3], qpos[3], qpos[4:6]
    offset = cubes - (palm - jnp.array([0.0, 0.0, TIP - CUBE]))[None, :]
    across = -jnp.sin(yaw) * offset[:, 0] + jnp.cos(yaw) * offset[:, 1]
    along = jnp.cos(yaw) * offset[:, 0] + jnp.sin(yaw) * offset[:, 1]
    is_between = (jnp.abs(across) < 0.02) & (jnp.abs(along) < CUBE) & (jnp.abs(offset[:, 2]) < 0.03)
    is_closed = jnp.sum(fingers) < 2 * (CUBE * 1.45 + FINGER_RADIUS)
    held = is_between & is_closed
    delta = cubes[:, None, :] - cubes[None, :, :]
    is_above = (jnp.abs(delta[..., 2] - 2 * CUBE) < 0.012) & (
        jnp.linalg.norm(delta[..., :2], axis=-1) < 0.05
    )
    rests = jnp.any(is_above, axis=1) | (cubes[:, 2] < CUBE + 0.012)
    return Relations(held & ~rests, is_above & ~held[:, None])


def lying_places(key: Key) -> Float[Array, "3 2"]:
    """Three places in the workspace at least MIN_GAP apart: the first such of a few random draws (or the widest)."""
    reach = WORKSPACE - CUBE
    draws = jax.random.uniform(key, (16, NUM_OBJECTS, 2), minval=-reach, maxval=reach)
    gaps = [
        jnp.linalg.norm(draws[:, i] - draws[:, j], axis=-1) for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    return draws[jnp.argmax(jnp.minimum(jnp.min(jnp.stack(gaps), axis=0), MIN_GAP))]


def random_scene(key: Key) -> tuple[Float[Array, "Q"], Int[Array, "3"]]:
    """A configuration and the palette colours of its cubes (distinct)."""
    keys = jax.random.split(key, 9)
    places = lying_places(keys[0])
    yaws = jax.random.uniform(keys[1], (NUM_OBJECTS,), minval=-MAX_YAW, maxval=MAX_YAW)
    order = jax.random.permutation(keys[2], NUM_OBJECTS)
    arrangement = jax.random.choice(keys[3], 5, p=jnp.array(ARRANGEMENTS))
    jitter = jax.random.uniform(keys[4], (2, 2), minval=-0.018, maxval=0.018)
    palm, closed = random_palm(keys[5])
    height = jnp.full((NUM_OBJECTS,), CUBE)
    # slot 0 may carry slot 1, which may carry slot 2; slot 1 may instead be held
    is_pair, is_tower, is_held, is_above = (arrangement == i for i in (1, 2, 3, 4))
    second = jnp.where(is_pair | is_tower, places[0] + jitter[0], places[1])
    third = jnp.where(is_tower, second + jitter[1], places[2])
    over = jnp.where(is_above, places[0] + jitter[0], palm[:2])
    second = jnp.where(is_held | is_above, over, second)
    lift = jax.random.uniform(keys[6], (), minval=0.06, maxval=0.22)
    low = 3 * CUBE + jax.random.uniform(keys[7], (), minval=0.014, maxval=0.05)
    held_height = jnp.where(is_above, low, lift)
    is_gripped = is_held | is_above
    height = height.at[1].set(
        jnp.where(is_gripped, held_height, jnp.where(is_pair | is_tower, 3 * CUBE, CUBE))
    )
    height = height.at[2].set(jnp.where(is_tower, 5 * CUBE, CUBE))
    xy = jnp.stack([places[0], second, third])
    cubes = jnp.concatenate([xy, height[:, None]], axis=-1)
    grip = jnp.concatenate([second, (held_height + TIP - CUBE)[None]])
    palm = jnp.where(is_gripped, grip, palm)
    yaw_key, color_key = jax.random.split(keys[8])
    yaw = jnp.where(is_gripped, yaws[1], jax.random.uniform(yaw_key, (), minval=-0.2, maxval=0.2))
    finger = jnp.where(is_gripped, CUBE + FINGER_RADIUS, closed)
    quaternions = jnp.stack([jnp.cos(yaws / 2), yaws * 0, yaws * 0, jnp.sin(yaws / 2)], axis=-1)
    objects = jnp.concatenate([cubes, quaternions], axis=-1)[jnp.argsort(order)]
    qpos = jnp.concatenate([palm, yaw[None], finger[None], finger[None], objects.reshape(-1)])
    colors = jax.random.permutation(color_key, len(PALETTE_NAMES))[:NUM_OBJECTS]
    return qpos, colors


def random_palm(key: Key) -> tuple[Float[Array, "3"], Float[Array, ""]]:
    """An idle gripper: mostly above the cubes' reach; open, closed or between."""
    place_key, height_key, finger_key, choice_key = jax.random.split(key, 4)
    xy = jax.random.uniform(place_key, (2,), minval=-WORKSPACE, maxval=WORKSPACE)
    height = jax.random.uniform(height_key, (1,), minval=5 * CUBE + 0.10, maxval=0.30)
    finger = jax.random.uniform(finger_key, (), minval=FINGER_CLOSED, maxval=FINGER_OPEN)
    finger = jnp.where(jax.random.uniform(choice_key) < 0.6, FINGER_OPEN, finger)
    return jnp.concatenate([xy, height]), finger

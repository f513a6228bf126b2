"""Scripted experts of RGB stacking.  They read the simulator's state: demonstrators, never the agent.

Memoryless: the next action is a function of the present state, so they recover from failed grasps by themselves.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from daag_jax.envs.env import State
from daag_jax.envs.tasks import rgb_stacking_model as body
from daag_jax.envs.tasks.rgb_stacking import (
    CONTROL_DT,
    GRASP,
    HOVER,
    MAX_SPEED,
    TRIPLE,
    RgbStacking,
    gripped,
)
from daag_jax.envs.tasks.rgb_stacking_scenes import relations_of

TURNS = np.linspace(-np.pi / 2, np.pi / 2, 9)  # yaws that a grasp chooses from [rad]
ROOM = 0.045  # from a finger's axis to a neighbour's centre: half a diagonal, a finger's radius [m]


def goals(state: State) -> tuple[Array, Array]:
    """Which cube to pick next, and which to put it on: a tower is built from below, a grasp's cube stays held.

    For a grasp both are the same cube.
    """
    task = state.info["task"]
    relations = relations_of(state.pipeline_state.qpos)
    top, middle, bottom = (jnp.maximum(task.objects[i], 0) for i in range(3))
    is_low = (task.kind == TRIPLE) & ~relations.on_top[middle, bottom]
    middle = jnp.where(task.kind == GRASP, top, middle)
    return jnp.where(is_low, middle, top), jnp.where(is_low, bottom, middle)


def primitive_expert(state: State) -> Float[Array, "3"]:
    """Pick the cube; once it is held, place it on the other."""
    qpos = state.pipeline_state.qpos
    cube, support = goals(state)
    places = body.cube_positions(qpos)[:, :2] / body.WORKSPACE
    isgripped = gripped(qpos)[cube]
    place = jnp.where(isgripped, places[support], places[cube])
    return jnp.concatenate([place, jnp.where(isgripped, -1.0, 1.0)[None]])


def free_yaw(positions: Float[Array, "3 3"], cube: Int[Array, ""]) -> Float[Array, ""]:
    """The smallest turn with which the open fingers pass by the neighbours of a cube."""
    mine = positions[cube]
    across = jnp.stack([-jnp.sin(TURNS), jnp.cos(TURNS)], axis=-1) * body.FINGER_OPEN
    fingers = mine[None, :2] + jnp.concatenate([across, -across])
    gaps = jnp.linalg.norm(fingers[:, None, :] - positions[None, :, :2], axis=-1)  # finger x cube
    is_beside = (positions[:, 2] > mine[2] - body.CUBE) & (jnp.arange(body.NUM_OBJECTS) != cube)
    rooms = jnp.min(jnp.where(is_beside[None, :], gaps, ROOM), axis=-1)
    room = jnp.minimum(jnp.min(rooms.reshape(2, -1), axis=0), ROOM)
    return jnp.asarray(TURNS)[jnp.argmax(room - 1e-4 * jnp.abs(TURNS))]  # of equals the smallest


def cartesian_expert(state: State) -> Float[Array, "5"]:
    """Hover, turn, descend, close, rise, carry, lower, open: which of them follows from the geometry."""
    qpos, ctrl = state.pipeline_state.qpos, state.pipeline_state.ctrl
    cube, support = goals(state)
    positions = body.cube_positions(qpos)
    mine, other = positions[cube], positions[support]
    palm = qpos[:3]
    isgripped = gripped(qpos)[cube]
    reach = mine[:2] - palm[:2]
    is_over_cube = jnp.linalg.norm(reach) < 0.006
    grasp_height = mine[2] - body.CUBE + body.TIP
    is_low = palm[2] < grasp_height + 0.006
    carry = other[:2] - mine[:2]
    is_over_support = (jnp.linalg.norm(carry) < 0.008) & (cube != support)
    put_height = other[2] + 2 * body.CUBE + 0.003 - body.CUBE + body.TIP
    is_down = mine[2] < other[2] + 2 * body.CUBE + 0.006
    is_high = palm[2] > HOVER - 0.03

    # not held: go above at a safe height and turn, then down, then close
    yaw = jnp.where(is_high & ~isgripped, free_yaw(positions, cube), ctrl[3])
    is_turned = jnp.abs(yaw - qpos[3]) < 0.1
    free_height = jnp.where(is_over_cube & is_turned, grasp_height, HOVER)
    free_xy = jnp.where(is_over_cube | is_high, reach, 0.0)
    free_close = is_over_cube & is_low
    # held: rise, carry, lower, open
    held_height = jnp.where(is_over_support, put_height, HOVER)
    held_xy = jnp.where(is_over_support | is_high, carry, 0.0)
    held_close = ~(is_over_support & is_down)
    # the released cube is under the open gripper: rise straight up
    is_stacked = relations_of(qpos).on_top[cube, support]
    height = jnp.where(isgripped, held_height, free_height)
    height = jnp.where(is_stacked, HOVER, height)
    shift = jnp.where(is_stacked, 0.0, jnp.where(isgripped, held_xy, free_xy))
    target_xy = palm[:2] + shift
    close = jnp.where(isgripped, held_close, free_close) & ~is_stacked
    goal = jnp.concatenate([target_xy, height[None], yaw[None]])
    speed = (goal - ctrl[:4]) / (jnp.asarray(MAX_SPEED) * CONTROL_DT)
    return jnp.concatenate([jnp.clip(speed, -1, 1), jnp.where(close, 1.0, -1.0)[None]])


def expert(env: RgbStacking):
    """The expert of a world's action mode."""
    return primitive_expert if env.config.mode == "primitive" else cartesian_expert

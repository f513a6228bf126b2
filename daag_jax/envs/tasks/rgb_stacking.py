"""RGB stacking: three cubes, a Cartesian gripper, sentences for tasks (arXiv 2407.20798).

Two action modes:

    primitive   (x, y, pick or place) in [-1, 1]: one step is a whole motion, as in the predecessor (arXiv 2307.09668)
    cartesian   velocity (x, y, z, yaw) and gripper in [-1, 1], 20 Hz, 400 steps: the official one

A task is data (``info["task"]``: kind and the objects concerned), so one compiled step serves all tasks, and so are
the colours of the cubes.  Success is the official predicate, its contacts read from geometry: centres within 5 cm in
the plane, the upper one 5 cm (within 12 mm) above the lower one, and not held (``rgb_stacking_scenes.relations_of``; a
test compares with contacts).

Differs from the original: no arm; cubes of 5 cm; and primitives read the cubes' heights from the simulator to know
how far to descend, as the predecessor's inverse kinematics did.  A policy sees pixels and its own gripper only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from daag_jax.envs.env import State
from daag_jax.envs.palette import color_indices
from daag_jax.envs.physics import Physics, PhysicsState
from daag_jax.envs.renderer import Frame, render
from daag_jax.envs.tasks import rgb_stacking_model as body
from daag_jax.envs.tasks.rgb_stacking_scenes import (
    Relations,
    caption_truth,
    captions,
    lying_places,
    relations_of,
)
from daag_jax.names import nearest
from daag_jax.types import Key, Spec

MODES = ("primitive", "cartesian")
GRASP, STACK, TRIPLE = range(3)
HOVER = 0.25  # height of the palm between motions [m]
PHASES = (50, 60, 30, 60)  # physics steps of a primitive: go above, descend, close or open, rise
RAMP = 0.7  # part of a phase in which the target moves; the rest settles
MAX_SPEED = (0.07, 0.07, 0.07, 1.0)  # of cartesian actions [m/s, rad/s]; official
CONTROL_DT = 0.05  # [s] of a cartesian step; official


class Task(NamedTuple):
    """What is asked for: a kind, and the objects from top to bottom (unused places are -1)."""

    kind: Int[Array, ""]
    objects: Int[Array, "3"]


@dataclass(frozen=True)
class RgbStackingConfig:
    """The world's choices; those without a source are ours."""

    mode: str = "primitive"
    task: str = "Stack the red object on top of the blue object"
    colors: tuple[str, str, str] = ("red", "green", "blue")
    cameras: tuple[str, ...] = ("front_left", "front_right")
    resolution: int = 64  # [px]
    horizon: int = 0  # steps; 0 takes 4 primitives or the official 400 steps
    max_yaw: float = 0.3  # of a cube at reset [rad]

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r} is unknown; use one of {MODES}.")
        color_indices(self.colors)
        if len(set(self.colors)) != len(self.colors):
            raise ValueError(
                f"colors {self.colors} repeat; sentences need three different colours."
            )
        parse_task(self.task, self.colors)


def parse_task(sentence: str, colors: tuple[str, ...] = ("red", "green", "blue")) -> Task:
    """Reads "Grasp the X object", "Stack the X object on top of the Y object" and the tower of three.

    Raises:
        ValueError: the sentence is none of these, or names a colour that no cube has; the nearest one is named.
    """
    text = " ".join(sentence.strip().rstrip(".").split())
    named = re.findall(r"the (\w+) object", text, re.IGNORECASE)
    shapes = {
        1: "grasp the {} object",
        2: "stack the {} object on top of the {} object",
        3: "stack the {} object on top of the {} object on top of the {} object",
    }
    shape = shapes.get(len(named), "")
    if not shape or text.lower() != shape.format(*(name.lower() for name in named)):
        raise ValueError(
            f"task {sentence!r} is not understood; try 'Grasp the red object' or "
            "'Stack the red object on top of the blue object'."
        )
    indices = []
    for name in named:
        if name.lower() not in colors:
            near = nearest(name.lower(), colors)
            raise ValueError(f"task {sentence!r} names {name!r}; the cubes are {colors}: {near!r}?")
        indices.append(colors.index(name.lower()))
    objects = indices + [-1] * (3 - len(indices))
    return Task(jnp.int32(len(named) - 1), jnp.asarray(objects, jnp.int32))


def task_sentences(colors: tuple[str, ...] = ("red", "green", "blue")) -> tuple[str, ...]:
    """All tasks of three cubes: three grasps, six ordered pairs, one tower."""
    grasps = [f"Grasp the {a} object" for a in colors]
    pair = "Stack the {} object on top of the {} object"
    pairs = [pair.format(a, b) for a in colors for b in colors if a != b]
    tower = pair.format(*colors[:2]) + f" on top of the {colors[2]} object"
    return (*grasps, *pairs, tower)


def is_success(relations: Relations, task: Task) -> Bool[Array, ""]:
    """Whether a task's goal holds."""
    top, middle, bottom = (jnp.maximum(task.objects[i], 0) for i in range(3))
    pair = relations.on_top[top, middle]
    tower = pair & relations.on_top[middle, bottom]
    return jnp.stack([relations.grasped[top], pair, tower])[task.kind]


class RgbStacking:
    """The world.  Methods are pure, for one world, and meant for ``jax.vmap``."""

    def __init__(self, config: RgbStackingConfig = RgbStackingConfig()):
        self.config = config
        self.physics = Physics(body.load_model())
        self.horizon = config.horizon or (4 if config.mode == "primitive" else 400)
        self.captions = captions()
        self.default_task = parse_task(config.task, config.colors)
        self.default_colors = jnp.asarray(color_indices(config.colors), jnp.int32)
        self.spec = Spec(
            observation_dim=5,
            action_dim=3 if config.mode == "primitive" else 5,
            image_shape=(len(config.cameras), config.resolution, config.resolution, 3),
        )
        self._cameras = body.cameras_of(config.cameras)

    def reset(
        self, key: Key, task: Task | None = None, colors: Int[Array, "3"] | None = None
    ) -> State:
        """Cubes at random places on the floor, the gripper open above a random place."""
        place_key, yaw_key, palm_key = jax.random.split(key, 3)
        limit = self.config.max_yaw
        yaws = jax.random.uniform(yaw_key, (3,), minval=-limit, maxval=limit)
        quaternions = jnp.stack([jnp.cos(yaws / 2), 0 * yaws, 0 * yaws, jnp.sin(yaws / 2)], -1)
        height = jnp.full((3, 1), body.CUBE)
        cubes = jnp.concatenate([lying_places(place_key), height, quaternions], -1).reshape(-1)
        reach = body.WORKSPACE
        palm = jax.random.uniform(palm_key, (2,), minval=-reach, maxval=reach)
        grip = jnp.array([HOVER, 0.0, body.FINGER_OPEN, body.FINGER_OPEN])
        ctrl = jnp.concatenate([palm, grip])
        physics = self.physics.start(jnp.concatenate([ctrl, cubes]), ctrl)
        info = {
            "task": self.default_task if task is None else task,
            "colors": self.default_colors if colors is None else colors,
            "steps": jnp.zeros((), jnp.int32),
        }
        zero = jnp.zeros(())
        return State(physics, self.observe(physics), zero, zero, {"success": zero}, info)

    def step(self, state: State, action: Float[Array, "A"]) -> State:
        """One primitive, or one period of control.  Reward is 1 when the task's goal first holds, which ends it."""
        action = jnp.clip(action, -1.0, 1.0)
        if self.config.mode == "primitive":
            physics = self.physics.follow(state.pipeline_state, self._motion(state, action))
        else:
            physics = self._servo(state.pipeline_state, action)
        success = is_success(relations_of(physics.qpos), state.info["task"]).astype(jnp.float32)
        steps = state.info["steps"] + 1
        done = jnp.maximum(success, (steps >= self.horizon).astype(jnp.float32))
        return state.replace(
            pipeline_state=physics,
            obs=self.observe(physics),
            reward=success,
            done=done,
            metrics={**state.metrics, "success": success},
            info={**state.info, "steps": steps},
        )

    def observe(self, physics: PhysicsState) -> Float[Array, "O"]:
        """What the robot feels: the gripper's place, yaw and opening, all about in [-1, 1]."""
        palm = physics.qpos[:3] / jnp.array([body.WORKSPACE, body.WORKSPACE, HOVER])
        opening = jnp.sum(physics.qpos[4:6]) / (2 * body.FINGER_OPEN)
        return jnp.concatenate([palm, physics.qpos[3:4], opening[None]])

    def render(self, state: State) -> Frame:
        """What the cameras see."""
        return self.render_qpos(state.pipeline_state.qpos, state.info["colors"])

    def render_qpos(self, qpos: Float[Array, "Q"], colors: Int[Array, "3"]) -> Frame:
        """A stored configuration in any colours: with swapped ones, the oracle of an edit."""
        scene, size = body.scene_at(qpos, colors), self.config.resolution
        draw = lambda camera: render(body.GEOMS.kinds, scene, camera, body.light(), size, size)
        return jax.vmap(draw)(self._cameras)

    def labels(self, state: State) -> Bool[Array, "M"]:
        """Which of ``captions`` are true."""
        return self.labels_qpos(state.pipeline_state.qpos, state.info["colors"])

    def labels_qpos(self, qpos: Float[Array, "Q"], colors: Int[Array, "3"]) -> Bool[Array, "M"]:
        """Which of ``captions`` are true of a stored configuration in any colours."""
        return caption_truth(relations_of(qpos), colors)

    def _motion(self, state: State, action: Float[Array, "3"]) -> Float[Array, "N 6"]:
        """The targets of the actuators during one primitive."""
        qpos, ctrl = state.pipeline_state.qpos, state.pipeline_state.ctrl
        place = action[:2] * body.WORKSPACE
        is_pick = action[2] > 0
        cubes = body.cube_positions(qpos)
        held = gripped(qpos)
        below = jnp.max(jnp.abs(cubes[:, :2] - place[None, :]), axis=-1) < 1.8 * body.CUBE
        tops = jnp.where(below & ~held, cubes[:, 2] + body.CUBE, 0.0)
        support = jnp.max(tops)
        pick_height = jnp.maximum(support - 2 * body.CUBE, 0.0) + body.TIP
        place_height = support + body.TIP + 0.004
        low = jnp.where(is_pick, pick_height, place_height)
        before = jnp.where(is_pick, body.FINGER_OPEN, ctrl[4])
        after = jnp.where(is_pick, body.FINGER_CLOSED, body.FINGER_OPEN)
        hover, zero = jnp.float32(HOVER), jnp.zeros(())

        def target(height: Array, finger: Array) -> Array:
            return jnp.concatenate([place, jnp.stack([height, zero, finger, finger])])

        goals = jnp.stack(
            [
                ctrl,
                target(hover, before),
                target(low, before),
                target(low, after),
                target(hover, after),
            ]
        )
        phase = np.repeat(np.arange(len(PHASES)), PHASES)
        done = np.concatenate([np.minimum(1.0, np.arange(1, n + 1) / (RAMP * n)) for n in PHASES])
        done = jnp.asarray(done, jnp.float32)[:, None]
        # fingers act at once, the palm moves along a ramp
        path = goals[phase] * (1 - done) + goals[phase + 1] * done
        return jnp.concatenate([path[:, :4], goals[phase + 1][:, 4:]], axis=-1)

    def _servo(self, physics: PhysicsState, action: Float[Array, "5"]) -> PhysicsState:
        """One control period of a velocity command: the targets move, the fingers are open or closed."""
        low = jnp.array([-body.WORKSPACE, -body.WORKSPACE, body.TIP - 0.002, -np.pi / 2])
        high = jnp.array([body.WORKSPACE, body.WORKSPACE, 0.30, np.pi / 2])
        pose = physics.ctrl[:4] + action[:4] * jnp.asarray(MAX_SPEED) * CONTROL_DT
        finger = jnp.where(action[4] > 0, body.FINGER_CLOSED, body.FINGER_OPEN)
        ctrl = jnp.concatenate([jnp.clip(pose, low, high), finger[None], finger[None]])
        num = round(CONTROL_DT / self.physics.timestep)
        return self.physics.follow(physics, jnp.broadcast_to(ctrl[None], (num, 6)))


def gripped(qpos: Float[Array, "Q"]) -> Bool[Array, "3"]:
    """Which cubes are between the fingers, lifted or not."""
    offset = (
        body.cube_positions(qpos)
        - (qpos[:3] - jnp.array([0.0, 0.0, body.TIP - body.CUBE]))[None, :]
    )
    is_near = (jnp.linalg.norm(offset[:, :2], axis=-1) < body.CUBE) & (jnp.abs(offset[:, 2]) < 0.03)
    return is_near & (jnp.sum(qpos[4:6]) < 2 * (1.45 * body.CUBE + body.FINGER_RADIUS))

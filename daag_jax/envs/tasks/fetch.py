"""FetchPick and FetchPush: the real Fetch robot lifts a block into the air, or pushes it over the table.

The robot, its control and what is observed are those of gymnasium-robotics (FetchPickAndPlace-v4, FetchPush-v4;
Plappert et al., arXiv 1802.09464); where blocks and goals lie is from goal_prox_il, the environments of Diffusion-BC
(arXiv 2302.13335).  Physics is C MuJoCo on the host (:mod:`daag_jax.envs.host_physics`).

Observation [16]: :class:`Seen`.  Action in [-1, 1]: the gripper's motion [3, times 0.05 m], and for "pick" that of its
fingers [1, m].

Differs from the papers: boxes are sampled uniformly (theirs is a 4 x 4 stratified sampler, uniform at full coverage);
the solver starts every control step without a warm start, and states are float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from daag_jax.envs.env import State
from daag_jax.envs.host_physics import HostPhysics
from daag_jax.envs.physics import PhysicsState
from daag_jax.envs.tasks.fetch_model import (
    DOWN,
    FINGERS,
    OBJECT,
    SUBSTEPS,
    Poses,
    fetch_model,
    settle,
    split_poses,
)
from daag_jax.types import Key, Spec

REACH = 0.05  # motion of the mocap body under an action of one [m]
NEAR = 0.05  # distance of success [m]
HORIZONS = {"pick": 50, "push": 60}
GOAL_HEIGHTS = {"pick": 0.15, "push": 0.0}  # above an object on the table [m]
OBJECT_CENTRE, OBJECT_BOX = (0.0, 0.1), ((-0.05, 0.0), (0.05, 0.04))  # from the gripper [m]
GOAL_CENTRE, GOAL_BOX = (0.0, -0.1), ((-0.05, -0.04), (0.05, 0.0))  # from the gripper [m]
NUM_BLOCKED = 3  # actions of a gripper whose fingers do not move
MIN_COS = 4 * float(np.finfo(np.float64).eps)  # where Euler angles are singular


@dataclass(frozen=True)
class FetchConfig:
    """Which task, and how far blocks and goals are spread."""

    task: str = "pick"  # or "push"
    noise: float = (
        1.0  # k: scales both boxes; demonstrations use 1, evaluations 1.25 (pick) and 1.5 (push)
    )
    horizon: int | None = None  # steps; None takes 50 for pick, 60 for push

    def __post_init__(self):
        if self.task not in HORIZONS:
            raise ValueError(f"task {self.task!r} is unknown; use one of {tuple(HORIZONS)}.")
        if not (math.isfinite(self.noise) and self.noise > 0):
            raise ValueError(
                f"noise {self.noise} is not positive; 1 gives the boxes of the demonstrations."
            )
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"horizon {self.horizon} is not positive; None gives the task's own.")


class Seen(NamedTuple):
    """The observation by name, in order."""

    grip: Float[Array, "*B 3"]  # [m]
    object: Float[Array, "*B 3"]  # [m]
    relative: Float[Array, "*B 3"]  # object - grip [m]
    fingers: Float[Array, "*B 2"]  # right and left [m]
    tilt: Float[Array, "*B 2"]  # first two Euler angles of the object [rad]
    goal: Float[Array, "*B 3"]  # [m]


def seen(obs: Float[Array, "*B 16"]) -> Seen:
    """The parts of an observation."""
    return Seen(*jnp.split(obs, (3, 6, 9, 11, 13), axis=-1))


def tilt_of(up: Float[Array, "3"]) -> Float[Array, "2"]:
    """The first two Euler angles [rad] of a body whose z axis is ``up``, in gymnasium-robotics' convention."""
    horizontal = jnp.hypot(up[2], up[1])
    first = jnp.where(horizontal > MIN_COS, -jnp.arctan2(up[1], up[2]), 0.0)
    return jnp.stack([first, jnp.arctan2(up[0], horizontal)])


class Fetch:
    """One Fetch world.  ``info`` holds the goal [3], the wrist's pose [7] of the last substep, and the steps."""

    def __init__(self, config: FetchConfig = FetchConfig()):
        self.config = config
        self.horizon = config.horizon or HORIZONS[config.task]
        model = fetch_model(config.task)
        self.physics = HostPhysics(model)
        self.begin = settle(model, config.task)
        self.fingers = np.array([model.joint(name).qposadr[0] for name in FINGERS])
        self.object = int(model.joint(OBJECT).qposadr[0])
        # each position actuator holds a finger at a distance from where it is
        self.actuated = model.jnt_qposadr[model.actuator_trnid[:, 0]]
        self.is_blocked = config.task == "push"
        self.spec = Spec(16, NUM_BLOCKED if self.is_blocked else NUM_BLOCKED + 1)

    def reset(self, key: Key) -> State:
        """The robot at its start, the object and the goal at random in their boxes."""
        object_key, goal_key = jax.random.split(key)
        begin = self.begin
        on_table = self._place(object_key, OBJECT_CENTRE, OBJECT_BOX)
        height = begin.height + GOAL_HEIGHTS[self.config.task]
        goal = jnp.append(self._place(goal_key, GOAL_CENTRE, GOAL_BOX), height)
        return self.place(on_table, goal)

    def place(self, on_table: Float[Array, "2"], goal: Float[Array, "3"]) -> State:
        """The robot at its start, the object at (x, y), and a goal [m]."""
        begin = self.begin
        qpos = jnp.asarray(begin.qpos).at[self.object : self.object + 2].set(on_table)
        still = jnp.zeros((self.physics.model.nv,))
        ctrl = jnp.zeros((self.physics.model.nu,))
        physics = PhysicsState(qpos, jnp.asarray(begin.qvel), ctrl, still)
        poses = jax.tree.map(jnp.asarray, begin.poses)
        poses = poses._replace(object=poses.object.at[:2].set(on_table))
        zero = jnp.zeros(())
        info = {"goal": goal, "wrist": poses.wrist, "steps": jnp.zeros((), jnp.int32)}
        obs = self._observed(qpos, poses, goal)
        return State(physics, obs, zero, zero, {"success": zero}, info)

    def step(self, state: State, action: Float[Array, "A"]) -> State:
        """Moves the gripper; the episode ends with success, or at the horizon."""
        physics, poses = self._moved(state, jnp.clip(action, -1.0, 1.0))
        goal, steps = state.info["goal"], state.info["steps"] + 1
        success = (jnp.linalg.norm(poses.object - goal) < NEAR).astype(jnp.float32)
        return state.replace(
            pipeline_state=physics,
            obs=self._observed(physics.qpos, poses, goal),
            reward=success,
            done=jnp.maximum(success, (steps >= self.horizon).astype(jnp.float32)),
            metrics={**state.metrics, "success": success},
            info={**state.info, "wrist": poses.wrist, "steps": steps},
        )

    def _moved(self, state: State, action: Float[Array, "A"]) -> tuple[PhysicsState, Poses]:
        """The mocap body starts from the wrist, not from its last target: a step forgets how far it fell short."""
        start, wrist = state.pipeline_state, state.info["wrist"]
        mocap = wrist + jnp.concatenate([REACH * action[:3], jnp.asarray(DOWN)])
        ctrl = start.qpos[self.actuated] + action[NUM_BLOCKED:]
        after, sensors = self.physics.hold(start, ctrl, SUBSTEPS, mocap)
        if self.is_blocked:  # fingers are put back, and poses read where that left everything
            after = after._replace(qpos=after.qpos.at[self.fingers].set(0.0))
            sensors = self.physics.hold(after, ctrl, 1, mocap)[1]
        return after, split_poses(sensors)

    def _place(self, key: Key, centre: tuple, box: tuple) -> Float[Array, "2"]:
        """A point of a box that is scaled by the noise."""
        low, high = np.asarray(box) * self.config.noise
        drawn = jax.random.uniform(key, (2,), minval=jnp.asarray(low), maxval=jnp.asarray(high))
        return jnp.asarray(self.begin.gripper[:2] + np.asarray(centre)) + drawn

    def _observed(
        self, qpos: Float[Array, "Q"], poses: Poses, goal: Float[Array, "3"]
    ) -> Float[Array, "16"]:
        """What the robot and its goal look like: :class:`Seen`, in one vector."""
        relative = poses.object - poses.grip
        parts = Seen(
            poses.grip,
            poses.object,
            relative,
            qpos[self.fingers],
            tilt_of(poses.object_up),
            goal,
        )
        return jnp.concatenate(parts)

"""HandRotate: a Shadow hand turns a block in its palm about the vertical (Diffusion-BC, arXiv 2302.13335).

The model is ``HandManipulateBlockRotateZ`` of gymnasium-robotics (Plappert et al., arXiv 1802.09464), read from the
installed package and stepped by C MuJoCo, whose meshes and tendons MJX does not take.  Diffusion-BC makes the task
easier: the block starts within 30 degrees of straight and the goal lies between 60 and 120 degrees.

Observation (68): 24 joint angles [rad], 24 joint velocities [rad/s], the block's velocity (3 linear [m/s], 3 angular
[rad/s]), its pose (position [m], quaternion w x y z), and the goal's pose, whose position is zero as it does not count.
Action (20): joint targets in [-1, 1], of which -1 and 1 are the ends of the actuator's range.

Differs from gymnasium-robotics: the drawn target, a second block that falls through the floor without touching
anything, is left out of the simulation; the rotation error is the shorter way round; a block that misses the palm is
replaced by another draw of a fixed number instead of one more until it fits.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float

from daag_jax.envs.env import State
from daag_jax.envs.host_physics import HostPhysics
from daag_jax.envs.installed import installed_model
from daag_jax.envs.physics import PhysicsState
from daag_jax.types import Key, Spec

SUBSTEPS = 20  # of 2 ms: a control step of 40 ms
NUM_JOINTS = 24  # of the hand
POSITION_NOISE = 0.005  # [m], standard deviation of the block's first position
SETTLING_STEPS = 10  # control steps between placing the block and the first observation
DRAWS = 2  # of the block's first pose, of which the first that lies in the palm is taken; 1152 of 1152 did
PALM_HEIGHT = 0.04  # [m]; a block whose centre is lower has fallen out of the hand
SUCCESS_ANGLE = 0.1  # [rad]


@dataclass(frozen=True)
class HandRotateConfig:
    """Ranges of the task (version 2 of the authors' environment) and length of an episode."""

    initial_angle: float = np.pi / 6  # [rad]; the block starts at U(-initial_angle, initial_angle)
    goal_low: float = np.pi / 3  # [rad]
    goal_high: float = 2 * np.pi / 3  # [rad]
    noise: float = 1.0  # times the noise of the block's first position; 0 places it exactly
    horizon: int = 50  # control steps

    def __post_init__(self):
        if not 0.0 <= self.initial_angle <= np.pi:
            raise ValueError(
                f"initial_angle {self.initial_angle} is not an angle in [0, pi] [rad]; the paper uses pi / 6."
            )
        if not -np.pi <= self.goal_low <= self.goal_high <= np.pi:
            raise ValueError(
                f"goal_low {self.goal_low} and goal_high {self.goal_high} are no range of angles in [-pi, pi] [rad]; "
                "the paper uses pi / 3 and 2 pi / 3."
            )
        if self.noise < 0.0:
            raise ValueError(f"noise {self.noise} is negative; the paper uses 1.0.")
        if self.horizon < 1:
            raise ValueError(f"horizon {self.horizon} leaves no step to take; the paper uses 50.")


class HandRotate:
    """The world.  Methods are pure, for one world, and meant for ``jax.vmap``.

    Raises:
        ModuleNotFoundError: gymnasium-robotics, whose meshes it needs, is not installed.
    """

    def __init__(self, config: HandRotateConfig = HandRotateConfig()):
        self.config = config
        self.horizon = config.horizon
        self.spec = Spec(observation_dim=2 * NUM_JOINTS + 6 + 7 + 7, action_dim=20)
        self.physics = HostPhysics(hand_model())
        low, high = self.physics.model.actuator_ctrlrange.T
        self._center, self._half_range = (
            np.asarray(x, np.float32) for x in ((high + low) / 2.0, (high - low) / 2.0)
        )

    def reset(self, key: Key) -> State:
        """A block dropped from 2 cm over the palm, and settled while all joints go to the middle of their ranges."""
        goal_key, draw_key = jax.random.split(key)
        settled = jax.vmap(self._settle)(jax.random.split(draw_key, DRAWS))
        is_held = settled.qpos[:, NUM_JOINTS + 2] > PALM_HEIGHT
        physics = jax.tree.map(lambda x: x[jnp.argmax(is_held)], settled)
        low, high = self.config.goal_low, self.config.goal_high
        goal = about_z(jax.random.uniform(goal_key, (), minval=low, maxval=high))
        info = {"steps": jnp.zeros((), jnp.int32), "goal": goal}
        return self._observed(physics, info, is_new=True)

    def step(self, state: State, action: Float[Array, "20"]) -> State:
        """40 ms under the same joint targets; reward 1 and the end where the block has the wanted rotation."""
        physics, _ = self.physics.hold(state.pipeline_state, self.targets(action), SUBSTEPS)
        info = {**state.info, "steps": state.info["steps"] + 1}
        return self._observed(physics, info, is_new=False)

    def targets(self, action: Float[Array, "*B 20"]) -> Float[Array, "*B 20"]:
        """The joint targets [rad] that an action names."""
        return self._center + jnp.clip(action, -1.0, 1.0) * self._half_range

    def _settle(self, key: Key) -> PhysicsState:
        """One draw of the block's first pose, after the settling steps."""
        angle_key, position_key = jax.random.split(key)
        limit = self.config.initial_angle
        angle = jax.random.uniform(angle_key, (), minval=-limit, maxval=limit)
        scale = POSITION_NOISE * self.config.noise
        qpos = jnp.asarray(self.physics.model.qpos0, jnp.float32)
        place = qpos[NUM_JOINTS : NUM_JOINTS + 3] + scale * jax.random.normal(position_key, (3,))
        qpos = jnp.concatenate([qpos[:NUM_JOINTS], place, about_z(angle)])
        ctrl = jnp.asarray(self._center)
        start = self.physics.start(qpos, ctrl)
        return self.physics.hold(start, ctrl, SETTLING_STEPS * SUBSTEPS)[0]

    def _observed(self, physics: PhysicsState, info: dict, is_new: bool) -> State:
        """What the world says of a state."""
        goal, qpos, qvel = info["goal"], physics.qpos, physics.qvel
        hand, block = qpos[:NUM_JOINTS], qpos[NUM_JOINTS:]
        obs = jnp.concatenate(
            [hand, qvel[:NUM_JOINTS], qvel[NUM_JOINTS:], block, jnp.zeros((3,)), goal]
        )
        error = angle_between(block[3:], goal)
        success = jnp.where(is_new, 0.0, (error < SUCCESS_ANGLE).astype(jnp.float32))
        done = jnp.maximum(success, (info["steps"] >= self.horizon).astype(jnp.float32))
        return State(
            physics, obs, success, done, {"success": success, "rotation_error": error}, info
        )


def hand_model() -> mujoco.MjModel:
    """The hand and the block, from the files of the installed gymnasium-robotics.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    path = installed_model("gymnasium_robotics", "assets/hand/manipulate_block.xml")
    spec = mujoco.MjSpec.from_file(str(path))
    spec.delete(spec.body("target"))
    return spec.compile()


def about_z(angle: Float[Array, "*B"]) -> Float[Array, "*B 4"]:
    """The quaternion (w, x, y, z) of a rotation about the vertical."""
    zero = jnp.zeros_like(angle)
    return jnp.stack([jnp.cos(angle / 2.0), zero, zero, jnp.sin(angle / 2.0)], axis=-1)


def angle_between(a: Float[Array, "*B 4"], b: Float[Array, "*B 4"]) -> Float[Array, "*B"]:
    """Angle [rad] of the rotation between two unit quaternions, in [0, pi]."""
    real = jnp.sum(a * b, axis=-1)
    aw, av, bw, bv = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    imaginary = aw * bv - bw * av + jnp.cross(av, bv)
    return 2.0 * jnp.arctan2(jnp.linalg.norm(imaginary, axis=-1), jnp.abs(real))

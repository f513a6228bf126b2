"""AntReach: a four-legged robot runs to a goal somewhere on a half circle of 5 m, within 5 s.

The AntReach task of Diffusion-BC (arXiv 2302.13335), ``AntGoal-v0``: Gym's ant (``ant.xml`` of the installed
``gymnasium``, gear 150) with steps of 20 ms, five to a control.  The goal's angle is uniform in [0, pi].  It is reached
once the torso was nearer than 0.5 m, and stays so.

An observation has 42 numbers: positions without x and y (height, quaternion, 8 joints), pose of the goal (7),
velocities (14), those of the goal (6 zeros), and the goal relative to the torso (2).

Differs from the paper: the goal, there a free body that takes no part, is a constant; its height, which is not
recorded, is 0; the cost of contacts (at most 0.0005 per number) is left out of the reward.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.envs.env import State
from daag_jax.envs.physics import PhysicsState
from daag_jax.envs.tasks.locomotion import PHYSICS, check_config, gym_model, started
from daag_jax.types import Key, Spec

RADIUS = 5.0  # of the half circle [m]
REACHED = 0.1  # of the radius
TIMESTEP = 0.02  # [s]; that of the file is 0.01
GOAL_REST = (0.0, 1.0, 0.0, 0.0, 0.0)  # height [m] and quaternion of the goal


@dataclass(frozen=True)
class AntReachConfig:
    """Constants of AntGoal-v0."""

    physics: str = "host"  # C MuJoCo, or "mjx"
    horizon: int = 50
    frame_skip: int = 5  # steps of 20 ms that a control lasts
    spawn_noise: float = 0.0  # half width, of every position; demonstrations 0, evaluation 0.01
    control_cost: float = 0.005  # of the squared norm of an action
    ends_at_success: bool = False  # else only at the horizon

    def __post_init__(self):
        check_config(self)


class AntReach:
    """Runs to a goal.  Methods are pure and meant for ``jax.vmap``; ``info["goal"]`` is the goal's place [m]."""

    spec = Spec(42, 8, (-1.0,) * 8, (1.0,) * 8)

    def __init__(self, config: AntReachConfig):
        self.config = config
        self.horizon = config.horizon
        model = gym_model("ant.xml")
        model.opt.timestep = TIMESTEP
        self.physics = PHYSICS[config.physics](model)

    def reset(self, key: Key) -> State:
        """A goal, and the pose of the model with noise, at rest."""
        goal_key, noise_key = jax.random.split(key)
        model, noise = self.physics.model, self.config.spawn_noise
        angle = jax.random.uniform(goal_key, (), maxval=jnp.pi)
        goal = RADIUS * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        offset = jax.random.uniform(noise_key, (model.nq,), minval=-noise, maxval=noise)
        physics = started(self.physics, offset, jnp.zeros(model.nv))
        zero = jnp.zeros(())
        metrics = {"success": zero, "distance": jnp.linalg.norm(goal - physics.qpos[:2])}
        info = {"steps": jnp.zeros((), jnp.int32), "goal": goal}
        return State(physics, observed(physics, goal), zero, zero, metrics, info)

    def step(self, state: State, action: Float[Array, "8"]) -> State:
        """Reward: 1 at the goal, 0 at the centre of the circle, minus the cost of control."""
        config, goal = self.config, state.info["goal"]
        action = jnp.clip(action, -1.0, 1.0)
        physics, _ = self.physics.hold(state.pipeline_state, action, config.frame_skip)
        distance = jnp.linalg.norm(goal - physics.qpos[:2])
        cost = config.control_cost * jnp.sum(jnp.square(action))
        steps = state.info["steps"] + 1
        success = jnp.maximum(state.metrics["success"], distance / RADIUS < REACHED)
        done = (steps >= self.horizon) | (config.ends_at_success & (success > 0))
        return state.replace(
            pipeline_state=physics,
            obs=observed(physics, goal),
            reward=1.0 - distance / RADIUS - cost,
            done=done.astype(jnp.float32),
            metrics={**state.metrics, "success": success, "distance": distance},
            info={**state.info, "steps": steps},
        )


def observed(physics: PhysicsState, goal: Float[Array, "2"]) -> Float[Array, "42"]:
    """What the robot feels, and where the goal is."""
    rest, still = jnp.asarray(GOAL_REST), jnp.zeros(6)
    relative = goal - physics.qpos[:2]
    return jnp.concatenate([physics.qpos[2:], goal, rest, physics.qvel, still, relative])

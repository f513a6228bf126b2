"""HalfCheetah, Walker2d and Hopper: planar runners of Gym, observed without pixels.

The models are those of the installed ``gymnasium`` package (``half_cheetah.xml`` and so on); observations, rewards,
noise of resets and (of those that fall) termination follow its v4 environments: positions but the horizontal one, then
velocities (of those that fall: within +-10), 17 numbers, Hopper 11; 6 torques in [-1, 1], Hopper 3; 1000 steps.  The
Cheetah and Walker tasks of Diffusion-BC (arXiv 2302.13335) are the v3 environments, with the same models and rewards.

Differs from Gym: actions are kept inside [-1, 1] before they are paid for, a step starts the solver cold, and states
are float32 between steps.  ``metrics["success"]`` is 0: these worlds are judged by their return.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import mujoco
from jaxtyping import Array, Float

from daag_jax.envs.env import State
from daag_jax.envs.host_physics import HostPhysics
from daag_jax.envs.installed import installed_model
from daag_jax.envs.physics import Physics, PhysicsState
from daag_jax.types import Key, Spec

PHYSICS = {"host": HostPhysics, "mjx": Physics}
MAX_VELOCITY = 10.0  # observed velocities of those that fall lie within it [m/s, rad/s]


@dataclass(frozen=True)
class HalfCheetahConfig:
    """Constants of HalfCheetah-v4."""

    physics: str = "host"  # C MuJoCo, or "mjx"
    horizon: int = 1000
    frame_skip: int = 5  # steps of 10 ms that a control lasts
    reset_noise: float = 0.1  # half width of positions, deviation of velocities
    control_cost: float = 0.1  # of the squared norm of an action

    def __post_init__(self):
        check_config(self)


@dataclass(frozen=True)
class Walker2dConfig:
    """Constants of Walker2d-v4."""

    physics: str = "host"  # C MuJoCo, or "mjx"
    horizon: int = 1000
    frame_skip: int = 4  # steps of 2 ms that a control lasts
    reset_noise: float = 0.005  # half width, of positions and velocities
    control_cost: float = 0.001  # of the squared norm of an action
    healthy_reward: float = 1.0  # of every step
    healthy_height: tuple[float, float] = (0.8, 2.0)  # of the torso [m]
    healthy_angle: tuple[float, float] = (-1.0, 1.0)  # of the torso [rad]

    def __post_init__(self):
        check_config(self)


@dataclass(frozen=True)
class HopperConfig(Walker2dConfig):
    """Constants of Hopper-v4, where they are not Walker2d's."""

    healthy_height: tuple[float, float] = (0.7, math.inf)
    healthy_angle: tuple[float, float] = (-0.2, 0.2)
    healthy_state: float = 100.0  # nothing but the place and the height may be larger


class HalfCheetah:
    """Runs forward; an episode ends only at the horizon.  Methods are pure and meant for ``jax.vmap``."""

    spec = Spec(17, 6, (-1.0,) * 6, (1.0,) * 6)

    def __init__(self, config: HalfCheetahConfig):
        self.config = config
        self.horizon = config.horizon
        self.physics = PHYSICS[config.physics](gym_model("half_cheetah.xml"))

    def reset(self, key: Key) -> State:
        """Near the pose of the model: positions uniformly, velocities normally."""
        position_key, velocity_key = jax.random.split(key)
        model, noise = self.physics.model, self.config.reset_noise
        qpos = jax.random.uniform(position_key, (model.nq,), minval=-noise, maxval=noise)
        qvel = noise * jax.random.normal(velocity_key, (model.nv,))
        physics = started(self.physics, qpos, qvel)
        return begun(physics, self._observed(physics))

    def step(self, state: State, action: Float[Array, "6"]) -> State:
        """Reward: forward speed [m/s] minus the cost of control."""
        physics, action, speed = moved(self.physics, state, action, self.config.frame_skip)
        reward = speed - self.config.control_cost * jnp.sum(jnp.square(action))
        return advanced(state, physics, self._observed(physics), reward, speed, self.horizon)

    def _observed(self, physics: PhysicsState) -> Float[Array, "17"]:
        return jnp.concatenate([physics.qpos[1:], physics.qvel])


class Walker2d:
    """Walks forward until it falls.  Methods are pure and meant for ``jax.vmap``."""

    spec = Spec(17, 6, (-1.0,) * 6, (1.0,) * 6)
    model_name = "walker2d.xml"

    def __init__(self, config: Walker2dConfig):
        self.config = config
        self.horizon = config.horizon
        self.physics = PHYSICS[config.physics](gym_model(self.model_name))

    def reset(self, key: Key) -> State:
        """Near the pose of the model, all uniformly."""
        model, noise = self.physics.model, self.config.reset_noise
        drawn = jax.random.uniform(key, (model.nq + model.nv,), minval=-noise, maxval=noise)
        qpos, qvel = jnp.split(drawn, [model.nq])
        physics = started(self.physics, qpos, qvel)
        return begun(physics, self._observed(physics))

    def step(self, state: State, action: Float[Array, "A"]) -> State:
        """Reward: forward speed [m/s] plus that of being alive, minus the cost of control."""
        config = self.config
        physics, action, speed = moved(self.physics, state, action, config.frame_skip)
        cost = config.control_cost * jnp.sum(jnp.square(action))
        reward = speed + config.healthy_reward - cost  # v4 pays it at the fall too, v5 does not
        has_fallen = ~self.is_healthy(physics)
        obs = self._observed(physics)
        return advanced(state, physics, obs, reward, speed, self.horizon, has_fallen)

    def is_healthy(self, physics: PhysicsState) -> Array:
        """Whether the torso is high and upright enough."""
        height, angle = physics.qpos[1], physics.qpos[2]
        low, high = self.config.healthy_height
        back, front = self.config.healthy_angle
        return (low < height) & (height < high) & (back < angle) & (angle < front)

    def _observed(self, physics: PhysicsState) -> Float[Array, "O"]:
        velocity = jnp.clip(physics.qvel, -MAX_VELOCITY, MAX_VELOCITY)
        return jnp.concatenate([physics.qpos[1:], velocity])


class Hopper(Walker2d):
    """Hops forward until it falls: Walker2d's rules, on one leg."""

    spec = Spec(11, 3, (-1.0,) * 3, (1.0,) * 3)
    model_name = "hopper.xml"

    def is_healthy(self, physics: PhysicsState) -> Array:
        """Whether the torso is high and upright enough, and nothing has flown apart."""
        rest = jnp.concatenate([physics.qpos[2:], physics.qvel])
        return super().is_healthy(physics) & jnp.all(jnp.abs(rest) < self.config.healthy_state)


def gym_model(name: str) -> mujoco.MjModel:
    """A model of the installed ``gymnasium``."""
    path = installed_model("gymnasium", f"mujoco/assets/{name}")
    spec = mujoco.MjSpec.from_file(str(path))
    total_mass = spec.compiler.settotalmass  # of half_cheetah.xml; MuJoCo asks for the call instead
    spec.compiler.settotalmass = -1.0
    model = spec.compile()
    if total_mass > 0:
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def check_config(config) -> None:
    """What the worlds of this kind ask of their configuration.

    Raises:
        ValueError: the physics is unknown, or a number is out of range.
    """
    if config.physics not in PHYSICS:
        raise ValueError(f"physics {config.physics!r} is unknown; use one of {sorted(PHYSICS)}.")
    for name in ("horizon", "frame_skip"):
        if getattr(config, name) < 1:
            raise ValueError(
                f"{name} {getattr(config, name)} is not a number of steps; use 1 or more."
            )
    for name in ("reset_noise", "spawn_noise", "control_cost"):
        if getattr(config, name, 0.0) < 0:
            raise ValueError(f"{name} {getattr(config, name)} is negative; use 0 for none.")


def started(
    physics: HostPhysics | Physics, offset: Float[Array, "Q"], qvel: Float[Array, " V"]
) -> PhysicsState:
    """The pose of the model with something added, in motion."""
    model = physics.model
    state = physics.start(jnp.asarray(model.qpos0, offset.dtype) + offset, jnp.zeros(model.nu))
    return state._replace(qvel=qvel)


def moved(
    physics: HostPhysics | Physics, state: State, action: Float[Array, "A"], frame_skip: int
) -> tuple[PhysicsState, Float[Array, "A"], Float[Array, ""]]:
    """What an action does: the state after it, the action in [-1, 1], and the mean forward speed [m/s]."""
    action = jnp.clip(action, -1.0, 1.0)
    before = state.pipeline_state
    after, _ = physics.hold(before, action, frame_skip)
    speed = (after.qpos[0] - before.qpos[0]) / (frame_skip * physics.timestep)
    return after, action, speed


def begun(physics: PhysicsState, obs: Float[Array, "O"]) -> State:
    """The first state of an episode."""
    zero = jnp.zeros(())
    metrics = {"success": zero, "forward_speed": zero}
    return State(physics, obs, zero, zero, metrics, {"steps": jnp.zeros((), jnp.int32)})


def advanced(
    state: State,
    physics: PhysicsState,
    obs: Float[Array, "O"],
    reward: Float[Array, ""],
    speed: Float[Array, ""],
    horizon: int,
    has_ended: Array | bool = False,
) -> State:
    """The state after a step; it is done at the horizon, or where the episode has ended."""
    steps = state.info["steps"] + 1
    done = (steps >= horizon) | has_ended
    return state.replace(
        pipeline_state=physics,
        obs=obs,
        reward=reward,
        done=done.astype(jnp.float32),
        metrics={**state.metrics, "forward_speed": speed},
        info={**state.info, "steps": steps},
    )

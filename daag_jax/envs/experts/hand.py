"""A planner that turns the block: model-predictive path integral control with the simulator as its model.

At every step it draws plans around the last one, tries them in a coarser copy of the simulator, and carries out the
first action of their average, weighted by exp(-cost / temperature)  (MPPI, Williams et al., ICRA 2017, Eq. 15; the
sampling of knots as in MuJoCo MPC, Howell et al., arXiv 2212.00541).  A plan is a few knots of joint targets, joined
by straight lines from the last action, so that what is carried out is smooth.

The cost of a plan is what is left to turn on its way and, counted more, at its end; the block's distance from the
middle of the palm; the effort of its targets; less a bonus where it meets the goal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from daag_jax.envs.env import State
from daag_jax.envs.experts.expert import Expert, until_done
from daag_jax.envs.host_physics import HostPhysics
from daag_jax.envs.physics import PhysicsState
from daag_jax.envs.tasks.hand_rotate import (
    NUM_JOINTS,
    SUCCESS_ANGLE,
    HandRotate,
    angle_between,
    hand_model,
)
from daag_jax.types import Key

CONTROL_DT = 0.04  # [s], of the world
PALM_CENTER = (1.0, 0.875, 0.167)  # [m]; where a settled block lies
LOST_HEIGHT = 0.1  # [m]; a block that is lower is slipping out of the hand
NEAR = 0.15  # [rad]; within it the remaining angle counts more, as the average of plans would stop short
MARGIN = 0.01  # [rad] by which a plan must do better than SUCCESS_ANGLE, as its model is coarse


class Plan(NamedTuple):
    """What the planner remembers: the action last carried out, and the knots [K] that follow it."""

    last: Float[Array, "*B A"]
    knots: Float[Array, "*B K A"]


@dataclass(frozen=True)
class PlanConfig:
    """Size of the search and weights of the cost; ours, chosen on a few episodes."""

    num_candidates: int = 48  # plans tried per step; the last plan is one of them
    num_knots: int = 2
    knot_steps: int = (
        4  # control steps from a knot to the next; a plan is num_knots * knot_steps long
    )
    noise: float = 0.5  # standard deviation of a knot's actions, in units of [-1, 1]
    temperature: float = 0.05
    timestep: float = 0.008  # [s] of the planner's simulator; the world's is 0.002
    end_weight: float = 3.0
    place_weight: float = 100.0  # [1/m^2]
    effort_weight: float = 0.01
    lost_cost: float = 10.0

    def __post_init__(self):
        for field in ("num_candidates", "num_knots", "knot_steps"):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"{field} {getattr(self, field)} is not positive; try {getattr(PlanConfig, field)}."
                )
        if self.temperature <= 0.0:
            raise ValueError(f"temperature {self.temperature} is not positive; try 0.05.")
        substeps = CONTROL_DT / self.timestep if self.timestep > 0.0 else 0.0
        if substeps < 1.0 or abs(substeps - round(substeps)) > 1e-6:
            raise ValueError(
                f"timestep {self.timestep} does not divide a control step of {CONTROL_DT} s; try 0.008 or 0.002."
            )


def planned(env: HandRotate, config: PlanConfig = PlanConfig()) -> Expert:
    """The planner as a demonstrator; its demonstrations end, and are accepted, with success.

    Of 205 attempts 149 succeeded (73 %), after 30 steps on average; an attempt takes some 5 s of one core.

    Raises:
        ValueError: the world is not HandRotate.
    """
    if not isinstance(env, HandRotate):
        raise ValueError(
            f"the planner knows the hand of HandRotate, not {type(env).__name__}; use that world's own expert."
        )
    model = coarse_model(config.timestep)
    substeps = round(CONTROL_DT / config.timestep)
    lines = interpolation(config.num_knots, config.knot_steps)
    size = env.spec.action_dim

    def start(state: State, key: Key) -> Plan:
        return Plan(jnp.zeros((size,)), jnp.zeros((config.num_knots, size)))

    def cost(last: Array, knots: Array, state: State) -> Array:
        """Of one plan."""

        def advance(physics: PhysicsState, action: Array) -> tuple[PhysicsState, Array]:
            physics = model.hold(physics, env.targets(action), substeps)[0]
            return physics, physics.qpos[NUM_JOINTS:]

        way = jnp.concatenate([last[None], knots])
        _, poses = jax.lax.scan(advance, state.pipeline_state, lines @ way)
        effort = jnp.sum(jnp.square(jnp.diff(way, axis=0)))
        return cost_of_poses(poses, state.info["goal"], config) + config.effort_weight * effort

    def act(plan: Plan, state: State, key: Key) -> tuple[Array, Plan]:
        noise = config.noise * jax.random.normal(key, (config.num_candidates, *plan.knots.shape))
        candidates = jnp.clip(plan.knots[None] + noise.at[0].set(0.0), -1.0, 1.0)
        costs = jax.vmap(lambda knots: cost(plan.last, knots, state))(candidates)
        weights = jax.nn.softmax(-costs / config.temperature)
        way = jnp.concatenate([plan.last[None], jnp.tensordot(weights, candidates, 1)])
        action = lines[0] @ way
        return action, Plan(action, later(way, config.knot_steps))

    return Expert(
        start,
        act,
        is_accepted=lambda state: state.metrics["success"] > 0,
        **until_done(env.horizon),
    )


def cost_of_poses(
    poses: Float[Array, "N 7"], goal: Float[Array, "4"], config: PlanConfig
) -> Float[Array, ""]:
    """The cost of where the block goes."""
    angle = angle_between(poses[:, 3:], jnp.broadcast_to(goal, (len(poses), 4)))
    place = jnp.sum(jnp.square(poses[:, :3] - jnp.asarray(PALM_CENTER)[None]), axis=1)
    is_lost = poses[:, 2] < LOST_HEIGHT
    to_turn = angle + 0.5 * (1.0 - jnp.exp(-jnp.square(angle / NEAR)))
    at_step = to_turn + config.place_weight * place + config.lost_cost * is_lost
    is_met = angle < SUCCESS_ANGLE - MARGIN
    bonus = 0.5 * jnp.mean(is_met) + jnp.any(is_met)
    return jnp.mean(at_step) + config.end_weight * at_step[-1] - bonus


def coarse_model(timestep: float) -> HostPhysics:
    """The world's simulator with a longer step and a looser solver."""
    model = hand_model()
    model.opt.timestep = timestep
    model.opt.tolerance = 1e-4  # of the solver; MuJoCo's own is 1e-8
    return HostPhysics(model)


def interpolation(num_knots: int, knot_steps: int) -> Float[Array, "N K1"]:
    """Weights that turn the last action and K knots into the actions of all steps, by straight lines."""
    times = (np.arange(num_knots * knot_steps) + 1.0) / knot_steps
    return jnp.asarray(
        np.maximum(0.0, 1.0 - np.abs(times[:, None] - np.arange(num_knots + 1))), jnp.float32
    )


def later(way: Float[Array, "K1 A"], knot_steps: int) -> Float[Array, "K A"]:
    """The knots as seen one step later: moved along their lines, the last one kept."""
    after = jnp.concatenate([way[2:], way[-1:]])
    return way[1:] + (after - way[1:]) / knot_steps

"""What a planned trajectory is made of, which of its entries are given, and which of several is carried out.

    x0 = H states [B, H, D], ``stride`` steps of the world apart, with the actions behind them where they are planned

Known are the first state and, where the task names a goal, the goal's dimensions of the last one; ``held`` puts both
in, at every noise level, as Diffuser does.

**Arrival.**  With ``rests_at_goal``, the trajectories that are learnt from stop at a random step and stay there at
rest (0 in the learner's units); a plan may then arrive early, and the earliest of many candidates is a short way.
Candidates with a step longer than any that was learnt from (with ``slack``) are set aside, and where none is left the
plan says so (``Plan.is_possible``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from daag_jax.algorithms.parts import planning
from daag_jax.algorithms.parts.planning import Plan
from daag_jax.data.normalize import Stats
from daag_jax.diffusion import projections, samplers, schedules
from daag_jax.diffusion.process import Denoise
from daag_jax.names import check_name
from daag_jax.rows import divided
from daag_jax.types import Batch, Context, Key, Spec


@dataclass(frozen=True)
class TrajectoryConfig:
    """The entries of a trajectory."""

    horizon: int = (
        128  # steps of the world in an example; Diffuser: 128, 256, 384 on Maze2D; locomotion 32
    )
    stride: int = 1  # steps of the world between two states of a plan
    goal_dims: tuple[int, ...] = ()  # of an observation, that a task names; (): there is no goal
    velocity_dims: tuple[int, ...] = ()  # 0 at rest
    rests_at_goal: bool = False  # learns from trajectories that stop at a random step
    has_actions: bool = True

    def __post_init__(self):
        for field in ("horizon", "stride"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} is not positive; try 1.")
        if self.horizon % self.stride:
            raise ValueError(
                f"horizon={self.horizon} is no multiple of stride={self.stride}; "
                f"try {-(-self.horizon // self.stride) * self.stride}."
            )
        if self.rests_at_goal and not self.goal_dims:
            raise ValueError("rests_at_goal=True needs a goal: name goal_dims.")
        if set(self.goal_dims) & set(self.velocity_dims):
            raise ValueError(
                f"goal_dims={self.goal_dims} and velocity_dims={self.velocity_dims} overlap; name each once."
            )

    @property
    def length(self) -> int:
        """States of a plan."""
        return self.horizon // self.stride


@dataclass(frozen=True)
class DrawingConfig:
    """How plans are drawn, and how often."""

    sampler: str = "ddpm"
    num_inference_steps: int = 64
    temperature: float = 1.0  # of all noise; Decision Diffuser: 0.5
    candidates: int = 1
    goal_tolerance: float = 0.1  # of an arrival, in the learner's units
    slack: float = 1.25  # a step is possible up to so many times the longest that was learnt from
    warm_time: float = (
        0.0  # begins from the previous plan with noise of this time; 0: from noise alone
    )
    execute: int = 1  # steps of the world between two plans

    def __post_init__(self):
        check_name("sampler", self.sampler, samplers.METHODS)
        for field in ("num_inference_steps", "candidates", "execute"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} is not positive; try 1.")
        if self.slack <= 0 or self.goal_tolerance <= 0:
            raise ValueError(
                f"slack={self.slack} and goal_tolerance={self.goal_tolerance} must be positive; try 1.25 and 0.1."
            )
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature} is negative; 0 draws no noise.")
        if not 0.0 <= self.warm_time <= 1.0:
            raise ValueError(f"warm_time={self.warm_time} is no time in [0, 1]; try 0.5.")


class Known(NamedTuple):
    """The entries of a trajectory that are given."""

    values: Float[Array, "B H D"]
    is_known: Bool[Array, "1 H D"]


def dim_of(config: TrajectoryConfig, spec: Spec) -> int:
    """Numbers of a planned state: an observation, and the action behind it."""
    return spec.observation_dim + (spec.action_dim if config.has_actions else 0)


def path_of(config: TrajectoryConfig, spec: Spec, x: Float[Array, "*B H D"]) -> Array:
    """The dimensions whose steps are measured: the goal's, or all of an observation."""
    return x[..., jnp.array(config.goal_dims or range(spec.observation_dim))]


def check_dims(config: TrajectoryConfig, spec: Spec) -> None:
    """Raises ValueError where a named dimension is none of an observation's, or the goal is not the task's."""
    for field in ("goal_dims", "velocity_dims"):
        dims = getattr(config, field)
        if any(not 0 <= dim < spec.observation_dim for dim in dims):
            raise ValueError(
                f"{field}={dims} must lie in 0 to {spec.observation_dim - 1}, the dimensions of an observation."
            )
    if config.goal_dims and len(config.goal_dims) != spec.task_dim:
        raise ValueError(
            f"goal_dims={config.goal_dims} are {len(config.goal_dims)}, but a task of this world has {spec.task_dim} "
            "numbers; name as many, or none."
        )


def check_length(config: TrajectoryConfig, num_levels: int) -> None:
    """Raises ValueError where a network of so many levels cannot halve a trajectory between all of them."""
    if num_levels < 1:
        raise ValueError("widths=() make no network; try (32, 128, 256).")
    whole = config.stride * 2 ** (num_levels - 1)
    if config.horizon % whole:
        raise ValueError(
            f"horizon={config.horizon} gives {config.length} states, which {num_levels} levels cannot halve; "
            f"try {-(-config.horizon // whole) * whole}."
        )


def check_drawing(drawing: DrawingConfig, num_steps: int) -> None:
    """Raises ValueError where plans cannot be drawn so from a network of ``num_steps`` steps."""
    if drawing.num_inference_steps > num_steps:
        raise ValueError(
            f"num_inference_steps={drawing.num_inference_steps} are more than the {num_steps} that are learnt; "
            f"try {num_steps}."
        )


def check_execute(config: TrajectoryConfig, drawing: DrawingConfig, num: int) -> None:
    """Raises ValueError where plans have fewer actions than are carried out of each."""
    if drawing.execute > num:
        raise ValueError(
            f"execute={drawing.execute}, and a plan of horizon={config.horizon} has {num} actions; "
            f"try {num}, or `planner`, whose followers keep to the end of a plan."
        )


def check_episodes(config: TrajectoryConfig, longest: int) -> None:
    """Raises ValueError where a goal is held and no episode is as long as a trajectory, so that none is learnt."""
    needed = (config.length - 1) * config.stride + 1
    if config.goal_dims and not config.rests_at_goal and longest < needed:
        raise ValueError(
            f"horizon={config.horizon} with goal_dims learns from episodes of {needed} steps and more, and the longest "
            f"has {longest}; try a shorter horizon, or rests_at_goal=True."
        )


def check_goal_units(config: TrajectoryConfig, stats: Stats | None) -> None:
    """Raises ValueError where a goal would be held in other units than the states."""
    if stats is not None and config.goal_dims and stats.task_mean is None:
        raise ValueError(
            "these statistics know no task: its goal would be in other units than the states; "
            f"use limits_of(episodes, {config.goal_dims})."
        )


def trajectories(
    config: TrajectoryConfig, batch: Batch, key: Key
) -> tuple[Float[Array, "B H D"], Bool[Array, "B H"]]:
    """Every ``stride``-th state (and action), and which are no padding."""
    states, actions = batch.observations[:, :: config.stride], batch.actions[:, :: config.stride]
    is_real = batch.mask[:, :: config.stride]
    if config.rests_at_goal:
        states, actions = stopped(config, states, actions, is_real, key)
        is_real = jnp.ones_like(is_real)
    elif config.goal_dims:
        is_real &= is_real[
            :, -1:
        ]  # past an episode's end the last state is none that was reached then
    x0 = jnp.concatenate([states, actions], axis=-1) if config.has_actions else states
    return x0, is_real


def stopped(
    config: TrajectoryConfig, states: Array, actions: Array, is_real: Array, key: Key
) -> tuple[Array, Array]:
    """Trajectories that stay, at rest, where they are after a random number of states."""
    num_real = jnp.sum(is_real, axis=1)
    last = jnp.floor(jax.random.uniform(key, num_real.shape) * (num_real - 1)).astype(jnp.int32)
    last = jnp.maximum(last + 1, 1)[:, None]
    index = jnp.arange(config.length)[None]
    stops = (index >= last)[..., None]
    states = jnp.take_along_axis(states, jnp.minimum(index, last)[..., None], axis=1)
    is_velocity = jnp.isin(jnp.arange(states.shape[-1]), jnp.array(config.velocity_dims, int))
    states = jnp.where(stops & is_velocity[None, None], 0.0, states)
    return states, jnp.where(stops, 0.0, actions)


def known_of(
    config: TrajectoryConfig,
    spec: Spec,
    first: Float[Array, "B O"],
    goal: Float[Array, "B G"] | None,
) -> Known:
    """The first state; and of the last one the goal, and rest."""
    values = jnp.zeros((first.shape[0], config.length, dim_of(config, spec)))
    values = values.at[:, 0, : spec.observation_dim].set(first)
    is_known = jnp.zeros((1, *values.shape[1:]), bool).at[:, 0, : spec.observation_dim].set(True)
    if goal is None or not config.goal_dims:
        return Known(values, is_known)
    values = values.at[:, -1, jnp.array(config.goal_dims)].set(goal)
    still = config.velocity_dims if config.rests_at_goal else ()
    return Known(values, is_known.at[:, -1, jnp.array((*config.goal_dims, *still))].set(True))


def known_now(
    config: TrajectoryConfig, spec: Spec, context: Context, num: int
) -> tuple[Known, Float[Array, "N G"] | None]:
    """What each of ``num`` candidates of B plans must hold, and the goals that the tasks name.

    Under ``jax.set_mesh`` candidates are divided among the mesh's devices, where these divide their number.
    """
    first = jnp.repeat(context.observations[:, -1], num, axis=0)
    goal = jnp.repeat(context.extras["task"], num, axis=0) if config.goal_dims else None
    known = known_of(config, spec, first, goal)
    return known._replace(values=divided(known.values)), goal


def known_in(config: TrajectoryConfig, spec: Spec, x0: Float[Array, "B H D"]) -> Known:
    """What would have been known of a trajectory that was carried out."""
    goal = x0[:, -1, jnp.array(config.goal_dims)] if config.goal_dims else None
    return known_of(config, spec, x0[:, 0, : spec.observation_dim], goal)


def held(x: Float[Array, "B H D"], known: Known) -> Float[Array, "B H D"]:
    """x with its known entries at their clean values."""
    return jnp.where(known.is_known, known.values, x)


def reach_of(
    config: TrajectoryConfig, spec: Spec, x0: Array, is_real: Array, reach: Float[Array, ""]
) -> Float[Array, ""]:
    """The longest step between two states, of these trajectories and of those before (``reach``)."""
    steps = jnp.linalg.norm(jnp.diff(path_of(config, spec, x0), axis=1), axis=-1)
    return jnp.maximum(reach, jnp.max(steps * is_real[:, 1:]))


def starting_point(
    config: TrajectoryConfig,
    drawing: DrawingConfig,
    schedule: schedules.Schedule,
    previous: Plan | None,
    noise: Float[Array, "N H D"],
) -> tuple[Float[Array, "N H D"], Float[Array, "M"]]:
    """Noise at time 1; or the previous plan, as it looks now, with noise of ``warm_time``."""
    noise = drawing.temperature * noise
    if previous is None or not drawing.warm_time:
        times = schedules.uniform_times(drawing.num_inference_steps)
        return schedule.sigma(jnp.float32(1.0)) * noise, times
    x0 = jnp.concatenate([previous.observations, previous.actions], axis=-1)
    x0 = jnp.repeat(
        planning.shifted(x0, drawing.execute, config.stride), drawing.candidates, axis=0
    )
    num = max(1, round(drawing.num_inference_steps * drawing.warm_time))
    times = schedules.uniform_times(num, drawing.warm_time)
    return samplers.start(schedule, x0, noise, times[0]), times


def draw(
    config: TrajectoryConfig,
    drawing: DrawingConfig,
    schedule: schedules.Schedule,
    denoise: Denoise,
    known: Known,
    previous: Plan | None,
    key: Key,
    project: samplers.Project | None = None,
) -> Float[Array, "N H D"]:
    """Trajectories that hold what is known, from noise or from the previous plan; ``project`` acts after every step."""
    noise_key, sample_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, known.values.shape)
    x, times = starting_point(config, drawing, schedule, previous, noise)
    hold = projections.hold(known.values, known.is_known)
    return samplers.sample(
        denoise,
        schedule,
        held(x, known),
        times,
        sample_key,
        drawing.sampler,
        temperature=drawing.temperature,
        project=hold if project is None else projections.chain(hold, project),
    )


def arrival_score(
    config: TrajectoryConfig, spec: Spec, drawing: DrawingConfig, x: Array, goal: Array | None
) -> Float[Array, "N"]:
    """Minus the number of states before a plan arrives; 0 where there is no goal."""
    if goal is None:
        return jnp.zeros(x.shape[0])
    return -planning.arrival(path_of(config, spec, x), goal, drawing.goal_tolerance)


def chosen(
    config: TrajectoryConfig,
    spec: Spec,
    x: Float[Array, "N H D"],
    score: Float[Array, "N"],
    reach: Float[Array, ""],
    drawing: DrawingConfig,
) -> Plan:
    """Of each context the possible candidate of the highest score; where there is none, that of the shortest step."""
    longest = planning.longest_step(path_of(config, spec, x))
    is_possible = longest <= drawing.slack * reach
    longest, x, score, is_possible = (
        value.reshape(-1, drawing.candidates, *value.shape[1:])
        for value in (longest, x, score, is_possible)
    )
    among_possible = jnp.where(is_possible, score, -jnp.inf)
    any_is_possible = jnp.any(is_possible, axis=1, keepdims=True)
    best = jnp.argmax(jnp.where(any_is_possible, among_possible, -longest), axis=1)
    pick = lambda values: jax.vmap(lambda row, i: row[i])(values, best)
    x, observed = pick(x), spec.observation_dim
    return Plan(x[..., :observed], x[..., observed:], pick(score), pick(is_possible))

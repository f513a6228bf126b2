"""Diffuser: planning by denoising whole trajectories (Janner et al. 2022, arXiv 2205.09991).

    loss = E_{t, noise} w |net(xt, t) - target|^2,   xt holds the start (and the goal) at their clean values      (1)
    value  V(xt, t) ~ sum_n discount^n r_n of the trajectory                                                      (2)

A plan is a sample that starts at the present state and, where the task names a goal, ends there
(``parts/trajectories.py``).  What makes it good is either of

    guidance   after each denoising step, x <- x + scale Sigma grad V(x)          (``guide_scale`` > 0, needs V)
    selection  the best of ``candidates`` by V, or by the time of arrival         (after Diffusion Veteran, 2025)

    Maze2D of the release   TrajectoryConfig(128, goal_dims=(0, 1), ..), one candidate, "pd" along the whole plan
    on a small machine      stride 4, 8, 12, so that 32 states span the horizon; DDIM in few steps; candidates

Data must lie in [-1, 1], to which estimates are clipped (``clip``): ``normalized(diffuser(..), limits_of(episodes,
goal_dims))``; the goal is then in those units, too.

``act`` plans from noise each time; warm starts are :func:`planner`'s.

Differs from the paper: no guidance acts on the noise that a plan begins with; the goal is held by its own dimensions,
and rest where ``rests_at_goal``, where the release holds a whole last state at rest; the network may be given every
n-th state; V is of the window, not of the rest of the episode, and knows no penalty of a termination; the schedule is
this library's cosine; the average of weights moves at every update.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from daag_jax.algorithms.parts import planning
from daag_jax.algorithms.parts.planning import Plan, Planner
from daag_jax.algorithms.parts.trainable import (
    Trainable,
    apply_gradients,
    averaged,
    check_training,
    create,
    make_optimizer,
)
from daag_jax.algorithms.parts.trajectories import (
    DrawingConfig,
    Known,
    TrajectoryConfig,
    arrival_score,
    check_dims,
    check_drawing,
    check_execute,
    check_goal_units,
    check_length,
    chosen,
    dim_of,
    draw,
    held,
    known_in,
    known_now,
    reach_of,
    trajectories,
)
from daag_jax.data.normalize import Stats
from daag_jax.diffusion import guidance, losses, projections, samplers, schedules
from daag_jax.diffusion.process import PARAMETERISATIONS, Denoise, GaussianProcess
from daag_jax.names import check_name
from daag_jax.networks.unet1d import TemporalValue, UNet1D
from daag_jax.rows import in_chunks
from daag_jax.types import Actions, Algorithm, Batch, Context, Key, Metrics, Spec, Window

SELECTIONS = ("value", "arrival")
Guide = Callable[[Denoise], Denoise]


@dataclass(frozen=True)
class DiffuserConfig:
    """The networks, and what makes a plan good.  Defaults: Maze2D of the release, unless said."""

    trajectory: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    drawing: DrawingConfig = field(default_factory=DrawingConfig)
    widths: tuple[int, ...] = (32, 128, 256)
    kernel: int = 5
    time_dim: int = 32
    schedule: str = "cosine"
    num_steps: int = 64  # 64 for umaze, 256 for medium and large; locomotion 20
    parameterisation: str = "x0"
    clip: float = 1.0  # estimates stay within it; 0: no clip, as in the release on locomotion
    first_action_weight: float = 1.0  # of the loss; 10 on locomotion
    learning_rate: float = 2e-4
    decay_steps: int = 0  # updates in which the rate falls to 0; 0: never
    ema_decay: float = 0.995
    value_widths: tuple[int, ...] = ()  # of V; (): none
    value_kernel: int = 5
    discount: float = 0.997  # of V, per step of the world
    value_scale: float = 1.0  # V learns returns divided by it
    select: str = "value"  # among candidates
    guide_scale: float = 0.0  # 0.1 on locomotion
    guide_steps: int = 2
    guide_stop: float = 0.0  # no guidance below this time

    def __post_init__(self):
        check_name("schedule", self.schedule, schedules.BY_NAME)
        check_name("parameterisation", self.parameterisation, PARAMETERISATIONS)
        check_name("select", self.select, SELECTIONS)
        for name, value in (("num_steps", 64), ("value_scale", 1.0), ("guide_steps", 2)):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} is not positive; try {value}.")
        for name in ("clip", "first_action_weight", "guide_scale"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is negative; 0 switches it off.")
        if not 0.0 <= self.guide_stop <= 1.0:
            raise ValueError(f"guide_stop={self.guide_stop} is no time in [0, 1]; try 0.1.")
        check_training(self)
        if not 0.0 <= self.discount <= 1.0:
            raise ValueError(f"discount={self.discount} is outside [0, 1]; try 0.997.")
        check_length(self.trajectory, max(len(self.widths), len(self.value_widths)))
        check_drawing(self.drawing, self.num_steps)
        if self.value_widths and self.trajectory.rests_at_goal:
            raise ValueError(
                "value_widths and rests_at_goal=True: V would learn rewards of a way that was cut short."
            )
        if (
            self.drawing.candidates > 1
            and self.select == "arrival"
            and not self.trajectory.goal_dims
        ):
            raise ValueError("select='arrival' needs a goal: name goal_dims, or select='value'.")
        if self.drawing.candidates > 1 and self.select == "value" and not self.value_widths:
            raise ValueError("select='value' needs V: give value_widths, or candidates=1.")
        if self.guide_scale and not self.value_widths:
            raise ValueError(f"guide_scale={self.guide_scale} needs V: give value_widths, or 0.")


class DiffuserState(NamedTuple):
    """Networks, and the length of the longest step between two states that was learnt from."""

    net: Trainable
    value: Trainable | None
    reach: Float[Array, ""]
    step: Int[Array, ""]


def diffuser(config: DiffuserConfig, spec: Spec, *guides: Guide) -> Algorithm:
    """Learns trajectories; ``act`` plans and gives the planned actions.  :func:`planner` has the other followers.

    Raises:
        ValueError: the configuration's dimensions are not those of ``spec``.
    """
    form, drawing = config.trajectory, config.drawing
    check_dims(form, spec)
    optimizer = make_optimizer(config.learning_rate, decay_steps=config.decay_steps)
    net, value_net = networks(config)
    process = process_of(config)
    make_plan = planning_function(config, spec, *guides)
    weights = loss_weights(config, spec)
    step_of = lambda trainable, gradients: apply_gradients(
        trainable, gradients, optimizer, config.ema_decay
    )

    def init(key: Key) -> DiffuserState:
        net_key, value_key = jax.random.split(key)
        example = jnp.zeros((1, form.length, dim_of(form, spec))), jnp.ones((1,))
        made = lambda net, key: create(net.init(key, *example), optimizer, config.ema_decay > 0)
        value = made(value_net, value_key) if config.value_widths else None
        return DiffuserState(made(net, net_key), value, jnp.zeros(()), jnp.zeros((), jnp.int32))

    def update(state: DiffuserState, batch: Batch, key: Key) -> tuple[DiffuserState, Metrics]:
        time_key, noise_key, stop_key, value_key = jax.random.split(key, 4)
        x0, is_real = trajectories(form, batch, stop_key)
        known = known_in(form, spec, x0)
        time = losses.draw_times(time_key, x0.shape[0], process.schedule)
        mask = jnp.where(known.is_known, 0.0, weights[None]) * is_real[:, :, None]

        def loss_fn(params):
            network = lambda xt, time: net.apply(params, held(xt, known), time)
            cost = losses.diffusion_loss(
                process, network, x0, time, noise_key, weighting="target", mask=mask
            )
            return jnp.mean(cost)

        loss, gradients = jax.value_and_grad(loss_fn)(state.net.params)
        metrics, value = {"loss/planner": loss}, state.value
        if value is not None:
            value, metrics["loss/value"] = learn_value(
                value, x0, known, returns(config, batch), value_key
            )
        reach = reach_of(form, spec, x0, is_real, state.reach)
        made = DiffuserState(step_of(state.net, gradients), value, reach, state.step + 1)
        return made, metrics

    def learn_value(
        value: Trainable, x0: Array, known: Known, target: Array, key: Key
    ) -> tuple[Trainable, Array]:
        time_key, noise_key = jax.random.split(key)
        time = losses.draw_times(time_key, x0.shape[0], process.schedule)
        xt = held(process.corrupt(x0, jax.random.normal(noise_key, x0.shape), time), known)

        def loss_fn(params):
            return jnp.mean(jnp.square(value_net.apply(params, xt, time) - target))

        loss, gradients = jax.value_and_grad(loss_fn)(value.params)
        return step_of(value, gradients), loss

    def act(state: DiffuserState, context: Context, key: Key) -> Actions:
        check_execute(form, drawing, form.length * form.stride)
        plan = make_plan(state, context, None, key)
        return jnp.repeat(plan.actions, form.stride, axis=1)[:, : drawing.execute]

    window = Window(1, form.horizon, drawing.execute)
    return Algorithm(window, init, update, act if form.has_actions else None)


def planner(
    config: DiffuserConfig,
    spec: Spec,
    follower: str = "pd",
    stats: Stats | None = None,
    *guides: Guide,
    position_dims: tuple[int, ...] = (),
    lookahead: float = 0.3,
) -> Planner:
    """Plans every ``drawing.execute`` steps, and follows in between; ``follower="actions"`` does as ``act``.

    Args:
        stats: of the ``normalized`` learner whose state is used.
        position_dims: of an observation, which an action accelerates; () takes the goal's.
        lookahead: of "pursuit", in the world's units.

    Raises:
        ValueError: the follower is unknown, or needs dimensions that are not named.
    """
    check_name("follower", follower, planning.FOLLOWERS)
    form = config.trajectory
    check_dims(form, spec)
    check_goal_units(form, stats)
    position, velocity = position_dims or form.goal_dims, form.velocity_dims
    if follower == "actions":
        if not form.has_actions:
            raise ValueError("follower 'actions' needs planned actions: has_actions=True.")
        follow = planning.follow_actions(form.stride)
    elif not len(position) == len(velocity) == spec.action_dim:
        raise ValueError(
            f"follower {follower!r} needs a position and a velocity for each of {spec.action_dim} actions, and has "
            f"position_dims={position}, velocity_dims={velocity}; name them, or use 'actions'."
        )
    elif follower == "pd":
        follow = planning.follow_pd(form.stride, position, velocity)
    else:
        follow = planning.follow_pursuit(form.stride, position, velocity, lookahead)
    make_plan = planning_function(config, spec, *guides)
    made = Planner(make_plan, follow, config.drawing.execute, form.stride)
    return made if stats is None else planning.normalized_planner(made, stats)


def planning_function(config: DiffuserConfig, spec: Spec, *guides: Guide) -> Callable:
    """``(state, context, previous plan or None, key) -> Plan`` in the learner's units."""
    form, drawing = config.trajectory, config.drawing
    net, value_net = networks(config)
    process = process_of(config)
    first_time = 1.0 / config.num_steps  # the least that V has seen

    def make_plan(state: DiffuserState, context: Context, previous: Plan | None, key: Key) -> Plan:
        known, goal = known_now(form, spec, context, drawing.candidates)
        network = in_chunks(lambda xt, time: net.apply(averaged(state.net), xt, time))
        denoise = process.denoiser(lambda xt, time: network(held(xt, known), time))
        is_known = known.is_known.astype(jnp.float32)
        if config.clip:
            denoise = guidance.clip(denoise, -config.clip, config.clip)
        denoise = guidance.inpaint(denoise, known.values, is_known)
        for guide in guides:
            denoise = guide(denoise)
        climb = climbing(state, known) if config.guide_scale else None
        x = draw(form, drawing, process.schedule, denoise, known, previous, key, climb)
        return chosen(form, spec, x, score(state, x, goal), state.reach, drawing)

    def climbing(state: DiffuserState, known: Known) -> samplers.Project:
        return projections.climb(
            process.schedule,
            lambda x, time: value_net.apply(averaged(state.value), x, time),
            config.guide_scale,
            config.guide_steps,
            config.guide_stop,
            interval=1.0 / drawing.num_inference_steps,
            condition=lambda x: held(x, known),
        )

    def score(state: DiffuserState, x: Array, goal: Array | None) -> Float[Array, "N"]:
        if config.select == "value" and config.value_widths:
            return value_net.apply(averaged(state.value), x, jnp.full(x.shape[0], first_time))
        return arrival_score(form, spec, drawing, x, goal)

    return make_plan


def networks(config: DiffuserConfig) -> tuple[UNet1D, TemporalValue]:
    """The denoising network, and V."""
    net = UNet1D(config.widths, config.time_dim, config.kernel, has_scale=False)
    return net, TemporalValue(config.value_widths, config.time_dim, config.value_kernel)


def process_of(config: DiffuserConfig) -> GaussianProcess:
    """The corruption of trajectories."""
    schedule = schedules.BY_NAME[config.schedule](config.num_steps)
    return GaussianProcess(schedule, config.parameterisation)


def loss_weights(config: DiffuserConfig, spec: Spec) -> Float[Array, "H D"]:
    """1, and ``first_action_weight`` on the first action."""
    form = config.trajectory
    weights = jnp.ones((form.length, dim_of(form, spec)))
    return weights.at[0, spec.observation_dim :].set(config.first_action_weight)


def returns(config: DiffuserConfig, batch: Batch) -> Float[Array, "B"]:
    """Discounted rewards of the window (Eq. 2), divided by ``value_scale``."""
    discounts = config.discount ** jnp.arange(batch.rewards.shape[1], dtype=jnp.float32)
    return jnp.sum(discounts[None] * batch.rewards * batch.mask, axis=1) / config.value_scale

"""Decision Diffuser: planning as conditional generation (Ajay et al. 2022, arXiv 2211.15657).

    net(xt, t, y)      a trajectory of *states*, given conditions y: a return, a skill, a constraint
    loss = E |net(xt, t, y or nothing) - target|^2,   each condition left out with probability ``dropout``      (Eq. 7)
    plan: x0 = x0(nothing) + sum_i weight_i (x0(y_i) - x0(nothing)), low temperature                             (Eq. 9)
    act:  a = inverse(s, s'),   learnt beside it on the same windows                                             (Eq. 5)

Conditions that were never seen together hold together in one plan when each is an :class:`Ask` of its own; a negative
weight asks for the opposite.  All asks and the unconditional estimate are one call of the network.

    locomotion of the release   TrajectoryConfig(100, has_actions=False), conditions {"returns": 1}, weight 1.2

Data must lie in [-1, 1], to which estimates are clipped.  Returns are from the window's first step to the end of the
episode, with the discount of ``episode_data`` (the release: 0.99), divided by ``returns_scale``; those that a context
names are in the world's units, too.

``act`` plans from noise each time; warm starts are :func:`planner`'s.

Differs from the paper: observations are normalised by the caller, not by their distribution function; there is no
history beside the present state, and no penalty of a termination; conditions are left out one by one, each with
``dropout``; a condition is "returns", "task", or what a caller's own batches hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from daag_jax.algorithms.parts import planning
from daag_jax.algorithms.parts.combinators import restore, standardize
from daag_jax.algorithms.parts.conditions import Conditions, conditions_of, filled, named
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
    draw,
    held,
    known_in,
    known_now,
    reach_of,
    trajectories,
)
from daag_jax.data.blocks import action_bounds
from daag_jax.data.normalize import Stats
from daag_jax.diffusion import guidance, losses, schedules
from daag_jax.diffusion.process import PARAMETERISATIONS, GaussianProcess
from daag_jax.names import check_name
from daag_jax.networks.mlp import Mlp
from daag_jax.networks.unet1d import ConditionalUNet1D
from daag_jax.rows import in_chunks
from daag_jax.types import Actions, Algorithm, Batch, Context, Key, Metrics, Spec, Window


class Ask(NamedTuple):
    """Conditions that hold together, and how strongly; a negative weight asks for the opposite.

    ``conditions`` gives what the network was given: "returns" are of ``returns_scale``.
    """

    conditions: Callable[[Context], Conditions]
    weight: float = 1.2


@dataclass(frozen=True)
class DecisionDiffuserConfig:
    """The networks, the conditions, and how plans are drawn.  Defaults: the release, unless said."""

    trajectory: TrajectoryConfig = field(
        default_factory=lambda: TrajectoryConfig(horizon=100, has_actions=False)
    )
    drawing: DrawingConfig = field(
        default_factory=lambda: DrawingConfig(num_inference_steps=200, temperature=0.5)
    )
    conditions: tuple[str, ...] = ("returns",)  # extras [B, C]; "returns" are [B, T]
    condition_dims: tuple[int, ...] = (1,)  # C of each
    returns_scale: float = 400.0  # returns are divided by it; Hopper
    target_return: float = 0.9  # asked for where a context names none; of ``returns_scale``
    weight: float = 1.2  # of what a context names
    dropout: float = 0.25
    widths: tuple[int, ...] = (128, 512, 1024)
    kernel: int = 5
    embedding_dim: int = 128
    schedule: str = "cosine"
    num_steps: int = 200  # the paper: 100
    parameterisation: str = "noise"
    inverse_dims: tuple[int, ...] = (256, 256)
    learning_rate: float = 2e-4
    decay_steps: int = 0  # updates in which the rate falls to 0; 0: never
    ema_decay: float = 0.995

    def __post_init__(self):
        check_name("schedule", self.schedule, schedules.BY_NAME)
        check_name("parameterisation", self.parameterisation, PARAMETERISATIONS)
        if self.trajectory.has_actions:
            raise ValueError("has_actions=True: this planner plans states alone; set it to False.")
        if len(self.conditions) != len(self.condition_dims):
            raise ValueError(
                f"conditions={self.conditions} and condition_dims={self.condition_dims} must be as many; "
                "give the length of each condition."
            )
        if self.returns_scale <= 0:
            raise ValueError(f"returns_scale={self.returns_scale} is not positive; try 400.0.")
        check_training(self)
        if not 0.0 < self.dropout < 1.0:
            raise ValueError(
                f"dropout={self.dropout} must lie inside (0, 1): guidance needs both estimates; try 0.25."
            )
        if not self.conditions:
            raise ValueError(
                "conditions=() leave nothing to ask for; try ('returns',), or diffuser."
            )
        check_length(self.trajectory, len(self.widths))
        check_drawing(self.drawing, self.num_steps)
        if self.drawing.candidates > 1 and not self.trajectory.goal_dims:
            raise ValueError("candidates>1 are told apart by their arrival: name goal_dims.")


class DecisionDiffuserState(NamedTuple):
    """Networks, and the length of the longest step between two states that was learnt from."""

    net: Trainable
    inverse: Trainable
    reach: Float[Array, ""]
    step: Int[Array, ""]


def decision_diffuser(config: DecisionDiffuserConfig, spec: Spec) -> Algorithm:
    """Learns conditional trajectories and inverse dynamics; ``act`` plans for what the context names.

    Raises:
        ValueError: the configuration's dimensions are not those of ``spec``.
    """
    form, drawing = config.trajectory, config.drawing
    check_dims(form, spec)
    optimizer = make_optimizer(config.learning_rate, decay_steps=config.decay_steps)
    net, inverse_net, process = (
        network_of(config),
        inverse_of(config, spec),
        process_of(config),
    )
    make_plan = planning_function(config, spec)
    step_of = lambda trainable, gradients: apply_gradients(
        trainable, gradients, optimizer, config.ema_decay
    )

    def init(key: Key) -> DecisionDiffuserState:
        net_key, inverse_key = jax.random.split(key)
        given = {
            n: jnp.zeros((1, c))
            for n, c in zip(config.conditions, config.condition_dims, strict=True)
        }
        x, time = jnp.zeros((1, form.length, spec.observation_dim)), jnp.ones((1,))
        params = net.init(net_key, x, time, given, {n: jnp.ones((1,)) for n in given})
        inverse = inverse_net.init(inverse_key, jnp.zeros((1, 2 * spec.observation_dim)))
        has_ema = config.ema_decay > 0
        return DecisionDiffuserState(
            create(params, optimizer, has_ema),
            create(inverse, optimizer, has_ema),
            jnp.zeros(()),
            jnp.zeros((), jnp.int32),
        )

    def update(
        state: DecisionDiffuserState, batch: Batch, key: Key
    ) -> tuple[DecisionDiffuserState, Metrics]:
        time_key, noise_key, stop_key, drop_key = jax.random.split(key, 4)
        x0, is_real = trajectories(form, batch, stop_key)
        known = known_in(form, spec, x0)
        time = losses.draw_times(time_key, x0.shape[0], process.schedule)
        given = conditions_of(config.conditions, config.condition_dims, batch, config.returns_scale)
        keeps = jax.random.bernoulli(
            drop_key, 1.0 - config.dropout, (len(config.conditions), x0.shape[0])
        ).astype(jnp.float32)
        is_given = dict(zip(config.conditions, keeps, strict=True))
        mask = jnp.where(known.is_known, 0.0, 1.0) * is_real[:, :, None]

        def loss_fn(params):
            network = lambda xt, time: net.apply(params, held(xt, known), time, given, is_given)
            cost = losses.diffusion_loss(
                process, network, x0, time, noise_key, weighting="target", mask=mask
            )
            return jnp.mean(cost)

        def inverse_loss(params):
            return jnp.mean(inverse_errors(form, params, inverse_net, batch))

        loss, gradients = jax.value_and_grad(loss_fn)(state.net.params)
        error, inverse_gradients = jax.value_and_grad(inverse_loss)(state.inverse.params)
        made = DecisionDiffuserState(
            step_of(state.net, gradients),
            step_of(state.inverse, inverse_gradients),
            reach_of(form, spec, x0, is_real, state.reach),
            state.step + 1,
        )
        return made, {"loss/planner": loss, "loss/inverse": error}

    def act(state: DecisionDiffuserState, context: Context, key: Key) -> Actions:
        check_execute(form, drawing, (form.length - 1) * form.stride)
        states = make_plan(state, context, None, key).observations
        pairs = jnp.concatenate([states[:, :-1], states[:, 1:]], axis=-1)
        low, high = (bound[None, None] for bound in action_bounds(spec))
        actions = jnp.clip(inverse_net.apply(averaged(state.inverse), pairs), low, high)
        return jnp.repeat(actions, form.stride, axis=1)[:, : drawing.execute]

    fields = tuple(name for name in config.conditions if name in ("returns", "task"))
    window = Window(1, form.horizon, drawing.execute, fields)
    return Algorithm(window, init, update, act)


def planner(
    config: DecisionDiffuserConfig,
    spec: Spec,
    *asks: Ask,
    stats: Stats | None = None,
) -> Planner:
    """Plans every ``drawing.execute`` steps what is asked (:func:`planning_function`); the inverse model follows.

    Args:
        stats: of the ``normalized`` learner whose state is used.
    """
    check_dims(config.trajectory, spec)
    check_goal_units(config.trajectory, stats)
    inverse_net = inverse_of(config, spec)

    def inverse(state: DecisionDiffuserState, present: Array, wanted: Array) -> Array:
        if stats is not None:
            mean, std = stats.observation_mean, stats.observation_std
            present, wanted = (standardize(values, mean, std) for values in (present, wanted))
        pairs = jnp.concatenate([present, wanted], axis=-1)
        actions = inverse_net.apply(averaged(state.inverse), pairs)
        return actions if stats is None else restore(actions, stats.action_mean, stats.action_std)

    stride = config.trajectory.stride
    make_plan = planning_function(config, spec, *asks)
    follow = planning.follow_inverse(stride, inverse)
    made = Planner(make_plan, follow, config.drawing.execute, stride)
    return made if stats is None else planning.normalized_planner(made, stats)


def planning_function(config: DecisionDiffuserConfig, spec: Spec, *asks: Ask) -> Callable:
    """``(state, context, previous plan or None, key) -> Plan`` in the learner's units.

    Args:
        asks: what to plan for; without any, all that the context names, and ``target_return`` where it names no return.
    """
    form, drawing, net = config.trajectory, config.drawing, network_of(config)
    process, num = process_of(config), drawing.candidates
    asks = asks or (
        Ask(
            lambda context: named(
                config.conditions, context, config.returns_scale, config.target_return
            ),
            config.weight,
        ),
    )

    def make_plan(
        state: DecisionDiffuserState, context: Context, previous: Plan | None, key: Key
    ) -> Plan:
        known, goal = known_now(form, spec, context, num)
        asked = [
            {
                name: jnp.repeat(values, num, axis=0)
                for name, values in ask.conditions(context).items()
            }
            for ask in asks
        ]
        denoise = asked_denoiser(state, asked, known)
        is_known = known.is_known.astype(jnp.float32)
        denoise = guidance.inpaint(guidance.clip(denoise), known.values, is_known)
        x = draw(form, drawing, process.schedule, denoise, known, previous, key)
        score = arrival_score(form, spec, drawing, x, goal)
        return chosen(form, spec, x, score, state.reach, drawing)

    def asked_denoiser(
        state: DecisionDiffuserState, asked: list[Conditions], known: Known
    ) -> Callable:
        """The mixture of Eq. 9, from one call over [nothing, first ask, second ask, ..]."""
        parts = [{}, *asked]

        def denoise(x: Array, time: Array) -> Array:
            stack = lambda values: jnp.concatenate([values] * len(parts))
            given, is_given = filled(config.conditions, config.condition_dims, parts, x.shape[0])
            apply = in_chunks(lambda *rows: net.apply(averaged(state.net), *rows))
            network = lambda xt, time: apply(xt, time, given, is_given)
            estimates = process.denoiser(network)(stack(held(x, known)), stack(time))
            base, *others = jnp.split(estimates, len(parts))
            return base + sum(
                ask.weight * (other - base) for ask, other in zip(asks, others, strict=True)
            )

        return denoise

    return make_plan


def inverse_errors(
    form: TrajectoryConfig, params: dict, net: Mlp, batch: Batch
) -> Float[Array, "B"]:
    """Mean squared errors of the action that leads to the state ``stride`` steps on, where that is real."""
    states, stride = batch.observations, form.stride
    pairs = jnp.concatenate([states[:, :-stride], states[:, stride:]], axis=-1)
    errors = jnp.mean(jnp.square(net.apply(params, pairs) - batch.actions[:, :-stride]), axis=-1)
    is_real = batch.mask[:, stride:]
    return jnp.sum(errors * is_real, axis=1) / jnp.maximum(jnp.sum(is_real, axis=1), 1)


def network_of(config: DecisionDiffuserConfig) -> ConditionalUNet1D:
    """The denoising network, which sees conditions."""
    names, dim = config.conditions, config.embedding_dim
    return ConditionalUNet1D(names, config.widths, dim, config.kernel)


def inverse_of(config: DecisionDiffuserConfig, spec: Spec) -> Mlp:
    """The inverse model's network: [s, s'] -> a."""
    return Mlp(config.inverse_dims, spec.action_dim, layer_norm=False, activation=jax.nn.relu)


def process_of(config: DecisionDiffuserConfig) -> GaussianProcess:
    """The corruption of trajectories."""
    schedule = schedules.BY_NAME[config.schedule](config.num_steps)
    return GaussianProcess(schedule, config.parameterisation)

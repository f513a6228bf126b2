"""Conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779), CQL(H) on top of soft actor-critic.

    gap_e   log sum_j exp(Q_e(s, a_j)) / q(a_j)  -  Q_e(s, a),   a_j: N uniform, N of pi(. | s), N of pi(. | s')
    critic  (r + discount min_e Q'_e(s', a') - Q_e(s, a))^2 + weight gap_e,    a' ~ pi(. | s')       (Eq. 4, appendix F)
    actor   temperature log pi(a | s) - min_e Q_e(s, a),                       a ~ pi(. | s)
    temperature: log pi is driven to -target_entropy = A                                             (SAC)

so that Q is low where the data say nothing.  With ``action_gap`` the weight is a Lagrange multiplier, which grows while
the gap is larger than that and shrinks while it is smaller (Eq. 30); without, it is constant.  It acts by tanh of the
mean.

Differs from the paper: the squared error has no half, and log(3 N) is not subtracted from the gap, both as released;
in the Lagrangian form ``weight`` is where the multiplier starts (the release multiplies the two); no entropy in the
target and LeCun's initial weights; the actor learns from the critics of the same update; the last step before a time
limit is left out, as what follows it is not stored in a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from daag_jax.algorithms.bc import flat_inputs
from daag_jax.algorithms.parts.action_head import action_head
from daag_jax.algorithms.parts.critics import (
    Critics,
    Transition,
    bounded,
    check_learner,
    input_dim,
    make_critics,
    td_loss,
    td_target,
    transition_window,
    transitions,
    weighted_mean,
)
from daag_jax.algorithms.parts.trainable import (
    Trainable,
    apply_gradients,
    create,
    make_optimizer,
    track,
)
from daag_jax.networks.actors import SquashedActor, squashed
from daag_jax.types import Actions, Algorithm, Batch, Context, Key, Metrics, Params, Spec

LARGEST_MULTIPLIER = 1e6  # as released


@dataclass(frozen=True)
class CqlConfig:
    """Defaults are those of CORL's runs on D4RL's locomotion."""

    hidden_dims: tuple[int, ...] = (256, 256, 256)
    actor_dims: tuple[int, ...] = (256, 256, 256)
    num_critics: int = 2
    weight: float = 10.0  # alpha of Eq. 4; 5 in the release; 0: soft actor-critic
    action_gap: float | None = (
        None  # tau of Eq. 30 (the paper: 10 on locomotion, 5 else); None: a constant weight
    )
    num_actions: int = 10  # N
    discount: float = 0.99
    target_decay: float = 0.995
    learning_rate: float = 3e-4  # of the critics and of the multiplier
    actor_learning_rate: float = 3e-5  # and of the temperature
    initial_temperature: float = 1.0
    target_entropy: float | None = None  # of actions in [-1, 1]; None: -A

    def __post_init__(self):
        check_learner(self)
        if self.weight < 0:
            raise ValueError(f"weight={self.weight} is negative; 0 switches the penalty off.")
        if self.weight == 0 and self.action_gap is not None:
            raise ValueError(
                "weight=0 is no start of a multiplier (it is exp of a number); try 1.0."
            )
        if self.num_actions < 1:
            raise ValueError(f"num_actions={self.num_actions} is not positive; try 10.")
        if self.initial_temperature <= 0:
            raise ValueError(
                f"initial_temperature={self.initial_temperature} is not positive; try 1.0."
            )


class CqlState(NamedTuple):
    """Networks, and two numbers that are learnt as their logarithms."""

    actor: Trainable
    critic: Trainable
    critic_target: Params
    log_temperature: Trainable
    log_weight: Trainable | None  # None where the weight is constant


class Proposals(NamedTuple):
    """M actions per observation, and the logarithms of the densities that they are drawn from."""

    actions: Float[Array, "B M A"]
    log_density: Float[Array, "B M"]


class Parts(NamedTuple):
    """What the functions below share."""

    config: CqlConfig
    critics: Critics
    net: SquashedActor
    optimizer: optax.GradientTransformation  # of the critics and of the multiplier
    slow_optimizer: optax.GradientTransformation  # of the actor and of the temperature
    target_entropy: float


def cql(config: CqlConfig, spec: Spec) -> Algorithm:
    """Transitions to a policy of one observation."""
    head, entropy = action_head(spec), config.target_entropy
    parts = Parts(
        config,
        make_critics(config.hidden_dims, config.num_critics, spec),
        SquashedActor(config.actor_dims, spec.action_dim),
        make_optimizer(config.learning_rate),
        make_optimizer(config.actor_learning_rate),
        -float(spec.action_dim) if entropy is None else entropy,
    )

    def init(key: Key) -> CqlState:
        actor_key, critic_key = jax.random.split(key)
        actor = parts.net.init(actor_key, jnp.zeros((1, input_dim(spec))))
        critic = parts.critics.init(critic_key)
        number = lambda value: jnp.asarray(math.log(value), jnp.float32)
        is_learnt = config.action_gap is not None
        return CqlState(
            create(actor, parts.slow_optimizer),
            create(critic, parts.optimizer),
            jax.tree.map(jnp.copy, critic),
            create(number(config.initial_temperature), parts.slow_optimizer),
            create(number(config.weight), parts.optimizer) if is_learnt else None,
        )

    def update(state: CqlState, batch: Batch, key: Key) -> tuple[CqlState, Metrics]:
        critic_key, actor_key = jax.random.split(key)
        step = transitions(batch, head, spec)
        state, learnt = learn_critic(parts, state, step, critic_key)
        state, decided = learn_actor(parts, state, step, actor_key)
        moved = track(state.critic_target, state.critic.params, config.target_decay)
        return state._replace(critic_target=moved), learnt | decided

    def act(state: CqlState, context: Context, key: Key) -> Actions:
        mean, _ = parts.net.apply(state.actor.params, flat_inputs(context, 1, spec))
        return bounded(head, jnp.tanh(mean))

    return Algorithm(transition_window(spec), init, update, act)


def learn_critic(
    parts: Parts, state: CqlState, step: Transition, key: Key
) -> tuple[CqlState, dict[str, Array]]:
    """One step of the critics, and of the multiplier where it is learnt."""
    config, (target_key, proposal_key) = parts.config, jax.random.split(key)
    later = sample(parts, state.actor.params, step.next_observations, 1, target_key).actions[:, 0]
    values = parts.critics.values(state.critic_target, step.next_observations, later)
    target = td_target(step, jnp.min(values, axis=0), config.discount)
    found, weight = (
        proposals(parts, state.actor.params, step, proposal_key),
        jnp.float32(config.weight),
    )
    if config.action_gap is not None:
        weight = jnp.minimum(jnp.exp(state.log_weight.params), LARGEST_MULTIPLIER)

    def loss_fn(params: Params) -> tuple[Array, Metrics]:
        taken = parts.critics.values(params, step.observations, step.actions)
        error, gap = td_loss(taken, target, step.weight), gap_of(parts, params, taken, found, step)
        value = weighted_mean(jnp.mean(taken, axis=0), step.weight)
        loss = error + weight * config.num_critics * gap
        return loss, {"loss/critic": error, "gap": gap, "value": value, "weight": weight}

    gradients, metrics = jax.grad(loss_fn, has_aux=True)(state.critic.params)
    state = state._replace(critic=apply_gradients(state.critic, gradients, parts.optimizer))
    if config.action_gap is not None:
        slope = multiplier_slope(weight, metrics["gap"] - config.action_gap, step)
        log_weight = apply_gradients(state.log_weight, slope, parts.optimizer)
        state = state._replace(log_weight=log_weight)
    return state, metrics


def gap_of(
    parts: Parts, params: Params, taken: Float[Array, "E B"], found: Proposals, step: Transition
) -> Float[Array, ""]:
    """log sum exp of the values of all actions over those of the data: the mean of the critics and of the batch."""
    shape = (*found.actions.shape[:2], step.observations.shape[-1])
    observations = jnp.broadcast_to(step.observations[:, None], shape)
    proposed = parts.critics.values(params, observations, found.actions)
    gaps = jax.nn.logsumexp(proposed - found.log_density[None], axis=-1) - taken
    return weighted_mean(jnp.mean(gaps, axis=0), step.weight)


def learn_actor(
    parts: Parts, state: CqlState, step: Transition, key: Key
) -> tuple[CqlState, dict[str, Array]]:
    """One step of the actor and of the temperature."""
    temperature = jnp.exp(state.log_temperature.params)

    def loss_fn(params: Params) -> tuple[Array, tuple[Array, Array]]:
        found = sample(parts, params, step.observations, 1, key)
        actions, log_density = found.actions[:, 0], found.log_density[:, 0]
        values = parts.critics.values(state.critic.params, step.observations, actions)
        loss = temperature * log_density - jnp.min(values, axis=0)
        loss, mean = (weighted_mean(x, step.weight) for x in (loss, log_density))
        return loss, (loss, mean)

    gradients, (loss, log_density) = jax.grad(loss_fn, has_aux=True)(state.actor.params)
    slope = multiplier_slope(temperature, log_density + parts.target_entropy, step)
    state = state._replace(
        actor=apply_gradients(state.actor, gradients, parts.slow_optimizer),
        log_temperature=apply_gradients(state.log_temperature, slope, parts.slow_optimizer),
    )
    metrics = {"loss/actor": loss, "entropy": -log_density, "temperature": temperature}
    return state, metrics


def sample(
    parts: Parts, params: Params, observations: Float[Array, "B I"], num: int, key: Key
) -> Proposals:
    """``num`` actions of the policy at each observation."""
    mean, log_std = parts.net.apply(params, observations)
    shape = (mean.shape[0], num, mean.shape[1])
    mean, log_std = (jnp.broadcast_to(x[:, None], shape) for x in (mean, log_std))
    return Proposals(*squashed(mean, log_std, jax.random.normal(key, shape)))


def proposals(parts: Parts, actor: Params, step: Transition, key: Key) -> Proposals:
    """Uniform actions, and those of the policy here and at the next observation (appendix F)."""
    uniform_key, now_key, later_key = jax.random.split(key, 3)
    (rows, action_dim), num = step.actions.shape, parts.config.num_actions
    shape = (rows, num, action_dim)
    uniform = jax.random.uniform(uniform_key, shape, minval=-1.0, maxval=1.0)
    found = (
        Proposals(uniform, jnp.full(shape[:2], -action_dim * math.log(2.0))),
        sample(parts, actor, step.observations, num, now_key),
        sample(parts, actor, step.next_observations, num, later_key),
    )
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *found)


def multiplier_slope(
    multiplier: Float[Array, ""], excess: Float[Array, ""], step: Transition
) -> Float[Array, ""]:
    """The gradient of -multiplier excess in log multiplier: it grows while there is excess; 0 where nothing weighs."""
    return jnp.where(jnp.sum(step.weight) > 0, -multiplier * excess, 0.0)

"""Advantage-weighted actor-critic (Nair et al. 2020, arXiv 2006.09359).

    critic  (r + discount min_e Q'_e(s', a') - Q_e(s, a))^2,   a' ~ pi(. | s')
    actor   -exp(A(s, a) / temperature) log pi(a | s),         A(s, a) = Q(s, a) - Q(s, a''),  a'' ~ pi(. | s)

Q is the least of the critics.  It acts by the mean of pi = N(tanh m(s), std^2).

Differs from the paper: the mean is within the bounds, and samples are cut to them; weights are at most
``largest_weight``, as in CORL; LeCun's initial weights; decoupled weight decay; the last step before a time limit is
left out, as what follows it is not stored in a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.algorithms.bc import flat_inputs
from daag_jax.algorithms.parts.action_head import action_head
from daag_jax.algorithms.parts.critics import (
    Transition,
    advantage_weights,
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
from daag_jax.networks.actors import GaussianActor, log_density
from daag_jax.types import Actions, Algorithm, Batch, Context, Key, Metrics, Params, Spec


@dataclass(frozen=True)
class AwacConfig:
    """Networks and optimisers of the release (rlkit, awac/mujoco); temperature and cut of CORL's runs on D4RL."""

    hidden_dims: tuple[int, ...] = (256, 256)  # of the critics
    actor_dims: tuple[int, ...] = (256, 256, 256, 256)
    num_critics: int = 2
    temperature: float = 1 / 3  # lambda; the release: 1, and 2 on locomotion
    largest_weight: float = 100.0
    log_std_range: tuple[float, float] = (-6.0, 0.0)
    discount: float = 0.99
    target_decay: float = 0.995
    learning_rate: float = 3e-4
    actor_weight_decay: float = 1e-4

    def __post_init__(self):
        check_learner(self)
        for field in ("temperature", "largest_weight"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field}={getattr(self, field)} is not positive; try 1.0.")


class AwacState(NamedTuple):
    """Two networks, and the target of the critics."""

    actor: Trainable
    critic: Trainable
    critic_target: Params


def awac(config: AwacConfig, spec: Spec) -> Algorithm:
    """Transitions to a policy of one observation."""
    head = action_head(spec)
    critics = make_critics(config.hidden_dims, config.num_critics, spec)
    net = GaussianActor(config.actor_dims, spec.action_dim, config.log_std_range)
    optimizer = make_optimizer(config.learning_rate)
    actor_optimizer = make_optimizer(config.learning_rate, weight_decay=config.actor_weight_decay)

    def init(key: Key) -> AwacState:
        actor_key, critic_key = jax.random.split(key)
        actor = net.init(actor_key, jnp.zeros((1, input_dim(spec))))
        critic = critics.init(critic_key)
        trained = create(actor, actor_optimizer), create(critic, optimizer)
        return AwacState(*trained, jax.tree.map(jnp.copy, critic))

    def policy(params: Params, observations: Array) -> tuple[Array, Array]:
        mean, log_std = net.apply(params, observations)
        return mean, jnp.broadcast_to(log_std[None], mean.shape)

    def sample(params: Params, observations: Array, key: Key) -> Float[Array, "B A"]:
        mean, log_std = policy(params, observations)
        noise = jax.random.normal(key, mean.shape)
        return jnp.clip(mean + jnp.exp(log_std) * noise, -1.0, 1.0)

    def least(params: Params, observations: Array, actions: Array) -> Float[Array, "B"]:
        return jnp.min(critics.values(params, observations, actions), axis=0)

    def critic_loss(params: Params, state: AwacState, step: Transition, key: Key) -> Array:
        later = sample(state.actor.params, step.next_observations, key)
        later = least(state.critic_target, step.next_observations, later)
        target = td_target(step, later, config.discount)
        values = critics.values(params, step.observations, step.actions)
        return td_loss(values, target, step.weight)

    def actor_loss(params: Params, state: AwacState, step: Transition, key: Key):
        sampled = sample(state.actor.params, step.observations, key)
        expected = least(state.critic.params, step.observations, sampled)
        advantages = least(state.critic.params, step.observations, step.actions) - expected
        weights = advantage_weights(advantages, 1 / config.temperature, config.largest_weight)
        likelihood = log_density(step.actions, *policy(params, step.observations))
        loss = weighted_mean(-weights * likelihood, step.weight)
        mean = weighted_mean(advantages, step.weight)
        return loss, {"loss/actor": loss, "advantage": mean}

    def update(state: AwacState, batch: Batch, key: Key) -> tuple[AwacState, Metrics]:
        critic_key, actor_key = jax.random.split(key)
        step = transitions(batch, head, spec)
        loss, found = jax.value_and_grad(critic_loss)(state.critic.params, state, step, critic_key)
        critic = apply_gradients(state.critic, found, optimizer)
        state = state._replace(critic=critic)
        found, metrics = jax.grad(actor_loss, has_aux=True)(
            state.actor.params, state, step, actor_key
        )
        actor = apply_gradients(state.actor, found, actor_optimizer)
        moved = track(state.critic_target, critic.params, config.target_decay)
        return AwacState(actor, critic, moved), metrics | {"loss/critic": loss}

    def act(state: AwacState, context: Context, key: Key) -> Actions:
        return bounded(head, policy(state.actor.params, flat_inputs(context, 1, spec))[0])

    return Algorithm(transition_window(spec), init, update, act)

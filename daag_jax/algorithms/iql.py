"""Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169): no action outside of the data is ever evaluated.

    value   L2_tau(min_e Q'_e(s, a) - V(s)),  L2_tau(u) = |tau - 1[u < 0]| u^2                              (Eq. 5)
    critic  (r + discount V(s') - Q_e(s, a))^2                                                              (Eq. 6)
    actor   -min(exp(beta (min_e Q'_e(s, a) - V(s))), 100) log pi(a | s)                                    (Eq. 7)

It acts by the mean of pi = N(tanh m(s), std^2).  On locomotion the paper scales rewards by 1000 over the range of the
data's returns, on AntMaze it subtracts 1: that is a matter of the data.

Differs from the paper: LeCun's initial weights instead of orthogonal ones; a sigmoid keeps log std within its range;
the last step before a time limit is left out, as what follows it is not stored in a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from daag_jax.algorithms.bc import flat_inputs
from daag_jax.algorithms.parts.action_head import action_head
from daag_jax.algorithms.parts.critics import (
    Transition,
    advantage_weights,
    bounded,
    check_learner,
    expectile_loss,
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
from daag_jax.networks.critics import Critic
from daag_jax.types import Actions, Algorithm, Batch, Context, Key, Metrics, Params, Spec


@dataclass(frozen=True)
class IqlConfig:
    """Defaults are the paper's on locomotion (appendix B); AntMaze: expectile 0.9, beta 10."""

    hidden_dims: tuple[int, ...] = (256, 256)  # of all networks
    num_critics: int = 2
    expectile: float = 0.7  # tau
    beta: float = 3.0  # inverse temperature of the advantages
    largest_weight: float = 100.0
    log_std_range: tuple[float, float] = (-5.0, 2.0)  # as released
    discount: float = 0.99
    target_decay: float = 0.995
    learning_rate: float = 3e-4
    actor_decay_steps: int = 1_000_000  # in which the actor's rate falls to 0 as a cosine; 0: never

    def __post_init__(self):
        check_learner(self)
        if not 0.0 < self.expectile < 1.0:
            raise ValueError(f"expectile={self.expectile} is outside 0 to 1; try 0.7.")
        if self.beta < 0:
            raise ValueError(f"beta={self.beta} is negative; 0 clones the data, try 3.0.")
        if self.largest_weight <= 0:
            raise ValueError(f"largest_weight={self.largest_weight} is not positive; try 100.0.")
        if self.actor_decay_steps < 0:
            raise ValueError(
                f"actor_decay_steps={self.actor_decay_steps} is negative; 0 switches it off."
            )


class IqlState(NamedTuple):
    """Three networks, and the target of the critics."""

    actor: Trainable
    critic: Trainable
    value: Trainable
    critic_target: Params


def iql(config: IqlConfig, spec: Spec) -> Algorithm:
    """Transitions to a policy of one observation."""
    head, blank = action_head(spec), jnp.zeros((1, input_dim(spec)))
    critics = make_critics(config.hidden_dims, config.num_critics, spec)
    value_net = Critic(config.hidden_dims)
    actor_net = GaussianActor(config.hidden_dims, spec.action_dim, config.log_std_range)
    rate, decay = config.learning_rate, config.actor_decay_steps
    optimizer = make_optimizer(rate)
    actor_optimizer = make_optimizer(optax.cosine_decay_schedule(rate, decay) if decay else rate)

    def init(key: Key) -> IqlState:
        actor_key, critic_key, value_key = jax.random.split(key, 3)
        critic = critics.init(critic_key)
        return IqlState(
            create(actor_net.init(actor_key, blank), actor_optimizer),
            create(critic, optimizer),
            create(value_net.init(value_key, blank), optimizer),
            jax.tree.map(jnp.copy, critic),
        )

    def value_loss(params: Params, taken: Float[Array, "B"], step: Transition) -> Array:
        difference = taken - value_net.apply(params, step.observations)
        return weighted_mean(expectile_loss(difference, config.expectile), step.weight)

    def actor_loss(params: Params, advantages: Float[Array, "B"], step: Transition) -> Array:
        weights = advantage_weights(advantages, config.beta, config.largest_weight)
        mean, log_std = actor_net.apply(params, step.observations)
        likelihood = log_density(step.actions, mean, jnp.broadcast_to(log_std[None], mean.shape))
        return weighted_mean(-weights * likelihood, step.weight)

    def critic_loss(params: Params, target: Float[Array, "B"], step: Transition) -> Array:
        values = critics.values(params, step.observations, step.actions)
        return td_loss(values, target, step.weight)

    def update(state: IqlState, batch: Batch, key: Key) -> tuple[IqlState, Metrics]:
        step = transitions(batch, head, spec)
        taken = critics.values(state.critic_target, step.observations, step.actions)
        taken, metrics = jnp.min(taken, axis=0), {}

        loss, found = jax.value_and_grad(value_loss)(state.value.params, taken, step)
        value, metrics["loss/value"] = apply_gradients(state.value, found, optimizer), loss

        advantages = taken - value_net.apply(value.params, step.observations)
        loss, found = jax.value_and_grad(actor_loss)(state.actor.params, advantages, step)
        actor, metrics["loss/actor"] = apply_gradients(state.actor, found, actor_optimizer), loss

        later = value_net.apply(value.params, step.next_observations)
        target = td_target(step, later, config.discount)
        loss, found = jax.value_and_grad(critic_loss)(state.critic.params, target, step)
        critic, metrics["loss/critic"] = apply_gradients(state.critic, found, optimizer), loss

        metrics["advantage"] = weighted_mean(advantages, step.weight)
        moved = track(state.critic_target, critic.params, config.target_decay)
        return IqlState(actor, critic, value, moved), metrics

    def act(state: IqlState, context: Context, key: Key) -> Actions:
        mean, _ = actor_net.apply(state.actor.params, flat_inputs(context, 1, spec))
        return bounded(head, mean)

    return Algorithm(transition_window(spec), init, update, act)

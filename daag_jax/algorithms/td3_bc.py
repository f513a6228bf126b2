"""TD3+BC: a minimalist approach to offline reinforcement learning (Fujimoto and Gu 2021, arXiv 2106.06860).

    y = r + discount min_e Q'_e(s', clip(pi'(s') + n)),   n ~ clip(N(0, noise^2), -noise_clip, noise_clip)
    actor   -lambda Q_1(s, pi(s)) + (pi(s) - a)^2,        lambda = alpha / mean |Q_1(s, pi(s))|      (section 4)

The actor and both targets move at every second update (TD3, Fujimoto et al. 2018).  The paper standardises
observations (its section 4), which here is ``normalized(td3_bc(config, spec), stats)`` with statistics of
observations alone.

Differs from the paper: LeCun's initial weights; the last step before a time limit is left out, as what follows it is
not stored in a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from daag_jax.algorithms.bc import flat_inputs
from daag_jax.algorithms.parts.action_head import action_head
from daag_jax.algorithms.parts.critics import (
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
from daag_jax.networks.mlp import Mlp
from daag_jax.types import Actions, Algorithm, Batch, Context, Key, Metrics, Params, Spec


@dataclass(frozen=True)
class Td3BcConfig:
    """Defaults are the paper's (the table of hyperparameters in its appendix)."""

    hidden_dims: tuple[int, ...] = (256, 256)  # of the actor and of the critics
    num_critics: int = 2
    alpha: float = 2.5  # weight of the value against cloning
    discount: float = 0.99
    target_decay: float = 0.995  # 1 - tau
    learning_rate: float = 3e-4
    noise: float = 0.2  # of the target's actions, in half-ranges
    noise_clip: float = 0.5
    actor_every: int = 2  # updates of the critics to one of the actor and of the targets

    def __post_init__(self):
        check_learner(self)
        for field in ("alpha", "noise", "noise_clip"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field}={getattr(self, field)} is negative; 0 switches it off.")
        if self.actor_every < 1:
            raise ValueError(f"actor_every={self.actor_every} is not positive; try 2.")


class Td3BcState(NamedTuple):
    """Networks and their targets; ``step`` counts updates."""

    actor: Trainable
    critic: Trainable
    actor_target: Params
    critic_target: Params
    step: Int[Array, ""]


def td3_bc(config: Td3BcConfig, spec: Spec) -> Algorithm:
    """Transitions to a deterministic policy of one observation."""
    head = action_head(spec)
    critics = make_critics(config.hidden_dims, config.num_critics, spec)
    net = Mlp(config.hidden_dims, spec.action_dim, layer_norm=False, activation=jax.nn.relu)
    optimizer = make_optimizer(config.learning_rate)
    decide = lambda params, observations: jnp.tanh(net.apply(params, observations))

    def init(key: Key) -> Td3BcState:
        actor_key, critic_key = jax.random.split(key)
        actor = net.init(actor_key, jnp.zeros((1, input_dim(spec))))
        critic = critics.init(critic_key)
        targets = jax.tree.map(jnp.copy, (actor, critic))
        trained = create(actor, optimizer), create(critic, optimizer)
        return Td3BcState(*trained, *targets, jnp.zeros((), jnp.int32))

    def critic_loss(params: Params, state: Td3BcState, step: Transition, key: Key):
        noise = config.noise * jax.random.normal(key, step.actions.shape)
        noise = jnp.clip(noise, -config.noise_clip, config.noise_clip)
        later = jnp.clip(decide(state.actor_target, step.next_observations) + noise, -1.0, 1.0)
        values = critics.values(state.critic_target, step.next_observations, later)
        target = td_target(step, jnp.min(values, axis=0), config.discount)
        values = critics.values(params, step.observations, step.actions)
        loss = td_loss(values, target, step.weight)
        return loss, {"loss/critic": loss, "value": weighted_mean(values[0], step.weight)}

    def actor_loss(params: Params, critic: Params, step: Transition) -> Array:
        actions = decide(params, step.observations)
        values = critics.values(critic, step.observations, actions)[0]
        size = jax.lax.stop_gradient(weighted_mean(jnp.abs(values), step.weight))
        cloning = jnp.mean(jnp.square(actions - step.actions), axis=-1)
        scale = config.alpha / jnp.maximum(size, 1e-6)
        return weighted_mean(cloning - scale * values, step.weight)

    def improved(state: Td3BcState, step: Transition) -> tuple[Td3BcState, Array]:
        loss_fn = jax.value_and_grad(actor_loss)
        loss, found = loss_fn(state.actor.params, state.critic.params, step)
        actor = apply_gradients(state.actor, found, optimizer)
        actor_target = track(state.actor_target, actor.params, config.target_decay)
        critic_target = track(state.critic_target, state.critic.params, config.target_decay)
        return Td3BcState(actor, state.critic, actor_target, critic_target, state.step), loss

    def as_it_was(state: Td3BcState, step: Transition) -> tuple[Td3BcState, Array]:
        return state, actor_loss(state.actor.params, state.critic.params, step)

    def update(state: Td3BcState, batch: Batch, key: Key) -> tuple[Td3BcState, Metrics]:
        step = transitions(batch, head, spec)
        found, metrics = jax.grad(critic_loss, has_aux=True)(state.critic.params, state, step, key)
        critic = apply_gradients(state.critic, found, optimizer)
        state = state._replace(critic=critic, step=state.step + 1)
        is_due = state.step % config.actor_every == 0
        state, loss = jax.lax.cond(is_due, improved, as_it_was, state, step)
        return state, metrics | {"loss/actor": loss}

    def act(state: Td3BcState, context: Context, key: Key) -> Actions:
        return bounded(head, decide(state.actor.params, flat_inputs(context, 1, spec)))

    return Algorithm(transition_window(spec), init, update, act)

"""Behaviour cloning (Pomerleau 1989) from observations without pixels.

    loss = sum_t m_t l(a_t, pi(o_{t-K+1..t} + n)) / sum_t m_t,    n ~ N(0, observation_noise^2)

An example has history + execute - 1 steps: the decision is taken at step K - 1, and the chunk of actions follows.

    head "bounded"   tanh to the action's range, l of parts/action_head.py, in half-ranges
    head "linear"    no range, l = |a - pi|^2 or |a - pi|: for actions that are standardised (Diffusion-BC's policy)

Differs from the paper: a LayerNorm MLP with AdamW, and chunks of actions when ``execute`` > 1.  ``paper_policy`` gives
the network and optimiser of Diffusion-BC's release (arXiv 2302.13335).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from daag_jax.algorithms.parts.action_head import (
    ActionHead,
    Exploration,
    action_head,
    best,
    decide,
    from_unit,
    negative_log_likelihood,
    to_unit,
)
from daag_jax.algorithms.parts.trainable import (
    Trainable,
    apply_gradients,
    averaged,
    check_training,
    create,
    make_optimizer,
)
from daag_jax.data.windows import recent
from daag_jax.networks.mlp import Mlp
from daag_jax.types import Actions, Algorithm, Batch, Context, Key, Metrics, Params, Spec, Window

HEADS = ("bounded", "linear")
ACTIVATIONS = {"silu": jax.nn.silu, "tanh": jnp.tanh, "relu": jax.nn.relu}


@dataclass(frozen=True)
class BcConfig:
    """Fields of behaviour cloning; our choice throughout."""

    hidden_dims: tuple[int, ...] = (256, 256)
    activation: str = "silu"
    layer_norm: bool = True
    orthogonal: bool = False  # initial hidden kernels, gain sqrt 2
    head: str = "bounded"  # or "linear"
    likelihood: str = "squared"  # or "absolute", "gaussian"
    sigma: float | None = None  # of "gaussian", in half-ranges of the action; None: learnt
    binary_dims: tuple[int, ...] = ()  # action dimensions that are two-way decisions
    exploration: Exploration = Exploration()
    observation_noise: float = 0.0  # standard deviation while learning, in units of the observation
    history: int = 1
    execute: int = 1
    learning_rate: float = 3e-4
    decay_steps: int = 0  # updates over which the learning rate falls to 0 on a line; 0: constant
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0  # 0: no average

    def __post_init__(self):
        for field in ("history", "execute"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} is not positive; try 1.")
        for field, known in (("head", HEADS), ("activation", tuple(ACTIVATIONS))):
            if getattr(self, field) not in known:
                raise ValueError(
                    f"{field} {getattr(self, field)!r} is unknown; use one of {known}."
                )
        if self.head == "linear" and (self.likelihood == "gaussian" or self.binary_dims):
            raise ValueError(
                f"head 'linear' has likelihood {self.likelihood!r} and binary_dims {self.binary_dims}; use 'squared' "
                "or 'absolute' without binary dimensions, or head='bounded'."
            )
        if self.head == "linear" and self.exploration != Exploration():
            raise ValueError(
                f"head 'linear' has no bounds to explore in ({self.exploration}); leave exploration out, or "
                "head='bounded'."
            )
        check_training(self)
        for field in ("observation_noise", "decay_steps"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field}={getattr(self, field)} is negative; 0 switches it off.")


def paper_policy(hidden_dims: tuple[int, ...], learning_rate: float, decay_steps: int) -> BcConfig:
    """Diffusion-BC's policy: a tanh MLP with a linear head, Adam, clipped at 0.5, its rate falling to 0."""
    return BcConfig(
        hidden_dims,
        activation="tanh",
        layer_norm=False,
        orthogonal=True,
        head="linear",
        learning_rate=learning_rate,
        decay_steps=decay_steps,
        weight_decay=0.0,
        max_grad_norm=0.5,
    )


class Policy(NamedTuple):
    """What behaviour cloning and what builds on it share."""

    init: Callable[[Key], Params]
    inputs: Callable[[Batch | Context], Float[Array, "B I"]]
    decide: Callable[[Params, Float[Array, "B I"]], Array]  # -> raw numbers [B, k, R]
    actions: Callable[[Array], Float[Array, "B k A"]]  # of raw numbers: the best action
    loss: Callable[[Array, Batch], tuple[Array, Metrics]]
    act: Callable[[Trainable, Context, Key], Actions]
    optimizer: optax.GradientTransformation
    window: Window


def make_policy(config: BcConfig, spec: Spec) -> Policy:
    """The network of observations [B, K, O] (and ``extras["task"]`` [B, D]), its actions and its loss."""
    head = action_head(spec, config.likelihood, config.binary_dims, config.sigma)
    net = Mlp(
        config.hidden_dims,
        config.execute * head.out_dim,
        layer_norm=config.layer_norm,
        out_scale=0.01,
        activation=ACTIVATIONS[config.activation],
        orthogonal=config.orthogonal,
    )
    inputs = lambda data: flat_inputs(data, config.history, spec)

    def init(key: Key) -> Params:
        input_dim = config.history * spec.observation_dim + spec.task_dim
        return net.init(key, jnp.zeros((1, input_dim)))

    def raw_actions(params: Params, seen: jax.Array) -> jax.Array:
        return net.apply(params, seen).reshape(seen.shape[0], config.execute, head.out_dim)

    def actions(raw: jax.Array) -> jax.Array:
        return raw if config.head == "linear" else from_unit(head, best(head, raw))

    def act(state: Trainable, context: Context, key: Key) -> Actions:
        raw = raw_actions(averaged(state), inputs(context))
        if config.head == "linear":
            return raw
        return decide(head, raw, key, config.exploration, context.extras.get("explore"))

    optimizer = make_optimizer(
        config.learning_rate, config.max_grad_norm, config.weight_decay, config.decay_steps
    )
    fields = ("task",) if spec.task_dim else ()
    horizon = config.history - 1 + config.execute
    window = Window(config.history, horizon, config.execute, fields)
    loss = lambda raw, batch: cloning_loss(config, head, raw, batch)
    return Policy(init, inputs, raw_actions, actions, loss, act, optimizer, window)


def flat_inputs(data: Batch | Context, history: int, spec: Spec) -> Float[Array, "B I"]:
    """The K observations up to a decision, and the instruction where there is one, in one vector."""
    seen = recent(data, data.observations, history)
    parts = [seen.reshape(seen.shape[0], -1)]
    return jnp.concatenate(parts + ([data.extras["task"]] if spec.task_dim else []), axis=-1)


def cloning_loss(
    config: BcConfig, head: ActionHead, raw: Float[Array, "B k R"], batch: Batch
) -> tuple[Float[Array, ""], Metrics]:
    """The mean cost of the demonstrated chunk over the steps that happened."""
    steps = slice(config.history - 1, config.history - 1 + config.execute)
    demonstrated, mask = batch.actions[:, steps], batch.mask[:, steps].astype(jnp.float32)
    count = jnp.maximum(jnp.sum(mask), 1.0)
    if config.head == "linear":
        gap = jnp.abs(raw - demonstrated)
        cost = gap if config.likelihood == "absolute" else jnp.square(gap)
    else:
        gap = jnp.abs(best(head, raw) - to_unit(head, demonstrated))
        cost = negative_log_likelihood(head, raw, demonstrated)
    loss = jnp.sum(mask * jnp.mean(cost, axis=-1)) / count
    error = jnp.sum(mask * jnp.mean(gap, axis=-1)) / count
    return loss, {"loss/policy": loss, "error": error}


def noisy(x: Float[Array, "B I"], scale: float, key: Key) -> Float[Array, "B I"]:
    """Inputs with Gaussian noise while learning."""
    return x + scale * jax.random.normal(key, x.shape) if scale else x


def bc(config: BcConfig, spec: Spec) -> Algorithm:
    """Observations [B, K, O] (and, where ``spec.task_dim`` > 0, ``extras["task"]`` [B, D]) to actions."""
    policy = make_policy(config, spec)

    def init(key: Key) -> Trainable:
        return create(policy.init(key), policy.optimizer, ema=config.ema_decay > 0)

    def update(state: Trainable, batch: Batch, key: Key) -> tuple[Trainable, Metrics]:
        seen = noisy(policy.inputs(batch), config.observation_noise, key)
        loss_fn = lambda params: policy.loss(policy.decide(params, seen), batch)
        gradients, metrics = jax.grad(loss_fn, has_aux=True)(state.params)
        return apply_gradients(state, gradients, policy.optimizer, config.ema_decay), metrics

    return Algorithm(policy.window, init, update, policy.act)

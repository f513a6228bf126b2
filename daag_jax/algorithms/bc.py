"""Behaviour cloning (Pomerleau 1989) from observations without pixels.

    loss = sum_t m_t l(a_t, pi(o_{t-K+1..t})) / sum_t m_t,    l: parts/action_head.py

An example has history + execute - 1 steps: the decision is taken at step K - 1, and the chunk of actions follows.

Differs from the paper: a LayerNorm MLP with AdamW, and chunks of actions when ``execute`` > 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from daag_jax.algorithms.parts.action_head import (
    Exploration,
    action_head,
    best,
    decide,
    negative_log_likelihood,
    to_unit,
)
from daag_jax.algorithms.parts.trainable import (
    Trainable,
    apply_gradients,
    averaged,
    create,
    make_optimizer,
)
from daag_jax.networks.mlp import Mlp
from daag_jax.types import Actions, Algorithm, Batch, Context, Key, Metrics, Spec, Window


@dataclass(frozen=True)
class BcConfig:
    """Fields of behaviour cloning; our choice throughout."""

    hidden_dims: tuple[int, ...] = (256, 256)
    likelihood: str = "squared"  # or "absolute", "gaussian"
    sigma: float | None = None  # of "gaussian", in half-ranges of the action; None: learnt
    binary_dims: tuple[int, ...] = ()  # action dimensions that are two-way decisions
    exploration: Exploration = Exploration()
    history: int = 1
    execute: int = 1
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0  # 0: no average

    def __post_init__(self):
        for field in ("history", "execute"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} is not positive; try 1.")


def bc(config: BcConfig, spec: Spec) -> Algorithm:
    """Observations [B, K, O] (and, where ``spec.task_dim`` > 0, ``extras["task"]`` [B, D]) to actions."""
    head = action_head(spec, config.likelihood, config.binary_dims, config.sigma)
    first, stop = config.history - 1, config.history - 1 + config.execute
    net = Mlp(config.hidden_dims, config.execute * head.out_dim, out_scale=0.01)
    optimizer = make_optimizer(config.learning_rate, config.max_grad_norm, config.weight_decay)

    def raw_actions(params, data: Batch | Context) -> jax.Array:
        seen = data.observations[:, : config.history]
        parts = [seen.reshape(seen.shape[0], -1)]
        if spec.task_dim:
            parts.append(data.extras["task"])
        raw = net.apply(params, jnp.concatenate(parts, axis=-1))
        return raw.reshape(seen.shape[0], config.execute, head.out_dim)

    def init(key: Key) -> Trainable:
        inputs = jnp.zeros((1, config.history * spec.observation_dim + spec.task_dim))
        return create(net.init(key, inputs), optimizer, ema=config.ema_decay > 0)

    def loss_fn(params, batch: Batch) -> tuple[jax.Array, Metrics]:
        raw, actions = raw_actions(params, batch), batch.actions[:, first:stop]
        mask = batch.mask[:, first:stop].astype(jnp.float32)
        count = jnp.maximum(jnp.sum(mask), 1.0)
        cost = jnp.mean(negative_log_likelihood(head, raw, actions), axis=-1)
        error = jnp.mean(jnp.abs(best(head, raw) - to_unit(head, actions)), axis=-1)
        loss = jnp.sum(mask * cost) / count
        return loss, {"loss/policy": loss, "error": jnp.sum(mask * error) / count}

    def update(state: Trainable, batch: Batch, key: Key) -> tuple[Trainable, Metrics]:
        del key
        gradients, metrics = jax.grad(loss_fn, has_aux=True)(state.params, batch)
        return apply_gradients(state, gradients, optimizer, config.ema_decay), metrics

    def act(state: Trainable, context: Context, key: Key) -> Actions:
        raw = raw_actions(averaged(state), context)
        return decide(head, raw, key, config.exploration, context.extras.get("explore"))

    fields = ("task",) if spec.task_dim else ()
    return Algorithm(Window(config.history, stop, config.execute, fields), init, update, act)

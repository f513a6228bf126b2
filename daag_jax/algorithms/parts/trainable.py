"""One ``Trainable`` per network: parameters, their moving average, and the state of their optimiser.

A target network is a bare tree of parameters: it never meets an optimiser, and moves by :func:`track`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from daag_jax.types import Params


class Trainable(NamedTuple):
    """What must survive a step of learning of one network."""

    params: Params
    ema: Params | None  # moving average of the parameters, None where there is none
    opt: optax.OptState


def make_optimizer(
    learning_rate: optax.ScalarOrSchedule,
    max_grad_norm: float = 0.0,
    weight_decay: float = 0.0,
    decay_steps: int = 0,
    accumulate: int = 1,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) after a clip of the *global* norm; zero switches a part off.

    Args:
        decay_steps: updates over which a constant ``learning_rate`` falls to 0 on a line.
        accumulate: batches whose mean gradient makes one update, for batches that do not fit at once.

    Raises:
        ValueError: ``accumulate`` is not positive.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate={accumulate} is not positive; try 1.")
    if decay_steps:
        learning_rate = optax.linear_schedule(learning_rate, 0.0, decay_steps)
    clip = optax.clip_by_global_norm(max_grad_norm) if max_grad_norm > 0 else optax.identity()
    optimizer = optax.chain(clip, optax.adamw(learning_rate, weight_decay=weight_decay))
    return optimizer if accumulate == 1 else optax.MultiSteps(optimizer, accumulate)


def check_training(config: Any) -> None:
    """Raises ValueError for a rate or an average of weights that nothing can learn with."""
    if config.learning_rate <= 0:
        raise ValueError(f"learning_rate={config.learning_rate} is not positive; try 3e-4.")
    if not 0.0 <= getattr(config, "ema_decay", 0.0) < 1.0:
        raise ValueError(
            f"ema_decay={config.ema_decay} is outside [0, 1), and at 1 the average stands still; "
            "try 0.995, or 0 for none."
        )


def create(params: Params, optimizer: optax.GradientTransformation, ema: bool = False) -> Trainable:
    """Starts the training of ``params``; the average is a copy of them (buffers of its own, so it can be donated)."""
    return Trainable(
        params, jax.tree.map(jnp.copy, params) if ema else None, optimizer.init(params)
    )


def apply_gradients(
    trainable: Trainable,
    gradients: Params,
    optimizer: optax.GradientTransformation,
    ema_decay: float | jax.Array = 0.0,
) -> Trainable:
    """One step of the optimiser, then ``ema <- decay ema + (1 - decay) params`` where an average is kept.

    While gradients accumulate, both stay as they are.
    """
    updates, opt = optimizer.update(gradients, trainable.opt, trainable.params)
    params = optax.apply_updates(trainable.params, updates)
    if isinstance(opt, optax.MultiStepsState):
        ema_decay = jnp.where(opt.mini_step == 0, ema_decay, 1.0)
    ema = None if trainable.ema is None else track(trainable.ema, params, ema_decay)
    return Trainable(params, ema, opt)


def track(target: Params, params: Params, decay: float | jax.Array) -> Params:
    """Moves ``target`` towards ``params``: decay target + (1 - decay) params."""
    return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, target, params)


def averaged(trainable: Trainable) -> Params:
    """The parameters to act with: the moving average where it is kept, else the parameters."""
    return trainable.params if trainable.ema is None else trainable.ema

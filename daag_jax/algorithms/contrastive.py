"""Contrastive language-image pre-training with many true captions per image (CLIP, arXiv 2103.00020; SigLIP,
2303.15343).

    loss = -(1 / B) sum_ij m_ij w_ij log sigmoid( z_ij (exp(logit_scale) u_i . v_j + logit_bias) )

z_ij = +1 where caption j is true of image i; m_ij = 0 where nobody says; true pairs weigh ``positive_weight`` more.

Differs from the papers: the captions of a batch are a closed set with a truth table, not one caption per image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from daag_jax.algorithms.parts.trainable import (
    Trainable,
    apply_gradients,
    create,
    make_optimizer,
)
from daag_jax.networks.clip.config import COMPACT_CLIP, ClipConfig
from daag_jax.networks.clip.model import make_clip, sigmoid_loss
from daag_jax.networks.clip.tokenizer import WordTokenizer
from daag_jax.types import Algorithm, Batch, Key, Metrics, Params, Window


@dataclass(frozen=True)
class ContrastiveConfig:
    """Fields of CLIP's training; our choice unless a source is named."""

    clip: ClipConfig = COMPACT_CLIP
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    total_steps: int = 6000  # of the cosine decay
    weight_decay: float = 1e-2
    positive_weight: float = 4.0
    max_grad_norm: float = 1.0
    ema_decay: float = 0.995


FIELDS = ("image", "truth", "known")


def contrastive(config: ContrastiveConfig, captions: Sequence[str]) -> Algorithm:
    """Trains CLIP on ``extras["image"]`` uint8 [B, H, W, 3], ``["truth"]`` bool [B, M] and ``["known"]`` bool [B,
    M]."""
    clip, optimizer = make_clip(config.clip), optimizer_of(config)
    tokenizer = WordTokenizer(config.clip.text_config.max_position_embeddings)
    loss_fn = truth_table_loss(config, jnp.asarray(tokenizer(captions)))

    def init(key: Key) -> Trainable:
        return create(clip.init(key), optimizer, ema=True)

    def update(state: Trainable, batch: Batch, key: Key) -> tuple[Trainable, Metrics]:
        del key
        gradients, metrics = jax.grad(loss_fn, has_aux=True)(state.params, batch)
        return apply_gradients(state, gradients, optimizer, config.ema_decay), metrics

    return Algorithm(Window(fields=FIELDS), init, update)


def optimizer_of(config: ContrastiveConfig) -> optax.GradientTransformation:
    """AdamW with warm-up and cosine decay."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup_steps, config.total_steps
    )
    return make_optimizer(schedule, config.max_grad_norm, config.weight_decay)


def truth_table_loss(
    config: ContrastiveConfig, tokens: Int[Array, "M L"]
) -> Callable[[Params, Batch], tuple[Array, Metrics]]:
    """The loss of a batch against all captions, with the precision and recall of its decisions at 1/2."""
    clip = make_clip(config.clip)

    def loss_fn(params: Params, batch: Batch) -> tuple[Array, Metrics]:
        truth, known = batch.extras["truth"], batch.extras["known"]
        images = clip.encode_image(params, batch.extras["image"])
        logits = clip.logits(params, images, clip.encode_text(params, tokens))
        loss = sigmoid_loss(logits, truth, config.positive_weight, known)
        is_right = ((logits > 0) == truth) & known
        recall = jnp.sum(is_right & truth) / jnp.maximum(jnp.sum(truth & known), 1)
        found = jnp.sum((logits > 0) & known)
        precision = jnp.sum(is_right & truth) / jnp.maximum(found, 1)
        return loss, {"loss/sigmoid": loss, "recall": recall, "precision": precision}

    return loss_fn

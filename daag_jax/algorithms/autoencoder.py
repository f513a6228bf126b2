"""The variational autoencoder of latent diffusion (Rombach et al. 2022, arXiv 2112.10752, section 3.1).

    loss = |x - D(z)|_1 + (x - D(z))^2 + kl_weight KL( q(z|x) || N(0, I) ),   z ~ q(z|x) = N(mean, sigma^2)

Differs from the paper:
  * no adversarial and no perceptual term: both need a second network, and flat-shaded simulator frames do not;
  * pixels of segmented instances weigh ``foreground_weight`` times more: a cube covers about 2 % of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from daag_jax.algorithms.parts.trainable import (
    Trainable,
    apply_gradients,
    create,
    make_optimizer,
)
from daag_jax.networks.stable_diffusion.config import COMPACT_VAE, VaeConfig
from daag_jax.networks.stable_diffusion.vae import Vae
from daag_jax.types import Algorithm, Batch, Key, Metrics, Window


@dataclass(frozen=True)
class AutoencoderConfig:
    """Fields of the autoencoder's training; our choice unless a source is named."""

    vae: VaeConfig = COMPACT_VAE
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    total_steps: int = 6000  # of the cosine decay
    kl_weight: float = 1e-6  # Rombach et al., appendix G
    foreground_weight: float = 8.0
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    ema_decay: float = 0.995
    image_size: int = 64  # [px]


def autoencoder(config: AutoencoderConfig) -> Algorithm:
    """Trains a VAE on ``extras["image"]`` uint8 [B, H, W, 3] and ``extras["segmentation"]`` int [B, H, W]."""
    vae = Vae(config.vae)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup_steps, config.total_steps
    )
    optimizer = make_optimizer(schedule, config.max_grad_norm, config.weight_decay)

    def init(key: Key) -> Trainable:
        images = jnp.zeros((1, config.image_size, config.image_size, 3))
        return create(vae.init(key, images), optimizer, ema=True)

    def loss_fn(params, batch: Batch, key: Key) -> tuple[jax.Array, Metrics]:
        images = batch.extras["image"].astype(jnp.float32) / 127.5 - 1.0
        mean, logvar = vae.apply(params, images, method="encode")
        latents = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
        error = vae.apply(params, latents, method="decode") - images
        foreground = (batch.extras["segmentation"] > 0)[..., None]
        weight = jnp.where(foreground, config.foreground_weight, 1.0)
        weight = weight / jnp.mean(weight)
        reconstruction = jnp.mean(weight * (jnp.abs(error) + jnp.square(error)))
        kl = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)
        psnr = -10.0 * jnp.log10(jnp.mean(jnp.square(error)) / 4.0)
        metrics = {
            "loss/reconstruction": reconstruction,
            "loss/kl": kl,
            "psnr": psnr,
            "latents/std": jnp.std(mean),
        }
        return reconstruction + config.kl_weight * kl, metrics

    def update(state: Trainable, batch: Batch, key: Key) -> tuple[Trainable, Metrics]:
        gradients, metrics = jax.grad(loss_fn, has_aux=True)(state.params, batch, key)
        return apply_gradients(state, gradients, optimizer, config.ema_decay), metrics

    return Algorithm(Window(fields=("image", "segmentation")), init, update)

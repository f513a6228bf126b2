"""Latent diffusion with ControlNet and regional prompts (arXiv 2112.10752; ControlNet arXiv 2302.05543).

    z = (mean of E(x)) * scaling_factor,   zt = alpha(t) z + sigma(t) noise
    loss = w(t) | prediction(zt, t, prompts, regions, controls) - target |^2

The text encoder and the autoencoder are frozen.  The denoiser and its ControlNet learn together from nothing, so
that one short run gives both; the controls of a random part of the batch are dropped (``control_dropout``), which
keeps the UNet usable without its ControlNet, and the prompts of another part (``prompt_dropout``), which is what
classifier-free guidance needs (Ho and Salimans, arXiv 2207.12598).

Differs from the papers:
  * every segmented instance has a prompt of its own, mixed by soft masks in cross-attention (regional prompts), so
    that "a green block" is bound to a place and several objects can be swapped at once;
  * latents of instances weigh ``foreground_weight`` times more: a cube covers about 2 % of a frame;
  * ControlNet is trained jointly, not on a frozen UNet, and one branch takes depth, normals and edges together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from daag_jax.algorithms.parts.trainable import Trainable, create
from daag_jax.networks.stable_diffusion.config import (
    COMPACT_CONTROLNET,
    COMPACT_UNET,
    ControlNetConfig,
    UNetConfig,
)
from daag_jax.networks.stable_diffusion.controlnet import ControlNet
from daag_jax.networks.stable_diffusion.unet import UNet
from daag_jax.types import Algorithm, Key, Params


class Denoiser(NamedTuple):
    """Parameters of the denoising UNet and of its ControlNet."""

    unet: Params
    controlnet: Params


@dataclass(frozen=True)
class LatentDiffusionConfig:
    """Fields of the denoiser's training; our choice unless a source is named."""

    unet: UNetConfig = COMPACT_UNET
    controlnet: ControlNetConfig = COMPACT_CONTROLNET
    latent_size: int = 16
    num_regions: int = 4  # P: the background and one prompt per object
    context_length: int = 16  # L tokens of a prompt
    prediction_type: str = "v_prediction"  # Salimans and Ho 2022; SD 1.5 itself uses "epsilon"
    min_snr_gamma: float = 5.0  # Hang et al. 2023, arXiv 2303.09556
    foreground_weight: float = 6.0
    prompt_dropout: float = 0.1  # Ho and Salimans
    control_dropout: float = 0.1
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    total_steps: int = 10000  # of the cosine decay
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999


def latent_diffusion(config: LatentDiffusionConfig) -> Algorithm:
    """Trains UNet and ControlNet.

    ``extras`` of a batch: ``latents`` [B, h, w, D] (scaled), ``regions`` [B, P, h, w] (sum to 1), ``foreground``
    [B, h, w] in [0, 1], ``controls`` [B, H, W, C], ``prompts`` [B, P, L, E] and ``no_prompt`` [B, L, E].
    """
    unet, controlnet = UNet(config.unet), ControlNet(config.controlnet)
    process = GaussianProcess(scaled_linear(), "v")
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(
            optax.warmup_cosine_decay_schedule(
                0.0, config.learning_rate, config.warmup_steps, config.total_steps
            )
        ),
    )

    def init(key: Key) -> Trainable:
        unet_key, control_key = jax.random.split(key)
        side, regions = config.latent_size, config.num_regions
        latents = jnp.zeros((1, side, side, config.unet.in_channels))
        timesteps = jnp.zeros((1,))
        context = jnp.zeros((1, regions, config.context_length, config.unet.cross_attention_dim))
        weights = jnp.full((1, regions, side, side), 1.0 / regions)
        image = side * config.controlnet.downsampling
        controls = jnp.zeros((1, image, image, config.controlnet.conditioning_channels))
        params = Denoiser(
            unet.init(unet_key, latents, timesteps, context, weights),
            controlnet.init(control_key, latents, timesteps, context, controls, weights),
        )
        return create(params, optimizer, ema=True)

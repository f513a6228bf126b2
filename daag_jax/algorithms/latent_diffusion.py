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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from daag_jax.algorithms.parts.trainable import (
    Trainable,
    apply_gradients,
    create,
    make_optimizer,
)
from daag_jax.diffusion.losses import diffusion_loss, draw_times
from daag_jax.diffusion.process import GaussianProcess
from daag_jax.diffusion.schedules import scaled_linear, step_of
from daag_jax.networks.stable_diffusion.config import (
    COMPACT_CONTROLNET,
    COMPACT_UNET,
    ControlNetConfig,
    UNetConfig,
)
from daag_jax.networks.stable_diffusion.controlnet import ControlNet
from daag_jax.networks.stable_diffusion.unet import UNet
from daag_jax.types import Algorithm, Batch, Key, Metrics, Params, Window

FIELDS = ("latents", "regions", "controls", "prompts")  # of a batch


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
    parameterisation: str = "v"  # Salimans and Ho 2022; SD 1.5 itself predicts the noise
    min_snr_gamma: float = 5.0  # Hang et al. 2023, arXiv 2303.09556
    foreground_weight: float = 6.0
    prompt_dropout: float = 0.1  # Ho and Salimans
    control_dropout: float = 0.1
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    total_steps: int = 10000  # of the cosine decay
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    accumulate: int = 1  # batches that make one update
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the arithmetic; the state is float32


def latent_diffusion(
    config: LatentDiffusionConfig, contexts: Float[Array, "N L E"], no_prompt: Float[Array, "L E"]
) -> Algorithm:
    """Trains UNet and ControlNet.

    ``extras`` of a batch: ``latents`` [B, h, w, D] (scaled), ``regions`` [B, P, h, w] (sum to 1; the first is the
    background), ``controls`` uint8 [B, H, W, C] and ``prompts`` int [B, P], indices into ``contexts``, the frozen text
    encoder's states of every prompt.
    """
    decay = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup_steps, config.total_steps
    )
    optimizer = make_optimizer(decay, config.max_grad_norm, accumulate=config.accumulate)
    loss_fn = denoising_loss(config, contexts, no_prompt)

    def init(key: Key) -> Trainable:
        return create(init_denoiser(config, contexts.shape[1:], key), optimizer, ema=True)

    def update(state: Trainable, batch: Batch, key: Key) -> tuple[Trainable, Metrics]:
        gradients, metrics = jax.grad(loss_fn, has_aux=True)(state.params, batch, key)
        return apply_gradients(state, gradients, optimizer, config.ema_decay), metrics

    return Algorithm(Window(fields=FIELDS), init, update)


def init_denoiser(config: LatentDiffusionConfig, text_shape: tuple[int, int], key: Key) -> Denoiser:
    """Parameters at random; the ControlNet steers nothing yet.  ``text_shape`` is (tokens, width) of a prompt."""
    unet_key, control_key = jax.random.split(key)
    side, regions = config.latent_size, config.num_regions
    latents = jnp.zeros((1, side, side, config.unet.in_channels))
    context = jnp.zeros((1, regions, *text_shape))
    weights = jnp.full((1, regions, side, side), 1.0 / regions)
    image = side * config.controlnet.downsampling
    controls = jnp.zeros((1, image, image, config.controlnet.conditioning_channels))
    inputs = (latents, jnp.zeros((1,)), context)
    return Denoiser(
        UNet(config.unet).init(unet_key, *inputs, weights),
        ControlNet(config.controlnet).init(control_key, *inputs, controls, weights),
    )


def denoising_loss(
    config: LatentDiffusionConfig, contexts: Float[Array, "N L E"], no_prompt: Float[Array, "L E"]
) -> Callable[[Denoiser, Batch, Key], tuple[jax.Array, Metrics]]:
    """The loss of a batch (see :func:`latent_diffusion`) as a function of both networks' parameters."""
    dtype = jnp.dtype(config.dtype)
    unet, controlnet = UNet(config.unet, dtype), ControlNet(config.controlnet, dtype)
    process = GaussianProcess(scaled_linear(), config.parameterisation)

    def loss_fn(params: Denoiser, batch: Batch, key: Key) -> tuple[jax.Array, Metrics]:
        time_key, noise_key, prompt_key, control_key = jax.random.split(key, 4)
        latents, regions = batch.extras["latents"], batch.extras["regions"]
        size = latents.shape[0]
        time = draw_times(time_key, size, process.schedule)
        is_blank = jax.random.uniform(prompt_key, (size, 1, 1, 1)) < config.prompt_dropout
        context = jnp.where(is_blank, no_prompt[None, None], contexts[batch.extras["prompts"]])
        is_free = jax.random.uniform(control_key, (size, 1, 1, 1)) < config.control_dropout
        controls = batch.extras["controls"].astype(jnp.float32) / 255.0

        def network(xt: jax.Array, time: jax.Array) -> jax.Array:
            step = step_of(process.schedule, time)
            residuals = controlnet.apply(params.controlnet, xt, step, context, controls, regions)
            residuals = jax.tree.map(lambda r: jnp.where(is_free, 0.0, r), residuals)
            found = unet.apply(params.unet, xt, step, context, regions, residuals)
            return found.astype(jnp.float32)

        foreground = 1.0 - regions[:, 0, :, :, None]
        mask = 1.0 + (config.foreground_weight - 1.0) * foreground
        loss = diffusion_loss(
            process, network, latents, time, noise_key, "min_snr", config.min_snr_gamma, mask
        )
        early, late = time < 0.5, time >= 0.5
        part = lambda where: jnp.sum(loss * where) / jnp.maximum(jnp.sum(where), 1)
        mean = jnp.mean(loss)
        return mean, {"loss/all": mean, "loss/early": part(early), "loss/late": part(late)}

    return loss_fn

"""Finetuning of a pretrained latent diffusion model: a new ControlNet beside it, or low-rank adapters inside it.

    controlnet   the UNet is frozen; the ControlNet begins as a copy of its encoder behind zero convolutions
                 (arXiv 2302.05543, section 3.1)
    lora         UNet and ControlNet are frozen; W' = W + A B on the UNet's attention (arXiv 2106.09685, Eq. 3)

The loss, its min-SNR weight and its dropouts are those of ``latent_diffusion``.  The frozen parameters are part of the
state, so that they are sharded, not constants of the program; they meet no optimiser.  ``init`` makes them at random;
``start(state, base)`` puts a pretrained model in their place:

    algorithm = denoiser_finetuning(config, contexts, no_prompt)
    state = start(config, algorithm.init(key), Denoiser({"params": unet}, {"params": controlnet}))
    fit(algorithm, batches, FitConfig(fsdp=8), state=state)

Differs from the papers: prompts are regional and instances weigh more, as in ``latent_diffusion``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import optax
from jaxtyping import Array, Float

from daag_jax.algorithms.latent_diffusion import (
    FIELDS,
    Denoiser,
    LatentDiffusionConfig,
    denoising_loss,
    init_denoiser,
)
from daag_jax.algorithms.parts.trainable import (
    Trainable,
    apply_gradients,
    averaged,
    create,
    make_optimizer,
)
from daag_jax.networks import lora
from daag_jax.networks.stable_diffusion.config import SD15_CONTROLNET, SD15_UNET
from daag_jax.networks.stable_diffusion.controlnet import start_from_unet
from daag_jax.types import Algorithm, Batch, Key, Metrics, Params, Window

PARTS = ("controlnet", "lora")
SD15_TRAINING = LatentDiffusionConfig(
    unet=SD15_UNET,
    controlnet=SD15_CONTROLNET,
    latent_size=64,
    parameterisation="noise",
    foreground_weight=1.0,
    learning_rate=1e-5,  # of ControlNet's authors; adapters take 1e-4
    ema_decay=0.9999,
)


@dataclass(frozen=True)
class DenoiserFinetuningConfig:
    """What is trained, and how; the learning rate and the sizes are those of ``diffusion``."""

    diffusion: LatentDiffusionConfig = SD15_TRAINING
    part: Literal["controlnet", "lora"] = "controlnet"
    rank: int = 16  # of the adapters
    targets: tuple[str, ...] = lora.ATTENTION  # regular expressions of the adapted kernels
    remat: bool = True  # keep only the borders of blocks for the backward pass

    def __post_init__(self):
        if self.part not in PARTS:
            raise ValueError(f"part {self.part!r} is unknown; use one of {PARTS}.")


class Finetuning(NamedTuple):
    """What is trained (a ControlNet's parameters, or adapters), and the model that it is trained for."""

    trained: Trainable
    frozen: Denoiser  # its ControlNet is empty where a new one is trained


def denoiser_finetuning(
    config: DenoiserFinetuningConfig,
    contexts: Float[Array, "N L E"],
    no_prompt: Float[Array, "L E"],
) -> Algorithm:
    """Trains a part; batches and prompts are those of ``latent_diffusion``."""
    sizes = config.diffusion
    loss_fn = denoising_loss(sizes, contexts, no_prompt)
    if config.remat:
        loss_fn = jax.checkpoint(
            loss_fn, policy=jax.checkpoint_policies.save_only_these_names("block")
        )
    optimizer = make_optimizer(
        optax.warmup_cosine_decay_schedule(
            0.0, sizes.learning_rate, sizes.warmup_steps, sizes.total_steps
        ),
        sizes.max_grad_norm,
        accumulate=sizes.accumulate,
    )

    def init(key: Key) -> Finetuning:
        base_key, part_key = jax.random.split(key)
        base = init_denoiser(sizes, contexts.shape[1:], base_key)
        return Finetuning(
            create(fresh(config, base, part_key), optimizer, ema=True), kept(config, base)
        )

    def update(state: Finetuning, batch: Batch, key: Key) -> tuple[Finetuning, Metrics]:
        of_trained = lambda params: loss_fn(assemble(config, params, state.frozen), batch, key)
        gradients, metrics = jax.grad(of_trained, has_aux=True)(state.trained.params)
        trained = apply_gradients(state.trained, gradients, optimizer, sizes.ema_decay)
        return state._replace(trained=trained), metrics

    return Algorithm(Window(fields=FIELDS), init, update)


def start(config: DenoiserFinetuningConfig, state: Finetuning, base: Denoiser) -> Finetuning:
    """A fresh state whose frozen model is ``base``; a new ControlNet becomes a copy of its UNet's encoder."""
    if config.part == "lora":
        return state._replace(frozen=base)
    begun = {"params": start_from_unet(state.trained.params["params"], base.unet["params"])}
    copied = jax.tree.map(lambda x: x.copy(), begun)
    return Finetuning(state.trained._replace(params=begun, ema=copied), kept(config, base))


def fresh(config: DenoiserFinetuningConfig, base: Denoiser, key: Key) -> Params:
    """What will be trained, before its first step."""
    if config.part == "lora":
        return lora.init_lora(base.unet["params"], key, config.rank, config.targets)
    return {"params": start_from_unet(base.controlnet["params"], base.unet["params"])}


def kept(config: DenoiserFinetuningConfig, base: Denoiser) -> Denoiser:
    """What stays as it is."""
    return base if config.part == "lora" else base._replace(controlnet={})


def assemble(config: DenoiserFinetuningConfig, params: Params, frozen: Denoiser) -> Denoiser:
    """The whole model of a trained and a frozen part."""
    if config.part == "lora":
        return frozen._replace(unet={"params": lora.merge(frozen.unet["params"], params)})
    return frozen._replace(controlnet=params)


def finetuned(config: DenoiserFinetuningConfig, state: Finetuning) -> Denoiser:
    """The model to use: the moving average of what was trained, with what it was trained for."""
    return assemble(config, averaged(state.trained), state.frozen)

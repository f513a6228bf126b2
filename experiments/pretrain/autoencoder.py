"""Trains the compact VAE on rendered frames and writes ``daag_jax/assets/vae.safetensors`` with its card.

    python -m experiments.pretrain.autoencoder                  # about 20 min on two CPU cores
    python -m experiments.pretrain.autoencoder --preset smoke   # a minute; writes into the run folder only

Expect a reconstruction PSNR above 27 dB on unseen frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import tyro

from daag_jax.algorithms.autoencoder import AutoencoderConfig, autoencoder
from daag_jax.algorithms.parts.trainable import averaged
from daag_jax.assets import ASSETS
from daag_jax.envs.tasks.rgb_stacking_model import ROBOT
from daag_jax.networks.stable_diffusion.config import COMPACT_VAE
from daag_jax.networks.stable_diffusion.vae import Vae
from daag_jax.networks.stable_diffusion.weights import save
from daag_jax.training.fit import FitConfig, fit
from daag_jax.types import Batch, Key, Params
from experiments.pretrain.cards import write_card
from experiments.pretrain.frames import as_batch, random_frames


@dataclass(frozen=True)
class Config:
    """What to train and for how long."""

    preset: Literal["full", "smoke"] = "full"
    steps: int = 2400
    batch: int = 12
    seed: int = 0
    directory: str = "runs/pretrain/autoencoder"


def batches(config: Config):
    """Batch n: unseen frames at every step."""

    def draw(key: Key, step: jax.Array) -> Batch:
        frames = random_frames(key, config.batch).frames
        return as_batch(image=frames.rgb, segmentation=frames.segmentation)

    return draw


def evaluate(params: Params, key: Key) -> dict[str, float]:
    """Reconstruction of unseen frames, and of the pixels of their cubes."""
    frames = random_frames(key, 64).frames
    images = frames.rgb.astype(jnp.float32) / 127.5 - 1.0
    vae = Vae(COMPACT_VAE)
    mean, _ = vae.apply(params, images, method="encode")
    error = vae.apply(params, mean, method="decode") - images
    is_cube = ((frames.segmentation > 0) & (frames.segmentation < ROBOT))[..., None]
    inside = jnp.sum(is_cube * jnp.abs(error)) / (3 * jnp.sum(is_cube))
    return {
        "psnr [dB]": -10.0 * jnp.log10(jnp.mean(jnp.square(error)) / 4.0),
        "mean absolute error in cubes [of 255]": 127.5 * inside,
        "latents/std": jnp.std(mean),
    }


def main(config: Config) -> None:
    if config.preset == "smoke":
        config = replace(config, directory=f"{config.directory}/smoke")
    steps = 20 if config.preset == "smoke" else config.steps
    algorithm = autoencoder(AutoencoderConfig(total_steps=steps, warmup_steps=min(100, steps // 4)))
    fit_config = FitConfig(steps, config.seed, config.directory, log_every=50, checkpoint_every=500)
    fitted = fit(algorithm, batches(config), fit_config, name="autoencoder")
    params = averaged(fitted.state)
    metrics = jax.jit(evaluate)(params, jax.random.key(config.seed + 1))
    folder = ASSETS if config.preset == "full" else Path(config.directory)
    save(params["params"], folder / "vae.safetensors", jnp.float16)
    write_card(
        folder / "vae.safetensors",
        "The compact VAE (`COMPACT_VAE`): 64 px frames to 16 x 16 x 4 latents.",
        "python -m experiments.pretrain.autoencoder",
        config,
        metrics,
        "measured on 64 unseen frames",
    )
    print({name: round(float(value), 3) for name, value in metrics.items()})


if __name__ == "__main__":
    main(tyro.cli(Config))

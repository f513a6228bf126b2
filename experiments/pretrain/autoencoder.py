"""Trains the compact VAE on rendered frames and writes ``daag_jax/assets/vae.safetensors`` with its card.

    python -m experiments.pretrain.autoencoder                  # about 25 min on two CPU cores
    python -m experiments.pretrain.autoencoder --preset smoke   # a minute; writes into the run folder only

Expect a reconstruction PSNR above 30 dB on unseen frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import tyro

from daag_jax.algorithms.autoencoder import AutoencoderConfig, autoencoder
from daag_jax.training.fit import FitConfig, fit
from daag_jax.types import Batch, Key
from experiments.pretrain.frames import as_batch, random_frames


@dataclass(frozen=True)
class Config:
    """What to train and for how long."""

    preset: Literal["full", "smoke"] = "full"
    steps: int = 3000
    batch: int = 12
    seed: int = 0
    directory: str = "runs/pretrain/autoencoder"


def batches(config: Config):
    """Batch n: unseen frames at every step."""

    def draw(key: Key, step: jax.Array) -> Batch:
        frames = random_frames(key, config.batch).frames
        return as_batch(image=frames.rgb, segmentation=frames.segmentation)

    return draw


def main(config: Config) -> None:
    steps = 20 if config.preset == "smoke" else config.steps
    algorithm = autoencoder(AutoencoderConfig(total_steps=steps, warmup_steps=min(100, steps // 4)))
    fitted = fit(
        algorithm,
        batches(config),
        FitConfig(steps, config.seed, config.directory, log_every=50, checkpoint_every=500),
        name="autoencoder",
    )
    print(fitted.metrics)


if __name__ == "__main__":
    main(tyro.cli(Config))

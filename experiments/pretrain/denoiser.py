"""Trains the compact UNet and ControlNet on latents of rendered frames and writes them to ``daag_jax/assets``.

    python -m experiments.pretrain.denoiser                  # about 40 min on two CPU cores
    python -m experiments.pretrain.denoiser --preset smoke   # a minute or two; needs the shipped VAE and text encoder

Frames are rendered and encoded once; then every step draws from them.  Expect loss/all about 0.011.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from daag_jax.algorithms.latent_diffusion import LatentDiffusionConfig, latent_diffusion
from daag_jax.algorithms.parts.trainable import averaged
from daag_jax.assets import ASSETS, asset
from daag_jax.editing.controls import stack_controls
from daag_jax.editing.masks import region_weights
from daag_jax.editing.prompts import BACKGROUND, NO_PROMPT, object_prompt
from daag_jax.envs.palette import PALETTE_NAMES
from daag_jax.networks.clip import weights as clip_weights
from daag_jax.networks.clip.config import COMPACT_CLIP
from daag_jax.networks.clip.model import make_text_encoder
from daag_jax.networks.clip.tokenizer import WordTokenizer
from daag_jax.networks.stable_diffusion.config import COMPACT_VAE
from daag_jax.networks.stable_diffusion.vae import Vae
from daag_jax.networks.stable_diffusion.weights import load_vae, save
from daag_jax.training.fit import FitConfig, Sampler, fit
from daag_jax.types import Batch, Key
from experiments.pretrain.cards import write_card
from experiments.pretrain.frames import as_batch, random_frames

PROMPTS = (BACKGROUND, *map(object_prompt, PALETTE_NAMES), NO_PROMPT)


@dataclass(frozen=True)
class Config:
    """What to train and for how long."""

    preset: Literal["full", "smoke"] = "full"
    steps: int = 6000
    batch: int = 32
    frames: int = 12288
    seed: int = 0
    directory: str = "runs/pretrain/denoiser"


def encode_frames(config: Config, num: int, vae_params, key: Key) -> dict[str, np.ndarray]:
    """Renders and encodes ``num`` frames, 64 at a time."""
    vae = Vae(COMPACT_VAE)

    @jax.jit
    def some(key: Key) -> dict[str, jax.Array]:
        scenes = random_frames(key, 64)
        frames = scenes.frames
        images = frames.rgb.astype(jnp.float32) / 127.5 - 1.0
        mean, _ = vae.apply(vae_params, images, method="encode")
        controls = stack_controls(frames.rgb, frames.depth, frames.normals)
        return {
            "latents": mean * COMPACT_VAE.scaling_factor,
            "regions": region_weights(frames.segmentation, 3, COMPACT_VAE.downsampling),
            "controls": (controls * 255.0 + 0.5).astype(jnp.uint8),
            "prompts": jnp.concatenate([jnp.zeros((64, 1), jnp.int32), 1 + scenes.colors], 1),
        }

    parts = [jax.device_get(some(jax.random.fold_in(key, i))) for i in range(-(-num // 64))]
    return {name: np.concatenate([part[name] for part in parts])[:num] for name in parts[0]}


def train(config: Config, vae_params, text_params):
    """The trained state, given the frozen autoencoder and text encoder."""
    smoke = config.preset == "smoke"
    steps, num = (10, 128) if smoke else (config.steps, config.frames)
    tokens = jnp.asarray(WordTokenizer()(PROMPTS))
    contexts = make_text_encoder(COMPACT_CLIP.text_config).hidden_states(text_params, tokens)
    data = encode_frames(config, num, vae_params, jax.random.key(config.seed + 1))
    print({"frames": num, "latents/std": float(data["latents"].std())}, flush=True)

    def draw(data: dict[str, jax.Array], key: Key, step: jax.Array) -> Batch:
        index = jax.random.randint(key, (config.batch,), 0, num)
        return as_batch(**{name: value[index] for name, value in data.items()})

    algorithm = latent_diffusion(
        LatentDiffusionConfig(total_steps=steps, warmup_steps=min(200, steps // 4)),
        contexts,
        contexts[-1],
    )
    return fit(
        algorithm,
        Sampler(jax.tree.map(jnp.asarray, data), draw),
        FitConfig(steps, config.seed, config.directory, log_every=50, checkpoint_every=500),
        name="denoiser",
    )


def main(config: Config) -> None:
    if config.preset == "smoke":
        config = replace(config, directory=f"{config.directory}/smoke")
    vae_params = {"params": load_vae(asset("vae.safetensors"), COMPACT_VAE)}
    text_params = clip_weights.load(asset("text_encoder.safetensors"), COMPACT_CLIP.text_config)
    fitted = train(config, vae_params, text_params)
    denoiser = averaged(fitted.state)
    folder = ASSETS if config.preset == "full" else Path(config.directory)
    for name, params in denoiser._asdict().items():
        save(params["params"], folder / f"{name}.safetensors", jnp.float16)
        write_card(
            folder / f"{name}.safetensors",
            f"The compact {name} of the video editor: 16 x 16 latents, regional prompts.",
            "python -m experiments.pretrain.denoiser",
            config,
            fitted.metrics,
            "means of the last 50 steps of training",
        )
    print(fitted.metrics)


if __name__ == "__main__":
    main(tyro.cli(Config))

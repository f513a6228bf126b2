"""Finetunes a pretrained denoiser on simulator frames: a new ControlNet beside its UNet, or LoRA inside it.

    python -m experiments.pretrain.finetuning --weights stable-diffusion-v1-5 --part controlnet --condition depth
    python -m experiments.pretrain.finetuning --weights stable-diffusion-v1-5 --part lora --controlnet DEPTH --fsdp 8
    python -m experiments.pretrain.finetuning --preset smoke       # the shipped compact model, 2 min on two CPU cores

Writes the folder of a ControlNet, which ``daag edit --controlnets`` and diffusers read, or
``pytorch_lora_weights.safetensors``.
With ``--part lora`` the frames are shown to the ControlNet of ``--controlnet``.  The full preset has not been run: the
public weights are not in this repository.  The encoded frames are spread over the devices (1 GB per 1,000 at 512 px),
and so are parameters and the optimiser's state with ``--fsdp``, from the first byte that is read.  At its start a run
needs twice the room of the state.

Expect of the smoke preset: loss/all about 0.021, a little less at its end than at its start.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh
from jaxtyping import Array, Float

from daag_jax.algorithms.denoiser_finetuning import (
    SD15_TRAINING,
    DenoiserFinetuningConfig,
    denoiser_finetuning,
    finetuned,
    start,
)
from daag_jax.algorithms.latent_diffusion import Denoiser, LatentDiffusionConfig
from daag_jax.algorithms.parts.trainable import averaged
from daag_jax.editing.compact import load_compact_editor
from daag_jax.editing.controls import ControlConfig
from daag_jax.editing.editor import encode
from daag_jax.editing.editor_config import EditorParams, EditorSpec
from daag_jax.editing.masks import region_weights
from daag_jax.editing.pretrained import load_pretrained
from daag_jax.editing.prompts import BACKGROUND, NO_PROMPT, object_prompt
from daag_jax.editing.steering import CHANNELS, condition
from daag_jax.envs.palette import PALETTE_NAMES
from daag_jax.networks import folders, lora
from daag_jax.networks.stable_diffusion import weights
from daag_jax.networks.stable_diffusion.config import ControlNetConfig, UNetConfig
from daag_jax.training import devices
from daag_jax.training.fit import FitConfig, Sampler, fit
from daag_jax.training.processes import gathered, is_main, join
from daag_jax.types import Batch, Key, Params
from experiments.pretrain.frames import as_batch, random_frames

PROMPTS = (BACKGROUND, *map(object_prompt, PALETTE_NAMES), NO_PROMPT)


@dataclass(frozen=True)
class Config:
    """What to train, on what, and for how long."""

    preset: Literal["full", "smoke"] = "full"
    weights: Path | None = None  # Stable Diffusion 1.5; None in the smoke preset
    part: Literal["controlnet", "lora"] = "controlnet"
    condition: Literal["depth", "normals", "edges"] = "depth"
    controlnet: Path | None = None  # of the condition, for adapters
    rank: int = 16
    learning_rate: float | None = None  # None: 1e-5 of a ControlNet, 1e-4 of adapters
    size: int = 512  # [px]
    steps: int = 10000
    batch: int = 32
    frames: int = 8192
    fsdp: int = 1  # devices that share the state's slices
    seed: int = 0
    directory: str = "runs/pretrain/finetuning"

    def __post_init__(self):
        if self.preset == "smoke" and self.part == "lora":
            raise ValueError("preset 'smoke' trains a ControlNet; use --part controlnet.")
        if self.part == "controlnet" and self.controlnet is not None:
            raise ValueError(
                f"controlnet={self.controlnet}: a new ControlNet begins as the UNet's encoder; leave it out, or use "
                "--part lora."
            )

    @property
    def folder(self) -> Path:
        """Of this run: another condition or part is another run."""
        return Path(self.directory) / f"{self.part}_{self.condition}"


class Model(NamedTuple):
    """A pretrained model: its sizes, its parameters, and the text encoder's states of ``PROMPTS``."""

    spec: EditorSpec
    vae: Params
    unet: Params
    controlnet: Params  # empty where a new one is trained
    contexts: Float[Array, "N L E"]


def load_model(config: Config, mesh: Mesh) -> Model:
    """Stable Diffusion 1.5 from its folder; in the smoke preset the shipped compact model."""
    if config.preset == "smoke":
        editor, spec = load_compact_editor(), EditorSpec()
        return Model(spec, editor.params.vae, editor.params.unet, {}, editor.sentences)
    if config.weights is None:
        raise ValueError("weights is not given; name the folder of Stable Diffusion 1.5.")
    if config.part == "lora" and config.controlnet is None:
        raise ValueError(
            "controlnet is not given; adapters are trained behind one: name its folder."
        )
    branches = {config.condition: config.controlnet} if config.controlnet else {}
    places = partial(devices.shardings, mesh=mesh)
    editor = load_pretrained(config.weights, branches, places=places)
    controlnet = editor.params.controlnets[0] if branches else {}
    return Model(
        editor.spec, editor.params.vae, editor.params.unet, controlnet, editor.encode(PROMPTS)
    )


def encode_frames(config: Config, model: Model, key: Key) -> dict[str, np.ndarray]:
    """Renders and encodes all frames, a few at a time."""
    few = min(config.frames, 16)

    @jax.jit
    def some(key: Key, vae: Params) -> dict[str, jax.Array]:
        scenes = random_frames(key, few, config.size)
        rgb, depth, normals = (getattr(scenes.frames, k) for k in ("rgb", "depth", "normals"))
        controls = condition(config.condition, rgb, depth, normals, ControlConfig())
        factor = model.spec.vae.downsampling
        return {
            "latents": encode(model.spec, EditorParams(vae, {}, ()), rgb),
            "regions": region_weights(scenes.frames.segmentation, 3, factor),
            "controls": (controls * 255.0 + 0.5).astype(jnp.uint8),
            "prompts": jnp.concatenate([jnp.zeros((few, 1), jnp.int32), 1 + scenes.colors], 1),
        }

    rounds = -(-config.frames // few)
    parts = [jax.device_get(some(jax.random.fold_in(key, i), model.vae)) for i in range(rounds)]
    return {k: np.concatenate([part[k] for part in parts])[: config.frames] for k in parts[0]}


def sizes_of(config: Config, model: Model) -> LatentDiffusionConfig:
    """Networks and training; a new ControlNet has the UNet's sizes."""
    unet = model.spec.unet
    mine = {field.name for field in fields(UNetConfig)} & {f.name for f in fields(ControlNetConfig)}
    factor = model.spec.vae.downsampling
    widths = SD15_TRAINING.controlnet.conditioning_embedding_out_channels
    controlnet = ControlNetConfig(
        conditioning_channels=CHANNELS[config.condition],
        conditioning_embedding_out_channels=widths[: factor.bit_length()],
        **{name: getattr(unet, name) for name in mine},
    )
    if model.controlnet:
        controlnet = model.spec.controlnets[0][1]
    rate = config.learning_rate or (1e-5 if config.part == "controlnet" else 1e-4)
    return replace(
        SD15_TRAINING,
        unet=unet,
        controlnet=controlnet,
        latent_size=config.size // factor,
        parameterisation=model.spec.parameterisation,
        learning_rate=rate,
        warmup_steps=min(500, config.steps // 4),
        total_steps=config.steps,
        ema_decay=min(SD15_TRAINING.ema_decay, 1.0 - 10.0 / config.steps),  # of the last tenth
    )


def train(config: Config, mesh: Mesh) -> tuple[DenoiserFinetuningConfig, Denoiser, Params]:
    """The configuration, the finetuned model, and the moving average of the part that was trained."""
    model = load_model(config, mesh)
    data = encode_frames(config, model, jax.random.key(config.seed + 1))
    own = DenoiserFinetuningConfig(sizes_of(config, model), config.part, config.rank)
    algorithm = denoiser_finetuning(own, model.contexts, model.contexts[-1])
    base = Denoiser({"params": model.unet}, {"params": model.controlnet})
    begin = lambda key, base: start(own, algorithm.init(key), base)

    def draw(data: dict[str, jax.Array], key: Key, step: jax.Array) -> Batch:
        return as_batch(**devices.draw_rows(data, key, config.batch))

    fitted = fit(
        algorithm,
        Sampler(devices.spread(data, mesh), draw),
        FitConfig(
            config.steps,
            config.seed,
            str(config.folder),
            log_every=min(100, config.steps // 4),
            checkpoint_every=1000,
            fsdp=config.fsdp,
        ),
        state=devices.born_sharded(begin, mesh, jax.random.key(config.seed), base),
        mesh=mesh,
        name=config.part,
    )
    return own, finetuned(own, fitted.state), averaged(fitted.state.trained)


def main(config: Config) -> None:
    join()
    if config.preset == "smoke":
        small = {"size": 64, "steps": 60, "batch": 16, "frames": 256, "learning_rate": 1e-3}
        config = replace(config, directory=f"{config.directory}/smoke", **small)
    own, model, trained = train(config, devices.mesh_for_batch(config.batch, config.fsdp))
    is_lora = config.part == "lora"
    made = gathered(trained if is_lora else model.controlnet["params"])  # by all processes
    if not is_main():
        return
    if is_lora:
        path = config.folder / "pytorch_lora_weights.safetensors"
        lora.save(made, path, weights.tensor_name)
    else:
        path = config.folder / f"controlnet_{config.condition}"
        folders.save(path, own.diffusion.controlnet, made)
    print(f"{path} is written")


if __name__ == "__main__":
    main(tyro.cli(Config))

"""Seconds per UNet call and edited frames per second at Stable Diffusion 1.5's size, beside diffusers on PyTorch.

    pip install -c constraints.txt -e '.[oracle]'     # the peer; without it our figures stand alone
    python -m benchmarks.editor                       # two CPU cores, float32: about 8 min
    python -m benchmarks.editor --dtype bfloat16 --torch-compile --frames 16 --steps 20        # a GPU

Both sides hold the same random weights and take turns in one process, for their results are compared; the figure is the
median over the rounds.

    unet    one call: latents of 64 x 64 (512 px), one image, 77 tokens
    edit    a clip at 512 px: ControlNet for depth, classifier-free guidance, ``steps`` of DDIM, decoded to pixels;
            there the StableDiffusionControlNetPipeline, here ``make_editor`` without a mask and across frames "off"

FLOP are those of the published network; ours need fewer on a CPU (``networks/stable_diffusion/convolve.py``).  The
ceiling is a float32 (or bfloat16) product of 4096 x 4096 matrices in the same run.  The last
line is one JSON object.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.sides import ceiling
from daag_jax.editing.editor import make_editor
from daag_jax.editing.editor_config import Clip, EditorConfig, EditorParams, EditorSpec, Prompts
from daag_jax.names import check_name
from daag_jax.networks import folders
from daag_jax.networks.stable_diffusion import weights
from daag_jax.networks.stable_diffusion.config import SD15_CONTROLNET, SD15_UNET, SD15_VAE
from daag_jax.networks.stable_diffusion.unet import UNet

try:
    import diffusers
    import torch
except ModuleNotFoundError:
    torch = None

SIZE, LATENT, TOKENS, WIDTH = 512, 64, 77, SD15_UNET.cross_attention_dim
GUIDANCE = 7.5
UNET_FLOP = 803.3e9  # 677.2 of convolutions and products (PyTorch's counter), 126.1 of attention
Sides = dict[str, Callable[[], np.ndarray]]  # functions that return when their result is there
SHAPES = {
    "unet": (weights.unet_shapes, SD15_UNET),
    "controlnet": (weights.controlnet_shapes, SD15_CONTROLNET),
    "vae": (weights.vae_shapes, SD15_VAE),
}


@dataclass(frozen=True)
class Config:
    """What to measure."""

    parts: tuple[str, ...] = ("unet", "edit")
    rounds: int = 5  # of the UNet's calls; edits take two
    frames: int = 1
    steps: int = 2
    dtype: str = "float32"  # of parameters and arithmetic, on both sides
    torch_compile: bool = False  # the peer's networks through torch.compile

    def __post_init__(self):
        for part in self.parts:
            check_name("part", part, PARTS)


def in_turn(sides: Sides, rounds: int) -> dict[str, tuple[float, np.ndarray]]:
    """Median seconds and last result of each side, after a first call that is not counted."""
    seconds, results = {name: [] for name in sides}, {}
    for turn in range(rounds + 1):
        for name, call in sides.items():
            began = time.perf_counter()
            results[name] = call()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: (float(np.median(own)), results[name]) for name, own in seconds.items()}


def networks(folder: Path) -> dict:
    """The peer's networks with random weights, and their files; empty where PyTorch is absent."""
    if torch is None:
        return {}
    torch.manual_seed(0)
    trunk = {"cross_attention_dim": WIDTH, "attention_head_dim": 8}
    vae = {
        "block_out_channels": SD15_VAE.block_out_channels,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
    }
    made = {
        "unet": diffusers.UNet2DConditionModel(sample_size=LATENT, **trunk),
        "controlnet": diffusers.ControlNetModel(**trunk),
        "vae": diffusers.AutoencoderKL(**vae, sample_size=SIZE),
    }
    for name, network in made.items():
        network.eval().requires_grad_(False).save_pretrained(folder / name)
    return made


def parameters(folder: Path, name: str, dtype: str):
    """Our parameters: the peer's, or random ones."""
    if torch is not None:
        return folders.load(folders.components(folder / name)[0], jnp.dtype(dtype))
    shapes, size = SHAPES[name]
    random = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(0.02 * random.standard_normal(leaf.shape, np.float32), dtype)
    return jax.tree.map(draw, shapes(size))


def on_peer(config: Config, network):
    """A network of the peer where it runs, compiled if that is wished for."""
    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    network = network.to(device, getattr(torch, config.dtype))
    network = network.to(memory_format=torch.channels_last) if device == "cuda" else network
    return torch.compile(network) if config.torch_compile else network


def to_peer(config: Config, network, array: np.ndarray):
    """An array as a tensor of the peer, channels first."""
    dtype = getattr(torch, config.dtype)
    array = np.moveaxis(array, -1, 1) if array.ndim == 4 else array
    device = next(network.parameters()).device
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype)


def unet_sides(config: Config, folder: Path, made: dict) -> Sides:
    """One call of the UNet."""
    random = np.random.default_rng(1)
    latents = random.standard_normal((1, LATENT, LATENT, 4), np.float32)
    context = random.standard_normal((1, TOKENS, WIDTH), np.float32)
    params = parameters(folder, "unet", config.dtype)
    unet = UNet(SD15_UNET, jnp.dtype(config.dtype))
    call = jax.jit(lambda *inputs: unet.apply({"params": inputs[0]}, *inputs[1:]))
    inputs = (params, jnp.asarray(latents), jnp.array([500]), jnp.asarray(context)[:, None])
    sides = {"ours": lambda: np.asarray(call(*inputs), np.float32)}
    if made:
        peer = on_peer(config, made["unet"])
        x, text = (to_peer(config, peer, array) for array in (latents, context))

        @torch.inference_mode()
        def theirs() -> np.ndarray:
            out = peer(x, torch.tensor([500], device=x.device), text).sample
            return np.moveaxis(out.float().cpu().numpy(), 1, -1)

        sides["diffusers"] = theirs
    return sides


def edit_sides(config: Config, folder: Path, made: dict) -> Sides:
    """A whole edit of a clip."""
    random = np.random.default_rng(2)
    frames, pixels = config.frames, (config.frames, SIZE, SIZE)
    depth = random.uniform(0.3, 1.0, pixels).astype(np.float32)
    texts = random.standard_normal((2, TOKENS, WIDTH), np.float32)
    spec = EditorSpec(SD15_VAE, SD15_UNET, (("depth", SD15_CONTROLNET),), "noise", 1)
    edit = EditorConfig(
        config.steps, "ddim", "leading", GUIDANCE, attention="off", is_masked=False,
        dtype=config.dtype, chunk=max(frames, 2),
    )  # fmt: skip
    params = EditorParams(
        parameters(folder, "vae", config.dtype),
        parameters(folder, "unet", config.dtype),
        (parameters(folder, "controlnet", config.dtype),),
    )
    clip = Clip(
        jnp.zeros((1, *pixels, 3), jnp.uint8),
        jnp.asarray(depth)[None],
        jnp.zeros((1, *pixels, 3)),
        jnp.zeros((1, *pixels), jnp.int32),
    )
    said = Prompts(jnp.asarray(np.stack([texts[0], texts[0]]))[None], jnp.asarray(texts[1]))
    run = jax.jit(make_editor(edit, spec))
    args = (params, clip, said, jnp.array([[False]]), jax.random.key(0))
    sides = {"ours": lambda: np.asarray(run(*args))[0]}
    if made:
        sides["diffusers"] = pipeline_call(config, made, depth, texts)
    return sides


def pipeline_call(
    config: Config, made: dict, depth: np.ndarray, texts: np.ndarray
) -> Callable[[], np.ndarray]:
    """The same edit by the peer's pipeline."""
    pipeline = diffusers.StableDiffusionControlNetPipeline(
        **{name: on_peer(config, network) for name, network in made.items()},
        text_encoder=None, tokenizer=None, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            clip_sample=False, set_alpha_to_one=False, steps_offset=1,
        ),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    image = to_peer(config, made["vae"], np.repeat(depth[..., None], 3, -1))
    prompt, nothing = (
        to_peer(config, made["vae"], np.repeat(text[None], config.frames, 0)) for text in texts
    )
    noise = torch.randn(config.frames, 4, LATENT, LATENT).to(image)
    inputs = {"prompt_embeds": prompt, "negative_prompt_embeds": nothing, "image": image}
    how = {"num_inference_steps": config.steps, "guidance_scale": GUIDANCE, "output_type": "np"}
    return lambda: pipeline(latents=noise, **inputs, **how).images


PARTS = {"unet": unet_sides, "edit": edit_sides}


def main(config: Config) -> None:
    console = Console(width=120)
    device = jax.devices()[0].device_kind
    console.print(f"{device}, {os.cpu_count()} CPU cores, {config.dtype}; parts {config.parts}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = networks(folder)
        found = {"device": device, "dtype": config.dtype, "unet_flop": UNET_FLOP}
        found["ceiling_flops"] = ceiling(4096, config.dtype)
        table = Table("part", "side", "seconds", "rate", "beside diffusers")
        for part in config.parts:
            times = in_turn(
                PARTS[part](config, folder, made), config.rounds if part == "unet" else 2
            )
            for side, (seconds, result) in times.items():
                found[f"{part}_{side}_seconds"] = seconds
                rate = f"{config.frames / seconds:.4g} frames/s"
                if part == "unet":
                    share = found["unet_flop"] / seconds / found["ceiling_flops"]
                    found[f"unet_{side}_share_of_ceiling"] = share
                    rate = f"{found['unet_flop'] / seconds / 1e9:.0f} GFLOP/s, {share:.0%} of the ceiling"
                peer = times.get("diffusers", times["ours"])[0]
                table.add_row(part, side, f"{seconds:.3g}", rate, f"{peer / seconds:.2f} x")
                if not np.isfinite(result).all():
                    raise ValueError(f"{part}: {side} gave numbers that are not finite.")
            if part == "unet" and made:
                ours, theirs = (times[side][1] for side in ("ours", "diffusers"))
                error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
                found["unet_relative_error"] = error
                console.print(f"The two UNets differ by {error:.1e} of the largest output.")
        console.print(f"ceiling: {found['ceiling_flops'] / 1e9:.0f} GFLOP/s")
        console.print(table)
    print(json.dumps(found))


if __name__ == "__main__":
    main(tyro.cli(Config))

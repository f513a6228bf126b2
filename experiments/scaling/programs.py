"""Four small programs that stand for all: a planner, Diffusion-BC, finetuning of the shipped editor, the agent's loop.

    daag launch --processes 2 --devices 4 python -m experiments.scaling.programs planner FOLDER

Each trains for a few steps on whatever devices there are, and leaves the losses of every step in FOLDER.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from daag_jax.algorithms.bc import BcConfig
from daag_jax.algorithms.dbc import DbcConfig, dbc
from daag_jax.algorithms.denoiser_finetuning import (
    DenoiserFinetuningConfig,
    denoiser_finetuning,
    start,
)
from daag_jax.algorithms.diffuser import DiffuserConfig, diffuser
from daag_jax.algorithms.latent_diffusion import Denoiser, LatentDiffusionConfig
from daag_jax.algorithms.parts.density import DensityConfig
from daag_jax.algorithms.parts.trajectories import TrajectoryConfig
from daag_jax.data.windows import draw_windows, episode_data
from daag_jax.names import check_name
from daag_jax.networks.stable_diffusion.config import COMPACT_CONTROLNET, COMPACT_UNET
from daag_jax.training.fit import FitConfig, Sampler, fit
from daag_jax.training.processes import is_main, join
from daag_jax.training.report import read_metrics
from daag_jax.types import Algorithm, Batch, Episode, Key, Spec, State

BATCH = 16
SPEC = Spec(4, 2)


@dataclass(frozen=True)
class Config:
    """Which program, and where its losses go."""

    program: tyro.conf.Positional[str]
    directory: tyro.conf.Positional[Path]
    steps: int = 10
    log_every: int = 1
    checkpoint_every: int = 0  # 0: at the end
    fsdp: int = 1  # slices of the model

    def __post_init__(self) -> None:
        check_name("program", self.program, PROGRAMS)


def walks(num: int = 32, steps: int = 64) -> Episode:
    """Random walks, whose actions are their steps."""
    random = np.random.default_rng(0)
    actions = random.uniform(-1.0, 1.0, (num, steps, 2)).astype(np.float32)
    place = np.concatenate([np.zeros((num, 1, 2)), np.cumsum(0.05 * actions, axis=1)], axis=1)
    velocity = np.concatenate([actions, actions[:, -1:]], axis=1)
    observations = np.concatenate([np.clip(place, -1, 1), velocity], axis=2).astype(np.float32)
    images = np.zeros((num, steps + 1, 0, 0, 0, 3), np.uint8)
    return Episode(observations, images, actions, actions[..., 0], np.full(num, steps, np.int32))


def trained(
    config: Config, algorithm: Algorithm, batches: Any, state: State | None = None
) -> list[float]:
    """The loss of every step."""
    run = FitConfig(
        config.steps,
        directory=str(config.directory),
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every or config.steps,
        fsdp=config.fsdp,
        progress=False,
        tensorboard=False,
    )
    fit(algorithm, batches, run, state=state)
    if not is_main():
        return []
    rows = read_metrics(config.directory / "metrics.jsonl")
    name = next(name for name in rows[0] if name.startswith("loss/"))
    return [row[name] for row in rows]


def on_walks(config: Config, algorithm: Algorithm) -> list[float]:
    """Training on windows of random walks."""
    data = episode_data(walks(), algorithm.window)
    draw = lambda data, key, n: draw_windows(data, algorithm.window, BATCH, key)
    return trained(config, algorithm, Sampler(data, draw))


def planner(config: Config) -> list[float]:
    """Diffuser with a small temporal U-Net."""
    sizes = DiffuserConfig(TrajectoryConfig(32), widths=(16, 32), time_dim=16)
    return on_walks(config, diffuser(sizes, SPEC))


def diffusion_bc(config: Config) -> list[float]:
    """Diffusion-BC; the density model is trained for the first half of the steps."""
    sizes = DbcConfig(BcConfig((64, 64)), DensityConfig(width=64, depth=2, num_steps=20))
    return on_walks(config, dbc(replace(sizes, pretrain_steps=config.steps // 2), SPEC))


def finetuning(config: Config) -> list[float]:
    """A new ControlNet for the shipped UNet, on random latents."""
    from daag_jax.editing.compact import load_compact_editor

    editor = load_compact_editor()
    sizes = LatentDiffusionConfig(COMPACT_UNET, COMPACT_CONTROLNET, warmup_steps=1, total_steps=100)
    own = DenoiserFinetuningConfig(sizes)
    algorithm = denoiser_finetuning(own, editor.sentences, editor.sentences[-1])
    base = Denoiser({"params": editor.params.unet}, {"params": editor.params.controlnets[0]})
    state = start(own, jax.jit(algorithm.init)(jax.random.key(0)), base)

    def batches(key: Key, n: jax.Array) -> Batch:
        latent_key, control_key, prompt_key = jax.random.split(key, 3)
        side, channels = sizes.latent_size, COMPACT_UNET.in_channels
        pixels = side * COMPACT_CONTROLNET.downsampling
        seen = (BATCH, pixels, pixels, COMPACT_CONTROLNET.conditioning_channels)
        regions = jnp.zeros((BATCH, sizes.num_regions, side, side)).at[:, 0].set(1.0)
        prompts = (BATCH, sizes.num_regions)
        extras = {
            "latents": jax.random.normal(latent_key, (BATCH, side, side, channels)),
            "regions": regions,
            "controls": jax.random.randint(control_key, seen, 0, 256).astype(jnp.uint8),
            "prompts": jax.random.randint(prompt_key, prompts, 0, editor.sentences.shape[0] - 1),
        }
        none, one = jnp.zeros((BATCH, 1, 0)), jnp.zeros((BATCH, 1))
        return Batch(none, none, one, one == 0, extras)

    return trained(config, algorithm, batches, state)


def agent(config: Config) -> list[float]:
    """Diffusion Augmented Agents with the recolouring editor: episodes, lessons, self-imitation."""
    from daag_jax.agent.augmenter import make_augmenter, make_looker
    from daag_jax.agent.daag import run_daag
    from daag_jax.agent.daag_config import DaagConfig
    from daag_jax.agent.memory import World
    from daag_jax.agent.reward import DetectorConfig, make_detector, make_scorer
    from daag_jax.algorithms.parts.action_head import Exploration
    from daag_jax.algorithms.self_imitation import SelfImitationConfig
    from daag_jax.assets import asset
    from daag_jax.envs.tasks.rgb_stacking import RgbStacking, RgbStackingConfig
    from daag_jax.networks.clip import weights
    from daag_jax.networks.clip.config import COMPACT_CLIP

    policy = SelfImitationConfig(
        width=4, hidden_dims=(16,), stem_stride=4, binary_dims=(2,), exploration=Exploration(0.1)
    )
    sizes = DaagConfig(
        tasks=("Grasp the red object", "Grasp the green object"),
        iterations=2,
        episodes=32,
        group=4,
        train_steps=config.steps,
        batch=8,
        capacity=64,
        policy=policy,
    )
    env = RgbStacking(RgbStackingConfig(cameras=("front_left",), horizon=1))
    scorer = jax.jit(make_scorer(DetectorConfig()))
    world = World(env, scorer, make_looker(env), make_augmenter("recolour", env, None))
    clip = weights.load(asset("clip.safetensors"), COMPACT_CLIP)
    detector = make_detector(clip, env.captions, DetectorConfig())
    # an eager detector that sees red grasped in an episode of eight, and nothing else: the task of green is given edits
    is_red = np.array([caption.endswith("grasping the red object") for caption in env.captions])
    eager = detector._replace(thresholds=jnp.where(is_red, 3e-6, jnp.inf))
    rows = run_daag(world, eager, sizes, config.directory)
    # without a buffer there is no loss; "extracted" are edits of the episodes of the tasks before
    numbers = ("loss", "kept", "extracted", "edited", "buffer", "success")
    return [float(row[k] or 0.0) for row in rows for k in numbers]


PROGRAMS: dict[str, Callable[[Config], list[float]]] = {
    "planner": planner,
    "diffusion_bc": diffusion_bc,
    "finetuning": finetuning,
    "agent": agent,
}


def main(config: Config) -> None:
    join()
    config.directory.mkdir(parents=True, exist_ok=True)
    losses = PROGRAMS[config.program](config)
    if is_main():
        content = {"losses": losses, "devices": jax.device_count(), "jax": jax.__version__}
        (config.directory / "losses.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main(tyro.cli(Config))

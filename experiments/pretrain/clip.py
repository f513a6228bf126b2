"""Trains the compact CLIP on rendered frames and writes ``daag_jax/assets/clip.safetensors`` with its card.

    python -m experiments.pretrain.clip                  # about 45 min on two CPU cores
    python -m experiments.pretrain.clip --preset smoke   # a minute

It plays the part of a CLIP trained on the web: it knows all colours, and what grasping and stacking look like, but it
never reads a sub-goal that names red, green or blue (``withheld``).  Those are the stacking tasks' own captions; a
reward detector learns them by finetuning, so that "zero real examples of a novel task" means what it says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Bool, Float, Int

from daag_jax.agent.detectors import episode_frames
from daag_jax.algorithms.contrastive import ContrastiveConfig, contrastive
from daag_jax.algorithms.parts.trainable import averaged
from daag_jax.assets import ASSETS
from daag_jax.envs.palette import PALETTE_NAMES
from daag_jax.envs.tasks.rgb_stacking import RgbStacking, RgbStackingConfig, task_sentences
from daag_jax.envs.tasks.rgb_stacking_scenes import captions
from daag_jax.networks.clip import weights as clip_weights
from daag_jax.networks.clip.config import COMPACT_CLIP
from daag_jax.training.fit import FitConfig, Sampler, fit
from daag_jax.types import Batch, Key, Params
from experiments.pretrain.cards import write_card
from experiments.pretrain.frames import as_batch, drawn, random_frames


@dataclass(frozen=True)
class Config:
    """What to train and for how long."""

    preset: Literal["full", "smoke"] = "full"
    steps: int = 6000
    batch: int = 64
    states: int = 16384  # of episodes; as many still scenes are drawn anew
    seed: int = 0
    withheld: tuple[str, ...] = ("red", "green", "blue")  # colours whose sub-goals are never read
    directory: str = "runs/pretrain/clip"


OBJECTS = tuple(f"a {color} block" for color in PALETTE_NAMES)
STATES = (
    "the robot hand is empty",
    "the robot is grasping one object",
    "one object is on top of the other object",
    "a tower of three blocks",
)
CAPTIONS = (*OBJECTS, *STATES, *captions())


def truths(colors: Int[Array, "B 3"], truth: Bool[Array, "B M"]) -> Bool[Array, "B N"]:
    """Truth of CAPTIONS: objects that are present, states without colour, sub-goals."""
    present = jnp.any(jax.nn.one_hot(colors, len(PALETTE_NAMES), dtype=bool), axis=1)
    size = len(PALETTE_NAMES)
    grasps = jnp.any(truth[:, :size], axis=1)
    pairs = jnp.sum(truth[:, size:], axis=1)
    states = jnp.stack([~grasps, grasps, pairs >= 1, pairs >= 2], axis=1)
    return jnp.concatenate([present, states, truth], axis=1)


def episode_states(config: Config) -> Float[np.ndarray, "N Q"]:
    """States of a clumsy expert's episodes at all tasks: what happens in the world, near misses and all."""
    env = RgbStacking(RgbStackingConfig(cameras=("front_left",), resolution=8))
    tasks = task_sentences(env.config.colors)[:-1]
    key = jax.random.key(config.seed + 1)
    return episode_frames(env, key, config.states, tasks, batch=128)[1]


def batches(config: Config):
    """Half still scenes in any colours; half states of episodes, in colours whose sub-goals are told."""
    is_known = np.array(
        [
            c in OBJECTS + STATES or not any(w in c.split() for w in config.withheld)
            for c in CAPTIONS
        ]
    )

    told = jnp.array([i for i, c in enumerate(PALETTE_NAMES) if c not in config.withheld])

    def draw(states: Float[Array, "N Q"], key: Key, step: jax.Array) -> Batch:
        still_key, state_key, color_key, view_key = jax.random.split(key, 4)
        half = config.batch // 2
        rows = jax.random.randint(state_key, (half,), 0, states.shape[0])
        shuffle = lambda key: jax.random.permutation(key, told)[:3]
        colors = jax.vmap(shuffle)(jax.random.split(color_key, half))
        moving = drawn(view_key, states[rows], colors)
        still = random_frames(still_key, config.batch - half)
        scenes = jax.tree.map(lambda *x: jnp.concatenate(x), still, moving)
        known = jnp.broadcast_to(jnp.asarray(is_known)[None], (config.batch, len(CAPTIONS)))
        return as_batch(
            image=scenes.frames.rgb, truth=truths(scenes.colors, scenes.truth), known=known
        )

    return Sampler(jnp.asarray(episode_states(config)), draw)


def save_assets(config: Config, clip_params: Params, metrics: dict, folder: Path) -> None:
    """Writes CLIP; and its text tower by itself where there is none yet, for the denoiser depends on that very file."""
    clip_weights.save(clip_params, folder / "clip.safetensors", COMPACT_CLIP)
    command = "python -m experiments.pretrain.clip"
    what = (
        "The compact CLIP (`COMPACT_CLIP`) before it is a reward detector, 1.2 million numbers.  It is in the "
        "repository since demo and tests start from it without a hub, and its training takes some 45 min."
    )
    measured = "means of the last 50 steps of training"
    write_card(folder / "clip.safetensors", what, command, config, metrics, measured)
    text = folder / "text_encoder.safetensors"
    if not text.exists():
        tower = {"params": clip_params["params"]["text_model"]}
        clip_weights.save(tower, text, COMPACT_CLIP.text_config)
        what = "The compact CLIP's text tower, frozen when the denoiser's training began."
        write_card(text, what, command, config, metrics, measured)


def main(config: Config) -> None:
    if config.preset == "smoke":
        folder = f"{config.directory}/smoke"
        config = replace(config, steps=20, states=512, directory=folder)
    steps = config.steps
    algorithm = contrastive(
        ContrastiveConfig(total_steps=steps, warmup_steps=min(200, steps // 4)), CAPTIONS
    )
    fit_config = FitConfig(steps, config.seed, config.directory, log_every=50, checkpoint_every=500)
    fitted = fit(algorithm, batches(config), fit_config, name="clip")
    folder = ASSETS if config.preset == "full" else Path(config.directory)
    save_assets(config, averaged(fitted.state), fitted.metrics, folder)
    print(fitted.metrics)


if __name__ == "__main__":
    main(tyro.cli(Config))

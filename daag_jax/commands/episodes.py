"""``daag collect``: episodes of a world, and what every command does with episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from daag_jax.names import check_name

ENVS = ("rgb_stacking",)
POLICIES = ("expert", "random")
OF_PIXELS = ("task", "mode", "noise", "resolution", "videos")  # options of rgb_stacking alone
FORMATS = ("minari", "npz", "d4rl", "safetensors")


@dataclasses.dataclass(frozen=True)
class Collect:
    """Writes episodes of an expert, or of random actions: of rgb_stacking, or of a world without pixels.

    D4RL's data sets of runners, from our own policies, go by names of their own: hopper-medium-replay-ours.
    """

    world: tyro.conf.Positional[str] = "rgb_stacking"
    out: Path = Path("runs/episodes")  # a folder
    policy: str = "expert"  # or "random" (rgb_stacking)
    episodes: int = 64  # of maze2d-*-v1 and multi2d-*-v1: runs of 4,000 steps
    steps: int = 0  # *-ours, of each policy: 0 is 100,000 (D4RL: 1,000,000)
    seed: int = 0
    format: str = ""  # minari, npz, d4rl or safetensors; "": minari, but for rgb_stacking the last
    overwrite: bool = False  # what another call wrote; rgb_stacking always does
    clip_actions: bool = False  # to the bounds, where the expert goes beyond; not rgb_stacking
    task: str = "Stack the red object on top of the blue object"  # this and below: rgb_stacking
    mode: str = "primitive"
    noise: float = 0.0  # Gaussian, on the expert's actions
    resolution: int = 64
    videos: int = 0  # episodes also written as mp4

    def __post_init__(self):
        if self.episodes < 1:
            raise ValueError(f"episodes={self.episodes} is not positive; try 100.")
        if self.steps < 0:
            raise ValueError(f"steps={self.steps} is negative; try 100000.")
        if self.format:
            check_name("format", self.format, FORMATS)


def collect(options: Collect) -> None:
    """Runs :class:`Collect`."""
    from daag_jax.envs.worlds import WORLDS
    from daag_jax.evaluation.offline_data import DATA_SETS

    check_name("world", options.world, (*ENVS, *WORLDS, *DATA_SETS))
    check_name("policy", options.policy, POLICIES)
    if options.world in ENVS:
        _collect_pixels(options)
    elif options.world in DATA_SETS:
        _collect_ours(options)
    else:
        _collect_world(options)


def _collect_ours(options: Collect) -> None:
    from daag_jax.data.datasets import summary
    from daag_jax.envs.worlds import make_world
    from daag_jax.evaluation.offline_data import DATA_SETS, STEPS, collected, mean_return
    from daag_jax.evaluation.scores import normalized_score

    _refuse_others(options, (*OF_PIXELS, "policy", "episodes", "clip_actions"))
    path = path_of(options)
    _refuse_existing(options, path)
    world = DATA_SETS[options.world][0]
    env = make_world(world)
    episodes = collected(options.world, options.seed, options.steps or STEPS)
    write_dataset(path, episodes, options, env.spec, world)
    mean = mean_return(episodes, env.horizon)
    score = normalized_score(world, mean)
    print(f"{path}: {summary(episodes, env.spec)}, return {mean:.1f} (D4RL's score {score:.1f})")


def _refuse_existing(options: Collect, path: Path) -> None:
    """Said before the work, not after."""
    if not options.overwrite and path.exists():
        raise FileExistsError(f"{path} exists; name another --out, or replace it: --overwrite.")


def _collect_world(options: Collect) -> None:
    import jax
    import numpy as np

    from daag_jax.data.datasets import action_bounds, summary
    from daag_jax.envs import worlds
    from daag_jax.evaluation.outcomes import demonstrations

    _refuse_others(options, (*OF_PIXELS, "policy", "steps"))
    path = path_of(options)
    _refuse_existing(options, path)
    env = worlds.make_world(options.world)
    run = worlds.make_runner(options.world, env)
    if run is None:
        expert = worlds.make_expert(options.world, env)
        episodes = demonstrations(env, expert, options.seed, options.episodes)
    else:
        made = jax.jit(run, static_argnums=1)(jax.random.key(options.seed), options.episodes)
        episodes = jax.device_get(made)
    if options.clip_actions:
        clipped = np.clip(episodes.actions, *action_bounds(env.spec))
        episodes = episodes._replace(actions=clipped)
    write_dataset(path, episodes, options, env.spec, options.world)
    print(f"{path}: {summary(episodes, env.spec)}")


def path_of(options: Collect) -> Path:
    """Where the episodes of a world without pixels go."""
    from daag_jax.data.minari_files import dataset_name
    from daag_jax.evaluation.offline_data import DATA_SETS

    world, quality = DATA_SETS.get(options.world, (options.world, ""))
    names = {
        "minari": dataset_name(world, f"{quality}-ours" if quality else "demos"),
        "npz": f"{options.world}.npz",
        "d4rl": f"{options.world}.hdf5",
        "safetensors": "episodes.safetensors",
    }
    return options.out / names[options.format or "minari"]


def write_dataset(path: Path, episodes: Any, options: Collect, spec: Any, world: str) -> None:
    """Writes the episodes of a world without pixels in the form that was asked for."""
    from daag_jax.data.disk import write_episodes
    from daag_jax.data.flat_files import write_d4rl, write_npz
    from daag_jax.data.minari_files import write_minari

    seed, overwrite = options.seed, options.overwrite
    if options.format in ("npz", "d4rl"):
        write = write_npz if options.format == "npz" else write_d4rl
        write(path, episodes, world, seed, overwrite)
    elif options.format == "safetensors":
        write_episodes(path, episodes, task=world)
    else:
        name = str(path.relative_to(options.out))
        write_minari(options.out, episodes, world, spec, name, seed, overwrite)


def _refuse_others(options: Collect, names: Sequence[str]) -> None:
    """Raises ValueError where an option was given that means nothing to this world."""
    for name in names:
        if getattr(options, name) != (default := getattr(Collect, name)):
            flag = name.replace("_", "-")
            raise ValueError(
                f"--{flag} {getattr(options, name)} means nothing to world {options.world!r}; "
                f"leave it at {default}."
            )


def _collect_pixels(options: Collect) -> None:
    import jax

    from daag_jax.data.disk import write_episodes
    from daag_jax.envs.experts.stacking import expert
    from daag_jax.evaluation.demonstrate import demonstrate
    from daag_jax.evaluation.rollout import random_actions, rollout

    if options.format not in ("", "safetensors"):
        raise ValueError(f"--format {options.format} holds no pixels; use safetensors.")
    _refuse_others(options, ("clip_actions", "steps"))
    env = make_world(options.mode, options.task, options.resolution)
    if options.policy == "expert":
        run = lambda key: demonstrate(env, expert(env), key, options.episodes, noise=options.noise)
    else:
        run = lambda key: rollout(env, random_actions(env.spec), (), key, options.episodes)
    episodes = jax.device_get(jax.jit(run)(jax.random.key(options.seed)))
    path = options.out / "episodes.safetensors"
    write_episodes(path, episodes, options.task, env.config.cameras)
    write_videos(options.out, episodes, options.videos)
    succeeded = int(episodes.extras["success"].sum())
    print(f"{path}: {options.episodes} episodes, {succeeded} reached the goal")
    reached = episodes.extras["labels"][:, 1:].any(axis=1).mean(axis=0)
    for caption, share in zip(env.captions, reached, strict=True):
        if share > 0:
            print(f"  {share:6.1%}  {caption}")


def make_world(
    mode: str, task: str, resolution: int = 64, cameras: Sequence[str] | None = None
) -> Any:
    """The world of a command; None are its own cameras."""
    from daag_jax.envs.tasks.rgb_stacking import RgbStacking, RgbStackingConfig

    cameras = RgbStackingConfig.cameras if cameras is None else tuple(cameras)
    return RgbStacking(
        RgbStackingConfig(mode=mode, task=task, resolution=resolution, cameras=cameras)
    )


def write_videos(folder: Path, episodes: Any, count: int) -> None:
    """The first few episodes as mp4, named by their outcome; those of an earlier call go."""
    from daag_jax.evaluation import video

    for old in (folder / "videos").glob("episode_*.mp4"):
        old.unlink()
    for i in range(min(count, len(episodes.length))):
        frames = video.side_by_side(episodes.images[i, : int(episodes.length[i]) + 1])
        outcome = "success" if episodes.extras["success"][i] else "failure"
        path = folder / "videos" / f"episode_{i}_{outcome}.mp4"
        video.write(path, video.enlarge(frames, 4), fps=10 if len(frames) > 20 else 2)

"""``daag collect``: episodes of a world, and what every command does with episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daag_jax.names import check_name

ENVS = ("rgb_stacking",)
POLICIES = ("expert", "random")


@dataclasses.dataclass(frozen=True)
class Collect:
    """Writes episodes of an expert, or of random actions, to a file."""

    out: Path = Path("runs/episodes")
    env: str = "rgb_stacking"
    policy: str = "expert"
    task: str = "Stack the red object on top of the blue object"
    mode: str = "primitive"
    episodes: int = 64
    noise: float = 0.0  # Gaussian, on the expert's actions
    resolution: int = 64
    seed: int = 0
    videos: int = 0  # episodes also written as mp4


def collect(options: Collect) -> None:
    """Runs :class:`Collect`."""
    import jax

    from daag_jax.data.disk import write_episodes
    from daag_jax.envs.experts.stacking import expert
    from daag_jax.evaluation.demonstrate import demonstrate
    from daag_jax.evaluation.rollout import random_actions, rollout

    check_name("world", options.env, ENVS)
    check_name("policy", options.policy, POLICIES)
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

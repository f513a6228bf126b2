"""A block of episodes, as data sets become one: padded to equal length, with a note of where it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from daag_jax.types import Episode, Spec


class DatasetInfo(NamedTuple):
    """What a data set says of itself."""

    path: str
    form: str  # "minari", "d4rl", "npz" or "safetensors"
    world: str = ""  # a name of envs/worlds.py; "" where it does not say
    seed: int | None = None  # of its collection
    task: str = ""  # an instruction in words, where it was collected for one


class Trajectory(NamedTuple):
    """One episode as it was, N steps and no padding."""

    observations: Float[np.ndarray, "N1 O"]  # N + 1 of them
    actions: Float[np.ndarray, "N A"]
    rewards: Float[np.ndarray, "N"]


def padded(
    paths: Sequence[Trajectory],
    observation_dim: int,
    action_dim: int,
    extras: dict[str, np.ndarray] | None = None,
) -> Episode:
    """A block [B, T] without pixels: past its end an episode repeats its last observation, and does nothing."""
    length = np.array([len(path.actions) for path in paths], np.int32)
    num, longest = len(paths), int(length.max(initial=0))
    observations = np.zeros((num, longest + 1, observation_dim), np.float32)
    actions = np.zeros((num, longest, action_dim), np.float32)
    rewards = np.zeros((num, longest), np.float32)
    for i, (path, n) in enumerate(zip(paths, length, strict=True)):
        observations[i, : n + 1] = path.observations
        observations[i, n + 1 :] = path.observations[n]
        actions[i, :n], rewards[i, :n] = path.actions, path.rewards
    images = np.zeros((num, longest + 1, 0, 0, 0, 3), np.uint8)
    return Episode(observations, images, actions, rewards, length, extras or {})


def trajectories(episodes: Episode) -> list[Trajectory]:
    """The inverse of :func:`padded`, without the extras."""
    arrays = [np.asarray(x) for x in (episodes.observations, episodes.actions, episodes.rewards)]
    observations, actions, rewards = (x.astype(np.float32) for x in arrays)
    return [
        Trajectory(observations[i, : n + 1], actions[i, :n], rewards[i, :n])
        for i, n in enumerate(np.asarray(episodes.length).tolist())
    ]


def happened(episodes: Episode) -> Bool[np.ndarray, "B T"]:
    """Which steps are no padding."""
    return np.arange(episodes.actions.shape[1])[None] < np.asarray(episodes.length)[:, None]


def has_pixels(episodes: Episode) -> bool:
    """Whether there is anything in the images."""
    return 0 not in episodes.images.shape[2:]


def action_bounds(spec: Spec) -> tuple[Float[np.ndarray, "A"], Float[np.ndarray, "A"]]:
    """Lowest and highest actions; -1 and +1 where the world does not say."""
    low = np.asarray(spec.action_low or (-1.0,) * spec.action_dim, np.float32)
    high = np.asarray(spec.action_high or (1.0,) * spec.action_dim, np.float32)
    return low, high


def refuse_pixels(episodes: Episode, form: str) -> None:
    """Raises ValueError where there are pixels, which only our own files hold."""
    if has_pixels(episodes):
        raise ValueError(
            f"the episodes have images {episodes.images.shape[2:]}, which format={form!r} does not hold; "
            "use safetensors."
        )


def write_whole(path: Path, write: Callable[[Path], None], overwrite: bool) -> Path:
    """Calls ``write`` on a scratch file, which becomes ``path``: whole, or not at all.

    Raises:
        FileExistsError: there is one already, and ``overwrite`` is False.
        OSError: it cannot be written; nothing is left behind.
    """
    refuse_existing(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".partial")
    try:
        write(scratch)
        scratch.replace(path)
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error}); make room, or name another folder."
        ) from error
    finally:
        scratch.unlink(missing_ok=True)
    return path


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raises FileExistsError where ``path`` exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists; name another folder, or replace it with overwrite=True (--overwrite)."
        )

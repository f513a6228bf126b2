"""Data sets as columns of transitions, one row per step: plain ``.npz``, and the HDF5 of D4RL (Fu et al. 2020).

    observations [N, O]   actions [N, A]   terminals [N]   and, where there are, rewards, timeouts, success [N]

An episode ends after a row whose ``terminals`` or ``timeouts`` is true; rows after the last end are an episode that was
cut.  N rows hold N observations: what was seen after the last action of an episode is in ``next_observations`` [N, O],
and where that column is missing (as in D4RL's older files) the last observation is repeated.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from daag_jax.data.blocks import (
    DatasetInfo,
    Trajectory,
    padded,
    refuse_pixels,
    trajectories,
    write_whole,
)
from daag_jax.types import Episode

COLUMNS = ("observations", "next_observations", "actions", "rewards")
FLAGS = ("terminals", "timeouts", "success")


def read_npz(path: str | Path) -> tuple[Episode, DatasetInfo]:
    """Reads a plain ``.npz``; its arrays are numbers, nothing is unpickled.

    Raises:
        ValueError: it is cut short, holds objects, or lacks a column; the message names it.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [*COLUMNS, *FLAGS, "world", "seed"]
            columns = {name: file[name] for name in names if name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); save plain arrays with numpy.savez."
        ) from error
    seed = int(columns["seed"]) if "seed" in columns else None
    info = DatasetInfo(str(path), "npz", str(columns.get("world", "")), seed)
    return from_columns(columns, str(path)), info


def write_npz(
    path: str | Path,
    episodes: Episode,
    world: str = "",
    seed: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes what :func:`read_npz` reads; the same episodes give the same bytes."""
    refuse_pixels(episodes, "npz")
    columns = to_columns(episodes) | {"world": np.array(world)}
    if seed is not None:
        columns["seed"] = np.array(seed)

    def write(scratch: Path) -> None:
        with open(scratch, "wb") as file:
            np.savez(file, **columns)

    return write_whole(Path(path), write, overwrite)


def read_d4rl(path: str | Path) -> tuple[Episode, DatasetInfo]:
    """Reads an HDF5 file in the layout of D4RL.

    Raises:
        ValueError: it is cut short, no HDF5, or lacks a column; the message names it.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            columns = {name: file[name][()] for name in (*COLUMNS, *FLAGS) if name in file}
            world, seed = str(file.attrs.get("world", "")), file.attrs.get("seed")
    except (OSError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read as HDF5 of D4RL ({error}); fetch or collect it again."
        ) from error
    info = DatasetInfo(str(path), "d4rl", world, None if seed is None else int(seed))
    return from_columns(columns, str(path)), info


def write_d4rl(
    path: str | Path,
    episodes: Episode,
    world: str = "",
    seed: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes what :func:`read_d4rl` (and D4RL's own loader) reads; the same episodes give the same bytes."""
    import h5py

    refuse_pixels(episodes, "d4rl")

    def write(scratch: Path) -> None:
        with h5py.File(scratch, "w") as file:
            for name, column in to_columns(episodes).items():
                file.create_dataset(name, data=column)
            file.attrs["world"] = world
            if seed is not None:
                file.attrs["seed"] = seed

    return write_whole(Path(path), write, overwrite)


def to_columns(episodes: Episode) -> dict[str, np.ndarray]:
    """Episodes [B] as rows; an episode without a step leaves none.

    An episode ends with ``terminals`` where ``extras["terminated"]`` says so, else with ``timeouts``.
    """
    paths = trajectories(episodes)
    length = np.asarray(episodes.length)
    ends = np.zeros(int(length.sum()), bool)
    ends[np.cumsum(length)[length > 0] - 1] = True
    rows = lambda value: np.repeat(np.asarray(value, bool), length)
    terminated = rows(episodes.extras.get("terminated", np.zeros(length.size)))
    columns = {
        "observations": np.concatenate([path.observations[:-1] for path in paths]),
        "next_observations": np.concatenate([path.observations[1:] for path in paths]),
        "actions": np.concatenate([path.actions for path in paths]),
        "rewards": np.concatenate([path.rewards for path in paths]),
        "terminals": ends & terminated,
        "timeouts": ends & ~terminated,
    }
    if "success" in episodes.extras:
        columns["success"] = rows(episodes.extras["success"])
    return columns


def from_columns(columns: Mapping[str, np.ndarray], source: str) -> Episode:
    """The inverse of :func:`to_columns`; ``extras`` say which episodes ``terminated`` and, if told, had ``success``.

    Raises:
        ValueError: a column is missing or has a wrong shape.
    """
    _check_columns(columns, source)
    num = len(columns["actions"])
    flag = lambda name: np.asarray(columns.get(name, np.zeros(num))).reshape(num).astype(bool)
    after = np.flatnonzero(flag("terminals") | flag("timeouts")) + 1
    starts = np.concatenate([[0], after[after < num]]).astype(int) if num else after
    stops = np.append(starts[1:], num) if num else after
    seen, following = columns["observations"], columns.get("next_observations")
    rewards = np.asarray(columns.get("rewards", np.zeros(num))).reshape(num)

    def path(start: int, stop: int) -> Trajectory:
        last = seen[stop - 1] if following is None else following[stop - 1]
        observations = np.concatenate([seen[start:stop], last[None]])
        return Trajectory(observations, columns["actions"][start:stop], rewards[start:stop])

    extras = {"terminated": flag("terminals")[stops - 1]}
    if "success" in columns:
        extras["success"] = flag("success")[stops - 1]
    paths = [path(*span) for span in zip(starts.tolist(), stops.tolist(), strict=True)]
    return padded(paths, seen.shape[1], columns["actions"].shape[1], extras)


def _check_columns(columns: Mapping[str, np.ndarray], source: str) -> None:
    missing = [n for n in ("observations", "actions", "terminals") if n not in columns]
    if missing:
        raise ValueError(
            f"{source} has no {' and no '.join(missing)}; a data set needs observations [N, O], actions [N, A] "
            "and terminals [N]."
        )
    num = columns["observations"].shape[:1]
    for name in (n for n in (*COLUMNS, *FLAGS) if n in columns):
        shape, is_vector = columns[name].shape, name in COLUMNS[:3]
        if shape[:1] != num or (is_vector and len(shape) != 2) or columns[name].dtype.kind in "OSU":
            raise ValueError(
                f"{source}: {name} is {columns[name].dtype}{list(shape)} and observations are "
                f"{list(columns['observations'].shape)}; give numbers [N, O], [N, A] or [N], one row per step."
            )

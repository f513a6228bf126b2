"""Episodes on disk: one safetensors file per block, written whole or not at all, never unpickled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from daag_jax.data.blocks import write_whole
from daag_jax.types import Episode

FIELDS = ("observations", "images", "actions", "rewards", "length")


def write_episodes(
    path: str | Path, episodes: Episode, task: str = "", cameras: Sequence[str] = ()
) -> None:
    """Writes a block of episodes [B, ...], the task it was collected for, and the names of its views.

    Raises:
        OSError: it cannot be written, for want of room or of permission; nothing is left behind.
    """
    tensors = {name: np.ascontiguousarray(getattr(episodes, name)) for name in FIELDS}
    tensors |= {f"extras/{k}": np.ascontiguousarray(v) for k, v in episodes.extras.items()}
    metadata = {"task": json.dumps(task), "cameras": json.dumps(cameras), "kind": "episodes"}

    def write(scratch: Path) -> None:
        try:
            save_file(tensors, scratch, metadata=metadata)
        except SafetensorError as error:  # a full disk, too
            raise OSError(str(error)) from error

    write_whole(Path(path), write, overwrite=True)


def cameras_of_file(path: str | Path) -> tuple[str, ...]:
    """Names of the views of a file of episodes; empty where it does not say."""
    with safe_open(path, framework="numpy") as file:
        return tuple(json.loads((file.metadata() or {}).get("cameras", "[]")))


def read_episodes(path: str | Path) -> tuple[Episode, str]:
    """Reads a block of episodes and its task.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short, holds something else, or holds NaN; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; `daag collect` writes such files.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read ({error}); it is cut short, collect it again."
        ) from error
    missing = [name for name in FIELDS if name not in tensors]
    if missing or metadata.get("kind") != "episodes":
        raise ValueError(f"{path} is no file of episodes (it has no {missing or 'kind'}).")
    for name, value in tensors.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"{path}: {name} holds NaN or infinity; collect it again.")
    counts = {name: tensors[name].shape[0] for name in FIELDS}
    if len(set(counts.values())) != 1:
        raise ValueError(f"{path}: fields hold different numbers of episodes {counts}.")
    extras = {k.removeprefix("extras/"): v for k, v in tensors.items() if k.startswith("extras/")}
    return Episode(*(tensors[name] for name in FIELDS), extras), json.loads(metadata["task"])

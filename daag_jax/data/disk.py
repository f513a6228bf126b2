"""Episodes on disk: one safetensors file per block, written whole or not at all, never unpickled."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The open file.

    Raises:
        ValueError: it is cut short; the message names it.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read ({error}); it is cut short, collect it again."
        ) from error


def cameras_of_file(path: str | Path) -> tuple[str, ...]:
    """Names of the views of a file of episodes; empty where it does not say."""
    with safe_open(path, framework="numpy") as file:
        return tuple(json.loads((file.metadata() or {}).get("cameras", "[]")))


def check_names(path: Path, names: Collection[str], metadata: Mapping[str, str]) -> None:
    """Raises ValueError where a file lacks a field of episodes, or does not say that it holds them."""
    missing = [name for name in FIELDS if name not in names]
    if missing or metadata.get("kind") != "episodes":
        raise ValueError(f"{path} is no file of episodes (it has no {missing or 'kind'}).")


def read_episodes(path: str | Path, with_images: bool = True) -> tuple[Episode, str]:
    """Reads a block of episodes and its task; without images these have no pixels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short, holds something else, or holds NaN; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; `daag collect` writes such files.")
    with opened(path) as file:
        names, metadata = file.keys(), file.metadata() or {}
        check_names(path, names, metadata)
        wanted = [name for name in names if with_images or name != "images"]
        tensors = {name: file.get_tensor(name) for name in wanted}
    if not with_images:
        frames = tensors["observations"].shape[:2]
        tensors["images"] = np.zeros((*frames, 0, 0, 0, 3), np.uint8)
    for name, value in tensors.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"{path}: {name} holds NaN or infinity; collect it again.")
    counts = {name: tensors[name].shape[0] for name in FIELDS}
    if len(set(counts.values())) != 1:
        raise ValueError(f"{path}: fields hold different numbers of episodes {counts}.")
    extras = {k.removeprefix("extras/"): v for k, v in tensors.items() if k.startswith("extras/")}
    return Episode(*(tensors[name] for name in FIELDS), extras), json.loads(metadata["task"])

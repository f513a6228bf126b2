"""Whether a folder can take what a run will write, asked before any training."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax


def check_room(directory: Path, state: Any, keep: int) -> None:
    """Makes the folder; fails where it cannot be written or has no room for ``keep`` + 1 checkpoints of the state.

    Raises:
        OSError: naming the folder and the cure.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory) as file:
            file.write(b"0" * 4096)
            file.flush()
    except OSError as error:
        raise OSError(
            error.errno,
            f"directory {directory} cannot be written ({error.strerror}); try another directory",
        ) from error
    needed = (keep + 1) * sum(getattr(leaf, "nbytes", 8) for leaf in jax.tree.leaves(state))
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise OSError(
            28,
            f"directory {directory} has {free / 1e9:.2f} GB free, {keep} + 1 checkpoints need "
            f"{needed / 1e9:.2f} GB; free some, or lower keep",
        )

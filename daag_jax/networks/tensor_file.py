"""Safetensors files: written whole or not at all, and read with a sentence where they are cut short."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file


@contextlib.contextmanager
def opened(path: Path, framework: str = "numpy") -> Iterator[Any]:
    """The open file; its tensors are mapped, and copied one at a time by ``get_tensor``.

    Raises:
        ValueError: the file is cut short or damaged.
    """
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); it was cut short or damaged: fetch or write it again."
        ) from error


def write(
    tensors: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a file (and its folder), complete or not at all, whatever dies meanwhile.

    Args:
        metadata: None says that the tensors are in PyTorch's order, as transformers and diffusers want to be told.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    content = {k: np.asarray(value, order="C") for k, value in tensors.items()}  # keeps scalars
    unfinished.touch()
    permissions = unfinished.stat().st_mode
    save_file(content, unfinished, dict(metadata or {"format": "pt"}))
    unfinished.chmod(permissions)  # the usual ones; safetensors lets nobody else read
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)

"""A small state of one process as one safetensors file, which a thread writes while training goes on.

A save by Orbax takes 20 to 35 ms of Python, whatever is saved, and steps of a millisecond have to wait for it; a file
takes a few.  What is large, and what several processes hold, is left to :mod:`daag_jax.training.orbax_files`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from daag_jax.networks.tensor_file import opened, write
from daag_jax.training.leaves import put_like

LARGEST = 2**26  # bytes
SIZES = (8, 16, 32, 64)
TYPES = {"bool", "bfloat16", "float16", "float32", "float64"}
TYPES |= {f"{kind}{size}" for kind in ("int", "uint") for size in SIZES}
UNFINISHED = ".unfinished-"  # in the name of a folder that is being written


def fits(arrays: Mapping[str, Any]) -> bool:
    """Whether these arrays are for this module: one process holds them, they are small, the file knows their types."""
    return (
        jax.process_count() == 1
        and sum(array.nbytes for array in arrays.values()) <= LARGEST
        and all(array.dtype.name in TYPES for array in arrays.values())
    )


def holds(folder: Path) -> bool:
    """Whether the checkpoint in this folder was written here."""
    return _file_in(folder).is_file()


class Writer:
    """Writes one checkpoint after another, in a thread that the caller may give other work, too."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread
        self._pending: Future | None = None

    def save(self, folder: Path, arrays: Mapping[str, Any], described: Mapping[str, Any]) -> None:
        """Starts to write; the folder appears when it is complete.

        On a CPU nothing may change the arrays meanwhile; those of an accelerator are copied before this returns.
        """
        on_host = jax.device_get(dict(arrays))
        self._pending = self._thread.submit(_write, folder, on_host, json.dumps(described))

    def wait_until_finished(self) -> None:
        """Raises what went wrong in the last save."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def describe(folder: Path) -> Any:
    """What was saved beside the arrays."""
    with opened(_file_in(folder)) as file:
        return json.loads(file.metadata()["described"])


def read(folder: Path, targets: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays, each where its target is: a numpy array, or a shape with a sharding."""
    with opened(_file_in(folder)) as file:
        return {k: put_like(file.get_tensor(k), target) for k, target in targets.items()}


def _file_in(folder: Path) -> Path:
    return folder / "state.safetensors"


def _write(folder: Path, arrays: Mapping[str, np.ndarray], described: str) -> None:
    unfinished = folder.with_name(UNFINISHED + folder.name)
    write(arrays, _file_in(unfinished), {"described": described})
    unfinished.rename(folder)

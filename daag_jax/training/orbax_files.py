"""A state of any size, held by any number of processes, written and read by Orbax, each process its own part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that is being written


def holds(folder: Path) -> bool:
    """Whether the checkpoint in this folder was written here."""
    return _description_in(folder).is_file()


class Writer:
    """Writes one checkpoint after another; every process calls it alike."""

    def __init__(self) -> None:
        self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    def save(self, folder: Path, arrays: Mapping[str, Any], described: Mapping[str, Any]) -> None:
        """Starts to write; the folder appears when it is complete.  Nothing may change the arrays meanwhile."""
        parts = {
            "state": ocp.args.StandardSave(dict(arrays)),
            "described": ocp.args.JsonSave(dict(described)),
        }
        self._writer.save(folder, args=ocp.args.Composite(**parts))

    def wait_until_finished(self) -> None:
        """Raises what went wrong in the last save."""
        self._writer.wait_until_finished()


def describe(folder: Path) -> Any:
    """What was saved beside the arrays; without Orbax, whose readers wait for all processes."""
    return json.loads(_description_in(folder).read_text())


def read(folder: Path, targets: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays, each where its target is: a numpy array, or a shape with a sharding."""
    reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    args = ocp.args.Composite(state=ocp.args.StandardRestore(dict(targets)))
    return reader.restore(folder, args=args)["state"]


def _description_in(folder: Path) -> Path:
    return folder / "described" / "metadata"

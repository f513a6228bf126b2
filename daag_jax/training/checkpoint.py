"""Checkpoints of whole states: asynchronous, atomic, verified, the last k kept.

Any pytree of arrays can be saved: dicts, NamedTuples, flax states, typed random keys, numpy arrays, numbers.  A
checkpoint is one folder ``step_00001000``, written under a temporary name and renamed when complete, so a process that
is killed leaves the previous one intact: by Orbax, or, where one process holds a small state, as one safetensors file.
Beside the arrays lies a fingerprint of each leaf, computed on the device; a leaf that reads back different is refused
by name and the checkpoint before it is used.

    checkpoints = Checkpoints("runs/x/checkpoints", keep=3)
    checkpoints.save(100, state)              # returns once the arrays are copied; writes in the background
    state, step, _ = checkpoints.restore(state)     # the newest that is sound
"""

from __future__ import annotations

import contextlib
import copy
import re
import shutil
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from daag_jax.training import one_file, orbax_files, packing
from daag_jax.training.fingerprints import fingerprints
from daag_jax.training.leaves import (
    CheckpointError,
    WrongStructure,
    abstract_leaves,
    as_like,
    check_structure,
    dtype_name,
    named_leaves,
    own_copy,
    raw_numbers,
)
from daag_jax.training.processes import agreed, barrier, is_main, told

_STEP = re.compile(r"step_(\d+)$")
_TRASH = ".trash-"
_LEFTOVERS = (_TRASH, one_file.UNFINISHED, orbax_files.UNFINISHED)


class Restored(NamedTuple):
    state: Any
    step: int
    metadata: dict[str, Any]


def steps_in(directory: str | Path) -> list[int]:
    """The steps of the complete checkpoints in a folder, oldest first."""
    folder = Path(directory)
    if not folder.is_dir():
        return []
    found = [_STEP.match(path.name) for path in folder.iterdir() if path.is_dir()]
    return sorted(int(match[1]) for match in found if match)


def latest(directory: str | Path) -> int | None:
    """The newest complete step, or None."""
    steps = steps_in(directory)
    return steps[-1] if steps else None


class Checkpoints:
    """The checkpoints of one run; one writer per folder."""

    def __init__(self, directory: str | Path, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep} would delete every checkpoint; try keep=3.")
        self.directory = Path(directory).absolute()
        self.keep = keep
        self._writer: one_file.Writer | orbax_files.Writer | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoints")  # deletes, and writes what is small
        self._deletion: Future | None = None
        self._refused: set[int] = set()  # steps that could not be read
        self._written = -1

    def path(self, step: int) -> Path:
        return self.directory / f"step_{step:08d}"

    def steps(self) -> list[int]:
        return steps_in(self.directory)

    def save(self, step: int, state: Any, metadata: dict[str, Any] | None = None) -> None:
        """Starts to write ``state``; waits first for the write before, and raises what went wrong in it."""
        self.wait()
        if self._writer is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._clear_leftovers()
        leaves = {name: raw_numbers(leaf) for name, leaf in named_leaves(state).items()}
        filled = {name: leaf for name, leaf in leaves.items() if leaf.size}
        groups = packing.groups_of(filled)
        described = {
            "step": step,
            "fingerprints": fingerprints(filled),
            "leaves": {
                name: [list(leaf.shape), dtype_name(leaf.dtype)] for name, leaf in leaves.items()
            },
            "packed": groups,
            "metadata": copy.deepcopy(metadata or {}),
        }
        packed = {name for members in groups.values() for name in members}
        arrays = {name: own_copy(leaf) for name, leaf in filled.items() if name not in packed}
        arrays |= packing.pack(filled, groups)
        if told(lambda: self.path(step).exists()):
            self._discard(self.path(step))
            barrier("checkpoint replaced")
        self._written = step
        try:
            self._writer = self._writer_for(arrays)
            self._writer.save(self.path(step), arrays, described)
        except BaseException:
            self._abandon()
            raise

    def _writer_for(self, arrays: dict[str, Any]) -> one_file.Writer | orbax_files.Writer:
        """The writer of the save before, where it is for these, too."""
        if one_file.fits(arrays):
            kind, make = one_file.Writer, lambda: one_file.Writer(self._thread)
        else:
            kind, make = orbax_files.Writer, orbax_files.Writer
            if self._deletion is not None:
                self._deletion.result()  # else there might be no room
        return self._writer if isinstance(self._writer, kind) else make()

    def wait(self) -> None:
        """Blocks until the last save is on disk, then deletes what is older than the last ``keep``."""
        if self._writer is None:
            return
        try:
            self._writer.wait_until_finished()
        except BaseException:
            self._abandon()
            raise
        steps = [step for step in steps_in(self.directory) if step <= self._written]
        later = [step for step in steps_in(self.directory) if step > self._written]
        later = [step for step in later if step not in self._refused]
        for step in steps[: -self.keep] + later:  # later ones belong to an abandoned continuation
            self._discard(self.path(step))

    def metadata(self) -> dict[str, Any]:
        """What was saved beside the newest state; a process may ask alone."""
        return _description(self.path(self.steps()[-1]))["metadata"]

    def restore(self, like: Any = None, step: int | None = None) -> Restored:
        """The newest sound checkpoint (or exactly ``step``), in the structure and on the devices of ``like``.

        ``like`` is a state or its shapes; without it the leaves come back as a flat dict of numpy arrays.

        Raises:
            FileNotFoundError: there is no checkpoint.
            WrongStructure: a leaf is missing, unknown, or of another shape or type than in ``like``.
            CheckpointError: none is sound; the message names what is wrong with each.
        """
        self.wait()
        steps = self._seen() if step is None else [step]
        if not steps or not self.path(steps[-1]).is_dir():
            raise FileNotFoundError(f"no checkpoint {step or ''} in {self.directory}")
        failures = []
        for candidate in reversed(steps):
            try:
                return self._restore_step(candidate, like)
            except WrongStructure:
                raise
            except Exception as error:  # the libraries raise many kinds for damaged files
                reason = " ".join(str(error).split())[:200]
                failures.append(f"{self.path(candidate).name}: {reason}")
                self._refused.add(candidate)  # perhaps it only could not be read now: it stays
                if len(failures) < len(steps):
                    warnings.warn(
                        f"checkpoint {failures[-1]}; falling back to the one before.", stacklevel=2
                    )
        raise CheckpointError(f"no sound checkpoint in {self.directory}: " + "; ".join(failures))

    def _seen(self, seconds: float = 60.0) -> list[int]:
        """The steps up to the newest that process 0 sees; another process may see it a moment later."""
        newest = told(lambda: max(steps_in(self.directory), default=-1))
        until = time.monotonic() + seconds
        while newest >= 0 and not self.path(newest).is_dir() and time.monotonic() < until:
            time.sleep(0.1)
        return [step for step in steps_in(self.directory) if step <= newest]

    def _restore_step(self, step: int, like: Any) -> Restored:
        failure = None
        try:
            described, arrays = self._read(step, like)
        except WrongStructure:  # in every process
            raise
        except Exception as error:  # the libraries raise many kinds for damaged files
            failure = error
        if agreed(int(failure is not None)):  # before the collectives of the fingerprints
            raise failure or CheckpointError("another process cannot read it")
        found = fingerprints(arrays)
        for name, number in described["fingerprints"].items():
            if found.get(name) != number:
                raise CheckpointError(f"{name} is damaged (its fingerprint differs)")
        for name, (shape, dtype) in described["leaves"].items():
            if name not in described["fingerprints"]:
                arrays[name] = np.empty(shape, np.dtype(dtype))  # of no elements
        state = arrays if like is None else as_like(arrays, like)
        return Restored(state, step, described["metadata"])

    def _read(self, step: int, like: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The description of a checkpoint, and its arrays that have elements, where ``like`` has them."""
        described = _description(self.path(step))
        stored = {k: np.empty(s, np.dtype(d)) for k, (s, d) in described["leaves"].items()}
        targets = stored
        if like is not None:
            targets = abstract_leaves(like)
            check_structure(stored, targets, self.path(step))
        targets = {k: leaf for k, leaf in targets.items() if k in described["fingerprints"]}
        groups = described.get("packed", {})
        packed = {name for members in groups.values() for name in members}
        wanted = {k: leaf for k, leaf in targets.items() if k not in packed}
        wanted |= packing.vectors_of(stored, groups)
        arrays = _files_of(self.path(step)).read(self.path(step), wanted)
        vectors = {name: arrays.pop(name) for name in groups}
        return described, arrays | packing.unpack(vectors, groups, targets)

    def _discard(self, path: Path) -> None:
        """Deletes a checkpoint; of many processes, one does."""
        if not is_main():
            return
        trash = path.with_name(f"{_TRASH}{time.monotonic_ns()}-{path.name}")
        with contextlib.suppress(OSError):
            path.rename(trash)  # a kill never leaves half a checkpoint under a good name
            self._deletion = self._thread.submit(shutil.rmtree, trash, ignore_errors=True)

    def _abandon(self) -> None:
        """Drops a writer whose save failed, so that the next save starts afresh."""
        self._writer = None

    def _clear_leftovers(self) -> None:
        if not is_main():
            return
        for path in self.directory.iterdir():
            if any(mark in path.name for mark in _LEFTOVERS):
                shutil.rmtree(path, ignore_errors=True)


def _files_of(folder: Path) -> ModuleType:
    """What reads the checkpoint in this folder.

    Raises:
        CheckpointError: it holds none.
    """
    for files in (one_file, orbax_files):
        if files.holds(folder):
            return files
    raise CheckpointError("it holds neither state.safetensors nor Orbax's described/metadata")


def _description(folder: Path) -> dict[str, Any]:
    """What lies beside the arrays of a checkpoint."""
    described = _files_of(folder).describe(folder)
    if not isinstance(described, dict) or "fingerprints" not in described:
        raise CheckpointError("its description is damaged")
    return described


def save(
    directory: str | Path, step: int, state: Any, keep: int = 3, metadata: dict | None = None
) -> None:
    """Saves and waits until it is on disk."""
    checkpoints = Checkpoints(directory, keep)
    checkpoints.save(step, state, metadata)
    checkpoints.wait()


def restore(directory: str | Path, like: Any = None, step: int | None = None) -> Restored:
    """The newest sound checkpoint in a folder; see :meth:`Checkpoints.restore`."""
    return Checkpoints(directory).restore(like, step)

"""Checkpoints of whole states: asynchronous, atomic, verified, the last k kept.

Any pytree of arrays can be saved: dicts, NamedTuples, flax states, typed random keys, numpy arrays, numbers.  A
checkpoint is one folder ``step_00001000`` written by Orbax under a temporary name and renamed when complete, so a
process that is killed leaves the previous one intact.  Beside the arrays lies a fingerprint of each leaf, computed
on the device; a leaf that reads back different is refused by name and the checkpoint before it is used.

    checkpoints = Checkpoints("runs/x/checkpoints", keep=3)
    checkpoints.save(100, state)              # returns once the arrays are copied; writes in the background
    state, step, _ = checkpoints.restore(state)     # the newest that is sound
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from daag_jax.training import packing
from daag_jax.training.devices import path_name
from daag_jax.training.fingerprints import fingerprints
from daag_jax.training.processes import barrier, is_main, told

_STEP = re.compile(r"step_(\d+)$")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, and why."""


class WrongStructure(CheckpointError):
    """The checkpoint is sound but belongs to another architecture."""


class Restored(NamedTuple):
    state: Any
    step: int
    metadata: dict[str, Any]


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def _named_leaves(state: Any) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = path_name(path) or "state"
        if name in named:
            raise ValueError(f"two leaves of the state are both called {name!r}; rename one.")
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, int, float, bool)):
            raise ValueError(
                f"{name} is a {type(leaf).__name__}; a state holds arrays and numbers "
                "(put text into the checkpoint's metadata)."
            )
        named[name] = leaf
    return named


def _raw(leaf: Any) -> jax.Array | np.ndarray:
    """Numbers: a key's own, and an array of what is none."""
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _own(leaf: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """A copy that Orbax can write while training goes on (CPU buffers would be shared)."""
    if isinstance(leaf, jax.Array):
        on_cpu = next(iter(leaf.devices())).platform == "cpu"
        return jnp.copy(leaf) if on_cpu else leaf
    return np.array(leaf, copy=True)


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
        self._writer: ocp.AsyncCheckpointer | None = None
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
            self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        leaves = {name: _raw(leaf) for name, leaf in _named_leaves(state).items()}
        filled = {name: leaf for name, leaf in leaves.items() if leaf.size}
        groups = packing.groups_of(filled)
        described = {
            "step": step,
            "fingerprints": fingerprints(filled),
            "leaves": {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in leaves.items()},
            "packed": groups,
            "metadata": metadata or {},
        }
        packed = {name for members in groups.values() for name in members}
        arrays = {name: _own(leaf) for name, leaf in filled.items() if name not in packed}
        arrays |= packing.pack(filled, groups)
        if told(lambda: self.path(step).exists()):
            self._discard(self.path(step))
            barrier("checkpoint replaced")
        self._written = step
        try:
            self._writer.save(
                self.path(step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays), described=ocp.args.JsonSave(described)
                ),
            )
        except BaseException:
            self._abandon()
            raise

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
        """What was saved beside the newest state."""
        return self._described(self.path(self.steps()[-1]))["metadata"]

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
            except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
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
        described = self._described(self.path(step))
        stored = {k: np.empty(s, np.dtype(d)) for k, (s, d) in described["leaves"].items()}
        targets = stored
        if like is not None:
            targets = _abstract_leaves(like)
            _check_structure(stored, targets, self.path(step))
        targets = {k: leaf for k, leaf in targets.items() if k in described["fingerprints"]}
        groups = described.get("packed", {})
        packed = {name for members in groups.values() for name in members}
        wanted = {k: leaf for k, leaf in targets.items() if k not in packed}
        wanted |= packing.vectors_of(stored, groups)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
        reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
        arrays = reader.restore(self.path(step), args=args)["state"]
        vectors = {name: arrays.pop(name) for name in groups}
        arrays |= packing.unpack(vectors, groups, targets)
        found = fingerprints(arrays)
        for name, number in described["fingerprints"].items():
            if found.get(name) != number:
                raise CheckpointError(f"{name} is damaged (its fingerprint differs)")
        arrays |= {name: leaf for name, leaf in stored.items() if leaf.size == 0}
        state = arrays if like is None else _as_like(arrays, like)
        return Restored(state, step, described["metadata"])

    def _described(self, path: Path) -> dict[str, Any]:
        reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
        args = ocp.args.Composite(described=ocp.args.JsonRestore())
        described = reader.restore(path, args=args)["described"]
        if not isinstance(described, dict) or "fingerprints" not in described:
            raise CheckpointError("its description is damaged")
        return described

    def _discard(self, path: Path) -> None:
        """Deletes a checkpoint; of many processes, one does."""
        if not is_main():
            return
        trash = path.with_name(f".trash-{path.name}")
        with contextlib.suppress(OSError):
            shutil.rmtree(trash, ignore_errors=True)
            path.rename(
                trash
            )  # atomic: a kill here never leaves half a checkpoint under a good name
            shutil.rmtree(trash, ignore_errors=True)

    def _abandon(self) -> None:
        """Drops a writer whose save failed, so that the next save starts afresh."""
        self._writer = None

    def _clear_leftovers(self) -> None:
        if not is_main():
            return
        for path in self.directory.iterdir():
            if path.name.startswith(".trash-") or ".orbax-checkpoint-tmp" in path.name:
                shutil.rmtree(path, ignore_errors=True)


def _abstract_leaves(like: Any) -> dict[str, Any]:
    """What to ask Orbax for: numpy arrays stay numpy, jax arrays go to the devices of ``like``."""

    def abstract(leaf: Any) -> Any:
        if isinstance(leaf, (np.ndarray, np.generic, int, float, bool)):
            return np.asarray(leaf)
        raw = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        sharding = getattr(leaf, "sharding", None)
        if sharding is None:
            sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=sharding)

    leaves = jax.tree_util.tree_leaves_with_path(like)
    return {path_name(path) or "state": abstract(leaf) for path, leaf in leaves}


def _check_structure(stored: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    cure = "it was saved by another architecture; use the configuration that made it"
    for name, leaf in wanted.items():
        if name not in stored:
            raise WrongStructure(f"{path} has no {name}; {cure}.")
        found = stored[name]
        if found.shape != leaf.shape or found.dtype != leaf.dtype:
            raise WrongStructure(
                f"{path}: {name} is {found.dtype}{list(found.shape)}, "
                f"expected {leaf.dtype}{list(leaf.shape)}; {cure}."
            )
    if unknown := sorted(set(stored) - set(wanted)):
        raise WrongStructure(f"{path} holds {unknown[0]} (of {len(unknown)} unknown); {cure}.")


def _as_like(arrays: dict[str, Any], like: Any) -> Any:
    def rebuild(path: tuple[Any, ...], leaf: Any) -> Any:
        array = arrays[path_name(path) or "state"]
        if _is_key(leaf):
            return jax.random.wrap_key_data(array, impl=leaf.dtype._impl.name)
        if isinstance(leaf, (bool, int, float)) and not isinstance(leaf, np.generic):
            return type(leaf)(array)
        if isinstance(leaf, np.generic):
            return array[()]
        return array if isinstance(leaf, np.ndarray) else jnp.asarray(array)

    return jax.tree_util.tree_map_with_path(rebuild, like)


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

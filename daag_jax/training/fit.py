"""Training: turns an algorithm into a trained state, in compiled chunks of steps.

One compiled function runs steps ``start .. stop`` of ``state = update(state, batch(n), key(n))`` as a loop whose
bounds are arguments: it is compiled once, and neither the log period nor the time between looks at the clock
changes a single bit of the result.  On CPU the compiled function is one step, called in a loop: there XLA's gradient
of a convolution's kernel inside a compiled loop was 60 times slower than outside (jaxlib 0.10.2: 2.3 s against
0.03 s, 16 images of 64x64x32; forward passes do not suffer).  Batch n and key n are functions of n
(:mod:`daag_jax.training.keys`), so a run that is stopped and continued ends with the same state, bit for bit.

A run survives: SIGTERM and SIGINT (saves, then :class:`Preempted`, an exit with a code of its own), SIGKILL (the last
checkpoint is whole), a damaged newest checkpoint (falls back to the one before), a full disk (a counted warning; the
checkpoint before stays).  It stops, naming step, metric and last good checkpoint, when a watched metric diverges.
"""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from daag_jax.training import devices
from daag_jax.training.checkpoint import Checkpoints
from daag_jax.training.chunks import Totals, check_update, compile_chunk, zero_totals
from daag_jax.training.keys import key_at
from daag_jax.training.report import Report
from daag_jax.training.signals import agreed, noted_signals
from daag_jax.types import Algorithm, Batch, Key, State


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How long, how often, and where.  With a ``directory`` the run is logged, saved and resumed."""

    steps: int = 1000
    seed: int = 0
    directory: str | None = None
    log_every: int = 100
    checkpoint_every: int = 1000
    evaluate_every: int = 1000  # steps between calls of `evaluate`
    keep: int = 3  # checkpoints kept
    resume: bool = True
    fsdp: int = 1  # slices of the model; the remaining devices split the batch
    compiled_loop: bool | None = None  # many steps per dispatch; None: on accelerators only
    chunk_seconds: float = (
        1.0  # between looks at the clock and at signals; never changes the result
    )
    watch: str = "^(loss|grad)"  # metrics that must stay finite and below the limit
    watch_limit: float = math.inf
    progress: bool = True
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for field in ("steps", "log_every", "checkpoint_every", "evaluate_every", "keep", "fsdp"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} is not positive; try 1 or more.")
        if self.chunk_seconds <= 0:
            raise ValueError(f"chunk_seconds={self.chunk_seconds} is not positive; try 1.0.")


class Sampler(NamedTuple):
    """Batch n of a dataset that lives on the devices: ``draw(data, key, n)``, with data an argument, not a constant."""

    data: Any
    draw: Callable[[Any, Key, jax.Array], Batch]


class Fitted(NamedTuple):
    state: State
    step: int
    metrics: dict[str, float]  # means over the last log period
    warnings: dict[str, int]


class Diverged(RuntimeError):
    """A watched metric left the finite numbers (or passed its limit)."""


class Preempted(SystemExit):
    """The run was asked to end and saved its state where it has a directory.

    The process exits with 75 (SIGTERM: try again) or 130 (SIGINT).
    """


def fit(
    algorithm: Algorithm,
    batches: Callable[[Key, jax.Array], Batch] | Sampler,
    config: FitConfig,
    *,
    state: State | None = None,
    mesh: Mesh | None = None,
    rules: devices.Rules = (),
    evaluate: Callable[[State, Key], Mapping[str, Any]] | None = None,
    name: str = "train",
) -> Fitted:
    """Trains for ``config.steps`` steps, or continues the run found in ``config.directory``.

    Args:
        batches: ``(key, n) -> Batch``, pure; or a :class:`Sampler`.
        state: initial state in place of ``algorithm.init`` (weights trained before); not consumed.
        mesh: devices; by default all of them that divide the batch.
        rules: placement of state leaves by regular expression, see :func:`devices.shardings`.
        evaluate: ``(state, key) -> metrics`` on the host, every ``evaluate_every`` steps.

    Raises:
        Diverged: a watched metric is not finite or above the limit.
        Preempted: SIGTERM or SIGINT came; with a directory, the state is saved.
        OSError: the directory cannot be written, or has no room for the checkpoints.
    """
    sampler = (
        batches if isinstance(batches, Sampler) else Sampler((), lambda _, k, n: batches(k, n))
    )
    root = jax.random.key(config.seed)
    batch = jax.eval_shape(sampler.draw, sampler.data, root, jnp.int32(0))
    if mesh is None:
        mesh = devices.mesh_for_batch(jax.tree.leaves(batch)[0].shape[0], config.fsdp)
    state = _initial(algorithm, root, state, mesh, rules)
    metrics = check_update(algorithm, state, batch, root)
    root, totals = devices.replicate((root, zero_totals(metrics)), mesh)
    checkpoints, start = None, 0
    if config.directory is not None:
        _check_directory(Path(config.directory), state, config.keep)
        checkpoints = Checkpoints(Path(config.directory) / "checkpoints", config.keep)
        state, totals, start = _resume(checkpoints, state, totals, config)
    run_chunk = compile_chunk(
        algorithm, sampler.draw, mesh, config.watch_limit, config.compiled_loop
    )
    data = devices.replicate(sampler.data, mesh)
    speaks = jax.process_index() == 0  # one process of many writes and says
    directory, progress = (config.directory, config.progress) if speaks else (None, False)
    report = Report(
        directory, config.steps, start, config.tensorboard, progress, name, quiet=not speaks
    )
    if start >= config.steps:
        report.warn("finished", f"{config.directory} holds {start} steps; nothing is left to train")
    with report, noted_signals() as received:
        loop = _Loop(config, checkpoints, report, received, evaluate, root)
        return loop.run(lambda *args: run_chunk(data, root, *args), state, totals, start)


def _initial(
    algorithm: Algorithm, root: Key, state: State | None, mesh: Mesh, rules: devices.Rules
) -> State:
    if state is None:
        return devices.born_sharded(algorithm.init, mesh, key_at(root, "init", 0), rules=rules)
    places = devices.shardings(state, mesh, rules)
    copied = jax.tree.map(jnp.copy, state)  # ours to donate
    return jax.device_put(copied, places)


def _resume(
    checkpoints: Checkpoints, state: State, totals: Totals, config: FitConfig
) -> tuple[State, Totals, int]:
    if not config.resume:
        return state, totals, 0
    try:
        restored = checkpoints.restore({"state": state, "totals": totals})
    except FileNotFoundError:
        return state, totals, 0
    seed = restored.metadata.get("seed", config.seed)
    if seed != config.seed:
        raise ValueError(
            f"directory {config.directory} holds a run of seed {seed}, seed is {config.seed}; "
            f"try seed={seed}, or another directory."
        )
    return restored.state["state"], restored.state["totals"], restored.step


def _check_directory(directory: Path, state: State, keep: int) -> None:
    """Fails before any training where the directory cannot be written or has no room."""
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


@dataclasses.dataclass
class _Loop:
    """The host's side of training: how many steps to ask for next, and what to do between chunks."""

    config: FitConfig
    checkpoints: Checkpoints | None
    report: Report
    received: dict[str, int]
    evaluate: Callable | None
    root: Key
    saved: int = -1

    def run(self, run_chunk: Callable, state: State, totals: Totals, step: int) -> Fitted:
        seconds_per_step, last, self.saved = math.inf, dict(self.report.last), step
        logged = (step, time.monotonic())
        while step < self.config.steps:
            stop = self._next_stop(step, seconds_per_step)
            began = time.monotonic()
            state, totals = run_chunk(state, totals, np.int32(step), np.int32(stop))
            jax.block_until_ready(totals)
            seconds_per_step = (time.monotonic() - began) / (stop - step)
            step = stop
            self._check_divergence(totals)
            if step % self.config.log_every == 0 or step == self.config.steps:
                sums, count = jax.device_get((totals.sums, totals.count))
                last = {name: float(value) / int(count) for name, value in sums.items()}
                rate = (step - logged[0]) / max(time.monotonic() - logged[1], 1e-9)
                logged = (step, time.monotonic())
                self.report.log(step, last | {"steps_per_second": rate})
            if step % self.config.log_every == 0:  # an early end keeps the sums of its period
                totals = jax.tree.map(jnp.zeros_like, totals)._replace(bad=totals.bad)
            self._between(state, totals, step)
            self.report.progress(step)
        if self.checkpoints is not None:
            self._save(state, totals, step, final=True)
        return Fitted(state, step, last, dict(self.report.warnings))

    def _next_stop(self, step: int, seconds_per_step: float) -> int:
        wanted = max(1, int(self.config.chunk_seconds / max(seconds_per_step, 1e-9)))
        if jax.process_count() > 1:  # every process must run the same number of steps
            wanted = self.config.log_every
        stop = min(step + wanted, self.config.steps)
        periods = [self.config.log_every]
        if self.checkpoints is not None:
            periods.append(self.config.checkpoint_every)
        if self.evaluate is not None:
            periods.append(self.config.evaluate_every)
        return min([stop] + [(step // period + 1) * period for period in periods])

    def _check_divergence(self, totals: Totals) -> None:
        bad = {name: int(n) for name, n in jax.device_get(totals.bad).items() if n >= 0}
        watched = {name: n for name, n in bad.items() if re.search(self.config.watch, name)}
        if not watched:
            return
        name = min(watched, key=watched.get)
        kept = "none (no directory was given)"
        if self.checkpoints is not None:
            self._wait()
            steps = [s for s in self.checkpoints.steps() if s <= watched[name]]
            kept = str(self.checkpoints.path(steps[-1])) if steps else "none yet"
        raise Diverged(
            f"{name} is not finite (or above {self.config.watch_limit}) at step {watched[name]}; "
            f"last good checkpoint: {kept}; try a lower learning rate."
        )

    def _between(self, state: State, totals: Totals, step: int) -> None:
        if self.evaluate is not None and step % self.config.evaluate_every == 0:
            key = key_at(self.root, "evaluate", step)
            self.report.log(step, dict(self.evaluate(state, key)))
        if self.checkpoints is not None and step % self.config.checkpoint_every == 0:
            self._save(state, totals, step)
        if number := agreed(self.received.get("number", 0)):
            if self.checkpoints is not None:
                self._save(state, totals, step, final=True)
            self.report.close()
            raise Preempted(75 if number == signal.SIGTERM else 130)

    def _save(self, state: State, totals: Totals, step: int, final: bool = False) -> None:
        """Saves in the background; a failed write is a warning, and the checkpoint before it stays."""
        if self.saved != step:
            self._wait()  # a failure of the write before is not one of this write
            try:
                content = {"state": state, "totals": totals}
                self.checkpoints.save(step, content, {"seed": self.config.seed})
                self.saved = step
            except (
                Exception
            ) as error:  # TensorStore raises ValueError for a full disk, others OSError
                self._failed(step, error)
        if final:
            self._wait()

    def _wait(self) -> None:
        try:
            self.checkpoints.wait()
        except Exception as error:
            self._failed(self.saved, error)

    def _failed(self, step: int, error: Exception) -> None:
        self.saved = -1
        reason = " ".join(str(error).split())[:200]
        self.report.warn(
            "checkpoint", f"checkpoint near step {step} was not written: {reason}; training goes on"
        )

"""Training: turns an algorithm into a trained state, in compiled chunks of steps.

One compiled function runs steps ``start .. stop`` of ``state = update(state, batch(n), key(n))``; neither the log
period nor the time between looks at the clock changes a single bit of the result.  Batch n and key n are functions of n
(:mod:`daag_jax.training.keys`), so a run that is stopped and continued ends with the same state, bit for bit.

A run survives: SIGTERM and SIGINT (saves, then :class:`Preempted`, an exit with a code of its own), SIGKILL (the last
checkpoint is whole), a damaged newest checkpoint (falls back to the one before), a full disk (a counted warning; the
checkpoint before stays).  It stops, naming step, metric and last good checkpoint, when a watched metric diverges.

One device, the devices of a host and those of many processes (:mod:`daag_jax.training.processes`) take the same path.
"""

from __future__ import annotations

import dataclasses
import math
import re
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from daag_jax.data.feeding import Feed
from daag_jax.training import devices
from daag_jax.training.checkpoint import Checkpoints, latest
from daag_jax.training.chunks import (
    Chunk,
    Sampler,
    Totals,
    check_update,
    compile_chunk,
    example_of,
    zero_totals,
)
from daag_jax.training.keys import key_at
from daag_jax.training.meters import Meter, Trace
from daag_jax.training.processes import agreed, barrier, check_joined, is_main, told
from daag_jax.training.report import Report
from daag_jax.training.room import check_room
from daag_jax.training.signals import noted_signals
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
    best: str = ""  # a metric of `evaluate`: the state with the most of it is kept in best/, too
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
    wandb: str = ""  # a project of Weights & Biases
    profile: bool = False  # a trace of ten steps by JAX's profiler, in profile/

    def __post_init__(self) -> None:
        for field in ("steps", "log_every", "checkpoint_every", "evaluate_every", "keep", "fsdp"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} is not positive; try 1 or more.")
        if self.chunk_seconds <= 0:
            raise ValueError(f"chunk_seconds={self.chunk_seconds} is not positive; try 1.0.")
        for field in ("best", "profile", "wandb"):
            if getattr(self, field) and self.directory is None:
                raise ValueError(f"{field}={getattr(self, field)!r} needs a directory; give one.")


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
    batches: Callable[[Key, jax.Array], Batch] | Sampler | Feed,
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
        batches: ``(key, n) -> Batch``, pure; or a :class:`Sampler`; or a :class:`~daag_jax.data.feeding.Feed`, for data
            that the devices do not hold.
        state: initial state in place of ``algorithm.init`` (weights trained before); not consumed.
        mesh: devices; by default all of them that divide the batch.
        rules: placement of state leaves by regular expression, see :func:`devices.shardings`.
        evaluate: ``(state, key) -> metrics`` on the host, every ``evaluate_every`` steps, in every process.

    Raises:
        Diverged: a watched metric is not finite or above the limit.
        Preempted: SIGTERM or SIGINT came; with a directory, the state is saved.
        OSError: the directory cannot be written, or has no room for the checkpoints.
    """
    if config.best and evaluate is None:
        raise ValueError(f"best={config.best!r} is a metric of `evaluate`, which is None; give it.")
    if not isinstance(batches, (Sampler, Feed)):
        pure = batches
        batches = Sampler((), lambda _, key, n: pure(key, n))
    check_joined()
    root = jax.random.key(config.seed)
    batch = example_of(batches, root)
    size = jax.tree.leaves(batch)[0].shape[0]
    if mesh is None:
        mesh = devices.mesh_for_batch(size, config.fsdp)
    state = _initial(algorithm, root, state, mesh, rules)
    metrics = check_update(algorithm, state, batch, root)
    root, totals = devices.replicate((root, zero_totals(metrics)), mesh)
    files, start = None, 0
    if config.directory is not None:
        check_room(Path(config.directory), state, config.keep + bool(config.best))
        files = Checkpoints(Path(config.directory) / "checkpoints", config.keep)
        state, totals, start = _resume(files, state, totals, config)
    chunk = compile_chunk(algorithm, batches, mesh, config, (root, state, totals), start)
    barrier("compiled")  # one that is slower would let the collectives of the others time out
    speaks = is_main()  # one process of many writes and says
    report = Report(
        config.directory if speaks else None,
        config.steps,
        start,
        config.tensorboard,
        config.progress and speaks,
        name,
        quiet=not speaks,
        wandb=config.wandb if speaks else "",
    )
    if start >= config.steps:
        report.warn("finished", f"{config.directory} holds {start} steps; nothing is left to train")
    with report, noted_signals() as received:
        loop = _Loop(config, chunk, files, report, received, evaluate, root)
        return loop.run(state, totals, start, Meter(size, chunk.flops, start))


def _initial(
    algorithm: Algorithm, root: Key, state: State | None, mesh: Mesh, rules: devices.Rules
) -> State:
    if state is None:
        return devices.born_sharded(algorithm.init, mesh, key_at(root, "init", 0), rules=rules)
    places = devices.shardings(state, mesh, rules)
    copied = jax.tree.map(jnp.copy, state)  # ours to donate
    return jax.tree.map(devices.put_whole, copied, places)


def _resume(
    files: Checkpoints, state: State, totals: Totals, config: FitConfig
) -> tuple[State, Totals, int]:
    if not config.resume:
        return state, totals, 0
    try:
        restored = files.restore({"state": state, "totals": totals})
    except FileNotFoundError:
        return state, totals, 0
    seed = restored.metadata.get("seed", config.seed)
    if seed != config.seed:
        raise ValueError(
            f"directory {config.directory} holds a run of seed {seed}, seed is {config.seed}; "
            f"try seed={seed}, or another directory."
        )
    return restored.state["state"], restored.state["totals"], restored.step


@dataclasses.dataclass
class _Loop:
    """The host's side of training: how many steps to ask for next, and what to do between chunks."""

    config: FitConfig
    chunk: Chunk
    files: Checkpoints | None
    report: Report
    received: dict[str, int]
    evaluate: Callable | None
    root: Key
    saved: int = -1

    def run(self, state: State, totals: Totals, step: int, meter: Meter) -> Fitted:
        seconds_per_step, last, self.saved = math.inf, dict(self.report.last), step
        once = {"compile_seconds": self.chunk.seconds}
        trace = Trace(self.config.directory if self.config.profile else None, step, is_main())
        while step < self.config.steps:
            stop = self._next_stop(step, seconds_per_step, trace.stops)
            began = time.monotonic()
            state, totals = self.chunk.run(state, totals, step, stop)
            jax.block_until_ready(totals)
            seconds_per_step = (time.monotonic() - began) / (stop - step)
            step = stop
            trace.at(step)
            self._check_divergence(totals)
            if step % self.config.log_every == 0 or step == self.config.steps:
                sums, count = jax.device_get((totals.sums, totals.count))
                last = {name: float(value) / int(count) for name, value in sums.items()}
                self.report.log(step, last | meter.read(step) | once)
                once = {}
            if step % self.config.log_every == 0:  # an early end keeps the sums of its period
                totals = jax.tree.map(jnp.zeros_like, totals)._replace(bad=totals.bad)
            self._between(state, totals, step)
            self.report.progress(step)
        trace.close()
        if self.files is not None:
            self._save(state, totals, step, final=True)
        return Fitted(state, step, last, dict(self.report.warnings))

    def _next_stop(self, step: int, seconds_per_step: float, others: tuple[int, ...]) -> int:
        wanted = max(1, int(self.config.chunk_seconds / max(seconds_per_step, 1e-9)))
        wanted = told(lambda: wanted)  # every process must run the same number of steps
        periods = [self.config.log_every]
        if self.files is not None:
            periods.append(self.config.checkpoint_every)
        if self.evaluate is not None:
            periods.append(self.config.evaluate_every)
        ends = [(step // period + 1) * period for period in periods]
        return min([step + wanted, self.config.steps, *ends, *(n for n in others if n > step)])

    def _check_divergence(self, totals: Totals) -> None:
        bad = {name: int(n) for name, n in jax.device_get(totals.bad).items() if n >= 0}
        watched = {name: n for name, n in bad.items() if re.search(self.config.watch, name)}
        if not watched:
            return
        name = min(watched, key=watched.get)
        kept = "none (no directory was given)"
        if self.files is not None:
            self._wait()
            steps = [s for s in self.files.steps() if s <= watched[name]]
            kept = str(self.files.path(steps[-1])) if steps else "none yet"
        raise Diverged(
            f"{name} is not finite (or above {self.config.watch_limit}) at step {watched[name]}; "
            f"last good checkpoint: {kept}; try a lower learning rate."
        )

    def _between(self, state: State, totals: Totals, step: int) -> None:
        if self.evaluate is not None and step % self.config.evaluate_every == 0:
            found = dict(self.evaluate(state, key_at(self.root, "evaluate", step)))
            self.report.log(step, found)
            self._keep_best(state, step, found)
        if self.files is not None and step % self.config.checkpoint_every == 0:
            self._save(state, totals, step)
        if number := agreed(self.received.get("number", 0)):
            if self.files is not None:
                self._save(state, totals, step, final=True)
            self.report.close()
            raise Preempted(75 if number == signal.SIGTERM else 130)

    def _keep_best(self, state: State, step: int, found: Mapping[str, Any]) -> None:
        """Saves the state in best/ where ``found`` has more of the metric than the one that is there."""
        name = self.config.best
        if not name:
            return
        if name not in found:
            raise ValueError(
                f"`evaluate` gives {sorted(found)}, no best={name!r}; try one of them."
            )
        files, value = Checkpoints(Path(self.config.directory) / "best", keep=1), float(found[name])
        try:
            if told(lambda: int(not math.isfinite(value) or value <= self._best_of(files))):
                return
            files.save(step, {"state": state}, {"seed": self.config.seed, "value": value})
            files.wait()
        except Exception as error:
            self._failed(step, error)

    def _best_of(self, files: Checkpoints) -> float:
        """The metric of the state that is kept as the best; -inf where none can be read."""
        try:
            return files.metadata()["value"] if latest(files.directory) is not None else -math.inf
        except Exception:  # the libraries raise many kinds for damaged files
            return -math.inf

    def _save(self, state: State, totals: Totals, step: int, final: bool = False) -> None:
        """Saves in the background; a failed write is a warning, and the checkpoint before it stays."""
        if self.saved != step:
            self._wait()  # a failure of the write before is not one of this write
            try:
                content = {"state": state, "totals": totals}
                self.files.save(step, content, {"seed": self.config.seed})
                self.saved = step
            except Exception as error:  # of a full disk, each library raises its own
                self._failed(step, error)
        if final:
            self._wait()

    def _wait(self) -> None:
        try:
            self.files.wait()
        except Exception as error:
            self._failed(self.saved, error)

    def _failed(self, step: int, error: Exception) -> None:
        self.saved = -1
        reason = " ".join(str(error).split())[:200]
        self.report.warn(
            "checkpoint", f"checkpoint near step {step} was not written: {reason}; training goes on"
        )

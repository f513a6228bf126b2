"""What a long run says: a progress line, a ``metrics.jsonl`` that grows, TensorBoard beside it, counted warnings.

A line of ``metrics.jsonl`` is one flat JSON object with ``step`` and ``time`` [s]; numbers that are not finite are
written as null.  A line that cannot be written (a full disk) is kept and written with the next one.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rich.console
import rich.live
import rich.markup


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last line cut short by a kill is skipped."""
    rows = []
    for line in Path(path).read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def duration(seconds: float) -> str:
    """``1:02:03``, or ``--`` where it is unknown."""
    if not math.isfinite(seconds):
        return "--"
    minutes, secs = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


def wandb_run(project: str, directory: Path) -> Any:
    """A run of Weights & Biases in that folder, or the continuation of the one that is there.

    Raises:
        ImportError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise ImportError(
            f"wandb={project!r} needs Weights & Biases: pip install wandb; metrics.jsonl needs nothing."
        ) from None
    name = directory.absolute().name
    identity = f"{name}-{zlib.crc32(str(directory.absolute()).encode()):08x}"
    return wandb.init(project=project, dir=str(directory), name=name, id=identity, resume="allow")


class Report:
    """The reporter of one run; ``directory=None`` writes no files, ``progress=False`` shows none.

    Args:
        start: step to continue from; later lines of an existing ``metrics.jsonl`` are dropped.
        quiet: no warnings either (they are still counted).
        wandb: a project of Weights & Biases that gets the metrics, too.
        quiet_period: seconds between progress lines where the output is not a terminal.
    """

    def __init__(
        self,
        directory: str | Path | None,
        total: int,
        start: int = 0,
        tensorboard: bool = True,
        progress: bool = True,
        name: str = "train",
        quiet_period: float = 10.0,
        quiet: bool = False,
        wandb: str = "",
    ) -> None:
        self.total, self.start, self.name = total, start, name
        self.warnings: collections.Counter[str] = collections.Counter()
        self.last: dict[str, float] = {}
        self._began = self._said = time.monotonic()
        self._quiet_period = quiet_period
        self._progress = progress
        self._unwritten: list[str] = []
        self._path = None if directory is None else Path(directory) / "metrics.jsonl"
        self._board = None
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._drop_later_lines()
            if tensorboard:
                from tensorboardX import SummaryWriter  # slow to import: only where it is used

                self._board = SummaryWriter(
                    str(self._path.parent / "tensorboard"), purge_step=start
                )
        self._wandb = wandb_run(wandb, self._path.parent) if wandb and self._path else None
        self._console = rich.console.Console(stderr=True, quiet=quiet)
        self._live = None
        if progress and self._console.is_terminal:
            self._live = rich.live.Live("", console=self._console, refresh_per_second=4)
            self._live.start()

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends one line, to the file, to TensorBoard, and to what the progress line shows."""
        values = {name: float(value) for name, value in metrics.items()}
        self.last.update(values)
        row: dict[str, Any] = {"step": int(step), "time": round(time.monotonic() - self._began, 3)}
        row |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        row |= {f"warnings/{kind}": count for kind, count in self.warnings.items()}
        if self._path is None:
            return
        self._unwritten.append(json.dumps(row))
        try:
            self._append("".join(line + "\n" for line in self._unwritten))
            self._unwritten.clear()
            if self._board is not None:
                for name, value in values.items():
                    self._board.add_scalar(name, value, int(step))
            if self._wandb is not None:
                self._wandb.log(values, step=int(step))
        except OSError as error:
            self.warn("metrics", f"metrics.jsonl was not written ({error}); kept for the next time")

    def progress(self, step: int) -> None:
        """Shows step, rate and time left; on a terminal in place, elsewhere a line now and then."""
        now = time.monotonic()
        due = self._live is not None or now - self._said >= self._quiet_period or step >= self.total
        if not self._progress or not due:
            return
        self._said = now
        rate = (step - self.start) / max(now - self._began, 1e-9)
        left = (self.total - step) / rate if rate > 0 else math.inf
        shown = " ".join(f"{k}={v:.4g}" for k, v in list(self.last.items())[:4])
        line = (
            f"{self.name} {step}/{self.total}  {rate:.3g} steps/s  {duration(left)} left  {shown}"
        )
        if self._live is not None:
            self._live.update(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def warn(self, kind: str, message: str) -> None:
        """Counts a warning (it appears in the metrics as ``warnings/KIND``) and says it."""
        self.warnings[kind] += 1
        self._console.print(
            f"[yellow]warning[/] ({kind}, {self.warnings[kind]}): {rich.markup.escape(message)}",
            soft_wrap=True,
        )

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self._unwritten:
                self._append("".join(line + "\n" for line in self._unwritten))
                self._unwritten.clear()
        with contextlib.suppress(OSError):
            if self._board is not None:
                self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
            self._wandb = None
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _append(self, text: str) -> None:
        """Writes all of ``text`` or nothing: a partial write is cut off again."""
        content, written = text.encode(), 0
        with open(
            self._path, "ab", buffering=0
        ) as file:  # a buffer would be written again at close
            size = file.seek(0, os.SEEK_END)
            try:
                while written < len(content):
                    written += file.write(content[written:])
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self._path, size)
                raise

    def _drop_later_lines(self) -> None:
        if not self._path.exists():
            return
        kept = [row for row in read_metrics(self._path) if row.get("step", 0) <= self.start]
        trained = [row for row in kept if "steps_per_second" in row]  # others are evaluations
        if trained:  # what a run that is already finished has to say
            self.last = {
                name: math.nan if value is None else value
                for name, value in trained[-1].items()
                if name not in ("step", "time") and not name.startswith("warnings/")
            }
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(self._path)

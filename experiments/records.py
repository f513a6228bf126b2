"""What experiments leave behind: ``results.json`` with its provenance, the page that is drawn from it, and a table."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from daag_jax.evaluation import html
from daag_jax.evaluation.studies import Row, cells, columns


def commit_of_code() -> str:
    """The commit of this checkout, and whether files differ from it; "" where git does not know."""
    if not shutil.which("git"):
        return ""
    ask = lambda *words: subprocess.run(
        ["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    changed = ask("status", "--porcelain", "--untracked-files=no")
    return ask("rev-parse", "--short", "HEAD") + (", and changes" if changed else "")


COMMIT = commit_of_code()  # when the process began: the code that runs


def provenance() -> dict[str, str]:
    """What made a result: command, commit, device and versions."""
    module = getattr(sys.modules["__main__"].__spec__, "name", "")
    return {
        "command": " ".join(["python -m", module, *sys.argv[1:]]),
        "commit": COMMIT,
        "device": jax.devices()[0].device_kind,
        "cores": str(os.cpu_count()),
        "machine": platform.machine(),
        "jax": jax.__version__,
    }


def mark_of(text: str, *arrays: np.ndarray) -> str:
    """A short mark of what a stored result depends on."""
    mark = hashlib.sha256(text.encode())
    for values in arrays:
        mark.update(np.ascontiguousarray(values).tobytes())
    return mark.hexdigest()[:16]


def write_json(path: Path, content: Any) -> None:
    """Writes a file that is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(path)


def write_study(
    rows: Sequence[Row], title: str, folder: Path, baseline: str, details: Mapping[str, Any]
) -> None:
    """Prints the table and writes ``results.json`` and ``report.html``; ``details`` are kept beside the rows."""
    content = {"title": title, "baseline": baseline, "rows": list(rows), "made": provenance()}
    write_json(folder / "results.json", content | dict(details))
    html.report_of_run(folder)
    table = Table(*columns(baseline), title=title)
    for row in rows:
        table.add_row(*cells(row))
    Console(width=120).print(table)
    print(json.dumps([{k: v for k, v in row.items() if k != "scores"} for row in rows]))

"""What the experiments of Diffusion-BC share: options, and a study of arms with its table, figures and page.

``results.json`` holds every seed's score; the page and the table are functions of it.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
from rich.console import Console
from rich.table import Table

from daag_jax.envs.env import Env
from daag_jax.evaluation import html
from daag_jax.evaluation.studies import cells, columns, rows_of
from experiments.dbc.arms import Arm, run_arms, run_of
from experiments.dbc.problems import Loaded, load

Results = dict[str, dict[str, dict[str, Any]]]  # problem -> arm -> what run_arm gives


@dataclass(frozen=True)
class Options:
    """Common options; without seeds, those of the preset."""

    preset: Literal["paper", "cpu", "smoke"] = "cpu"
    problems: tuple[str, ...] = ("maze",)
    seeds: tuple[int, ...] = ()
    directory: str = "runs/experiments/dbc"


def provenance() -> dict[str, str]:
    """What made a result: command, commit, device and versions."""
    commit = ""
    if shutil.which("git"):
        asked = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    module = getattr(sys.modules["__main__"].__spec__, "name", "")
    return {
        "command": " ".join(["python -m", module, *sys.argv[1:]]),
        "commit": commit,
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "jax": jax.__version__,
    }


def study(
    options: Options,
    title: str,
    arms_of: Callable[[Loaded], Mapping[str, Arm]],
    worlds_of: Callable[[Loaded], Mapping[str, Env]] | None = None,
    baseline: str = "BC",
) -> Results:
    """Runs the arms of every problem and writes ``results.json`` and ``report.html`` in a folder named by the title.

    Models and arms that another study has trained already, with the same data and configuration, are used again.
    """
    results: Results = {}
    directory = str(Path(options.directory) / options.preset)
    for name in options.problems:
        loaded = load(name, options.preset)
        run = run_of(loaded.sizes, options.seeds, directory)
        worlds = None if worlds_of is None else worlds_of(loaded)
        results[name] = run_arms(loaded, arms_of(loaded), run, worlds)
    write(results, title, Path(directory) / title, baseline)
    return results


def write(results: Results, title: str, folder: Path, baseline: str = "BC") -> None:
    """Prints the table and writes ``results.json`` and ``report.html``."""
    rows = []
    for problem, arms in results.items():
        scores = {arm: found["scores"] for arm, found in arms.items()}
        rows += rows_of(problem, scores, baseline, next(iter(arms.values()))["score"])
    folder.mkdir(parents=True, exist_ok=True)
    content = {"title": title, "baseline": baseline, "rows": rows, "made": provenance()}
    (folder / "results.json").write_text(json.dumps(content | {"results": results}, indent=1))
    html.report_of_run(folder)
    table = Table(*columns(baseline), title=title)
    for row in rows:
        table.add_row(*cells(row))
    Console(width=120).print(table)
    print(json.dumps([{k: v for k, v in row.items() if k != "scores"} for row in rows]))

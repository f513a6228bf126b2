"""What the experiments of Diffusion-BC share: options, and a study of arms with its table, figures and page.

``results.json`` holds every seed's score; the page and the table are functions of it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from daag_jax.envs.env import Env
from daag_jax.evaluation import figures, html
from daag_jax.evaluation.scores import Estimate, interquartile_mean, paired_difference
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
    rows = [row for problem, arms in results.items() for row in rows_of(problem, arms, baseline)]
    folder.mkdir(parents=True, exist_ok=True)
    machine = {"platform": platform.processor() or platform.machine(), "jax": jax.__version__}
    content = {"title": title, "machine": machine, "rows": rows, "results": results}
    (folder / "results.json").write_text(json.dumps(content, indent=1))
    html.write(page_of(content, baseline), folder / "report.html")
    table = Table("problem", "world", "arm", "IQM", "95 %", "- " + baseline, "95 %", title=title)
    for row in rows:
        table.add_row(*cells(row))
    Console(width=120).print(table)
    print(json.dumps([{k: v for k, v in row.items() if k != "scores"} for row in rows]))


def rows_of(
    problem: str, arms: Mapping[str, dict[str, Any]], baseline: str
) -> list[dict[str, Any]]:
    """One row per world and arm: interquartile mean over seeds, and the paired difference to the baseline."""
    rows = []
    for world in next(iter(arms.values()))["scores"]:
        for arm, result in arms.items():
            scores = result["scores"][world]
            row = {"problem": problem, "world": world, "arm": arm, "scores": scores}
            row["mean"], row["std"] = float(np.mean(scores)), float(np.std(scores))
            row["iqm"] = list(estimate(scores))
            if baseline in arms and arm != baseline and len(scores) > 1:
                row["difference"] = list(paired_difference(scores, arms[baseline]["scores"][world]))
            rows.append(row)
    return rows


def estimate(scores: list[float]) -> Estimate:
    """The interquartile mean; one seed has no interval."""
    return interquartile_mean(scores) if len(scores) > 1 else Estimate(*[float(scores[0])] * 3)


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row as text: rates in percent, returns as they are."""
    scale = 100.0 if max(row["scores"], default=0.0) <= 1.0 else 1.0
    number = lambda x: f"{scale * x:.1f}" if scale == 100.0 else f"{x:.0f}"
    interval = lambda e: f"[{number(e[1])}, {number(e[2])}]"
    iqm, difference = row["iqm"], row.get("difference")
    return [
        row["problem"],
        row["world"],
        row["arm"],
        number(iqm[0]),
        interval(iqm),
        number(difference[0]) if difference else "",
        interval(difference) if difference else "",
    ]


def page_of(content: Mapping[str, Any], baseline: str) -> html.Page:
    """The page of a study, from the content of its ``results.json``."""
    sections = []
    for problem, arms in content["results"].items():
        rows = [row for row in content["rows"] if row["problem"] == problem]
        worlds = list(dict.fromkeys(row["world"] for row in rows))
        drawn = []
        for world in worlds:
            bars = {row["arm"]: Estimate(*row["iqm"]) for row in rows if row["world"] == world}
            drawn.append(html.figure(figures.bars(bars, title=world or problem)))
        columns = ("problem", "world", "arm", "IQM", "95 %", f"minus {baseline}", "95 %")
        table = html.table(columns, [cells(row) for row in rows])
        seeds = len(next(iter(arms.values()))["seeds"])
        sections.append(html.Section(problem, [*drawn, table], f"{seeds} seeds, paired."))
    return html.Page(f"Diffusion-BC: {content['title']}", sections)

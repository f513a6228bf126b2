"""One page that shows a run: ``report.html``, self-contained, light and dark.

A :class:`Page` is built from sections of text, figures, tables and videos; :func:`write` renders it.  Videos are
embedded, figures are inline SVG, so the file can be mailed.  :func:`report_of_run` makes the page of a run folder from
the files that lie in it: ``metrics.jsonl``, ``results.json`` and ``*.mp4`` (also in folders below).
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from daag_jax.evaluation import figures, studies, video
from daag_jax.training.report import read_metrics

GENERATOR = "daag report"


class Item(NamedTuple):
    """A piece of a page; ``kind`` is text, figure, table or video."""

    kind: str
    content: Any
    caption: str = ""


class Section(NamedTuple):
    title: str
    items: Sequence[Item]
    lead: str = ""


class Page(NamedTuple):
    title: str
    sections: Sequence[Section]
    lead: str = ""
    numbers: Sequence[tuple[str, str]] = ()  # headline figures: (value, what it is)
    footer: str = ""
    generator: str = ""  # what made the page, if not the run itself


class Table(NamedTuple):
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def text(paragraph: str) -> Item:
    return Item("text", paragraph)


def figure(drawn: Figure, caption: str = "") -> Item:
    """A matplotlib figure, inline."""
    return Item("figure", figures.svg(drawn), caption)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> Item:
    """Numbers are aligned right and shortened to four digits."""
    return Item("table", Table(columns, [[_cell(value) for value in row] for row in rows]), caption)


def clip(frames: UInt8[np.ndarray, "T H W 3"], caption: str = "", fps: float = 5.0) -> Item:
    """Frames as an embedded video that plays in a loop."""
    return Item("video", video.data_url(frames, fps), caption)


def comparison(
    before: UInt8[np.ndarray, "T H W 3"],
    after: UInt8[np.ndarray, "T H W 3"],
    oracle: UInt8[np.ndarray, "T H W 3"] | None = None,
    caption: str = "",
    fps: float = 5.0,
) -> Item:
    """Before, after and (in simulation) the exact answer, side by side."""
    panels = {"before": before, "after": after}
    if oracle is not None:
        panels["oracle"] = oracle
    return clip(video.grid(panels), caption, fps)


def _cell(value: Any) -> tuple[str, bool]:
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if is_number and not isinstance(value, (int, np.integer)):
        return f"{float(value):.4g}", True
    return str(value), is_number


def render(page: Page) -> str:
    """The page as text."""
    loader = jinja2.PackageLoader("daag_jax.evaluation", ".")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.j2").render(page=page)


def write(page: Page, path: str | Path) -> Path:
    """Writes the page; creates the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(page), encoding="utf-8")
    return path


def report_of_run(directory: str | Path) -> Path:
    """``report.html`` of a run folder, from its metrics, results and videos.

    A page that the run wrote itself, which shows more, is left as it is.

    Raises:
        FileNotFoundError: the folder holds none of them.
    """
    folder = Path(directory)
    page = folder / "report.html"
    if page.is_file() and f'name="generator" content="{GENERATOR}"' not in page.read_text("utf-8"):
        return page
    sections, numbers = [], []
    if (folder / "results.json").is_file():
        results = json.loads((folder / "results.json").read_text())
        if studies.is_study(results):
            sections += study_sections(results)
        else:
            sections.append(Section("Results", [_results_table(results)]))
            numbers = [(_cell(v)[0], k) for k, v in _flat(results).items() if _cell(v)[1]][:4]
    if (folder / "metrics.jsonl").is_file():
        drawn = metric_figures(read_metrics(folder / "metrics.jsonl"))
        sections.append(Section("Training", drawn))
    films = sorted(f for f in folder.rglob("*.mp4") if f.is_file())
    if films:
        sections.append(Section("Videos", [_film(path, folder) for path in films[:24]]))
    if not sections:
        raise FileNotFoundError(
            f"{folder} holds no metrics.jsonl, results.json or .mp4; give the folder of a run."
        )
    footer = f"{folder.name}, {time.strftime('%Y-%m-%d %H:%M')}"
    return write(Page(folder.name, sections, "", numbers, footer, GENERATOR), page)


def study_sections(content: dict[str, Any]) -> list[Section]:
    """One section per problem of a study (``evaluation/studies.py``): figures and the table."""
    sections = []
    for problem, drawn in studies.study_figures(content).items():
        rows = [row for row in content["rows"] if row["problem"] == problem]
        numbers = table(studies.columns(content["baseline"]), [studies.cells(row) for row in rows])
        lead = f"{len(rows[0]['scores'])} seeds, paired; bars and lines with 95 % intervals or standard errors."
        sections.append(Section(problem, [*(figure(one) for one in drawn), numbers], lead))
    return sections


def metric_figures(rows: Sequence[dict[str, Any]]) -> list[Item]:
    """One figure per group of metrics ("loss/a" and "loss/b" share theirs)."""
    groups: dict[str, dict[str, tuple[list, list]]] = {}
    for row in rows:
        for name, value in row.items():
            if name in ("step", "time") or value is None:
                continue
            group, _, rest = name.rpartition("/")
            xs, ys = groups.setdefault(group or name, {}).setdefault(rest or name, ([], []))
            xs.append(row["step"])
            ys.append(value)
    items = []
    for group, lines in groups.items():
        runs = {name: (xs, np.asarray(ys)[None]) for name, (xs, ys) in lines.items()}
        drawn = figures.curves(runs, group.replace("_", " "), "step", "")
        items.append(figure(drawn))
    return items


def _film(path: Path, folder: Path) -> Item:
    encoded = base64.b64encode(path.read_bytes()).decode()
    name = str(path.relative_to(folder).with_suffix("")).replace("_", " ")
    return Item("video", f"data:video/mp4;base64,{encoded}", name)


def _flat(results: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(results, dict):
        return {prefix: results}
    flat: dict[str, Any] = {}
    for name, value in results.items():
        flat |= _flat(value, f"{prefix}/{name}" if prefix else str(name))
    return flat


def _results_table(results: dict[str, Any]) -> Item:
    return table(("figure", "value"), [(k, v) for k, v in _flat(results).items()])

"""Studies: arms compared over paired seeds, as rows of numbers, a table and a page.

A study's ``results.json`` has ``title``, ``baseline`` and ``rows``; a row is one arm in one world of one problem, with
its ``scores`` (one per seed).  Everything that is shown is a function of that file, so ``daag report`` draws it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from daag_jax.evaluation import figures
from daag_jax.evaluation.scores import Estimate, interquartile_mean, paired_difference

Row = dict[str, Any]


def rows_of(
    problem: str,
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    baseline: str,
    score: str = "success",
) -> list[Row]:
    """Rows of ``scores[arm][world]``: interquartile mean over seeds, and the mean paired difference to the baseline.

    Args:
        score: what is counted: "success", a share, or any other name, "returns" say.
    """
    rows = []
    for world in next(iter(scores.values())):
        for arm, by_world in scores.items():
            own = list(by_world[world])
            row: Row = {
                "problem": problem,
                "world": world,
                "arm": arm,
                "score": score,
                "scores": own,
            }
            row |= {"mean": float(np.mean(own)), "std": float(np.std(own))}
            row["iqm"] = list(estimate(own))
            if baseline in scores and arm != baseline and len(own) > 1:
                row["difference"] = list(paired_difference(own, scores[baseline][world]))
            rows.append(row)
    return rows


def estimate(scores: Sequence[float]) -> Estimate:
    """The interquartile mean; one seed has no interval."""
    return interquartile_mean(scores) if len(scores) > 1 else Estimate(*[float(scores[0])] * 3)


def is_study(content: Any) -> bool:
    """Whether a ``results.json`` is of a study."""
    return isinstance(content, dict) and {"title", "baseline", "rows"} <= set(content)


def columns(baseline: str) -> tuple[str, ...]:
    """What :func:`cells` are of."""
    return ("problem", "world", "arm", "IQM", "95 %", f"mean minus {baseline}", "95 %")


def cells(row: Row) -> list[str]:
    """A row as text: rates in percent, other scores as they are."""
    number = lambda x: f"{100 * x:.1f}" if row["score"] == "success" else f"{x:.4g}"
    interval = lambda e: f"[{number(e[1])}, {number(e[2])}]"
    iqm, difference = row["iqm"], row.get("difference")
    told = [number(difference[0]), interval(difference)] if difference else ["", ""]
    return [
        row["problem"],
        row["world"] or "its own",
        row["arm"],
        number(iqm[0]),
        interval(iqm),
        *told,
    ]


def study_figures(content: Mapping[str, Any]) -> dict[str, list]:
    """Per problem: bars of the arms in every world, or, of several worlds, one line per arm over them."""
    drawn: dict[str, list] = {}
    for problem in dict.fromkeys(row["problem"] for row in content["rows"]):
        rows = [row for row in content["rows"] if row["problem"] == problem]
        worlds = list(dict.fromkeys(row["world"] for row in rows))
        label = "success rate" if rows[0]["score"] == "success" else rows[0]["score"]
        if len(worlds) > 2:
            lines = {
                arm: (
                    np.arange(len(worlds)),
                    np.array([row["scores"] for row in rows if row["arm"] == arm]).T,
                )
                for arm in dict.fromkeys(row["arm"] for row in rows)
            }
            figure = figures.curves(lines, problem, "", label)
            figure.axes[0].set_xticks(range(len(worlds)), worlds)
            drawn[problem] = [figure]
            continue
        drawn[problem] = []
        for world in worlds:
            bars = {row["arm"]: Estimate(*row["iqm"]) for row in rows if row["world"] == world}
            drawn[problem].append(figures.bars(bars, world or problem, label))
    return drawn

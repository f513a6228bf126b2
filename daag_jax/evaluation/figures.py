"""Figures in one style: learning curves with bands, bars with intervals, similarity matrices, paths in mazes.

Every function returns a matplotlib ``Figure`` and reads no global state.  :func:`save` writes it; :func:`svg` gives
it as text to stand inside a page.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from daag_jax.envs.point_mass import ORIGIN

# Okabe and Ito's colours, told apart with any kind of colour vision; black is last
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
STYLE = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "path",
    "svg.hashsalt": "daag_jax",  # the same figure is the same text
}
SIZE = (5.0, 3.1)  # [inch]


def _figure(title: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left")
    return figure, axes


def curves(
    runs: Mapping[str, tuple[Sequence[float], Float[np.ndarray, "S N"]]],
    title: str = "",
    x_label: str = "episodes",
    y_label: str = "success rate",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """One line per arm: the mean over S seeds, and a band of the standard error.

    Args:
        runs: name -> (positions [N], scores [S, N]); a single row has no band.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(title)
        for i, (name, (x, scores)) in enumerate(runs.items()):
            scores = np.atleast_2d(np.asarray(scores, np.float64))
            x, color = np.asarray(x), COLORS[i % len(COLORS)]
            if scores.shape[1] != x.size:
                raise ValueError(
                    f"{name}: {scores.shape[1]} scores at {x.size} positions; give one each."
                )
            mean = np.nanmean(scores, axis=0)
            axes.plot(x, mean, color=color, label=name)
            if scores.shape[0] > 1:
                error = np.nanstd(scores, axis=0, ddof=1) / np.sqrt(scores.shape[0])
                axes.fill_between(x, mean - error, mean + error, color=color, alpha=0.2, lw=0)
        axes.set(xlabel=x_label, ylabel=y_label)
        if limits is not None:
            axes.set_ylim(*limits)
        if runs:
            axes.legend()
        return figure


def bars(
    estimates: Mapping[str, tuple[float, float, float]],
    title: str = "",
    y_label: str = "success rate",
) -> Figure:
    """One bar per arm, (value, low, high) each: with :class:`scores.Estimate` as it is."""
    with matplotlib.rc_context(STYLE):
        width = max(SIZE[0], 0.8 * len(estimates) + 1)
        figure, axes = _figure(title, (width, SIZE[1]))
        for i, (name, (value, low, high)) in enumerate(estimates.items()):
            error = [[max(0.0, value - low)], [max(0.0, high - value)]]
            color = COLORS[i % len(COLORS)]
            axes.bar(i, value, 0.62, color=color, alpha=0.85, yerr=error, capsize=4, label=name)
        axes.set_xticks(range(len(estimates)), [_wrapped(name) for name in estimates])
        axes.grid(axis="x", visible=False)
        axes.set_ylabel(y_label)
        return figure


def matrix(
    values: Float[np.ndarray, "R C"],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    low: float | None = None,
    high: float | None = None,
) -> Figure:
    """A similarity matrix; small ones are annotated with their numbers."""
    values = np.asarray(values)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(
            f"values {values.shape} do not have {len(rows)} rows, {len(columns)} columns."
        )
    with matplotlib.rc_context(STYLE):
        size = (1.9 + 0.42 * len(columns), 1.5 + 0.34 * len(rows))
        figure, axes = _figure(title, size)
        image = axes.imshow(values, cmap="viridis", vmin=low, vmax=high, aspect="auto")
        axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.grid(visible=False)
        figure.colorbar(image, ax=axes, shrink=0.85)
        if values.size <= 100:
            middle = image.norm.vmin + 0.6 * (image.norm.vmax - image.norm.vmin)
            for (i, j), value in np.ndenumerate(values):
                color = "black" if value > middle else "white"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
        return figure


def paths_in_maze(
    walls: Bool[np.ndarray, "R C"],
    groups: Mapping[str, tuple[Float[np.ndarray, "P H 2"], Float[np.ndarray, "P N 2"] | None]],
    goals: Float[np.ndarray, "G P 2"],
    title: str = "",
) -> Figure:
    """One maze per group: plans as points that brighten with time, what was then walked as a line, the goal as a star.

    Args:
        groups: name -> (plans, walked paths or None), places as a PointMaze observes them [m].
        goals: of every group.
    """
    away = ORIGIN - 1.0  # of the ball at place 0 from the middle of its cell [m]
    edges = (-0.5 - away, walls.shape[1] - 0.5 - away, walls.shape[0] - 0.5 - away, -0.5 - away)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        rows, columns = walls.shape
        height = 2.4 * rows / max(rows, columns) + (0.6 if title else 0.35)
        size = (2.4 * len(groups) * columns / max(rows, columns), height)
        figure = Figure(figsize=size, layout="compressed")
        FigureCanvasAgg(figure)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        for i, (name, (plans, walked)) in enumerate(groups.items()):
            axes = figure.add_subplot(1, len(groups), i + 1)
            axes.imshow(walls, cmap="Greys", vmin=0, vmax=2.2, extent=edges)
            for k, plan in enumerate(plans):
                if walked is not None:
                    axes.plot(walked[k][:, 1], walked[k][:, 0], color=COLORS[4], lw=1.4, zorder=2)
                age = np.linspace(0.0, 1.0, len(plan))
                axes.scatter(plan[:, 1], plan[:, 0], c=age, cmap="viridis", s=9, zorder=3)
                axes.plot(plan[0, 1], plan[0, 0], "o", color=COLORS[0], ms=6, zorder=4)
                goal = goals[i][k]
                axes.plot(goal[1], goal[0], "*", color=COLORS[1], ms=11, zorder=4)
            axes.set(title=name, xticks=[], yticks=[])
            axes.title.set_fontsize(9)
            axes.spines[:].set_visible(False)
        return figure


def plans_in_maze(
    walls: Bool[np.ndarray, "R C"],
    plans: Float[np.ndarray, "B H 2"],
    walked: Float[np.ndarray, "B N 2"],
    returns: Float[np.ndarray, "B"],
) -> Figure:
    """One maze per plan, with the path that followed it, the end of the plan as its goal, and the return."""
    groups = {
        f"{i + 1}: return {returns[i]:.0f}": (plans[i : i + 1], walked[i : i + 1])
        for i in range(len(plans))
    }
    return paths_in_maze(walls, groups, plans[:, -1:])


def pixels(figure: Figure, dpi: int = 110) -> UInt8[np.ndarray, "H W 3"]:
    """A figure as an image."""
    with matplotlib.rc_context(STYLE):
        figure.set_dpi(dpi)
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def save(figure: Figure, path: str | Path) -> Path:
    """Writes a figure as its suffix says (.png, .svg, .pdf)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=160)
    return path


def svg(figure: Figure) -> str:
    """A figure as an ``<svg>`` element, without background, so that it fits light and dark pages."""
    text = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _wrapped(name: str, width: int = 11) -> str:
    lines, line = [], ""
    for word in name.split():
        if line and len(line) + len(word) >= width:
            lines, line = [*lines, line], word
        else:
            line = f"{line} {word}".strip()
    return "\n".join([*lines, line])

"""What the demo found, as numbers, as a table on the terminal, and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from daag_jax.agent.augmenter import Job, make_augmenter
from daag_jax.agent.memory import Memory
from daag_jax.agent.orchestrator import RuleOrchestrator
from daag_jax.agent.setup import Setup
from daag_jax.data.disk import read_episodes
from daag_jax.evaluation import figures, html
from daag_jax.evaluation.scores import success_rate

ARM_NAMES = {
    "reward": "environment reward only",
    "subgoals": "+ CLIP sub-goals",
    "hindsight": "+ hindsight augmentation",
}
DETECTORS = {"reward": "", "subgoals": "no edits", "hindsight": "edits"}  # of each arm


def summarise(tasks: tuple[str, ...], setup: Setup, arms: dict[str, list[dict]]) -> dict:
    """The numbers of the table, per arm and task."""
    table = []
    for arm, rows in arms.items():
        for task in tasks:
            mine = [row for row in rows if row["task"] == task]
            extracted = mine[0]["extracted"]
            kept, edited = (sum(row[kind] for row in mine) for kind in ("kept", "edited"))
            valid = sum(row["kept_valid"] + row["edited_valid"] for row in mine)
            valid, usable = valid + mine[0]["extracted_valid"], kept + edited + extracted
            last = mine[-1]
            episodes = last["episodes"]
            rate = success_rate(round(last["success"] * episodes), episodes)
            detector = DETECTORS[arm]
            table.append(
                {
                    "arm": ARM_NAMES[arm],
                    "task": task,
                    "episodes": last["episodes_of_task"],
                    "kept": kept,
                    "edited": edited,
                    "extracted": extracted,
                    "succeeded_before": mine[0]["succeeded_before"],
                    "label_validity": valid / usable if usable else None,
                    "average_precision": setup.precisions[detector] if detector else None,
                    "reached": last["reached"],
                    "success": list(rate),
                }
            )
    results = {"table": table, "average_precision": setup.precisions}
    # what became of each question to a language model: answered, not JSON, no reply, ...
    counts = getattr(setup.world.orchestrator, "counts", None)
    return results if counts is None else results | {"language_model": dict(counts)}


COLUMNS = (
    "arm",
    "task",
    "episodes",
    "successes before",
    "kept",
    "edited",
    "from earlier tasks",
    "label validity",
    "AP, novel task",
    "sub-goals reached",
    "success",
)


def table_rows(results: dict) -> list[tuple[str, ...]]:
    """The cells of the table, one row per arm and task."""
    shown = lambda x: "-" if x is None else f"{x:.2f}"
    return [
        (
            row["arm"],
            row["task"].removeprefix("Stack the ").replace(" object", ""),
            str(row["episodes"]),
            str(row["succeeded_before"]),
            str(row["kept"]),
            str(row["edited"]),
            str(row["extracted"]),
            shown(row["label_validity"]),
            shown(row["average_precision"]),
            " / ".join(f"{x:.2f}" for x in row["reached"]),
            "{:.2f} [{:.2f}, {:.2f}]".format(*row["success"]),
        )
        for row in results["table"]
    ]


def print_table(results: dict) -> None:
    """The table on the terminal."""
    table = Table(title="Diffusion Augmented Agents on RGB stacking")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("arm", "task") else "right")
    for row in table_rows(results):
        table.add_row(*row)
    console = Console(width=150)
    console.print(table)
    if "language_model" in results:
        console.print(f"answers of the language model: {results['language_model']}", markup=False)


def report_page(
    tasks: tuple[str, ...], setup: Setup, arms: dict, results: dict, films: list[html.Item]
) -> html.Page:
    """Curves, table, and films of edits beside their oracles."""
    bars = {name: (ap, ap, ap) for name, ap in setup.precisions.items()}
    title, y_label = "Reward detector on the novel task", "average precision"
    detector = html.figure(figures.bars(bars, title=title, y_label=y_label))
    sections = [
        html.Section(
            "Sub-goals reached",
            learning_curves(tasks, arms),
            "By the policy without exploration, judged by the simulator.",
        ),
        html.Section("What each arm learnt from", [html.table(COLUMNS, table_rows(results))]),
        html.Section(
            "Edited episodes",
            films,
            "What the first task's episodes become for the second: stored frames, diffusion edit, and the simulator's "
            "own answer. The actions stay.",
        ),
        html.Section(
            "Reward detector",
            [slide_show(setup.pictures), detector],
            "Edited frames stand in for labels of the novel captions.",
        ),
    ]
    return html.Page(
        "Diffusion Augmented Agents on RGB stacking",
        sections,
        "Failed episodes become successes at another task by editing their video.",
        headlines(results),
    )


def learning_curves(tasks: tuple[str, ...], arms: dict[str, list[dict]]) -> list[html.Item]:
    """How often each sub-goal of each task is reached, a line per arm."""
    curves = []
    for task in tasks:
        for number, goal in enumerate(RuleOrchestrator().decompose(task)):
            lines = {}
            for arm, rows in arms.items():
                mine = [r for r in rows if r["task"] == task]
                reached = np.array([[r["reached"][number] for r in mine]])
                lines[ARM_NAMES[arm]] = ([r["episodes_of_task"] for r in mine], reached)
            drawn = figures.curves(
                lines, title=goal, y_label="episodes that reach it", limits=(0, 1)
            )
            curves.append(html.figure(drawn))
    return curves


def edited_films(
    memory: Memory, files: Sequence[Path], task: str, most: int = 4
) -> list[html.Item]:
    """Stored episodes as successes at another task: before, after, and as the simulator renders them.

    Args:
        memory: an empty one of the run; the same edits come out.
        files: the run's first blocks of episodes, in order.
    """
    items, repaint = [], make_augmenter("oracle", memory.world.env, None)
    for index in [memory.add(*read_episodes(file)) for file in files][::-1]:
        requests = memory.decide(index, task).requests
        # the longest ones show most
        requests = sorted(requests, key=lambda r: -r.end)[: most - len(items)]
        block = memory.lifelong.blocks[index]
        for edited in memory.edited(index, requests):
            episode, end, achieved, desired, _ = edited.request
            states, colors = block.extras["qpos"][episode], edited.colors
            job = Job(*(jnp.asarray(x)[None] for x in (edited.frames, states, colors, colors)))
            oracle = np.asarray(repaint(job, memory.root))[0]
            shown = (block.images[episode], edited.frames, oracle)
            verdict = "the label is true" if edited.verdict == "edited valid" else edited.verdict
            caption = f"{achieved} → {desired} ({verdict})"
            items.append(
                html.comparison(*(x[: end + 1, 0] for x in shown), caption=caption, fps=1.5)
            )
    return items


def slide_show(pictures: dict[str, np.ndarray], length: int = 8) -> html.Item:
    """Still edits, beside their sources and oracles."""
    shown = (pictures[k][:length] for k in ("before", "edited", "oracle"))
    return html.comparison(*shown, fps=1.5)


def headlines(results: dict) -> list[tuple[str, str]]:
    """The figures at the head of the page."""
    rows, precisions = results["table"], results["average_precision"]
    usable = {
        arm: sum(r["kept"] + r["edited"] + r["extracted"] for r in rows if r["arm"] == name)
        for arm, name in ARM_NAMES.items()
    }
    before, after = precisions["no edits"], precisions["edits"]
    return [
        (str(rows[0]["episodes"]), "episodes per task and arm"),
        (f"{usable['subgoals']} → {usable['hindsight']}", "usable pieces, with hindsight"),
        (f"{before:.2f} → {after:.2f}", "average precision on the novel task, with edits"),
    ]

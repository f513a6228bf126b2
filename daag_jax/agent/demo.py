"""The main job, end to end: an agent turns failed episodes of one task into training data for another.

    make demo        or        daag demo

Two tasks in sequence; the second one's successes never occur in the first one's data.  Three arms on the same seed:
environment reward only, CLIP sub-goals, and hindsight experience augmentation with the diffusion editor.  Everything is
real: simulated physics, rendered pixels, the shipped models.  Takes about 8 minutes on two CPU cores.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from daag_jax.agent import detectors
from daag_jax.agent.augmenter import make_augmenter, make_looker
from daag_jax.agent.daag import DaagConfig, Programs, run_daag
from daag_jax.agent.memory import World
from daag_jax.agent.orchestrator import RuleOrchestrator
from daag_jax.agent.reward import Detector, DetectorConfig, make_scorer
from daag_jax.assets import asset
from daag_jax.editing.compact import load_compact_editor
from daag_jax.editing.editor import EditorConfig
from daag_jax.envs.tasks.rgb_stacking import RgbStacking, RgbStackingConfig, task_sentences
from daag_jax.evaluation import figures, html
from daag_jax.evaluation.scores import success_rate
from daag_jax.networks.clip import weights as clip_weights
from daag_jax.networks.clip.config import COMPACT_CLIP
from daag_jax.training.keys import key_at

ARM_NAMES = {
    "reward": "environment reward only",
    "subgoals": "+ CLIP sub-goals",
    "hindsight": "+ hindsight augmentation",
}
DETECTORS = {"reward": "", "subgoals": "no edits", "hindsight": "edits"}  # of each arm


@dataclass(frozen=True)
class DemoConfig:
    """Sizes that fit two CPU cores and ten minutes."""

    directory: str = "runs/demo"
    seed: int = 0
    iterations: int = 2  # of each task
    episodes: int = 192  # per iteration
    train_steps: int = 200  # per iteration
    labelled: int = (
        1024  # frames with known captions, for the detector (the predecessor: about 10^3)
    )
    validated: int = 2048  # frames of episodes, for the thresholds
    edited: int = 384  # of them that are also edited
    tested: int = 512  # real frames on which detectors are compared
    detector: DetectorConfig = DetectorConfig()
    editor: EditorConfig = EditorConfig(steps=6, guidance=1.25)
    cameras: tuple[str, ...] = ("front_left",)
    tasks: tuple[str, ...] = DaagConfig.tasks
    detectors: tuple[str, ...] = ("no edits", "edits")  # or "oracle" too: trained on re-renders


class Setup(NamedTuple):
    """What the arms need, and what building it showed."""

    world: World
    detectors: dict[
        str, Detector
    ]  # by what they were finetuned on, beside real frames of the first task
    precisions: dict[str, float]  # average precision on the novel captions
    pictures: dict[str, np.ndarray]  # before, edited, oracle


class Progress:
    """Lines with the time since the start."""

    def __init__(self):
        self.start = time.monotonic()

    def say(self, text: str) -> None:
        """Prints one line at once."""
        print(f"[{time.monotonic() - self.start:5.0f} s] {text}", flush=True)


def novel_captions(tasks: Sequence[str]) -> tuple[str, ...]:
    """Sub-goals of the last task that no earlier task has."""
    rules = RuleOrchestrator()
    before = {goal for task in tasks[:-1] for goal in rules.decompose(task)}
    return tuple(goal for goal in rules.decompose(tasks[-1]) if goal not in before)


def make_world(config: DemoConfig) -> World:
    """The stacking world with the shipped editor and a detector's scorer."""
    env = RgbStacking(RgbStackingConfig(cameras=config.cameras, task=config.tasks[0]))
    augment = make_augmenter("diffusion", env, load_compact_editor(), config.editor)
    return World(env, jax.jit(make_scorer(config.detector)), make_looker(env), augment)


def build(config: DemoConfig, say=print) -> Setup:
    """The world, the shipped models, and detectors with and without edits of the novel task."""
    world = make_world(config)
    env, scores, augment = world.env, world.scores, world.augment
    oracle = make_augmenter("oracle", env, None)
    clip_params = clip_weights.load(asset("clip.safetensors"), COMPACT_CLIP)
    novel = novel_captions(config.tasks)
    known = detectors.known_columns(env, novel)
    tasks = detectors.known_tasks(env, novel)

    root = jax.random.key(config.seed)
    real, qpos = detectors.mixed_frames(env, key_at(root, "labelled", 0), config.labelled, tasks)
    real = real._replace(known=np.broadcast_to(known[None], real.truth.shape).copy())
    validation, _ = detectors.episode_frames(
        env, key_at(root, "validation", 0), config.validated, tasks
    )
    test, _ = detectors.mixed_frames(
        env, key_at(root, "test", 0), config.tested, task_sentences(env.config.colors)[:-1]
    )
    requests = detectors.choose_swaps(
        real.truth[: config.edited], known, env.captions, novel, world.orchestrator, config.seed
    )
    say(f"editing {len(requests)} frames to show the novel sub-goals {novel}")
    key = key_at(root, "edit-frames", 0)
    arguments = (env, real, qpos, requests)
    edited = detectors.edited_frames(*arguments, augment, key)
    exact = detectors.edited_frames(*arguments, oracle, key)

    common = (validation, known, scores, config.detector, config.seed)
    say("finetuning CLIP on labelled frames, without and with edits")
    train = lambda parts: detectors.train_detector(clip_params, env, parts, *common)
    parts = {"no edits": [real], "edits": [real, edited], "oracle": [real, exact]}
    found = {name: train(parts[name]) for name in config.detectors}
    precisions = {
        name: detectors.novel_metrics(scores, one, test, env.captions, novel)["average_precision"]
        for name, one in found.items()
    }
    say(
        "average precision on the novel task: "
        + str({k: round(v, 3) for k, v in precisions.items()})
    )
    pictures = {
        "before": real.images[: len(requests)][:, 0],
        "edited": edited.images[:, 0],
        "oracle": exact.images[:, 0],
    }
    return Setup(world, found, precisions, pictures)


def run(config: DemoConfig = DemoConfig()) -> dict:
    """Builds everything, runs the three arms, prints the table, writes ``report.html`` and ``results.json``."""
    progress = Progress()
    directory = Path(config.directory)
    directory.mkdir(parents=True, exist_ok=True)
    progress.say("loading the shipped models")
    setup = build(config, progress.say)
    base = DaagConfig(
        tasks=config.tasks,
        iterations=config.iterations,
        episodes=config.episodes,
        train_steps=config.train_steps,
        seed=config.seed,
    )
    programs = Programs(setup.world, base)
    arms = {}
    for arm in ARM_NAMES:
        detector = setup.detectors.get(DETECTORS[arm])

        def show(row: dict, arm: str = arm) -> None:
            progress.say(
                f"{ARM_NAMES[arm]:26s} task {config.tasks.index(row['task']) + 1}, "
                f"{row['episodes_of_task']:4d} episodes: {row['kept']:3d} kept, {row['edited']:3d} edited, "
                f"buffer {row['buffer']:4d}, sub-goals reached "
                + " ".join(f"{x:.2f}" for x in row["reached"])
            )

        arms[arm] = run_daag(
            setup.world,
            detector,
            replace(base, arm=arm),
            directory / arm,
            show,
            programs,
        )
    results = summarise(config, setup, arms)
    (directory / "results.json").write_text(json.dumps(results, indent=1))
    print_table(results)
    page = html.write(report_page(config, setup, arms, results), directory / "report.html")
    progress.say(f"report: {page}")
    return results


def summarise(config: DemoConfig, setup: Setup, arms: dict[str, list[dict]]) -> dict:
    """The numbers of the table, per arm and task."""
    table = []
    for arm, rows in arms.items():
        for task in config.tasks:
            mine = [row for row in rows if row["task"] == task]
            usable = sum(row["kept"] + row["edited"] for row in mine)
            valid = sum(row["kept_valid"] + row["edited_valid"] for row in mine)
            last = mine[-1]
            episodes = last["episodes"]
            rate = success_rate(round(last["success"] * episodes), episodes)
            detector = DETECTORS[arm]
            table.append(
                {
                    "arm": ARM_NAMES[arm],
                    "task": task,
                    "episodes": last["episodes_of_task"],
                    "usable": usable,
                    "extracted": mine[0]["extracted"],
                    "label_validity": valid / usable if usable else None,
                    "average_precision": setup.precisions[detector] if detector else None,
                    "reached": last["reached"],
                    "success": list(rate),
                }
            )
    return {"seed": config.seed, "table": table, "average_precision": setup.precisions}


def print_table(results: dict) -> None:
    """The table on the terminal."""
    table = Table(title="Diffusion Augmented Agents on RGB stacking")
    for name in (
        "arm",
        "task",
        "episodes",
        "usable",
        "from earlier",
        "label validity",
        "AP novel",
        "sub-goals",
        "success",
    ):
        table.add_column(name, justify="left" if name in ("arm", "task") else "right")
    shown = lambda x: "-" if x is None else f"{x:.2f}"
    for row in results["table"]:
        value, low, high = row["success"]
        table.add_row(
            row["arm"],
            row["task"],
            str(row["episodes"]),
            str(row["usable"]),
            str(row["extracted"]),
            shown(row["label_validity"]),
            shown(row["average_precision"]),
            " ".join(f"{x:.2f}" for x in row["reached"]),
            f"{value:.2f} [{low:.2f}, {high:.2f}]",
        )
    Console(width=150).print(table)


def report_page(config: DemoConfig, setup: Setup, arms: dict, results: dict) -> html.Page:
    """Curves, table, and pictures of edits beside their oracles."""
    curves = []
    for task in config.tasks:
        goals = RuleOrchestrator().decompose(task)
        for number, goal in enumerate(goals):
            lines = {}
            for arm, rows in arms.items():
                mine = [r for r in rows if r["task"] == task]
                reached = np.array([[r["reached"][number] for r in mine]])
                lines[ARM_NAMES[arm]] = ([r["episodes_of_task"] for r in mine], reached)
            drawn = figures.curves(
                lines, title=goal, y_label="episodes that reach it", limits=(0, 1)
            )
            curves.append(html.figure(drawn))
    columns = (
        "arm",
        "task",
        "episodes",
        "usable pieces",
        "from earlier tasks",
        "label validity",
        "sub-goals reached",
        "success",
    )
    rows = [
        (
            r["arm"],
            r["task"],
            r["episodes"],
            r["usable"],
            r["extracted"],
            "-" if r["label_validity"] is None else r["label_validity"],
            " ".join(f"{x:.2f}" for x in r["reached"]),
            "{:.2f} [{:.2f}, {:.2f}]".format(*r["success"]),
        )
        for r in results["table"]
    ]
    films = [
        html.comparison(
            *(setup.pictures[k][i : i + 8] for k in ("before", "edited", "oracle")), fps=1.5
        )
        for i in range(0, min(24, len(setup.pictures["before"])), 8)
    ]
    detector = html.figure(
        figures.bars(
            {name: (ap, ap, ap) for name, ap in setup.precisions.items()},
            title="Reward detector on the novel task",
            y_label="average precision",
        )
    )
    sections = [
        html.Section(
            "Sub-goals reached",
            curves,
            "By the policy without exploration, judged by the simulator.",
        ),
        html.Section("What each arm learnt from", [html.table(columns, rows)]),
        html.Section(
            "Edits", films, "Stored frame, diffusion edit, and the simulator's own answer."
        ),
        html.Section("Reward detector", [detector], "Zero real examples of the novel captions."),
    ]
    return html.Page(
        "Diffusion Augmented Agents on RGB stacking",
        sections,
        "Failed episodes become successes at another task by editing their video.",
        [(f"{config.iterations * config.episodes}", "episodes per task and arm")],
    )

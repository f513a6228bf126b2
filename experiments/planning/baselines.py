"""Model-free baselines on the planner's own data: what Maze2D's single goal gives without planning.

    python -m experiments.planning.baselines                    # half an hour per method and layout, cql six hours
    python -m experiments.planning.baselines --preset smoke     # a minute or two

All learn from the transitions of ``experiments.planning.mazes`` with the rewards of the layout's one goal, at their
published settings, observations standardised; the preset ``cpu`` takes a fiftieth of the published updates.
What an earlier call has scored is read.  Expect mean D4RL scores near 0 for cloning and below 40 for the others,
against 130 and more for the planner.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from daag_jax.algorithms import ALGORITHMS, make
from daag_jax.algorithms.parts.combinators import normalized
from daag_jax.data.normalize import normalized_spec
from daag_jax.data.windows import draw_windows, episode_data
from daag_jax.evaluation.outcomes import evaluate_policy
from daag_jax.evaluation.scores import normalized_score
from daag_jax.evaluation.studies import rows_of
from daag_jax.training.fit import Sampler
from daag_jax.training.keys import key_at
from daag_jax.training.seeds import fit_seeds, roots_of
from experiments.planning import mazes
from experiments.planning.methods import (
    METHODS,
    MODEL_FREE,
    PLANNERS,
    Task,
    check_methods,
    num_updates,
    reward_scale,
    settings,
    units,
    whole_episodes,
)
from experiments.records import mark_of, provenance, write_json, write_study


@dataclass(frozen=True)
class Config:
    """What is trained; without seeds, those of the preset."""

    preset: Literal["paper", "cpu", "smoke"] = "cpu"
    layouts: tuple[str, ...] = ("umaze", "medium", "large")
    methods: tuple[str, ...] = tuple(MODEL_FREE)
    updates: int = 0  # 0: as published (paper), a fiftieth of it (cpu), 30 (smoke)
    seeds: tuple[int, ...] = ()
    directory: str = "runs/experiments/planning"

    def __post_init__(self) -> None:
        mazes.check_choices(self)
        check_methods(self.methods)


def score(
    method: str, config: Any, task: Task, seeds: tuple[int, ...], updates: int
) -> tuple[list[float], float]:
    """Normalised scores, one per seed, and the seconds of training."""
    how = METHODS[method]
    spec = task.env.spec._replace(task_dim=0)  # there is one goal
    stats = units(method, task)
    algorithm = normalized(make(method, config, normalized_spec(spec, stats)), stats)
    episodes = whole_episodes(task) if method == "decision_transformer" else task.episodes
    episodes = episodes._replace(rewards=reward_scale(method, task) * episodes.rewards)
    data = episode_data(episodes, algorithm.window, ALGORITHMS[method].discount)
    draw = lambda data, key, n: draw_windows(data, algorithm.window, how.batch, key)
    sampler = Sampler(jax.tree.map(jnp.asarray, data), draw)
    began, name = time.monotonic(), f"{method}, {task.name}"
    states = fit_seeds(algorithm, sampler, updates, seeds, in_turn=how.in_turn, name=name).states
    seconds = time.monotonic() - began
    one = lambda state, root: evaluate_policy(
        task.env,
        algorithm.act,
        state,
        key_at(root, "evaluate", 0),
        task.num_episodes,
        algorithm.window,
    )
    every = lambda inputs: jax.lax.map(lambda pair: one(*pair), inputs)
    each = every if method in PLANNERS else lambda inputs: jax.vmap(one)(*inputs)
    roots = roots_of([seed + mazes.EVALUATION_SEED for seed in seeds])
    returns = jax.device_get(jax.jit(each)((states, roots))).returns
    scores = normalized_score(task.name, np.mean(returns, axis=1))
    return [float(x) for x in scores], seconds


def stored_score(
    method: str, task: Task, seeds: tuple[int, ...], updates: int, preset: str, folder: Path
) -> dict[str, Any]:
    """``score`` with what it depends on, read where an earlier call has left it in the folder."""
    config = settings(method, task, updates, preset)
    asked: dict[str, Any] = {
        "version": METHODS[method].version,
        "settings": repr(config),
        "batch": METHODS[method].batch,
        "updates": updates,
        "seeds": list(seeds),
        "evaluated": [task.num_episodes, mazes.EVALUATION_SEED],
        "data": mark_of(task.data, *task.episodes[:5]),
    }
    if (scale := reward_scale(method, task)) != 1.0:
        asked["reward scale"] = scale
    path = folder / f"{task.name}-{method}-{mark_of(json.dumps(asked))}.json"
    if path.is_file():
        return json.loads(path.read_text())
    scores, seconds = score(method, config, task, seeds, updates)
    stored = asked | {"scores": scores, "training seconds": seconds, "made": provenance()}
    write_json(path, stored)
    return stored


def study(
    title: str,
    tasks: Mapping[str, Task],
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    updates: int,
    preset: str,
    folder: Path,
) -> dict:
    """Trains and scores every method on every task; returns the "details" of each one's ``results.json``."""
    details: dict[str, dict[str, Any]] = {}
    for name, task in tasks.items():
        own = details[name] = {}
        scores: dict[str, dict[str, list[float]]] = {}
        for method in methods:
            num = num_updates(preset, updates, method)
            found = stored_score(method, task, seeds, num, preset, folder)
            scores[method] = {"": found["scores"]}
            own[method] = found
            print(f"{name}, {method}: {found['scores']}", flush=True)
            rows = rows_of(name, scores, methods[0], "normalized score")
            write_study(rows, f"{title}: {name}", folder / name, methods[0], {"details": own})
    return details


def main(config: Config) -> dict:
    """The study of all layouts."""
    directory = Path(config.directory) / config.preset
    loaded = [mazes.load(layout, config.preset, directory) for layout in config.layouts]
    tasks = {
        (name := f"maze2d-{maze.layout}"): Task(
            name, name, maze.env, maze.episodes, maze.sizes.episodes, runs_on=True
        )
        for maze in loaded
    }
    seeds = config.seeds or tuple(range(loaded[0].sizes.seeds))
    folder = directory / "baselines"
    return study(
        "Without planning", tasks, config.methods, seeds, config.updates, config.preset, folder
    )


if __name__ == "__main__":
    main(tyro.cli(Config))

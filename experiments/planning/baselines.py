"""Model-free baselines on the planner's own data: what Maze2D's single goal gives without planning.

    python -m experiments.planning.baselines                    # half an hour per method and layout on one core
    python -m experiments.planning.baselines --preset smoke     # a minute or two

All learn from the transitions of ``experiments.planning.mazes`` with the rewards of the layout's one goal, at their
published settings, observations standardised; the preset ``cpu`` takes a fiftieth of the published updates.
What an earlier call has scored is read.  Expect mean D4RL scores near 0 for cloning and below 40 for the others,
against 130 and more for the planner.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from daag_jax.algorithms import config_class, make
from daag_jax.algorithms.bc import BcConfig
from daag_jax.algorithms.decision_transformer import DecisionTransformerConfig
from daag_jax.algorithms.parts.combinators import normalized
from daag_jax.data.normalize import Stats, stats_of
from daag_jax.data.windows import draw_windows, episode_data
from daag_jax.envs.env import Env
from daag_jax.evaluation.outcomes import evaluate_policy
from daag_jax.evaluation.scores import normalized_score
from daag_jax.evaluation.studies import rows_of
from daag_jax.names import check_name
from daag_jax.training.fit import Sampler
from daag_jax.training.keys import key_at
from daag_jax.training.seeds import fit_seeds, roots_of
from daag_jax.types import Episode
from experiments.planning import mazes
from experiments.records import write_json, write_study

METHODS = ("bc", "td3_bc", "iql", "cql", "awac", "decision_transformer")
BATCHES = dict.fromkeys(METHODS, 256) | {"decision_transformer": 64}
VERSION = 1  # of the code: a change of what a method computes makes stored scores stale
IN_TURN = ("cql", "decision_transformer")  # seeds of large updates, which stay in the cache
PUBLISHED = dict.fromkeys(METHODS, 1_000_000) | {"decision_transformer": 100_000}  # updates


@dataclass(frozen=True)
class Config:
    """What is trained; without seeds, those of the preset."""

    preset: Literal["paper", "cpu", "smoke"] = "cpu"
    layouts: tuple[str, ...] = ("umaze", "medium", "large")
    methods: tuple[str, ...] = METHODS
    updates: int = 0  # 0: as published (paper), a fiftieth of it (cpu), 30 (smoke)
    seeds: tuple[int, ...] = ()
    directory: str = "runs/experiments/planning"


class Task(NamedTuple):
    """What is learnt from, and where the result is tried."""

    name: str  # of D4RL's returns
    env: Env
    episodes: Episode
    num_episodes: int  # of evaluation, per seed
    runs_on: bool = False  # the data are runs past their goals, not episodes


def num_updates(preset: str, given: int, method: str) -> int:
    """Those of the preset where none are given."""
    published = PUBLISHED[method]
    return given or {"paper": published, "cpu": published // 50, "smoke": 30}[preset]


def whole_episodes(task: Task) -> Episode:
    """Returns to go are those of an episode, not of a run."""
    return cut(task.episodes, task.env.horizon) if task.runs_on else task.episodes


def settings(method: str, task: Task, updates: int) -> Any:
    """The published configuration; what the data change in it, and a shorter training in the transformer's warm-up."""
    check_name("method", method, METHODS)
    if method == "bc":
        return BcConfig()
    if method == "decision_transformer":
        returns = np.sum(whole_episodes(task).rewards, axis=1)
        best = max(float(np.quantile(returns, 0.99)), 1.0)
        published = DecisionTransformerConfig(target_return=best, return_scale=best)
        return replace(published, warmup_steps=min(published.warmup_steps, updates // 10))
    return config_class(method)()


def cut(episodes: Episode, length: int) -> Episode:
    """Runs as episodes of a length, without overlap; what is left over at their ends is dropped."""
    num, steps = episodes.actions.shape[0], episodes.actions.shape[1]
    starts = np.arange(0, steps - length + 1, length)
    piece = lambda values, size: np.concatenate([values[:, s : s + size] for s in starts])
    return Episode(
        piece(episodes.observations, length + 1),
        piece(episodes.images, length + 1),
        piece(episodes.actions, length),
        piece(episodes.rewards, length),
        np.full(num * len(starts), length, np.int32),
    )


def score(
    method: str, config: Any, task: Task, seeds: tuple[int, ...], updates: int
) -> tuple[list[float], float]:
    """Normalised scores, one per seed, and the seconds of training."""
    spec = task.env.spec._replace(task_dim=0)  # there is one goal
    stats = Stats(*stats_of(task.episodes)[:2])
    algorithm = normalized(make(method, config, spec), stats)
    episodes = whole_episodes(task) if method == "decision_transformer" else task.episodes
    data = jax.tree.map(jnp.asarray, episode_data(episodes, algorithm.window))
    draw = lambda data, key, n: draw_windows(data, algorithm.window, BATCHES[method], key)
    began = time.monotonic()
    name = f"{method}, {task.name}"
    sampler, in_turn = Sampler(data, draw), method in IN_TURN
    states = fit_seeds(algorithm, sampler, updates, seeds, in_turn=in_turn, name=name).states
    seconds = time.monotonic() - began
    one = lambda state, root: evaluate_policy(
        task.env,
        algorithm.act,
        state,
        key_at(root, "evaluate", 0),
        task.num_episodes,
        algorithm.window,
    )
    roots = roots_of([seed + mazes.EVALUATION_SEED for seed in seeds])
    returns = jax.device_get(jax.jit(jax.vmap(one))(states, roots)).returns
    scores = normalized_score(task.name, np.mean(returns, axis=1))
    return [float(x) for x in scores], seconds


def stored_score(
    method: str, task: Task, seeds: tuple[int, ...], updates: int, folder: Path
) -> dict[str, Any]:
    """``score`` with what it depends on, read where an earlier call has left it in the folder."""
    config = settings(method, task, updates)
    asked = {
        "version": VERSION,
        "settings": repr(config),
        "batch": BATCHES[method],
        "updates": updates,
        "seeds": list(seeds),
        "evaluated": [task.num_episodes, mazes.EVALUATION_SEED],
        "data": hashlib.sha256(np.ascontiguousarray(task.episodes.actions)).hexdigest(),
    }
    mark = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    path = folder / f"{task.name}-{method}-{mark}.json"
    if path.is_file():
        return json.loads(path.read_text())
    scores, seconds = score(method, config, task, seeds, updates)
    stored = asked | {"scores": scores, "training seconds": seconds}
    write_json(path, stored)
    return stored


def study(
    title: str,
    tasks: Mapping[str, Task],
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    updates: Callable[[str], int],
    folder: Path,
) -> dict:
    """Trains and scores every method on every task; returns what ``results.json`` holds under "details"."""
    rows, details = [], {}
    for name, task in tasks.items():
        scores: dict[str, dict[str, list[float]]] = {}
        for method in methods:
            found = stored_score(method, task, seeds, updates(method), folder)
            scores[method] = {"": found["scores"]}
            details[f"{name}, {method}"] = found
            print(f"{name}, {method}: {found['scores']}", flush=True)
            done = rows_of(name, scores, methods[0], "normalized score")
            write_study(rows + done, title, folder, methods[0], {"details": details})
        rows += done
    return details


def main(config: Config) -> dict:
    """The study of all layouts."""
    directory = Path(config.directory) / config.preset
    loaded = [mazes.load(layout, config.preset, directory) for layout in config.layouts]
    tasks = {
        f"maze2d-{maze.layout}": Task(
            f"maze2d-{maze.layout}", maze.env, maze.episodes, maze.sizes.episodes, True
        )
        for maze in loaded
    }
    seeds = config.seeds or tuple(range(loaded[0].sizes.seeds))
    updates = lambda method: num_updates(config.preset, config.updates, method)
    return study("Without planning", tasks, config.methods, seeds, updates, directory / "baselines")


if __name__ == "__main__":
    main(tyro.cli(Config))

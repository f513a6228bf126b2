"""Diffuser on D4RL's mazes: data, sizes, training of all seeds as one program, and scores of protocols.

``paper`` holds the release's sizes (every state of 128, 256, 384); ``cpu`` fits two cores: 32 states that are 4, 8, 12
steps apart, a small network; ``smoke`` shows that everything runs.  Data are made by D4RL's controller
(``envs/experts/maze.py``), once, and kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from daag_jax.algorithms.decision_diffuser import DecisionDiffuserConfig, DecisionDiffuserState
from daag_jax.algorithms.diffuser import (
    DiffuserConfig,
    DiffuserState,
    Guide,
    diffuser,
    planner,
)
from daag_jax.algorithms.parts.combinators import normalized
from daag_jax.algorithms.parts.planning import Planner
from daag_jax.algorithms.parts.trajectories import DrawingConfig, TrajectoryConfig
from daag_jax.data.disk import read_episodes, write_episodes
from daag_jax.data.normalize import Stats, limits_of
from daag_jax.data.windows import draw_windows, episode_data
from daag_jax.envs.env import Env
from daag_jax.envs.experts.maze import RUN_STEPS, wander
from daag_jax.envs.tasks.maze import Maze
from daag_jax.envs.worlds import make_world
from daag_jax.evaluation.plans import Planned, crosses, evaluate_planner
from daag_jax.evaluation.scores import normalized_score
from daag_jax.names import check_name
from daag_jax.training import checkpoint
from daag_jax.training.fit import Sampler
from daag_jax.training.keys import key_at
from daag_jax.training.seeds import fit_seeds, init_seeds, roots_of
from daag_jax.types import Algorithm, Episode
from experiments.planning.controllers import returns_of
from experiments.records import mark_of, provenance

PRESETS = ("paper", "cpu", "smoke")
FAMILIES = ("maze2d", "multi2d")
POSITION, VELOCITY = (0, 1), (2, 3)  # of an observation
DATA_SEED, EVALUATION_SEED = 0, 10_000
VERSION = 1  # of the code: a change of data or of what is learnt makes what is stored stale


@dataclass(frozen=True)
class Sizes:
    """Data, network and training of one preset."""

    steps: int  # of the data
    updates: int
    batch: int
    widths: tuple[int, ...]
    learning_rate: float
    decays: bool  # the rate falls to 0
    stride: int
    num_steps: int  # of diffusion
    num_inference_steps: int
    sampler: str
    rests: bool  # learns from trajectories that stop somewhere
    seeds: int = 5
    episodes: int = 100  # of evaluation, per seed
    controller_episodes: int = 4000


class Maze2D(NamedTuple):
    """What distinguishes the layouts."""

    horizon: int  # of a plan, in steps of the world
    num_steps: int  # of diffusion in the release
    data: int  # steps of D4RL's data
    stride: int  # that leaves 32 states
    updates: int  # of the preset cpu, and its batch and network
    batch: int
    widths: tuple[int, ...]


MAZES: dict[str, Maze2D] = {
    "umaze": Maze2D(128, 64, 1_000_000, 4, 5_000, 32, (16, 32, 64)),
    "medium": Maze2D(256, 256, 2_000_000, 8, 6_000, 64, (16, 32, 64)),
    "large": Maze2D(384, 256, 4_000_000, 12, 16_000, 64, (24, 48, 96)),
}


class Protocol(NamedTuple):
    """How plans are drawn and followed; ``drawing`` are changes of the configuration's."""

    follower: str
    drawing: Mapping[str, Any]


ONCE = 10_000  # steps between two plans: longer than any episode
PROTOCOLS: dict[str, Protocol] = {
    "one plan, pd": Protocol("pd", {"execute": ONCE}),
    "one plan, pursuit": Protocol("pursuit", {"execute": ONCE}),
    "earliest of 16, pd": Protocol("pd", {"execute": ONCE, "candidates": 16}),
    "every 100 steps, pd": Protocol("pd", {"execute": 100}),
}


class Loaded(NamedTuple):
    """A maze that is ready: the world, its data, their statistics, and the learner's configuration."""

    layout: str
    sizes: Sizes
    env: Env
    episodes: Episode
    stats: Stats
    config: DiffuserConfig | DecisionDiffuserConfig


def sizes_of(layout: str, preset: str) -> Sizes:
    """The sizes of a preset."""
    maze = MAZES[layout]
    if preset == "paper":
        updates, batch, widths = 2_000_000, 64, (32, 128, 256)  # 32, accumulated twice
        drawing = maze.num_steps, maze.num_steps, "ddpm"
        return Sizes(maze.data, updates, batch, widths, 2e-4, False, 1, *drawing, False)
    few = Sizes(
        steps=400_000,
        updates=maze.updates,
        batch=maze.batch,
        widths=maze.widths,
        learning_rate=1e-3,
        decays=True,
        stride=maze.stride,
        num_steps=64,
        num_inference_steps=10,
        sampler="ddim",
        rests=True,
    )
    if preset == "smoke":
        tiny = {"seeds": 2, "episodes": 4, "controller_episodes": 20}
        return replace(few, steps=8000, updates=40, widths=(8, 16), **tiny)
    return few


def load(layout: str, preset: str, directory: str | Path) -> Loaded:
    """Makes or reads the data; raises ValueError for an unknown layout or preset."""
    check_name("layout", layout, MAZES)
    check_name("preset", preset, PRESETS)
    sizes, env = sizes_of(layout, preset), make_world(f"maze2d-{layout}-v1")
    path = Path(directory) / f"{layout}-{sizes.steps}-{DATA_SEED}-v{VERSION}.safetensors"
    if not path.is_file():
        num = sizes.steps // RUN_STEPS
        made = jax.jit(lambda key: wander(env, key, num))(jax.random.key(DATA_SEED))
        write_episodes(path, jax.device_get(made))
    episodes = read_episodes(path)[0]
    form = TrajectoryConfig(
        MAZES[layout].horizon,
        sizes.stride,
        goal_dims=POSITION,
        velocity_dims=VELOCITY,
        rests_at_goal=sizes.rests,
        has_actions=not sizes.rests,  # the release plans them; no follower of mazes reads them
    )
    config = DiffuserConfig(
        form,
        DrawingConfig(sizes.sampler, sizes.num_inference_steps),
        widths=sizes.widths,
        num_steps=sizes.num_steps,
        learning_rate=sizes.learning_rate,
        decay_steps=sizes.updates if sizes.decays else 0,
        select="arrival",
    )
    return Loaded(layout, sizes, env, episodes, limits_of(episodes, POSITION), config)


class Trained(NamedTuple):
    """States of all seeds, leading axis S; of their training the seconds, and what made it (``records.provenance``)."""

    states: DiffuserState | DecisionDiffuserState
    seconds: float | None
    made: dict[str, str] | None


def trained(
    loaded: Loaded,
    seeds: Sequence[int],
    directory: str | Path,
    learner: Callable[..., Algorithm] = diffuser,
    discount: float = 1.0,
) -> Trained:
    """The states after training; from disk where an earlier call left them.

    Args:
        learner: of ``loaded.config``.
        discount: of the returns, where the learner asks for them.
    """
    algorithm = normalized(learner(loaded.config, loaded.env.spec), loaded.stats)
    episodes, drawing = loaded.episodes, DrawingConfig(num_inference_steps=1)
    training = loaded.sizes.updates, loaded.sizes.batch, discount, VERSION
    mark = mark_of(
        repr((loaded.layout, training, replace(loaded.config, drawing=drawing), tuple(seeds))),
        *(episodes.observations, episodes.actions, episodes.rewards),
    )
    folder = Path(directory) / "models" / mark
    if checkpoint.latest(folder) is not None:
        found = checkpoint.restore(folder, init_seeds(algorithm, seeds))
        return Trained(found.state, *(found.metadata.get(name) for name in ("seconds", "made")))
    began = time.monotonic()
    data = jax.tree.map(jnp.asarray, episode_data(loaded.episodes, algorithm.window, discount))
    draw = lambda data, key, n: draw_windows(data, algorithm.window, loaded.sizes.batch, key)
    found = fit_seeds(
        algorithm,
        Sampler(data, draw),
        loaded.sizes.updates,
        seeds,
        in_turn=jax.default_backend() == "cpu",
        name=f"{learner.__name__}, {loaded.layout}",
    )
    told = {"seconds": time.monotonic() - began, "made": provenance()}
    checkpoint.save(folder, loaded.sizes.updates, found.states, metadata=told)
    return Trained(found.states, **told)


def planner_of(
    loaded: Loaded, family: str, protocol: Protocol, *guides: Guide
) -> tuple[Maze, Planner]:
    """A world of the maze, and the planner that follows a protocol there."""
    check_name("family", family, FAMILIES)
    world = make_world(f"{family}-{loaded.layout}-v1")
    drawing = replace(loaded.config.drawing, **protocol.drawing)
    config = replace(loaded.config, drawing=drawing)
    return world, planner(config, world.spec, protocol.follower, loaded.stats, *guides)


def evaluate(
    loaded: Loaded, states: DiffuserState, family: str, protocol: Protocol, seeds: Sequence[int]
) -> Planned:
    """What became of every seed's episodes, leading axes S, B; seed s has the same episodes in every protocol."""
    world, made = planner_of(loaded, family, protocol)
    run = jax.jit(lambda states: tried(world, made, states, loaded.sizes.episodes, seeds))
    return jax.device_get(run(states))


def tried(
    world: Env,
    made: Planner,
    states: DiffuserState | DecisionDiffuserState,
    num: int,
    seeds: Sequence[int],
) -> Planned:
    """``num`` episodes of every seed's state, leading axes S, B; to be jitted."""
    one = lambda pair: evaluate_planner(world, made, pair[0], key_at(pair[1], "evaluate", 0), num)
    # one seed after the other: plans of all episodes fill the machine
    return jax.lax.map(one, (states, roots_of([seed + EVALUATION_SEED for seed in seeds])))


def controller_returns(loaded: Loaded, family: str) -> float:
    """The mean return of the controller that knows the way, and stays at its goal until the end."""
    world, num = make_world(f"{family}-{loaded.layout}-v1"), loaded.sizes.controller_episodes
    return float(returns_of(world, "waypoints", jax.random.key(EVALUATION_SEED), num).mean())


def check_choices(config: Any) -> None:
    """Raises ValueError where a configuration names a layout, family or protocol that there is not."""
    kinds = {
        "layouts": ("layout", MAZES),
        "families": ("family", FAMILIES),
        "protocols": ("protocol", PROTOCOLS),
    }
    for field, (kind, known) in kinds.items():
        for name in getattr(config, field, ()):
            check_name(kind, name, known)
    if hasattr(config, "family"):
        check_name("family", config.family, FAMILIES)


def facts(loaded: Loaded, found: Planned, best: float) -> dict[str, Any]:
    """Of a protocol: scores on D4RL's scale (one per seed), success, and shares of plans.

    Args:
        best: the mean return of the controller that knows the way.
    """
    returns = np.mean(found.outcomes.returns, axis=1)
    paths = jnp.asarray(found.plan.observations[..., list(POSITION)])
    through = jax.vmap(lambda path: crosses(loaded.env.walls, path))(paths)
    return {
        "scores": [float(normalized_score(f"maze2d-{loaded.layout}", x)) for x in returns],
        "returns": returns.tolist(),
        "of the controller that knows the way": float(np.mean(returns)) / best,
        "success": float(np.mean(found.outcomes.success)),
        "crosses": float(np.mean(through)),
        "possible": float(np.mean(found.plan.is_possible)),
    }

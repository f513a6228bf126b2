"""What learns from stored episodes beside the planners of mazes: updates, batches and settings of each method.

Model-free methods are at their published settings, but for cloning, whose are ours (``bc.BcConfig``).  So are the two
planners with the preset ``paper``, but for the attention in Diffuser's network on HalfCheetah; for two cores their
networks are narrower and their steps fewer, Diffuser has four candidates, and Decision Diffuser looks 32 steps ahead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from daag_jax.algorithms import ALGORITHMS, config_class
from daag_jax.algorithms.bc import BcConfig
from daag_jax.algorithms.decision_diffuser import DecisionDiffuserConfig
from daag_jax.algorithms.decision_transformer import DecisionTransformerConfig
from daag_jax.algorithms.diffuser import DiffuserConfig
from daag_jax.algorithms.parts.trajectories import DrawingConfig, TrajectoryConfig
from daag_jax.data.normalize import Stats, limits_of, stats_of
from daag_jax.data.windows import returns
from daag_jax.envs.env import Env
from daag_jax.names import check_name
from daag_jax.types import Episode


class Method(NamedTuple):
    """How a method learns."""

    updates: int = 1_000_000  # as published
    batch: int = 256
    in_turn: bool = False  # seeds of large updates, which stay in the cache
    version: int = 1  # of the code: a change of what it computes makes stored scores stale


MODEL_FREE: Mapping[str, Method] = {
    "bc": Method(),
    "td3_bc": Method(),
    "iql": Method(version=2),
    "cql": Method(in_turn=True),
    "awac": Method(),
    "decision_transformer": Method(100_000, 64, in_turn=True, version=2),
}
PLANNERS: Mapping[str, Method] = {
    "diffuser": Method(batch=64, in_turn=True),
    "decision_diffuser": Method(batch=64, in_turn=True, version=2),
}
METHODS = {**MODEL_FREE, **PLANNERS}


class Task(NamedTuple):
    """What is learnt from, and where the result is tried."""

    name: str  # of D4RL's returns
    data: str  # the data set
    env: Env
    episodes: Episode
    num_episodes: int  # of evaluation, per seed
    runs_on: bool = False  # the data are runs past their goals, not episodes


def check_methods(names: Sequence[str]) -> None:
    """Raises ValueError for a name that is none of :data:`METHODS`."""
    for name in names:
        check_name("method", name, METHODS)


def num_updates(preset: str, given: int, method: str) -> int:
    """Those of the preset where none are given."""
    check_name("method", method, METHODS)
    published = METHODS[method].updates
    return given or {"paper": published, "cpu": published // 50, "smoke": 30}[preset]


def whole_episodes(task: Task) -> Episode:
    """Returns to go are those of an episode, not of a run."""
    return cut(task.episodes, task.env.horizon) if task.runs_on else task.episodes


def settings(method: str, task: Task, updates: int, preset: str) -> Any:
    """The published configuration; what the data change in it, and what goes by the length of a training."""
    check_name("method", method, METHODS)
    if method == "bc":
        return BcConfig()
    if method == "decision_transformer":
        found = np.sum(whole_episodes(task).rewards, axis=1)
        best, scale = float(np.quantile(found, 0.99)), max(float(np.max(np.abs(found))), 1.0)
        published = DecisionTransformerConfig(target_return=best, return_scale=scale)
        return replace(published, warmup_steps=min(published.warmup_steps, updates // 10))
    if method == "iql":
        return replace(config_class(method)(), actor_decay_steps=updates)
    if method == "diffuser":
        return diffuser_settings(preset, task.data)
    if method == "decision_diffuser":
        found = returns(task.episodes.rewards, ALGORITHMS[method].discount)
        best = max(float(np.max(np.abs(found))), 1e-3)
        return decision_diffuser_settings(preset, best)
    return config_class(method)()


def diffuser_settings(preset: str, data: str) -> DiffuserConfig:
    """Locomotion (Janner et al. 2022, release): guided by the value of 32 steps, the best candidate's first action."""
    horizon, num_steps, scale, stop = 32, 20, 0.1, 2
    drawing, widths, guide_steps = DrawingConfig("ddim", 5, candidates=4), (16, 32, 64), 1
    if preset == "paper":
        drawing, guide_steps = DrawingConfig("ddpm", num_steps, candidates=64), 2
        widths = (32, 64, 128, 256)
        if data.startswith("halfcheetah"):
            horizon, widths, scale, stop = 4, (32, 128, 256), 0.001, 4
        elif data.startswith("hopper-medium-expert"):
            scale, stop = 0.0001, 4
    return DiffuserConfig(
        TrajectoryConfig(horizon, has_actions=True),
        drawing,
        widths=widths,
        num_steps=num_steps,
        clip=0.0,
        first_action_weight=10.0,
        value_widths=widths,
        discount=0.99,
        guide_scale=scale,
        guide_steps=guide_steps,
        guide_stop=(stop + 1) / num_steps,  # t_stopgrad counts from 0
    )


def decision_diffuser_settings(preset: str, best: float) -> DecisionDiffuserConfig:
    """Locomotion (Ajay et al. 2022, release): asked for 0.9 of the best return in the data, by its size."""
    if preset == "paper":
        return DecisionDiffuserConfig(returns_scale=best)
    return DecisionDiffuserConfig(
        TrajectoryConfig(32, has_actions=False),
        DrawingConfig("ddim", 10, temperature=0.5),
        returns_scale=best,
        widths=(16, 32, 64),
        inverse_dims=(64, 64),
    )


def units(method: str, task: Task) -> Stats:
    """Centres and scales of what is seen; actions too where they are planned, or follow from a plan."""
    if method == "decision_diffuser":
        return limits_of(task.episodes)
    stats = stats_of(task.episodes)
    return stats if method == "diffuser" else Stats(*stats[:2])


def reward_scale(method: str, task: Task) -> float:
    """IQL on locomotion learns from rewards that are scaled by 1000 over the range of the data's returns."""
    if method != "iql" or task.runs_on:
        return 1.0
    found = np.sum(task.episodes.rewards, axis=1)
    return 1000.0 / max(float(np.ptp(found)), 1e-3)


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

"""The worlds that are observed without pixels, by name: ``make_world("maze2d-medium")``.

Each row says which module of ``envs/tasks`` holds the world, its class and its configuration, with what the name
changes in it; and which function of ``envs/experts`` makes its demonstrator.  Modules are imported on demand.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from daag_jax.envs.env import Env
from daag_jax.envs.experts.expert import Expert
from daag_jax.names import check_name
from daag_jax.types import Episode, Key


class World(NamedTuple):
    """``module.cls(module.config(**changes))`` and ``experts.EXPERT(env)``."""

    module: str
    cls: str
    config: str
    expert: str  # "module.function" in envs/experts
    changes: Mapping[str, Any] = {}
    runner: str = ""  # "module.function(env, key, num)": data without a demonstrator's ends


WORLDS: dict[str, World] = {
    "maze2d-medium": World("maze", "Maze", "MazeConfig", "maze.waypoints"),
    "fetch-pick": World("fetch", "Fetch", "FetchConfig", "fetch.scripted", {"task": "pick"}),
    "fetch-push": World("fetch", "Fetch", "FetchConfig", "fetch.scripted", {"task": "push"}),
    "halfcheetah": World("locomotion", "HalfCheetah", "HalfCheetahConfig", "trained.trained"),
    "walker2d": World("locomotion", "Walker2d", "Walker2dConfig", "trained.trained"),
    "hopper": World("locomotion", "Hopper", "HopperConfig", "trained.trained"),
    "ant-reach": World("ant_reach", "AntReach", "AntReachConfig", "trained.trained"),
    "hand-rotate": World("hand_rotate", "HandRotate", "HandRotateConfig", "trained.trained"),
}

# D4RL's Maze2D, with one goal, and Diffuser's Multi2D, with any
for _layout, _horizon in {"umaze": 300, "medium": 600, "large": 800}.items():
    for _family, _single in {"maze2d": True, "multi2d": False}.items():
        WORLDS[f"{_family}-{_layout}-v1"] = World(
            "maze",
            "Maze",
            "MazeConfig",
            "maze.waypoints",
            {
                "layout": _layout,
                "horizon": _horizon,
                "single_goal": _single,
                "goal_noise": 0.0 if _single else 1.0,
                "ends_at_success": False,
                "observes_goal": False,
            },
            "maze.wander",
        )


def make_world(name: str, **changes: Any) -> Env:
    """The world of that name, with fields of its configuration changed.

    Raises:
        ValueError: the name or a field is unknown (the nearest is named), or a value does not fit.
    """
    check_name("world", name, WORLDS)
    row = WORLDS[name]
    module = importlib.import_module(f"daag_jax.envs.tasks.{row.module}")
    config = getattr(module, row.config)
    for field in changes:
        check_name(f"field of {row.config}", field, [f.name for f in dataclasses.fields(config)])
    return getattr(module, row.cls)(config(**{**row.changes, **changes}))


def make_expert(name: str, env: Env) -> Expert:
    """The demonstrator of a world made by :func:`make_world`."""
    check_name("world", name, WORLDS)
    return _expert_function(WORLDS[name].expert)(env)


def make_runner(name: str, env: Env) -> Callable[[Key, int], Episode] | None:
    """``(key, num) -> runs`` of a world whose data are not demonstrations one by one; None elsewhere."""
    check_name("world", name, WORLDS)
    runner = WORLDS[name].runner
    return partial(_expert_function(runner), env) if runner else None


def _expert_function(path: str) -> Callable:
    module, function = path.split(".")
    return getattr(importlib.import_module(f"daag_jax.envs.experts.{module}"), function)

"""Whether the mazes are D4RL's: what its controllers and a random policy are paid, here and in C MuJoCo.

    python -m experiments.planning.controllers                 # a few minutes on one core

Expect 171, 249, 298 for the controller that steers straight at the goal, which is probably the "100" of D4RL's scores
(162, 277, 274 there, of few episodes); 225, 427, 561 for the one that knows the way (another simulation of the same
model has 224, 420, 549); 29, 17, 11 at random (24, 13, 7).  Both simulators have the same starts and goals.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import tyro

from daag_jax.envs.experts.maze import straight, waypoints
from daag_jax.envs.host_physics import HostPhysics
from daag_jax.envs.point_mass import mjcf
from daag_jax.envs.tasks.maze import Maze
from daag_jax.envs.worlds import make_world
from daag_jax.evaluation.outcomes import attempts, evaluate_policy
from experiments.records import provenance, write_json

POLICIES = ("random", "straight", "waypoints")


@dataclass(frozen=True)
class Config:
    """Where, and how often."""

    preset: Literal["cpu", "smoke"] = "cpu"
    layouts: tuple[str, ...] = ("umaze", "medium", "large")
    episodes: int = 0  # 0: 4,000 (cpu), 20 (smoke)
    seed: int = 0
    directory: str = "runs/experiments/planning"


def moved_by_mujoco(name: str) -> Maze:
    """The world of a name with C MuJoCo as its physics."""
    world = make_world(name)
    world.physics = HostPhysics(mujoco.MjModel.from_xml_string(mjcf(world.walls)))
    return world


def returns_of(world: Maze, policy: str, key: jax.Array, num: int) -> np.ndarray:
    """Returns of ``num`` episodes."""
    if policy == "random":
        act = lambda state, context, key: jax.random.uniform(key, (num, 1, 2), minval=-1, maxval=1)
        run = lambda key: evaluate_policy(world, act, (), key, num).returns
    else:
        never = lambda memory, state: jnp.zeros((), bool)
        expert = straight(world) if policy == "straight" else waypoints(world, 0.0)
        expert = expert._replace(is_finished=never, max_steps=world.horizon)
        run = lambda key: jnp.sum(attempts(world, expert, key, num).rewards, axis=1)
    return np.asarray(jax.jit(run)(key))


def main(config: Config) -> dict:
    """Mean returns with their standard errors, printed and written to ``results.json``."""
    num = config.episodes or (20 if config.preset == "smoke" else 4000)
    found = {}
    for layout in config.layouts:
        name = f"maze2d-{layout}-v1"
        worlds = {"ours": make_world(name), "C MuJoCo": moved_by_mujoco(name)}
        for policy, simulator in itertools.product(POLICIES, worlds):
            returns = returns_of(worlds[simulator], policy, jax.random.key(config.seed), num)
            mean, error = float(returns.mean()), float(returns.std() / num**0.5)
            found[f"{layout}, {policy}, {simulator}"] = {"mean": mean, "standard error": error}
            print(f"{layout}, {policy}, {simulator}: {mean:.1f} +- {error:.1f}", flush=True)
    path = Path(config.directory) / config.preset / "controllers" / "results.json"
    write_json(path, {"returns": found, "episodes": num, "made": provenance()})
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))

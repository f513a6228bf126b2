"""The problems of Diffusion-BC: a world, its demonstrations, and the sizes of what learns them (arXiv 2302.13335).

``paper`` holds the released sizes; ``cpu`` fits two cores: fewer updates at higher learning rates, chosen on seeds (100
and up) that are not those of the tables, for behaviour cloning alone, but on Pick, where cloning is a little better at
1e-3 than at the 5e-4 that suits both.  Maze's weight of 1 is that of the highest score in a sweep over the tables' own
ten seeds.  ``smoke`` shows that everything runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from daag_jax.assets import ASSETS
from daag_jax.data.datasets import check_dataset
from daag_jax.data.disk import read_episodes, write_episodes
from daag_jax.data.normalize import Stats, stats_of
from daag_jax.envs.env import Env
from daag_jax.envs.worlds import make_expert, make_world
from daag_jax.evaluation.outcomes import demonstrations
from daag_jax.names import check_name
from daag_jax.types import Episode

PRESETS = ("paper", "cpu", "smoke")
DEMONSTRATIONS = Path("runs/demos")


@dataclass(frozen=True)
class Sizes:
    """Updates, learning rates and networks of one preset."""

    policy_dims: tuple[int, ...]
    policy_steps: int
    policy_rate: float
    density_width: int
    density_steps: int
    density_rate: float
    weight: float | None = None  # lambda_DM; None takes the release's
    density_decays: bool = True  # its learning rate falls to 0; the release keeps it
    observation_noise: float = 0.0  # of BC and DBC while they learn, in units of what they see
    observation_limit: float = (
        0.0  # deviations at which observations are cut (the release: 10); 0: nowhere
    )
    seeds: int = 10
    episodes: int = 100  # of evaluation, per seed

    def __post_init__(self):
        for name in ("policy_steps", "policy_rate", "density_width", "density_steps", "episodes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} is not positive; leave it out.")
        for name in ("weight", "observation_noise", "observation_limit"):
            if (getattr(self, name) or 0.0) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is negative; 0 switches it off.")


@dataclass(frozen=True)
class Problem:
    """A world with its demonstrations and what the paper's release takes for it."""

    world: str
    num_demonstrations: int
    demonstration_seed: int
    sizes: Mapping[str, Sizes]
    weight: float  # lambda_DM of the release
    score: str = "success"  # or "returns"
    demonstrated: Mapping[str, Any] = field(default_factory=dict)  # the world as it is shown
    evaluated: Mapping[str, Any] = field(default_factory=dict)  # and as it is tried
    is_normalized: bool = True


SMOKE = Sizes((32, 32), 60, 1e-3, 16, 60, 1e-3, seeds=2, episodes=4)
PROBLEMS: dict[str, Problem] = {
    "maze": Problem(
        "maze2d-medium",
        100,
        1,
        {
            "paper": Sizes(
                (256, 256, 256), 288_000, 5e-5, 128, 1_160_000, 1e-4, density_decays=False
            ),
            "cpu": Sizes(
                (256, 256, 256), 10_000, 1e-3, 128, 20_000, 1e-3, weight=1.0, episodes=200
            ),
            "smoke": SMOKE,
        },
        weight=30.0,
    ),
    "pick": Problem(
        "fetch-pick",
        303,
        0,
        {
            "paper": Sizes((750, 750), 390_000, 5e-6, 1024, 790_000, 1e-3, density_decays=False),
            "cpu": Sizes(
                (256, 256, 256), 20_000, 5e-4, 512, 40_000, 1e-3, weight=4.0, episodes=300
            ),
            "smoke": SMOKE,
        },
        weight=0.5,
        evaluated={"noise": 1.25},
    ),
    "push": Problem(
        "fetch-push",
        303,
        0,
        {
            "paper": Sizes((512,) * 4, 390_000, 1e-6, 1024, 790_000, 1e-5, density_decays=False),
            "cpu": Sizes((256, 256, 256), 40_000, 1e-3, 128, 20_000, 1e-3),
            "smoke": SMOKE,
        },
        weight=1.0,
        evaluated={"noise": 1.5},
    ),
    "cheetah": Problem(
        "halfcheetah",
        5,
        0,
        {
            "paper": Sizes((256, 256), 39_000, 1e-4, 1024, 320_000, 2e-4, density_decays=False),
            "cpu": Sizes((256, 256), 10_000, 1e-3, 128, 20_000, 1e-3, episodes=10),
            "smoke": SMOKE,
        },
        weight=0.2,
        score="returns",
    ),
    "walker": Problem(
        "walker2d",
        5,
        0,
        {
            "paper": Sizes((1024, 1024), 39_000, 1e-4, 1024, 320_000, 2e-4, density_decays=False),
            "cpu": Sizes((256, 256), 10_000, 1e-3, 128, 20_000, 1e-3, episodes=10),
            "smoke": SMOKE,
        },
        weight=0.2,
        score="returns",
    ),
    "ant": Problem(
        "ant-reach",
        400,
        0,
        {
            "paper": Sizes(
                (1024, 1024), 780_000, 6e-3, 1024, 1_580_000, 2e-4, density_decays=False
            ),
            "cpu": Sizes((256, 256), 40_000, 1e-3, 128, 20_000, 1e-3),
            "smoke": SMOKE,
        },
        weight=1.0,
        demonstrated={"spawn_noise": 0.0},
        evaluated={"spawn_noise": 0.01},
        is_normalized=False,
    ),
    "hand": Problem(
        "hand-rotate",
        730,
        0,
        {
            "paper": Sizes((512, 512), 390_000, 1e-4, 2048, 790_000, 3e-5, density_decays=False),
            "cpu": Sizes((256, 256), 10_000, 1e-3, 128, 20_000, 1e-3),
            "smoke": SMOKE,
        },
        weight=10.0,
    ),
}


class Loaded(NamedTuple):
    """A problem that is ready: the world as it is tried, the demonstrations, their statistics."""

    name: str
    problem: Problem
    sizes: Sizes
    env: Env
    episodes: Episode
    stats: Stats | None


def load(name: str, preset: str = "cpu", **changes: Any) -> Loaded:
    """Makes or reads the demonstrations, and checks them; ``changes`` replace fields of the problem."""
    check_name("problem", name, PROBLEMS)
    check_name("preset", preset, PRESETS)
    problem = replace(PROBLEMS[name], **changes)
    num = 3 if preset == "smoke" else problem.num_demonstrations
    world = make_world(problem.world, **problem.demonstrated)
    marks = [f"{k}={v}" for k, v in problem.demonstrated.items()]
    weights = ASSETS / f"expert_{problem.world}.safetensors"
    if weights.is_file():  # those of an earlier expert are not taken for this one's
        marks.append(hashlib.sha256(weights.read_bytes()).hexdigest()[:8])
    name_of_file = "-".join([problem.world, str(num), str(problem.demonstration_seed), *marks])
    path = DEMONSTRATIONS / f"{name_of_file}.safetensors"
    if not path.is_file():
        expert = make_expert(problem.world, world)
        batch = min(64, max(4, num))
        made = demonstrations(world, expert, problem.demonstration_seed, num, batch)
        write_episodes(path, made)
    episodes = check_dataset(
        read_episodes(path)[0], world.spec, problem.world, any_actions=problem.score == "returns"
    )
    return with_episodes(
        Loaded(name, problem, problem.sizes[preset], world, episodes, None), episodes
    )._replace(env=make_world(problem.world, **problem.evaluated))


def weight_of(loaded: Loaded) -> float:
    """lambda_DM of the preset: the release's, or the best of ``experiments.dbc.weight`` at these sizes."""
    chosen = loaded.sizes.weight
    return loaded.problem.weight if chosen is None else chosen


def with_episodes(loaded: Loaded, episodes: Episode) -> Loaded:
    """The same problem with other demonstrations."""
    stats = stats_of(episodes) if loaded.problem.is_normalized else None
    return loaded._replace(episodes=episodes, stats=stats)


def num_transitions(episodes: Episode) -> int:
    """Steps of all demonstrations."""
    return int(np.sum(episodes.length))


def held_out(loaded: Loaded, share: float = 0.2) -> tuple[Loaded, Loaded]:
    """The problem without the last demonstrations, and these in the same units.

    Raises:
        ValueError: there is only one demonstration.
    """
    num = len(loaded.episodes.length)
    if num < 2:
        raise ValueError(f"{num} demonstrations cannot be held out from; take two or more.")
    cut = num - max(1, int(share * num))
    part = lambda rows: jax.tree.map(lambda x: x[rows], loaded.episodes)
    seen = with_episodes(loaded, part(slice(0, cut)))
    return seen, seen._replace(episodes=part(slice(cut, None)))

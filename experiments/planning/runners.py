"""Offline RL on the runners' data from our own policies: what the published methods make of them.

    python -m experiments.planning.runners --data hopper-medium-expert-ours --methods bc td3_bc iql
    python -m experiments.planning.runners --preset smoke       # minutes

Data sets are those of ``daag collect NAME-QUALITY-ours``; methods, settings and updates those of
``experiments.planning.methods``; without ``--methods`` all eight run, of which cql takes some four hours a data set.
What an earlier call has scored is read.  The first command takes 20 min on one core; expect none more than two points
above cloning after a fiftieth of the published updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from daag_jax.assets import shipped_checksum
from daag_jax.data.disk import read_episodes, write_episodes
from daag_jax.envs.worlds import make_world
from daag_jax.evaluation.offline_data import DATA_SETS, collected
from daag_jax.names import check_name
from experiments.planning.baselines import study
from experiments.planning.methods import METHODS, Task, check_methods

DATA_SEED = 0
STEPS = {"paper": 1_000_000, "cpu": 100_000, "smoke": 2_000}  # of the data, of each policy
EPISODES = {"paper": 100, "cpu": 20, "smoke": 2}  # of evaluation, per seed


@dataclass(frozen=True)
class Config:
    """What is trained, and on what."""

    preset: Literal["paper", "cpu", "smoke"] = "cpu"
    data: tuple[str, ...] = ("hopper-medium-ours", "hopper-medium-expert-ours")
    methods: tuple[str, ...] = tuple(METHODS)
    updates: int = 0  # 0: as published (paper), a fiftieth of it (cpu), 30 (smoke)
    seeds: tuple[int, ...] = (0, 1, 2)
    directory: str = "runs/experiments/runners"

    def __post_init__(self) -> None:
        check_methods(self.methods)
        for name in self.data:
            check_name("data set", name, DATA_SETS)


def load(name: str, preset: str, directory: Path) -> Task:
    """Makes or reads a data set; of policies that ship no more, it is made anew."""
    world, steps = DATA_SETS[name][0], STEPS[preset]
    mark = f"{shipped_checksum(f'*_{world}.safetensors'):08x}"
    path = directory / f"{name}-{steps}-{DATA_SEED}-{mark}.safetensors"
    if not path.is_file():
        write_episodes(path, collected(name, DATA_SEED, steps))
    return Task(world, name, make_world(world), read_episodes(path)[0], EPISODES[preset])


def main(config: Config) -> dict:
    """The study of all data sets."""
    directory = Path(config.directory) / config.preset
    tasks = {name: load(name, config.preset, directory) for name in config.data}
    folder = directory / "scores"
    return study(
        "Runners", tasks, config.methods, config.seeds, config.updates, config.preset, folder
    )


if __name__ == "__main__":
    main(tyro.cli(Config))

"""What drawing a plan costs and what it is worth: steps, samplers, candidates, starting warm.

    python -m experiments.planning.sampling                    # after maze2d, whose states it uses
    python -m experiments.planning.sampling --preset smoke     # a minute or two

Scores are D4RL's, by the PD follower, with a plan every 100 steps; "plans per second" is of one batch of as many
worlds as there are episodes, on this machine, compiled.  A warm plan takes its share of the steps.  On the smallest
maze expect one or two steps to score above ten, and warm plans best.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import tyro

from daag_jax.algorithms.diffuser import DiffuserState
from daag_jax.evaluation.outcomes import context_of
from daag_jax.evaluation.studies import rows_of
from experiments.planning import mazes
from experiments.planning.mazes import Protocol
from experiments.records import write_study

BASELINE = "ddim, 10 steps"


@dataclass(frozen=True)
class Config:
    """What is varied; without seeds, those of the preset."""

    preset: Literal["paper", "cpu", "smoke"] = "cpu"
    layouts: tuple[str, ...] = ("umaze",)
    family: str = "multi2d"
    steps: tuple[int, ...] = (1, 2, 3, 5, 6, 20)
    candidates: tuple[int, ...] = (4, 16, 64)
    warm_times: tuple[float, ...] = (0.3, 0.6)
    every: int = 100  # steps of the world between two plans
    seeds: tuple[int, ...] = ()
    directory: str = "runs/experiments/planning"

    def __post_init__(self) -> None:
        mazes.check_choices(self)


def protocols(config: Config) -> dict[str, Protocol]:
    """The arms, by what they change."""
    pd = lambda **drawing: Protocol("pd", {"execute": config.every, **drawing})
    ddim = lambda num, **more: pd(sampler="ddim", num_inference_steps=num, **more)
    return (
        {f"ddim, {num} step{'s' * (num > 1)}": ddim(num) for num in config.steps}
        | {BASELINE: ddim(10)}
        | {"dpm_solver_2m, 5 steps": pd(sampler="dpm_solver_2m", num_inference_steps=5)}
        | {"ddpm, 64 steps": pd(sampler="ddpm", num_inference_steps=64)}
        | {f"earliest of {num}": ddim(10, candidates=num) for num in config.candidates}
        | {f"warm from {warm:g}": ddim(10, warm_time=warm) for warm in config.warm_times}
    )


def plans_per_second(
    loaded: mazes.Loaded, states: DiffuserState, family: str, protocol: Protocol, rounds: int = 3
) -> float:
    """Plans of ``sizes.episodes`` worlds at once, the best of some rounds; warm ones after a plan of the same state."""
    (world, made), num = mazes.planner_of(loaded, family, protocol), loaded.sizes.episodes
    state = jax.vmap(world.reset)(jax.random.split(jax.random.key(0), num))
    context, first = (
        context_of(world, state, state.obs[:, None]),
        jax.tree.map(lambda x: x[0], states),
    )
    before = (
        made.plan(first, context, None, jax.random.key(2))
        if protocol.drawing.get("warm_time")
        else None
    )
    run = jax.jit(lambda policy, context, key: made.plan(policy, context, before, key))
    seconds = []
    for key in jax.random.split(jax.random.key(1), rounds + 1):
        began = time.perf_counter()
        jax.block_until_ready(run(first, context, key))
        seconds.append(time.perf_counter() - began)
    return num / min(seconds[1:])


def scored(
    loaded: mazes.Loaded, states: DiffuserState, seeds: Sequence[int], config: Config
) -> dict:
    """Facts of every arm."""
    found, best = {}, mazes.controller_returns(loaded, config.family)
    for name, protocol in protocols(config).items():
        planned = mazes.evaluate(loaded, states, config.family, protocol, seeds)
        rate = plans_per_second(loaded, states, config.family, protocol)
        found[name] = mazes.facts(loaded, planned, best) | {"plans per second": rate}
        print(f"{loaded.layout}, {name}: {found[name]}", flush=True)
    return found


def main(config: Config) -> dict:
    """Scores every arm; returns the "details" of each layout's ``results.json``."""
    directory = Path(config.directory) / config.preset
    details = {}
    for layout in config.layouts:
        loaded = mazes.load(layout, config.preset, directory)
        seeds = config.seeds or tuple(range(loaded.sizes.seeds))
        states = mazes.trained(loaded, seeds, directory).states
        found = details[layout] = scored(loaded, states, seeds, config)
        scores = {name: {"": one["scores"]} for name, one in found.items()}
        rows = rows_of(f"{config.family}-{layout}", scores, BASELINE, "normalized score")
        folder, title = directory / "sampling" / layout, f"Drawing plans in {layout}"
        write_study(rows, title, folder, BASELINE, {"details": found})
    return details


if __name__ == "__main__":
    main(tyro.cli(Config))

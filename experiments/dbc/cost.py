"""What a decision and an update cost: BC, implicit BC, diffusion policy and DBC on one machine.

    python -m experiments.dbc.cost                     # two minutes on one core
    python -m experiments.dbc.cost --preset smoke      # half a minute

Untrained networks of the problem's sizes; a decision is one compiled call for one observation, the median of 100, an
update the mean of 50 in one compiled loop.  Expect a decision of DBC to cost what BC's does (the model is gone), and of
a diffusion policy its number of denoising steps.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from daag_jax.training.seeds import compile_steps, init_seeds, roots_of
from daag_jax.types import Context
from experiments.dbc import main_table
from experiments.dbc.arms import Arm, in_units, sampler_of
from experiments.dbc.problems import Loaded
from experiments.records import provenance, write_json


@dataclass(frozen=True)
class Config(main_table.Config):
    """How often each is timed, and the steps of the diffusion policy."""

    repeats: int = 100
    updates: int = 50
    inference_steps: tuple[int, ...] = (10, 100, 1000)


def decision_seconds(loaded: Loaded, arm: Arm, repeats: int) -> float:
    """The median of one decision for one observation."""
    algorithm = in_units(loaded, arm.make(loaded.env.spec))
    state = jax.jit(algorithm.init)(jax.random.key(0))
    context = Context(jnp.zeros((1, algorithm.window.history, loaded.env.spec.observation_dim)))
    act, key, taken = jax.jit(algorithm.act), jax.random.key(1), []
    for n in range(repeats + 1):
        one_key = jax.block_until_ready(jax.random.fold_in(key, n))
        began = time.perf_counter()
        jax.block_until_ready(act(state, context, one_key))
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[1:]))


def update_seconds(loaded: Loaded, arm: Arm, updates: int) -> float:
    """The mean of one update of one seed, in a compiled loop."""
    algorithm = in_units(loaded, arm.make(loaded.env.spec))
    sampler = sampler_of(loaded, algorithm)
    run = compile_steps(algorithm, sampler, roots_of([0]))
    states, first = run(sampler.data, init_seeds(algorithm, [0]), np.int32(0), np.int32(1))
    jax.block_until_ready(first)
    began = time.perf_counter()
    states, metrics = run(sampler.data, states, np.int32(1), np.int32(1 + updates))
    jax.block_until_ready(metrics)
    return (time.perf_counter() - began) / updates


def main(config: Config) -> dict:
    if config.preset == "smoke":
        config = replace(config, repeats=5, updates=2, inference_steps=(2,))
    results: dict[str, dict] = {}
    for name in config.problems:
        loaded = config.load(name)
        arms = dict(main_table.arms(loaded, config))
        arms.pop("DP", None)
        for steps in config.inference_steps:
            arms[f"DP, {steps} steps"] = main_table.dp_arm(
                loaded, replace(config, num_inference_steps=steps)
            )
        results[name] = {
            arm: {
                "decision_ms": 1e3 * decision_seconds(loaded, made, config.repeats),
                "update_ms": 1e3 * update_seconds(loaded, made, config.updates),
            }
            for arm, made in arms.items()
        }
    table = Table("problem", "arm", "decision [ms]", "update [ms]")
    for name, arms in results.items():
        for arm, found in arms.items():
            row = (f"{found['decision_ms']:.3f}", f"{found['update_ms']:.3f}")
            table.add_row(name, arm, *row)
    Console(width=100).print(table)
    path = Path(config.directory) / config.preset / "cost" / "results.json"
    write_json(path, {"milliseconds": results, "made": provenance()})
    print(json.dumps(results))
    return results


if __name__ == "__main__":
    main(tyro.cli(Config))

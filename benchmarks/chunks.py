"""Many plans on a CPU, so many rows at a time: what ``rows.CHUNK`` is chosen by.

    python -m benchmarks.chunks                     # about 5 min on two CPU cores

Plans of ``benchmarks.planner``, with four steps instead of twenty; candidates are divided among virtual devices, one
per core.  Sizes take turns; seconds are medians over rounds.  The last line is one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.planner import ACTION, GUIDE, MANY, OBSERVATION, configuration
from benchmarks.sides import seconds
from daag_jax import rows
from daag_jax.algorithms.diffuser import diffuser, planning_function
from daag_jax.training.devices import every_core_a_device, mesh_for_batch, replicate
from daag_jax.types import Context, Spec


@dataclass(frozen=True)
class Config:
    """Sizes of chunks (0: all rows at once), and how often each is measured."""

    sizes: tuple[int, ...] = (64, 128, 256, 512, 0)
    rounds: int = 3
    steps: int = 4


def calls(guide_scale: float, config: Config) -> dict[int, Callable[[], None]]:
    """3,200 plans in one call, per size of chunks."""
    planned = configuration()
    drawing = replace(planned.drawing, num_inference_steps=config.steps)
    planned = replace(planned, drawing=drawing, guide_scale=guide_scale, guide_steps=1)
    spec = Spec(OBSERVATION, ACTION)
    mesh = mesh_for_batch(MANY * drawing.candidates, devices=jax.local_devices())
    state = jax.jit(diffuser(planned, spec).init)(jax.random.key(0))
    present = np.random.default_rng(0).normal(size=(MANY, 1, OBSERVATION))
    given = replicate((state, Context(jnp.asarray(present, jnp.float32))), mesh)
    key, made = replicate(jax.random.key(0), mesh), {}
    for size in config.sizes:
        rows.CHUNK = size or MANY * drawing.candidates  # read when the program is traced
        plan = jax.jit(planning_function(planned, spec), static_argnums=2)
        with jax.set_mesh(mesh):
            compiled = plan.lower(*given, None, key).compile()
        made[size] = lambda compiled=compiled: jax.block_until_ready(compiled(*given, key))
    return made


def main(config: Config) -> None:
    jax.config.update("jax_platforms", "cpu")
    every_core_a_device()
    table = Table("rows at a time", *(str(size or "all") for size in config.sizes))
    figures: dict[str, dict[int, float]] = {}
    for name, guide_scale in (("3,200 plans [s]", 0.0), ("guided [s]", GUIDE)):
        made = calls(guide_scale, config)
        for call in made.values():
            call()
        taken = [{size: seconds(call) for size, call in made.items()} for _ in range(config.rounds)]
        figures[name] = {size: float(np.median([row[size] for row in taken])) for size in made}
        table.add_row(name, *(f"{value:.2f}" for value in figures[name].values()))
    Console(width=100).print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(tyro.cli(Config))

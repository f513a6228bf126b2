"""Decision Diffuser on Maze2D: what asking for a return gives, over the weight of guidance and the return asked for.

    python -m experiments.planning.conditional                    # 45 min on one core, other work beside
    python -m experiments.planning.conditional --preset smoke     # a minute or two

The planner is told no goal.  It learns from the runs of ``experiments.planning.mazes`` with the rewards of the layout's
one goal, as the model-free baselines do, is asked for a share of the best return in the data, plans anew every few
steps, and its inverse model acts.  Weight 0 asks for nothing.  On umaze expect scores near -10 with weight 0, between
55 and 145 with the release's 1.2, and fewer again with 4, where plans go through walls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array

from daag_jax.algorithms import ALGORITHMS
from daag_jax.algorithms.decision_diffuser import (
    Ask,
    DecisionDiffuserConfig,
    DecisionDiffuserState,
    decision_diffuser,
    planner,
)
from daag_jax.algorithms.parts.trajectories import DrawingConfig, TrajectoryConfig
from daag_jax.data.windows import returns
from daag_jax.evaluation.plans import Planned
from daag_jax.evaluation.studies import rows_of
from experiments.planning import mazes
from experiments.records import write_study

DISCOUNT = ALGORITHMS["decision_diffuser"].discount
BASELINE = "weight 0"


@dataclass(frozen=True)
class Config:
    """What is varied; without seeds, those of the preset."""

    preset: Literal["paper", "cpu", "smoke"] = "cpu"
    layouts: tuple[str, ...] = ("umaze",)
    weights: tuple[float, ...] = (0.0, 0.5, 1.0, 1.2, 2.0, 4.0)  # with the return ``target``
    target: float = 0.9  # of the best in the data
    targets: tuple[float, ...] = (0.3, 0.6, 1.2)  # with the release's weight, 1.2
    every: int = 8  # steps of the world between two plans
    updates: int = 0  # 0: twice those of ``mazes``, where the goal is held
    seeds: tuple[int, ...] = ()
    directory: str = "runs/experiments/planning"

    def __post_init__(self) -> None:
        mazes.check_choices(self)


def load(layout: str, config: Config, directory: Path) -> mazes.Loaded:
    """The maze with a planner of states that knows returns."""
    loaded = mazes.load(layout, config.preset, directory)
    sizes = replace(loaded.sizes, updates=config.updates or 2 * loaded.sizes.updates)
    learner = DecisionDiffuserConfig(
        TrajectoryConfig(mazes.MAZES[layout].horizon, sizes.stride, has_actions=False),
        DrawingConfig(
            sizes.sampler, sizes.num_inference_steps, temperature=0.5, execute=config.every
        ),
        returns_scale=float(np.max(returns(loaded.episodes.rewards, DISCOUNT))),
        widths=sizes.widths,
        inverse_dims=(256, 256) if config.preset == "paper" else (64, 64),
        num_steps=sizes.num_steps,
        learning_rate=sizes.learning_rate,
        decay_steps=sizes.updates if sizes.decays else 0,
    )
    return loaded._replace(sizes=sizes, config=learner)


def arms(config: Config) -> dict[str, tuple[float, float]]:
    """Weight and return of each arm, by what is varied."""
    return {f"weight {w:g}": (w, config.target) for w in config.weights} | {
        f"return {t:g}": (1.2, t) for t in config.targets
    }


def scored(
    loaded: mazes.Loaded, states: DecisionDiffuserState, seeds: Sequence[int], config: Config
) -> dict:
    """Facts of every arm; one program, whatever is asked."""
    world = loaded.env

    @jax.jit
    def run(states: DecisionDiffuserState, weight: Array, target: Array) -> Planned:
        asked = lambda context: {"returns": jnp.full((len(context.observations), 1), target)}
        made = planner(loaded.config, world.spec, Ask(asked, weight), stats=loaded.stats)
        return mazes.tried(world, made, states, loaded.sizes.episodes, seeds)

    found, best = {}, mazes.controller_returns(loaded, "maze2d")
    for name, (weight, target) in arms(config).items():
        planned = jax.device_get(run(states, weight, target))
        found[name] = mazes.facts(loaded, planned, best)
        print(f"maze2d-{loaded.layout}, {name}: {found[name]}", flush=True)
    return found


def main(config: Config) -> dict:
    """Trains (or reads) every layout's planner and scores it; returns the "details" of each one's ``results.json``."""
    directory = Path(config.directory) / config.preset
    details = {}
    for layout in config.layouts:
        loaded = load(layout, config, directory)
        seeds = config.seeds or tuple(range(loaded.sizes.seeds))
        states, seconds, made = mazes.trained(loaded, seeds, directory, decision_diffuser, DISCOUNT)
        found = scored(loaded, states, seeds, config)
        scores = {name: {"": one["scores"]} for name, one in found.items()}
        rows = rows_of(f"maze2d-{layout}", scores, BASELINE, "normalized score")
        details[f"maze2d-{layout}"] = {
            "updates": loaded.sizes.updates,
            "training seconds": seconds,
            "training made": made,
            "arms": found,
        }
        folder, own = directory / "conditional" / layout, {"details": details[f"maze2d-{layout}"]}
        write_study(rows, f"Decision Diffuser on {layout}", folder, BASELINE, own)
    return details


if __name__ == "__main__":
    main(tyro.cli(Config))

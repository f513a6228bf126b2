"""Pictures of planning: plans and what was walked, over the mazes, and a film of one batch being denoised.

    python -m experiments.planning.pictures                    # after maze2d, whose states it uses
    python -m experiments.planning.pictures --preset smoke     # a minute or two

Writes plans_LAYOUT.png and denoising_LAYOUT.mp4.  Points are planned states, dark to bright in time; the line is what
the follower walked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro
from jax.experimental import io_callback

from daag_jax.algorithms.diffuser import DiffuserState
from daag_jax.diffusion.process import Denoise
from daag_jax.evaluation import figures, video
from daag_jax.evaluation.outcomes import context_of
from daag_jax.evaluation.plans import evaluate_planner
from experiments.planning import mazes

POSITION = list(mazes.POSITION)


@dataclass(frozen=True)
class Config:
    """What is drawn."""

    preset: Literal["paper", "cpu", "smoke"] = "cpu"
    layouts: tuple[str, ...] = ("umaze", "medium", "large")
    family: str = "multi2d"
    seed: int = 0  # of the starts and goals
    num: int = 4  # plans beside each other
    frames: int = 30  # of the film
    seeds: tuple[int, ...] = ()  # that maze2d was given; the first plans
    directory: str = "runs/experiments/planning"

    def __post_init__(self) -> None:
        mazes.check_choices(self)


def recorder(kept: list[np.ndarray]) -> Callable[[Denoise], Denoise]:
    """A guide that changes nothing and keeps every estimate of x0."""

    def guide(denoise: Denoise) -> Denoise:
        def recorded(x: jax.Array, time: jax.Array) -> jax.Array:
            x0 = denoise(x, time)
            io_callback(lambda value: kept.append(np.asarray(value)), None, x0, ordered=True)
            return x0

        return recorded

    return guide


def draw_plans(loaded: mazes.Loaded, state: DiffuserState, config: Config, folder: Path) -> Path:
    """Plans and the paths that follow them, one maze each."""
    world, made = mazes.planner_of(loaded, config.family, mazes.PROTOCOLS["one plan, pd"])
    key = jax.random.key(config.seed)
    found = jax.jit(lambda key: evaluate_planner(world, made, state, key, config.num))(key)
    found = jax.device_get(found)
    planned, walked = found.plan.observations[..., POSITION], found.path[..., POSITION]
    figure = figures.plans_in_maze(world.walls, planned, walked, found.outcomes.returns)
    return figures.save(figure, folder / f"plans_{loaded.layout}.png")


def film(loaded: mazes.Loaded, state: DiffuserState, config: Config, folder: Path) -> Path:
    """What the network takes the plan for, from noise to the end."""
    kept: list[np.ndarray] = []
    drawn = mazes.Protocol("pd", {"sampler": "ddpm", "num_inference_steps": config.frames})
    world, made = mazes.planner_of(loaded, config.family, drawn, recorder(kept))
    state0 = jax.vmap(world.reset)(jax.random.split(jax.random.key(config.seed), config.num))
    context = context_of(world, state0, state0.obs[:, None])
    plan = jax.jit(lambda key: made.plan(state, context, None, key))(jax.random.key(1))
    jax.block_until_ready(plan)
    jax.effects_barrier()
    mean, half = (np.asarray(x)[POSITION] for x in loaded.stats[:2])
    goals = np.asarray(context.extras["task"])[:, None]
    images = []
    for n, estimate in enumerate(kept):
        places = estimate[..., POSITION] * half + mean
        groups = {f"{i + 1}": (places[i : i + 1], None) for i in range(config.num)}
        drawn = figures.paths_in_maze(world.walls, groups, goals, f"step {n + 1} of {len(kept)}")
        images.append(figures.pixels(drawn))
    return video.write(folder / f"denoising_{loaded.layout}.mp4", np.stack(images), fps=8)


def main(config: Config) -> None:
    """Draws every layout, with the state of the first seed."""
    directory = Path(config.directory) / config.preset
    folder = directory / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for layout in config.layouts:
        loaded = mazes.load(layout, config.preset, directory)
        seeds = config.seeds or tuple(range(loaded.sizes.seeds))
        states = mazes.trained(loaded, seeds, directory).states
        state = jax.tree.map(lambda x: x[0], states)
        print(draw_plans(loaded, state, config, folder))
        print(film(loaded, state, config, folder))


if __name__ == "__main__":
    main(tyro.cli(Config))

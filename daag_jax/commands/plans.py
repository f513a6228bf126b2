"""``daag plan``: the shipped planners of D4RL's mazes, and what becomes of their plans.

daag plan multi2d-large-v1                     # a plan every 100 steps; runs/plan/plans.png
daag plan maze2d-medium-v1 --every 0           # one plan for the whole episode
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import tyro

from daag_jax.assets import asset
from daag_jax.names import check_name

Positional = tyro.conf.Positional
WORLDS = tuple(
    f"{family}-{layout}-v1"
    for family in ("maze2d", "multi2d")
    for layout in ("umaze", "medium", "large")
)
FOLLOWERS = ("pd", "pursuit")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Plans through a maze with the shipped Diffuser, follows them, and draws some."""

    world: Positional[str] = "multi2d-large-v1"
    episodes: int = 100
    every: int = 100  # steps of the world between two plans; 0: one plan
    follower: str = "pd"  # or pursuit, which keeps to the way and not to the times
    candidates: int = 1  # plans drawn for each, of which the one that arrives first is followed
    seed: int = 1
    shown: int = 4  # plans in the picture
    out: Path = Path("runs/plan")


def check(options: Plan) -> None:
    """Raises ValueError for an unknown world or follower, or a number out of range."""
    check_name("world", options.world, WORLDS)
    check_name("follower", options.follower, FOLLOWERS)
    for field in ("episodes", "candidates", "shown"):
        if getattr(options, field) < 1:
            raise ValueError(f"{field}={getattr(options, field)} is not positive; try 1.")
    if options.every < 0:
        raise ValueError(f"every={options.every} is negative; 0 plans once.")


def load_planner(layout: str) -> tuple[Any, Any, Any]:
    """Configuration, state and statistics of the shipped planner of a layout."""
    import jax

    from daag_jax.algorithms.diffuser import DiffuserConfig, diffuser
    from daag_jax.algorithms.parts.trainable import Trainable
    from daag_jax.commands.policies import config_of
    from daag_jax.data.normalize import Stats
    from daag_jax.envs.worlds import make_world
    from daag_jax.training.weights import load_leaves

    path = asset(f"planner_{layout}.safetensors")
    config = config_of(DiffuserConfig, json.loads(path.with_suffix(".json").read_text()))
    spec = make_world(f"maze2d-{layout}-v1").spec
    state = jax.eval_shape(diffuser(config, spec).init, jax.random.key(0))
    number = jax.ShapeDtypeStruct((), "float32")
    wide = lambda dim: jax.ShapeDtypeStruct((dim,), "float32")
    observed, done, asked = spec.observation_dim, spec.action_dim, spec.task_dim
    stats = Stats(*map(wide, (observed, observed, done, done, asked, asked)))
    shipped = load_leaves({"net": state.net.ema, "reach": number, "stats": stats._asdict()}, path)
    net = Trainable(shipped["net"], None, ())
    return config, state._replace(net=net, reach=shipped["reach"]), Stats(**shipped["stats"])


def plan(options: Plan) -> None:
    """Runs :class:`Plan`."""
    check(options)
    import jax
    import numpy as np

    from daag_jax.algorithms.diffuser import planner
    from daag_jax.envs.worlds import make_world
    from daag_jax.evaluation import figures
    from daag_jax.evaluation.plans import crosses, evaluate_planner
    from daag_jax.evaluation.scores import normalized_score, success_rate

    layout = options.world.split("-")[1]
    config, state, stats = load_planner(layout)
    world = make_world(options.world)
    every = options.every or world.horizon
    drawing = dataclasses.replace(config.drawing, execute=every, candidates=options.candidates)
    config = dataclasses.replace(config, drawing=drawing)
    made = planner(config, world.spec, options.follower, stats)
    run = jax.jit(lambda key: evaluate_planner(world, made, state, key, options.episodes))
    found = jax.device_get(run(jax.random.key(options.seed)))
    outcomes, walked = found.outcomes, found.path[..., :2]
    planned = found.plan.observations[..., :2]
    rate = success_rate(int(outcomes.success.sum()), options.episodes)
    score = float(normalized_score(f"maze2d-{layout}", np.mean(outcomes.returns)))
    results = dataclasses.asdict(options) | {
        "out": str(options.out),
        "success": rate.value,
        "return": float(np.mean(outcomes.returns)),
        "normalized score": score,
        "first plans that cross a wall": float(np.mean(crosses(world.walls, planned))),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=1))
    shown = (values[: options.shown] for values in (planned, walked, outcomes.returns))
    figure = figures.plans_in_maze(world.walls, *shown)
    picture = figures.save(figure, options.out / "plans.png")
    print(
        f"success {rate}, normalized score {score:.1f} over {options.episodes} episodes; {picture}"
    )

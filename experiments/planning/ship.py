"""Ships the planners that ``experiments.planning.maze2d`` trained: of each layout the first seed, with its card.

python -m experiments.planning.ship            # after maze2d; a few minutes
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np
import tyro

from daag_jax.algorithms.parts.trainable import averaged
from daag_jax.assets import ASSETS
from daag_jax.training.weights import save_leaves
from experiments.planning import mazes
from experiments.pretrain.cards import write_card

PROTOCOL = "every 100 steps, pd"


@dataclass(frozen=True)
class Config:
    """What is shipped, and from where."""

    layouts: tuple[str, ...] = ("umaze", "medium", "large")
    seeds: tuple[int, ...] = ()  # that maze2d was given; the first is shipped
    directory: str = "runs/experiments/planning"
    out: Path = ASSETS

    def __post_init__(self) -> None:
        mazes.check_choices(self)


def main(config: Config) -> None:
    directory = Path(config.directory) / "cpu"
    for layout in config.layouts:
        loaded = mazes.load(layout, "cpu", directory)
        seeds = config.seeds or tuple(range(loaded.sizes.seeds))
        states, seconds, _ = mazes.trained(loaded, seeds, directory)
        state = jax.tree.map(lambda x: x[0], states)
        path = config.out / f"planner_{layout}.safetensors"
        content = {"net": averaged(state.net), "reach": state.reach}
        save_leaves(content | {"stats": loaded.stats._asdict()}, path)
        path.with_suffix(".json").write_text(json.dumps(asdict(loaded.config), indent=1))
        first, metrics = jax.tree.map(lambda x: x[:1], states), {}
        for family in mazes.FAMILIES:
            protocol = mazes.PROTOCOLS[PROTOCOL]
            found = mazes.evaluate(loaded, first, family, protocol, seeds[:1])
            facts = mazes.facts(loaded, found, best=np.nan)
            metrics |= {
                f"{family}/score": facts["scores"][0],
                f"{family}/success": facts["success"],
            }
        write_card(
            path,
            f"Diffuser of D4RL's {layout} maze (`daag plan multi2d-{layout}-v1`): the moving average of the "
            f"network of seed {seeds[0]}, after {loaded.sizes.updates} updates; {len(seeds)} seeds took "
            f"{seconds / 60:.0f} minutes on one core.",
            "python -m experiments.planning.maze2d; python -m experiments.planning.ship",
            loaded.sizes,
            metrics,
            f"measured on {loaded.sizes.episodes} episodes, a plan {PROTOCOL}; normalized scores",
            data=f"{loaded.sizes.steps} steps of D4RL's waypoint controller (`envs/experts/maze.py`), "
            f"seed {mazes.DATA_SEED}",
        )
        print(path, metrics)


if __name__ == "__main__":
    main(tyro.cli(Config))

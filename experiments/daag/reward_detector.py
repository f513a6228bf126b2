"""Can edits replace real examples of a novel task for the reward detector?  (DAAG's first claim)

    python -m experiments.daag.reward_detector                  # about 20 min on two CPU cores
    python -m experiments.daag.reward_detector --preset smoke   # 3 min

CLIP is finetuned on frames labelled for the known captions only; on those and their diffusion edits; on those and the
simulator's re-renders (the upper bound); and, as baselines, not at all, scored as VLM-RM and Baumli et al. do
(``agent/zero_shot.py``).  Tested on real frames of the novel captions.  Per seed, all see the same labelled frames; a
seed that is done is not done again.

Expect: edits above no edits, intervals apart; at least 0.9 of the re-renders' average precision.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from daag_jax.agent.setup import SetupConfig, prepare
from daag_jax.evaluation.scores import interquartile_mean, paired_difference
from daag_jax.training.devices import every_core_a_device
from experiments.records import provenance, write_json


@dataclass(frozen=True)
class Config:
    """Seeds and sizes."""

    preset: Literal["full", "smoke"] = "full"
    seeds: int = 5
    setup: SetupConfig = SetupConfig(detectors=("no edits", "edits", "oracle"))
    directory: str = "runs/experiments/daag/reward_detector"


def main(config: Config) -> None:
    every_core_a_device()
    smoke = config.preset == "smoke"
    if smoke:
        config = replace(config, seeds=2, directory=f"{config.directory}/smoke")
    directory = Path(config.directory)
    found: dict[str, list[float]] = {}
    for seed in range(config.seeds):
        setup = replace(config.setup, seed=seed)
        if smoke:
            setup = replace(setup, labelled=256, edited=128, tested=256)
        for name, precision in prepare(setup, directory / f"seed-{seed}").precisions.items():
            found.setdefault(name, []).append(precision)
        print({name: [round(x, 3) for x in values] for name, values in found.items()}, flush=True)
    results = {
        "preset": config.preset,
        "average_precision": {name: list(interquartile_mean(v)) for name, v in found.items()},
        "edits minus no edits": list(paired_difference(found["edits"], found["no edits"])),
        "edits over oracle": float(np.mean(found["edits"]) / np.mean(found["oracle"])),
        "seeds": found,
    }
    write_json(directory / "results.json", results | {"made": provenance()})
    print(json.dumps({k: v for k, v in results.items() if k != "seeds"}))


if __name__ == "__main__":
    main(tyro.cli(Config))

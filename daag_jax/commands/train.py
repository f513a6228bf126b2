"""``daag train``: policies from a data set of episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from daag_jax.commands.policies import begin_run, check_card, learner
from daag_jax.commands.training_data import data_card, prepared, prepared_blocks

Positional = tyro.conf.Positional


def train(arguments: Sequence[str]) -> None:
    """``daag train ALGORITHM EPISODES [options]``: the options depend on the algorithm."""
    from daag_jax.algorithms import ALGORITHMS, config_class
    from daag_jax.training.processes import join

    join()
    trainable = [name for name, entry in ALGORITHMS.items() if entry.inputs == ("spec",)]
    if not arguments or arguments[0].startswith("-"):
        raise ValueError(
            f"train needs an algorithm and a file: daag train {trainable[0]} EPISODES."
        )
    name = arguments[0]
    kind = config_class(name)
    if name not in trainable:
        raise ValueError(
            f"{name!r} learns from frames, not from episodes; use `python -m experiments.pretrain` "
            f"(autoencoder, clip or denoiser), or train one of {', '.join(trainable)}."
        )
    from daag_jax.training.fit import FitConfig

    fields = [
        ("episodes", Positional[Path]),
        ("config", kind, dataclasses.field(default_factory=kind)),
        ("fit", FitConfig, FitConfig(directory=f"runs/{name}")),
        ("batch", int, 64),
        ("discount", float, ALGORITHMS[name].discount),  # of the returns, where they are read
        ("only_successes", bool, False),
        ("world", str, ""),  # where the data set does not say it
        ("normalize", bool, True),  # of data without pixels: (x - mean) / std
        ("clip_actions", bool, False),  # to the world's bounds
        ("any_actions", bool, False),  # also beyond the world's bounds
        ("evaluate_episodes", int, 0),  # tried in the world every fit.evaluate_every steps
        ("stream", bool, False),  # reads windows as they are needed: for data larger than memory
    ]
    options_class = dataclasses.make_dataclass("Train", fields, frozen=True)
    options_class.__doc__ = (
        f"Trains {name} on episodes: a Minari data set, .hdf5 of D4RL, .npz or .safetensors; "
        "with --stream, a folder of .safetensors."
    )
    _train(name, tyro.cli(options_class, args=list(arguments[1:]), prog=f"daag train {name}"))


def _train(name: str, options: Any) -> None:
    from daag_jax.training.fit import fit
    from daag_jax.training.processes import barrier, is_main

    if name == "decision_transformer" and options.discount != 1.0:
        raise ValueError(
            f"discount={options.discount}: Decision Transformer subtracts what was earned from what it asks for, and "
            "so learns from undiscounted returns; leave --discount out."
        )
    pretrained = getattr(options.config, "pretrain_steps", 0)
    if pretrained and options.fit.steps <= pretrained:
        raise ValueError(
            f"fit.steps={options.fit.steps} ends before {name}'s policy learns, for the first "
            f"config.pretrain_steps={pretrained} are its model's; try --fit.steps {2 * pretrained}."
        )
    episodes, spec, stats, world = (
        (None, *prepared_blocks(options)) if options.stream else prepared(options)
    )
    algorithm = learner(name, options.config, spec, stats)
    batches = _batches(options, episodes, algorithm.window)
    card = {
        "algorithm": name,
        "config": dataclasses.asdict(options.config),
        "spec": spec._asdict(),
        "stats": stats and {k: v.tolist() for k, v in stats._asdict().items() if v is not None},
        "data": data_card(options),
        "world": world,
    }
    folder = Path(options.fit.directory)
    if options.fit.resume and list(folder.glob("checkpoints/step_*")):
        check_card(folder / "policy.json", card)
    barrier("policy.json checked")
    if is_main():
        begin_run(folder, card, anew=not options.fit.resume)
    result = fit(
        algorithm, batches, options.fit, evaluate=_trial(options, algorithm, world), name=name
    )
    losses = "  ".join(f"{k} {v:.4g}" for k, v in result.metrics.items())
    if is_main():
        print(f"{folder}: {result.step} steps, {losses}")


def _trial(options: Any, algorithm: Any, world: dict[str, Any]) -> Any:
    """``(state, key) -> success, return and length`` in the world of the data, on all devices; None where not wanted.

    Raises:
        ValueError: the world is unknown, or has pixels.
    """
    from daag_jax.envs import worlds
    from daag_jax.evaluation.outcomes import spread_evaluation
    from daag_jax.training.devices import mesh_for_batch

    num = options.evaluate_episodes
    if not num:
        return None
    if not world.get("name"):
        raise ValueError(
            f"evaluate_episodes={num} needs a world without pixels; name it with --world, or use 0."
        )
    env = worlds.make_world(world["name"])
    mesh = mesh_for_batch(num, name="evaluate_episodes")
    run = spread_evaluation(env, algorithm.act, num, mesh, algorithm.window)

    def evaluate(state: Any, key: Any) -> dict[str, float]:
        found = run(state, key)
        names = {"success": found.success, "return": found.returns, "length": found.length}
        return {name: float(values.mean()) for name, values in names.items()}

    return evaluate


def _batches(options: Any, episodes: Any, window: Any) -> Any:
    """Windows drawn on the devices from episodes in memory, or read from files where there are none."""
    from daag_jax.data.feeding import window_feed
    from daag_jax.data.windows import draw_windows, episode_data
    from daag_jax.training.fit import Sampler

    batch, seed, discount = options.batch, options.fit.seed, options.discount
    if episodes is None:
        return window_feed(options.episodes, window, batch, seed, discount=discount)
    draw = lambda data, key, n: draw_windows(data, window, batch, key)
    return Sampler(episode_data(episodes, window, discount), draw)

"""``daag train`` and ``daag evaluate``: policies from a file of episodes, and how well they do."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from daag_jax.commands.episodes import make_world, write_videos

TRAINABLE = ("bc", "self_imitation")
Positional = tyro.conf.Positional


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Success rate of a trained policy, with Wilson's interval, and videos of some episodes."""

    run: Positional[Path]
    episodes: int = 64
    seed: int = 1
    task: str = ""  # another than it was trained for
    videos: int = 4


def train(arguments: Sequence[str]) -> None:
    """``daag train ALGORITHM EPISODES [options]``: the options depend on the algorithm."""
    from daag_jax.algorithms import config_class

    if not arguments or arguments[0].startswith("-"):
        raise ValueError(
            f"train needs an algorithm and a file: daag train {TRAINABLE[0]} EPISODES."
        )
    name = arguments[0]
    kind = config_class(name)
    if name not in TRAINABLE:
        raise ValueError(
            f"{name!r} learns from frames, not from episodes; use `python -m experiments.pretrain` "
            f"(autoencoder, clip or denoiser), or train one of {', '.join(TRAINABLE)}."
        )
    from daag_jax.training.fit import FitConfig

    fields = [
        ("episodes", Positional[Path]),
        ("config", kind, dataclasses.field(default_factory=kind)),
        ("fit", FitConfig, FitConfig(directory=f"runs/{name}")),
        ("batch", int, 64),
        ("discount", float, 1.0),  # of the returns, for algorithms that read them
        ("only_successes", bool, False),
    ]
    options_class = dataclasses.make_dataclass("Train", fields, frozen=True)
    options_class.__doc__ = f"Trains {name} on a file of episodes."
    _train(name, tyro.cli(options_class, args=list(arguments[1:]), prog=f"daag train {name}"))


def _train(name: str, options: Any) -> None:
    import jax
    import numpy as np

    from daag_jax.algorithms import make
    from daag_jax.data.disk import cameras_of_file, read_episodes
    from daag_jax.data.windows import draw_windows, episode_data
    from daag_jax.training.fit import Sampler, fit
    from daag_jax.types import Spec

    episodes, task = read_episodes(options.episodes)
    if options.only_successes:
        rows = np.flatnonzero(episodes.extras["success"])
        episodes = jax.tree.map(lambda x: x[rows], episodes)
    spec = Spec(
        episodes.observations.shape[-1],
        episodes.actions.shape[-1],
        image_shape=tuple(episodes.images.shape[2:]),
    )
    algorithm = make(name, options.config, spec)
    window, batch = algorithm.window, options.batch
    data = episode_data(episodes, window, options.discount)
    draw = lambda data, key, n: draw_windows(data, window, batch, key)
    card = {
        "algorithm": name,
        "config": dataclasses.asdict(options.config),
        "spec": spec._asdict(),
        "data": {
            "sha256": hashlib.sha256(options.episodes.read_bytes()).hexdigest(),
            "only_successes": options.only_successes,
            "batch": batch,
            "discount": options.discount,
        },
        "world": {
            "mode": "primitive" if spec.action_dim == 3 else "cartesian",
            "task": task,
            "resolution": spec.image_shape[1],
        },
    }
    if cameras := cameras_of_file(options.episodes):
        card["world"]["cameras"] = cameras
    folder = Path(options.fit.directory)
    if options.fit.resume and list(folder.glob("checkpoints/step_*")):
        _check_card(folder / "policy.json", card)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.json").write_text(json.dumps(card, indent=1))
    result = fit(algorithm, Sampler(data, draw), options.fit, name=name)
    losses = "  ".join(f"{k} {v:.4g}" for k, v in result.metrics.items())
    print(f"{folder}: {result.step} steps, {losses}")


def _check_card(path: Path, card: dict[str, Any]) -> None:
    """A run continues only as it began.

    Raises:
        ValueError: its folder holds a policy of another algorithm, configuration, data or world.
    """
    before = json.loads(path.read_text()) if path.is_file() else {}
    now = json.loads(json.dumps(card))
    differing = [name for name in now if now[name] != before.get(name)]
    if differing:
        raise ValueError(
            f"{path.parent} holds a policy of another {' and '.join(differing)}; remove it, name another folder with "
            "--fit.directory, or start anew with --fit.no-resume."
        )


def config_of(kind: type, values: dict[str, Any]) -> Any:
    """A configuration from its JSON: nested dataclasses and tuples come back as such."""
    hints, made = typing.get_type_hints(kind), {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = config_of(hints[name], value)
        made[name] = tuple(value) if isinstance(value, list) else value
    return kind(**made)


def evaluate(options: Evaluate) -> None:
    """Runs :class:`Evaluate`."""
    import jax

    from daag_jax.algorithms import config_class, make
    from daag_jax.evaluation.html import report_of_run
    from daag_jax.evaluation.rollout import rollout
    from daag_jax.evaluation.scores import success_rate
    from daag_jax.training import checkpoint
    from daag_jax.types import Spec

    card_path = options.run / "policy.json"
    if not card_path.is_file():
        raise FileNotFoundError(f"{card_path} does not exist; `daag train` makes such a folder.")
    card = json.loads(card_path.read_text())
    spec = Spec(**{k: tuple(v) if isinstance(v, list) else v for k, v in card["spec"].items()})
    config = config_of(config_class(card["algorithm"]), card["config"])
    algorithm = make(card["algorithm"], config, spec)
    like = {"state": jax.jit(algorithm.init)(jax.random.key(0))}
    policy = _policy_of(checkpoint.restore(options.run / "checkpoints"), like)
    world = card["world"] | ({"task": options.task} if options.task else {})
    env = make_world(**world)

    @jax.jit
    def run(policy, key):
        num, window = options.episodes, algorithm.window
        return rollout(env, algorithm.act, policy, key, num, explore=0.0, window=window)

    episodes = jax.device_get(run(policy, jax.random.key(options.seed)))
    rate = success_rate(int(episodes.extras["success"].sum()), options.episodes)
    results = {"task": world["task"], "episodes": options.episodes, "seed": options.seed}
    results |= {"success": rate.value, "success low": rate.low, "success high": rate.high}
    (options.run / "results.json").write_text(json.dumps(results, indent=1))
    write_videos(options.run, episodes, options.videos)
    print(f"success {rate} over {options.episodes} episodes; {report_of_run(options.run)}")


def _policy_of(restored: Any, like: dict[str, Any]) -> Any:
    """The learner's state out of a checkpoint of ``fit``, which holds more."""
    import jax

    from daag_jax.training.devices import path_name

    def pick(path: tuple[Any, ...], leaf: Any) -> Any:
        name = path_name(path)
        if name not in restored.state or restored.state[name].shape != leaf.shape:
            raise ValueError(
                f"the checkpoint has no {name} of shape {leaf.shape}; was policy.json edited?"
            )
        return jax.numpy.asarray(restored.state[name])

    return jax.tree_util.tree_map_with_path(pick, like)["state"]

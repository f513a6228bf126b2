"""``daag train`` and ``daag evaluate``: policies from a data set of episodes, and how well they do.

``policy.json`` of a run folder says what was trained (algorithm, configuration, spec, statistics by which the data were
normalised), on what, and for which world; with it and a checkpoint the policy acts again.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from daag_jax.commands.episodes import make_world, write_videos
from daag_jax.commands.training_data import data_card, prepared, prepared_blocks

Positional = tyro.conf.Positional


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Success rate of a trained policy, with Wilson's interval, and videos of some episodes."""

    run: Positional[Path]
    episodes: int = 64
    seed: int = 1
    world: str = ""  # where policy.json does not say it: one without pixels
    task: str = ""  # another than it was trained for; this and below: rgb_stacking
    videos: int = 4
    best: bool = False  # the state that --fit.best kept, in place of the last


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
        ("discount", float, 1.0),  # of the returns, for algorithms that read them
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
        _check_card(folder / "policy.json", card)
    barrier("policy.json checked")
    if is_main():
        _begin(folder, card, anew=not options.fit.resume)
    result = fit(
        algorithm, batches, options.fit, evaluate=_trial(options, algorithm, world), name=name
    )
    losses = "  ".join(f"{k} {v:.4g}" for k, v in result.metrics.items())
    if is_main():
        print(f"{folder}: {result.step} steps, {losses}")


def _begin(folder: Path, card: dict[str, Any], anew: bool) -> None:
    """Writes the card of a run, whole; states of another run go where it begins anew."""
    for name in ("checkpoints", "best") if anew else ():
        shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / ".policy.json"
    unfinished.write_text(json.dumps(card, indent=1))
    unfinished.replace(folder / "policy.json")


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


def learner(name: str, config: Any, spec: Any, stats: Any = None) -> Any:
    """The algorithm for worlds of this spec, which sees data normalised by ``stats`` where there are any."""
    from daag_jax.algorithms import make
    from daag_jax.algorithms.parts.combinators import normalized
    from daag_jax.data.normalize import normalized_spec

    if stats is None:
        return make(name, config, spec)
    return normalized(make(name, config, normalized_spec(spec, stats)), stats)


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
    from daag_jax.evaluation.html import report_of_run

    card, algorithm, policy = load_policy(options.run, "best" if options.best else "checkpoints")
    evaluated = _evaluate_pixels if "mode" in card["world"] else _evaluate_world
    results, said = evaluated(options, card, algorithm, policy)
    (options.run / "results.json").write_text(json.dumps(results, indent=1))
    print(f"{said} over {options.episodes} episodes; {report_of_run(options.run)}")


def load_policy(run: Path, states: str = "checkpoints") -> tuple[dict[str, Any], Any, Any]:
    """The card of a run folder, its algorithm, and the trained state.

    Raises:
        FileNotFoundError: it holds no policy.
        ValueError: the checkpoint does not fit the card.
    """
    import jax
    import jax.numpy as jnp

    from daag_jax.algorithms import config_class
    from daag_jax.data.normalize import Stats
    from daag_jax.training import checkpoint
    from daag_jax.types import Spec

    path = run / "policy.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; `daag train` makes such a folder.")
    card = json.loads(path.read_text())
    spec = Spec(**{k: tuple(v) if isinstance(v, list) else v for k, v in card["spec"].items()})
    stats = card.get("stats")
    stats = stats and Stats(**{k: jnp.array(v, jnp.float32) for k, v in stats.items()})
    config = config_of(config_class(card["algorithm"]), card["config"])
    algorithm = learner(card["algorithm"], config, spec, stats)
    like = {"state": jax.jit(algorithm.init)(jax.random.key(0))}
    return card, algorithm, _policy_of(checkpoint.restore(run / states), like)


def _evaluate_world(
    options: Evaluate, card: dict[str, Any], algorithm: Any, policy: Any
) -> tuple[dict[str, Any], str]:
    """Results, and a line of them, in a world without pixels."""
    import jax
    import numpy as np

    from daag_jax.envs import worlds
    from daag_jax.evaluation.outcomes import evaluate_policy
    from daag_jax.evaluation.scores import success_rate

    name, num, window = options.world or card["world"]["name"], options.episodes, algorithm.window
    if not name:
        raise ValueError(f"{options.run / 'policy.json'} does not say its world; give --world.")
    if options.task:
        raise ValueError(f"world {name!r} has one task; leave --task out.")
    env = worlds.make_world(name)
    for field in ("observation_dim", "action_dim"):
        if getattr(env.spec, field) != card["spec"][field]:
            raise ValueError(
                f"the policy has {field}={card['spec'][field]} and world {name!r} "
                f"{getattr(env.spec, field)}; evaluate it in its own world."
            )
    run = jax.jit(lambda policy, key: evaluate_policy(env, algorithm.act, policy, key, num, window))
    found = jax.device_get(run(policy, jax.random.key(options.seed)))
    rate, returns = success_rate(int(found.success.sum()), num), found.returns
    results = {"world": name, "episodes": num, "seed": options.seed}
    results |= {"success": rate.value, "success low": rate.low, "success high": rate.high}
    results |= {"return": float(np.mean(returns)), "return std": float(np.std(returns))}
    results["length"] = float(np.mean(found.length))
    return results, f"success {rate}, return {results['return']:.4g}"


def _evaluate_pixels(
    options: Evaluate, card: dict[str, Any], algorithm: Any, policy: Any
) -> tuple[dict[str, Any], str]:
    """Results, and a line of them, in rgb_stacking; writes videos."""
    import jax

    from daag_jax.evaluation.rollout import rollout
    from daag_jax.evaluation.scores import success_rate

    if options.world:
        raise ValueError(
            f"the policy is of rgb_stacking, not of {options.world!r}; leave --world out."
        )
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
    write_videos(options.run, episodes, options.videos)
    return results, f"success {rate}"


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

"""The folder of a trained policy, as ``daag train`` writes it and ``daag evaluate`` reads it.

``policy.json`` says what was trained (algorithm, configuration, spec, statistics by which the data were normalised), on
what, and for which world; with it and a checkpoint the policy acts again.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import typing
from pathlib import Path
from typing import Any


def learner(name: str, config: Any, spec: Any, stats: Any = None) -> Any:
    """The algorithm for worlds of this spec, which sees data normalised by ``stats`` where there are any."""
    from daag_jax.algorithms import make
    from daag_jax.algorithms.parts.combinators import normalized
    from daag_jax.data.normalize import normalized_spec

    if stats is None:
        return make(name, config, spec)
    return normalized(make(name, config, normalized_spec(spec, stats)), stats)


def begin_run(folder: Path, card: dict[str, Any], anew: bool) -> None:
    """Writes the card of a run, whole; states of another run go where it begins anew."""
    for name in ("checkpoints", "best") if anew else ():
        shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / ".policy.json"
    unfinished.write_text(json.dumps(card, indent=1))
    unfinished.replace(folder / "policy.json")


def check_card(path: Path, card: dict[str, Any]) -> None:
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

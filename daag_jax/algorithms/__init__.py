"""The algorithms by name: ``make("self_imitation", SelfImitationConfig(), spec)``.

A row of the table is (module, function, class of its configuration); modules are imported when they are asked for.
Functions whose row says ``needs_spec=False`` train a network on frames and know nothing of a world.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any, NamedTuple

from daag_jax.types import Algorithm, Spec


class Entry(NamedTuple):
    """Where an algorithm lives."""

    module: str
    function: str
    config: str
    needs_spec: bool = True


ALGORITHMS: dict[str, Entry] = {
    "bc": Entry("bc", "bc", "BcConfig"),
    "self_imitation": Entry("self_imitation", "self_imitation", "SelfImitationConfig"),
    "autoencoder": Entry("autoencoder", "autoencoder", "AutoencoderConfig", False),
    "latent_diffusion": Entry(
        "latent_diffusion", "latent_diffusion", "LatentDiffusionConfig", False
    ),
}


def make(name: str, config: Any = None, spec: Spec | None = None) -> Algorithm:
    """The algorithm of that name; without ``config``, with its defaults.

    Raises:
        ValueError: the name is unknown (the message gives the nearest), the configuration is of another algorithm,
            or the algorithm acts in a world and no ``spec`` was given.
    """
    kind = config_class(name)
    config = kind() if config is None else config
    if not isinstance(config, kind):
        raise ValueError(
            f"{name!r} takes a {kind.__name__}, not a {type(config).__name__}; see daag_jax.algorithms.{name}."
        )
    entry = ALGORITHMS[name]
    function = getattr(importlib.import_module(f"{__name__}.{entry.module}"), entry.function)
    if not entry.needs_spec:
        return function(config)
    if spec is None:
        raise ValueError(
            f"{name!r} acts in a world and spec is None; give the environment's `spec`."
        )
    return function(config, spec)


def config_class(name: str) -> type:
    """The class of an algorithm's configuration; raises ValueError for an unknown name."""
    if name not in ALGORITHMS:
        near = difflib.get_close_matches(name, ALGORITHMS, n=1, cutoff=0.0)
        raise ValueError(
            f"there is no algorithm {name!r}; the nearest is {near[0]!r}, all are {', '.join(ALGORITHMS)}."
        )
    entry = ALGORITHMS[name]
    return getattr(importlib.import_module(f"{__name__}.{entry.module}"), entry.config)

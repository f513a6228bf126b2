"""The algorithms by name: ``make("self_imitation", SelfImitationConfig(), spec)``.

Each row says where an algorithm lives, the class of its configuration, and what else it needs: the ``spec`` of a
world for what acts in one, captions or embeddings for what is trained on frames.  Modules are imported on demand.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from daag_jax.names import check_name
from daag_jax.types import Algorithm


class Entry(NamedTuple):
    """A function of a module of this folder: ``function(config, *inputs)``."""

    function: str  # bears the name of its module
    config: str
    inputs: tuple[str, ...]
    discount: float = 1.0  # of the returns that it reads, as published


ALGORITHMS: dict[str, Entry] = {
    entry.function: entry
    for entry in (
        Entry("bc", "BcConfig", ("spec",)),
        Entry("dbc", "DbcConfig", ("spec",)),
        Entry("implicit_bc", "ImplicitBcConfig", ("spec",)),
        Entry("diffusion_policy", "DiffusionPolicyConfig", ("spec",)),
        Entry("diffuser", "DiffuserConfig", ("spec",)),
        Entry("decision_diffuser", "DecisionDiffuserConfig", ("spec",), discount=0.99),
        Entry("td3_bc", "Td3BcConfig", ("spec",)),
        Entry("iql", "IqlConfig", ("spec",)),
        Entry("cql", "CqlConfig", ("spec",)),
        Entry("awac", "AwacConfig", ("spec",)),
        Entry("decision_transformer", "DecisionTransformerConfig", ("spec",)),
        Entry("self_imitation", "SelfImitationConfig", ("spec",)),
        Entry("autoencoder", "AutoencoderConfig", ()),
        Entry("contrastive", "ContrastiveConfig", ("captions",)),
        Entry("clip_finetuning", "ClipFinetuningConfig", ("tokens",)),
        Entry("latent_diffusion", "LatentDiffusionConfig", ("contexts", "no_prompt")),
        Entry("denoiser_finetuning", "DenoiserFinetuningConfig", ("contexts", "no_prompt")),
    )
}


def make(name: str, config: Any = None, *inputs: Any, **named: Any) -> Algorithm:
    """The algorithm of that name; without ``config``, with its defaults.

    Raises:
        ValueError: the name is unknown (the message gives the nearest), the configuration is of another algorithm,
            or an input is missing or unknown.
    """
    kind, entry = config_class(name), ALGORITHMS[name]
    config = kind() if config is None else config
    if not isinstance(config, kind):
        raise ValueError(
            f"{name!r} takes a {kind.__name__}, not a {type(config).__name__}; see daag_jax.algorithms.{name}."
        )
    given = dict(zip(entry.inputs, inputs, strict=False)) | named
    if set(given) != set(entry.inputs) or len(inputs) + len(named) != len(entry.inputs):
        raise ValueError(
            f"{name!r} needs {', '.join(entry.inputs) or 'nothing'} beside its configuration, and was given "
            f"{', '.join(given) or 'nothing'} ({len(inputs)} by place)."
        )
    return getattr(_module(name), entry.function)(config, **given)


def config_class(name: str) -> type:
    """The class of an algorithm's configuration; raises ValueError for an unknown name."""
    check_name("algorithm", name, ALGORITHMS)
    return getattr(_module(name), ALGORITHMS[name].config)


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")

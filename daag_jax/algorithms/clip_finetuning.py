"""Finetuning of a pretrained CLIP on frames with a truth table of captions: all of it, or low-rank adapters.

    full    every parameter learns
    lora    CLIP is frozen; W' = W + A B on the attention of both towers (arXiv 2106.09685, Eq. 3); beside the adapters
            learn the temperature and the bias of the scores, without which a sigmoid has no meaning

The loss is that of ``contrastive``.  The frozen parameters are part of the state, so that they are sharded with it,
not constants of the program; they meet no optimiser.  ``init`` makes them at random; ``start`` puts a pretrained CLIP
in their place:

    algorithm = clip_finetuning(config, tokens)
    state = start(config, algorithm.init(key), params)
    fitted = fit(algorithm, batches, FitConfig(fsdp=8), state=state)       # the optimiser's state in eighths
    params = finetuned(config, fitted.state)

Differs from the papers: a closed set of captions with a truth table, not one caption per image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from daag_jax.algorithms.contrastive import (
    FIELDS,
    ContrastiveConfig,
    optimizer_of,
    truth_table_loss,
)
from daag_jax.algorithms.parts.trainable import Trainable, apply_gradients, averaged, create
from daag_jax.names import check_name
from daag_jax.networks import lora
from daag_jax.networks.clip.model import make_clip
from daag_jax.types import Algorithm, Batch, Key, Metrics, Params, Window

PARTS = ("full", "lora")
HEAD = ("logit_scale", "logit_bias")  # of the scores; no kernels, so no adapters


@dataclass(frozen=True)
class ClipFinetuningConfig:
    """What is trained, and how; sizes and the learning rate are those of ``training``."""

    training: ContrastiveConfig = ContrastiveConfig()
    part: Literal["full", "lora"] = "full"
    rank: int = 8  # of the adapters
    targets: tuple[str, ...] = lora.CLIP_ATTENTION  # regular expressions of the adapted kernels

    def __post_init__(self):
        check_name("part", self.part, PARTS)


class Finetuning(NamedTuple):
    """What is trained (all of CLIP, or adapters and head), and the CLIP that it is trained for."""

    trained: Trainable
    frozen: Params  # empty where all is trained


def clip_finetuning(config: ClipFinetuningConfig, tokens: Int[Array, "M L"]) -> Algorithm:
    """Trains a part; batches are those of ``contrastive``."""
    loss_fn, optimizer = (
        truth_table_loss(config.training, tokens),
        optimizer_of(config.training),
    )
    clip = make_clip(config.training.clip)

    def init(key: Key) -> Finetuning:
        base_key, part_key = jax.random.split(key)
        base = clip.init(base_key)
        return Finetuning(
            create(fresh(config, base, part_key), optimizer, True), kept(config, base)
        )

    def update(state: Finetuning, batch: Batch, key: Key) -> tuple[Finetuning, Metrics]:
        del key
        of_trained = lambda params: loss_fn(assemble(config, params, state.frozen), batch)
        gradients, metrics = jax.grad(of_trained, has_aux=True)(state.trained.params)
        decay = config.training.ema_decay
        trained = apply_gradients(state.trained, gradients, optimizer, decay)
        return state._replace(trained=trained), metrics

    return Algorithm(Window(fields=FIELDS), init, update)


def start(config: ClipFinetuningConfig, state: Finetuning, params: Params) -> Finetuning:
    """A fresh state that begins at a pretrained CLIP."""
    begun = params
    if config.part == "lora":
        begun = {**state.trained.params, "head": head(params)}
    own = lambda: jax.tree.map(jnp.copy, begun)  # buffers of its own, so that all can be donated
    return Finetuning(state.trained._replace(params=own(), ema=own()), kept(config, params))


def fresh(config: ClipFinetuningConfig, base: Params, key: Key) -> Params:
    """What will be trained, before its first step."""
    if config.part == "full":
        return base
    adapters = lora.init_lora(base["params"], key, config.rank, config.targets)
    return {"adapters": adapters, "head": jax.tree.map(jnp.copy, head(base))}


def head(params: Params) -> Params:
    """Temperature and bias of the scores."""
    return {name: params["params"][name] for name in HEAD if name in params["params"]}


def kept(config: ClipFinetuningConfig, base: Params) -> Params:
    """What stays as it is."""
    return base if config.part == "lora" else {}


def assemble(config: ClipFinetuningConfig, params: Params, frozen: Params) -> Params:
    """All of CLIP of a trained and a frozen part."""
    if config.part == "full":
        return params
    return {"params": lora.merge(frozen["params"], params["adapters"]) | params["head"]}


def finetuned(config: ClipFinetuningConfig, state: Finetuning) -> Params:
    """The CLIP to use: the moving average of what was trained, with what it was trained for."""
    return assemble(config, averaged(state.trained), state.frozen)

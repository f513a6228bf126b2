"""The reward detector: CLIP, finetuned, with a threshold for every caption (arXiv 2407.20798).

    p[b, g] = sigmoid( mean over camera views v of  exp(tau) phi_I(o_bv) . phi_T(g) + b )
    sub-goal g is seen  iff  p[b, g] > gamma_g

gamma_g is the smallest threshold whose precision on frames of episodes is at least 0.95: a false positive poisons the
buffer, a false negative only costs an episode.  Finetuning is ``algorithms.clip_finetuning`` on labelled and edited
frames; all captions are columns of its truth table, so colour-permuted captions are its hard negatives.

CLIP is the shipped compact one, or OpenAI's from a folder in the layout of Hugging Face, with a bias added to its
scores: ``sized(DetectorConfig(weights=Path("clip-vit-base-patch32"), part="lora"))``.

Differs from the papers: sigmoid loss in place of InfoNCE, whose scores have no absolute meaning; views are averaged.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from daag_jax.algorithms.clip_finetuning import (
    PARTS,
    ClipFinetuningConfig,
    clip_finetuning,
    finetuned,
    start,
)
from daag_jax.algorithms.contrastive import ContrastiveConfig
from daag_jax.assets import asset
from daag_jax.names import check_name
from daag_jax.networks import folders
from daag_jax.networks.clip import weights as clip_weights
from daag_jax.networks.clip.config import COMPACT_CLIP, ClipConfig
from daag_jax.networks.clip.model import make_clip
from daag_jax.networks.clip.tokenizer import WordTokenizer, load_tokenizer
from daag_jax.training.devices import born_sharded, mesh_for_batch, shardings
from daag_jax.training.fit import FitConfig, Sampler, fit
from daag_jax.types import Batch, Key, Params

# of a CLIP without one: minus its scale of 100 times a cosine of 0.25; our choice
HEAD_BIAS = -25.0


class Detector(NamedTuple):
    """CLIP's parameters, the captions' embeddings, and the operating points."""

    params: Params
    texts: Float[Array, "M D"]
    thresholds: Float[Array, "M"]


class Labelled(NamedTuple):
    """Frames with the truth of every caption; ``known`` is False where nobody says."""

    images: UInt8[np.ndarray, "N V H W 3"]
    truth: Bool[np.ndarray, "N M"]
    known: Bool[np.ndarray, "N M"]


@dataclass(frozen=True)
class DetectorConfig:
    """Finetuning and calibration; our choice, but for the precision (the predecessor prefers it to recall)."""

    clip: ClipConfig = COMPACT_CLIP
    weights: Path | None = None  # of CLIP, with its tokenizer; None is the shipped one
    part: Literal["full", "lora"] = "full"  # of CLIP that is finetuned
    rank: int = 8  # of adapters
    fsdp: int = 1  # devices that share the slices of CLIP and of the optimiser's state
    steps: int = 200
    batch: int = 32
    learning_rate: float = 3e-4
    positive_weight: float = 4.0
    precision: float = 0.95
    prevalence: float = (
        0.01  # share of an episode's frames in which a sub-goal that is being explored is true
    )
    min_positives: int = 20  # fewer: the caption takes the strictest threshold of the others
    default_threshold: float = 0.8  # gamma of the predecessor, where nothing can be calibrated

    def __post_init__(self):
        check_name("part", self.part, PARTS)
        if self.rank < 1 or self.fsdp < 1 or self.batch % self.fsdp:
            raise ValueError(
                f"rank={self.rank} and fsdp={self.fsdp} must be positive, and batch={self.batch} a multiple of fsdp."
            )
        if not 0 < self.precision <= 1:
            raise ValueError(f"precision={self.precision} is not in (0, 1]; try 0.95.")
        if not 0 < self.prevalence < 1:
            raise ValueError(f"prevalence={self.prevalence} is not in (0, 1); try 0.01.")


def sized(config: DetectorConfig) -> DetectorConfig:
    """The configuration with the sizes of the CLIP that its ``weights`` hold, and a bias of the scores.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: they are of another network.
    """
    if config.weights is None:
        return config
    clip = component_of(config.weights).config
    if clip.logit_bias_init_value is None:
        clip = replace(clip, logit_bias_init_value=HEAD_BIAS)
    return replace(config, clip=clip)


def component_of(folder: Path) -> folders.Component:
    """The CLIP of a folder."""
    (part, *_) = folders.components(folder)
    if not isinstance(part.config, ClipConfig):
        raise ValueError(
            f"{folder} holds a {type(part.config).__name__.removesuffix('Config')}, not a CLIP with both towers; name "
            "the folder of one."
        )
    return part


def load_clip(config: DetectorConfig) -> Params:
    """CLIP's parameters before finetuning; one without a bias of its scores gets ``HEAD_BIAS``.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: they are damaged, or of other sizes than ``config.clip``; :func:`sized` gives theirs.
    """
    if config.weights is None:
        return clip_weights.load(asset("clip.safetensors"), config.clip)
    if sized(config) != config:
        raise ValueError(
            f"clip is not that of {config.weights}; use sized(config), which reads it and adds a bias of the scores."
        )
    mesh = mesh_for_batch(config.batch, config.fsdp)
    places = partial(shardings, mesh=mesh) if config.fsdp > 1 else None
    params = folders.load(component_of(config.weights), places=places)
    return {"params": {"logit_bias": jnp.float32(HEAD_BIAS), **params["params"]}}


def stamp(config: DetectorConfig) -> tuple[int, ...]:
    """Size and time of the file of CLIP's weights, where they are not the shipped ones."""
    if config.weights is None:
        return ()
    found = folders.weight_file(component_of(config.weights)).stat()
    return found.st_size, found.st_mtime_ns


def tokens_of(config: DetectorConfig, captions: Sequence[str]) -> Int[Array, "M L"]:
    """Captions as integers, by the closed vocabulary or by the tokenizer of the weights."""
    length = config.clip.text_config.max_position_embeddings
    tokenize = (
        WordTokenizer(length) if config.weights is None else load_tokenizer(config.weights, length)
    )
    return jnp.asarray(tokenize(captions))


def make_scorer(config: DetectorConfig) -> Callable[[Detector, Array], Array]:
    """``scores(detector, images [B, V, H, W, 3]) -> [B, M]`` in (0, 1); pure, to be jitted."""
    clip = make_clip(config.clip)

    def scores(detector: Detector, images: UInt8[Array, "B V H W 3"]) -> Float[Array, "B M"]:
        batch, views = images.shape[:2]
        seen = clip.encode_image(detector.params, images.reshape(-1, *images.shape[2:]))
        logits = clip.logits(detector.params, seen, detector.texts)
        return jax.nn.sigmoid(logits.reshape(batch, views, -1).mean(axis=1))

    return scores


def score_all(scores, detector: Detector, images: np.ndarray, batch: int = 64) -> np.ndarray:
    """Scores of any number of frames, a fixed number at a time."""
    return in_batches(lambda part: scores(detector, part), images, batch)


def in_batches(function: Callable[[Array], Any], images: np.ndarray, batch: int) -> Any:
    """The tree of arrays of a function of any number of images, a fixed number at a time."""
    if images.shape[0] == 0:
        raise ValueError("images holds no frames; give one at least.")
    places = [
        np.minimum(np.arange(first, first + batch), images.shape[0] - 1)
        for first in range(0, images.shape[0], batch)
    ]
    parts = [jax.device_get(function(jnp.asarray(images[place]))) for place in places]
    return jax.tree.map(lambda *x: np.concatenate(x)[: images.shape[0]], *parts)


def make_detector(params: Params, captions: Sequence[str], config: DetectorConfig) -> Detector:
    """A detector of some captions, not calibrated yet."""
    clip = make_clip(config.clip)
    texts = jax.jit(clip.encode_text)(params, tokens_of(config, captions))
    return Detector(params, texts, jnp.full((len(captions),), config.default_threshold))


def fingerprint(detector: Detector) -> int:
    """A checksum of all numbers of a detector."""
    checksum = 0
    for leaf in jax.tree.leaves(detector):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), checksum)
    return checksum


def finetune(
    params: Params,
    captions: Sequence[str],
    data: Labelled,
    config: DetectorConfig,
    seed: int = 0,
    capacity: int = 0,
) -> Params:
    """CLIP's parameters after ``config.steps`` steps on labelled frames, each view an example of its own.

    Args:
        capacity: rows to make room for, so that detectors of fewer frames share a compiled program.
    """
    if data.images.shape[0] == 0:
        raise ValueError("data holds no frames; collect or edit some before finetuning.")
    training = ContrastiveConfig(
        clip=config.clip,
        learning_rate=config.learning_rate,
        warmup_steps=max(1, config.steps // 10),
        total_steps=config.steps,
        positive_weight=config.positive_weight,
        ema_decay=0.95,
    )
    own = ClipFinetuningConfig(training, config.part, config.rank)
    algorithm = clip_finetuning(own, tokens_of(config, captions))
    mesh = mesh_for_batch(config.batch, config.fsdp)
    begin = lambda key, params: start(own, algorithm.init(key), params)
    state = born_sharded(begin, mesh, jax.random.key(seed), params)
    frames = data.images.shape[0]
    room = lambda x: np.pad(x, [(0, max(0, capacity - frames))] + [(0, 0)] * (x.ndim - 1))
    table = Labelled(*(jnp.asarray(room(x)) for x in data))

    quiet = FitConfig(config.steps, seed, log_every=config.steps, progress=False, tensorboard=False)
    source = Sampler((table, jnp.int32(frames)), partial(draw, config.batch))
    return finetuned(own, fit(algorithm, source, quiet, state=state, mesh=mesh).state)


def draw(batch: int, source: tuple[Labelled, Array], key: Key, step: Array) -> Batch:
    """Frames at random, each from one of its views; ``source`` is a table and how many of its rows are frames."""
    table, frames = source
    frame_key, view_key = jax.random.split(key)
    index = jax.random.randint(frame_key, (batch,), 0, frames)
    view = jax.random.randint(view_key, (batch,), 0, table.images.shape[1])
    extras = {
        "image": table.images[index, view],
        "truth": table.truth[index],
        "known": table.known[index],
    }
    empty, ones = jnp.zeros((batch, 1, 0)), jnp.ones((batch, 1))
    return Batch(empty, empty, 0 * ones, ones > 0, extras)

"""The reward detector: CLIP, finetuned, with a threshold for every caption (specs/daag.md sections 1.6 and 6.2).

    p[b, g] = sigmoid( mean over camera views v of  exp(tau) phi_I(o_bv) . phi_T(g) + b )
    sub-goal g is seen  iff  p[b, g] > gamma_g

gamma_g is the smallest threshold whose precision on frames of episodes is at least 0.95: a false positive poisons the
buffer, a false negative only costs an episode.  Finetuning is ``algorithms.contrastive``
on labelled and edited frames; all captions are columns of its truth table, so colour-permuted captions are its hard
negatives.

Differs from the papers: sigmoid loss in place of InfoNCE, whose scores have no absolute meaning; views are averaged.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from daag_jax.agent.orchestrator import read_caption
from daag_jax.algorithms.contrastive import ContrastiveConfig, contrastive
from daag_jax.algorithms.parts.trainable import averaged
from daag_jax.networks.clip.config import COMPACT_CLIP, ClipConfig
from daag_jax.networks.clip.model import make_clip
from daag_jax.networks.clip.tokenizer import WordTokenizer
from daag_jax.training.fit import FitConfig, Sampler, fit
from daag_jax.types import Batch, Key, Params


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
        if not 0 < self.precision <= 1:
            raise ValueError(f"precision={self.precision} is not in (0, 1]; try 0.95.")
        if not 0 < self.prevalence < 1:
            raise ValueError(f"prevalence={self.prevalence} is not in (0, 1); try 0.01.")


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
    out = []
    for start in range(0, images.shape[0], batch):
        part = images[np.minimum(np.arange(start, start + batch), images.shape[0] - 1)]
        out.append(np.asarray(scores(detector, jnp.asarray(part))))
    return np.concatenate(out)[: images.shape[0]]


def make_detector(params: Params, captions: Sequence[str], config: DetectorConfig) -> Detector:
    """A detector of some captions, not calibrated yet."""
    clip = make_clip(config.clip)
    tokens = WordTokenizer(config.clip.text_config.max_position_embeddings)(captions)
    texts = jax.jit(clip.encode_text)(params, jnp.asarray(tokens))
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
    algorithm = contrastive(
        ContrastiveConfig(
            clip=config.clip,
            learning_rate=config.learning_rate,
            warmup_steps=max(1, config.steps // 10),
            total_steps=config.steps,
            positive_weight=config.positive_weight,
            ema_decay=0.95,
        ),
        captions,
    )
    blank = algorithm.init(jax.random.key(seed))
    state = blank._replace(params=params, ema=params)
    frames, views = data.images.shape[:2]
    room = lambda x: np.pad(x, [(0, max(0, capacity - frames))] + [(0, 0)] * (x.ndim - 1))
    table = Labelled(*(jnp.asarray(room(x)) for x in data))

    def draw(source: tuple[Labelled, Array], key: Key, step: Array) -> Batch:
        table, frames = source
        frame_key, view_key = jax.random.split(key)
        index = jax.random.randint(frame_key, (config.batch,), 0, frames)
        view = jax.random.randint(view_key, (config.batch,), 0, views)
        extras = {
            "image": table.images[index, view],
            "truth": table.truth[index],
            "known": table.known[index],
        }
        empty = jnp.zeros((config.batch, 1, 0))
        ones = jnp.ones((config.batch, 1))
        return Batch(empty, empty, 0 * ones, ones > 0, extras)

    quiet = FitConfig(config.steps, seed, log_every=config.steps, progress=False, tensorboard=False)
    return averaged(
        fit(algorithm, Sampler((table, jnp.int32(frames)), draw), quiet, state=state).state
    )


def calibrate(
    scores: Float[np.ndarray, "N M"], truth: Bool[np.ndarray, "N M"], config: DetectorConfig
) -> Float[np.ndarray, "M"]:
    """Thresholds of at least ``config.precision`` where sub-goals are as rare as ``config.prevalence``.

    A caption with too few positives takes the strictest threshold of the others; one without any such threshold takes 1
    and is never seen.
    """
    thresholds = np.full(scores.shape[1], np.nan, np.float32)
    for column in np.flatnonzero(truth.sum(axis=0) >= config.min_positives):
        shown = scores[:, column], truth[:, column]
        own = threshold_for(*shown, config.precision, config.prevalence)
        thresholds[column] = 1.0 if own is None else own
    return np.where(np.isnan(thresholds), strictest(thresholds, config), thresholds)


def strictest(thresholds: Float[np.ndarray, "M"], config: DetectorConfig) -> float:
    """The highest threshold of captions that are ever seen; the default where there is none."""
    usable = thresholds[thresholds < 1.0]
    return float(usable.max()) if usable.size else config.default_threshold


def ranked(
    scores: Float[np.ndarray, "N"], truth: Bool[np.ndarray, "N"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores, best first; how many frames score at least as much, and how many of them are true."""
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    ends = np.flatnonzero(
        np.append(falling[1:] < falling[:-1], True)
    )  # equal scores stand together
    return falling[ends], ends + 1, np.cumsum(truth[order])[ends]


def threshold_for(
    scores: Float[np.ndarray, "N"],
    truth: Bool[np.ndarray, "N"],
    precision: float,
    prevalence: float | None = None,
) -> float | None:
    """The smallest threshold whose positives are right often enough; None where there is none.

    Args:
        prevalence: the share of positives for which precision is asked; None takes that of ``truth``.
    """
    levels, found, hits = ranked(scores, truth)
    gains = np.diff(hits, prepend=0) > 0
    wrong = (found - hits).astype(float)
    if prevalence is not None:  # as many negatives per positive as where it is used
        wrong *= (1.0 / prevalence - 1.0) * truth.sum() / max((~truth).sum(), 1)
    good = np.flatnonzero((hits >= precision * (hits + wrong)) & gains)
    if good.size == 0:
        return None
    last = good[-1]
    below = levels[last + 1] if last + 1 < levels.size else levels[last] - 1e-3
    return float(0.5 * (levels[last] + below))


def average_precision(scores: Float[np.ndarray, "N"], truth: Bool[np.ndarray, "N"]) -> float:
    """Area under the precision-recall curve as a sum over positives; NaN where there are none."""
    if not truth.any():
        return float("nan")
    _, found, hits = ranked(scores, truth)
    return float(np.sum(hits / found * np.diff(hits, prepend=0)) / hits[-1])


def roc_auc(scores: Float[np.ndarray, "N"], truth: Bool[np.ndarray, "N"]) -> float:
    """Share of (true, false) pairs of frames in which the true one scores more, a tie counting half."""
    _, found, hits = ranked(scores, truth)
    positives, negatives = hits[-1], found[-1] - hits[-1]
    if positives == 0 or negatives == 0:
        return float("nan")
    misses = found - hits
    above = np.diff(misses, prepend=0) * (hits - 0.5 * np.diff(hits, prepend=0))
    return float(above.sum() / (positives * negatives))


def hard_negative_accuracy(
    scores: Float[np.ndarray, "N M"], truth: Bool[np.ndarray, "N M"], captions: Sequence[str]
) -> float:
    """Share of pairs (true caption, false one of the same relation in other colours) that are told apart."""
    relation = np.array([getattr(read_caption(g), "relation", g) for g in captions])
    is_alike = relation[:, None] == relation[None, :]
    right = pairs = 0
    for seen, is_true in zip(scores, truth, strict=True):
        mine = is_alike & is_true[:, None] & ~is_true[None, :]
        right += (mine & (seen[:, None] > seen[None, :])).sum()
        pairs += mine.sum()
    return float(right / pairs) if pairs else float("nan")


def detector_metrics(
    scores: Float[np.ndarray, "N M"],
    truth: Bool[np.ndarray, "N M"],
    thresholds: Float[np.ndarray, "M"],
) -> dict[str, float]:
    """Metrics of specs section 6.2.

    Rankings (average precision, ROC, recall at a precision) are means over the captions that have positives, NaN where
    none has; decisions and calibration are counted over all pairs of frame and caption.
    """
    columns = np.flatnonzero(truth.any(axis=0))
    found = scores > thresholds[None]
    right = (found & truth).sum()
    precision, recall = right / max(found.sum(), 1), right / max(truth.sum(), 1)

    def macro(metric: Callable[[np.ndarray, np.ndarray], float]) -> float:
        values = [metric(scores[:, c], truth[:, c]) for c in columns]
        return float(np.mean(values)) if values else float("nan")

    return {
        "average_precision": macro(average_precision),
        "roc_auc": macro(roc_auc),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(2 * precision * recall / max(precision + recall, 1e-12)),
        "false_positive_rate": float((found & ~truth).sum() / max((~truth).sum(), 1)),
        "recall_at_precision_0.95": macro(lambda s, t: recall_at(s, t, 0.95)),
        "brier": float(np.mean((scores - truth) ** 2)),
        "calibration_error": calibration_error(scores.ravel(), truth.ravel()),
        "prevalence": float(truth[:, columns].mean()) if columns.size else 0.0,
    }


def recall_at(scores: np.ndarray, truth: np.ndarray, precision: float) -> float:
    """Recall at the smallest threshold of a given precision."""
    threshold = threshold_for(scores, truth, precision)
    return 0.0 if threshold is None else float((scores[truth] > threshold).mean())


def calibration_error(scores: np.ndarray, truth: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: sum over bins of n_b / n |accuracy - confidence|."""
    index = np.minimum((scores * bins).astype(int), bins - 1)
    gaps = [
        (index == b).mean() * abs(truth[index == b].mean() - scores[index == b].mean())
        for b in range(bins)
        if (index == b).any()
    ]
    return float(np.sum(gaps))

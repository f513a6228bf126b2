"""Thresholds of a detector's scores, and how good its scores are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from daag_jax.agent.orchestrator import read_caption
from daag_jax.agent.reward import DetectorConfig


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
    """How well scores rank, how well thresholds decide, and how well calibrated the scores are.

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

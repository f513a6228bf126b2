"""Scores with their uncertainty: rates, interquartile means, paired differences.

Intervals over seeds are stratified bootstraps by rliable (Agarwal et al. 2021); a success rate over episodes of one
policy has Wilson's interval (1927).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from rliable import library, metrics

from daag_jax.names import check_name

# mean returns of D4RL's random policy and of its reference (Fu et al. 2020, d4rl/infos.py; maze2d in its v1)
D4RL_RETURNS = {
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
    "halfcheetah": (-280.18, 12135.0),
    "hopper": (-20.27, 3234.3),
    "walker2d": (1.63, 4592.3),
}


class Estimate(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def excludes(self, number: float) -> bool:
        """Whether the interval lies on one side of a number."""
        return self.low > number or self.high < number


def success_rate(successes: int, episodes: int, z: float = 1.959964) -> Estimate:
    """A rate with Wilson's interval."""
    if episodes < 1 or not 0 <= successes <= episodes:
        raise ValueError(
            f"successes={successes} of episodes={episodes} is not a rate; count again."
        )
    rate = successes / episodes
    scale = 1 + z**2 / episodes
    centre = (rate + z**2 / (2 * episodes)) / scale
    half = z * np.sqrt(rate * (1 - rate) / episodes + z**2 / (4 * episodes**2)) / scale
    return Estimate(rate, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def interquartile_mean(scores: Float[np.ndarray, "S"] | list, reps: int = 2000) -> Estimate:
    """The mean of the middle half of the seeds' scores, with a stratified bootstrap interval."""
    table = {"arm": finite(scores)[:, None]}
    aggregate = lambda x: np.array([metrics.aggregate_iqm(x)])
    with repeatable():
        point, interval = library.get_interval_estimates(table, aggregate, reps=reps)
    return Estimate(float(point["arm"][0]), *(float(x) for x in interval["arm"][:, 0]))


def paired_difference(
    ours: Float[np.ndarray, "S"] | list, theirs: Float[np.ndarray, "S"] | list, reps: int = 2000
) -> Estimate:
    """Mean of ours - theirs over paired seeds, with a percentile bootstrap interval over the pairs (rliable's).

    Of few pairs it is too narrow: for normal differences it covers 90 % with ten, 83 % with five and 75 % with three.
    """
    ours, theirs = finite(ours), finite(theirs)
    if ours.shape != theirs.shape:
        raise ValueError(f"{ours.size} and {theirs.size} seeds do not pair up; use the same seeds.")
    aggregate = lambda x: np.array([np.mean(x)])
    table = {"difference": (ours - theirs)[:, None]}
    with repeatable():
        point, interval = library.get_interval_estimates(table, aggregate, reps=reps)
    return Estimate(
        float(point["difference"][0]), *(float(x) for x in interval["difference"][:, 0])
    )


def normalized_score(
    name: str, returns: float | Float[np.ndarray, "*S"]
) -> float | Float[np.ndarray, "*S"]:
    """D4RL's score of undiscounted returns: 0 is a random policy, 100 the reference (which is not the best).

    On Maze2D a controller that knows the way scores 146 to 207 (RESULTS.md).

    Raises:
        ValueError: the name is unknown (the message gives the nearest).
    """
    low, high = D4RL_RETURNS[check_name("reference of a score", name, D4RL_RETURNS)]
    score = 100.0 * (np.asarray(returns, np.float64) - low) / (high - low)
    return score if score.ndim else float(score)


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Makes a report the same every time: seeds numpy's global generator, and gives it back as it was.

    rliable 1.2 draws its resamples from there, whatever ``random_state`` it is given.
    """
    before = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(before)


def finite(scores) -> np.ndarray:
    """Scores as an array; refuses what cannot be averaged."""
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(
            f"scores {scores} must be a non-empty list of finite numbers, one per seed."
        )
    return scores


def episodes_to(
    threshold: float, curve: Float[np.ndarray, "N"], episodes: Float[np.ndarray, "N"]
) -> float:
    """Episodes at which a learning curve first reaches a threshold, interpolated; infinite where it never does."""
    above = np.flatnonzero(np.asarray(curve) >= threshold)
    if above.size == 0:
        return float("inf")
    i = above[0]
    if i == 0:
        return float(episodes[0])
    share = (threshold - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float(episodes[i - 1] + share * (episodes[i] - episodes[i - 1]))

"""Hindsight Experience Augmentation: what a collected episode teaches the present task (arXiv 2407.20798).

    rewarded by the environment: keep the episode whole                          (section 1.2)
    A  = { (g, t_g) : t_g the first t > 0 with score(o_t, g) > gamma_g }        achieved sub-goals
    G* = decompose(task)
    g in A and in G*          keep (o_0:t_g, a_0:t_g) as it is                   relabelling
    A and G* disjoint         for g in A, g* in G* with can_swap(g, g*):         augmentation
                              keep (edit(o_0:t_g, swaps), a_0:t_g)

Actions never change.  ``plan`` decides on the host, from scores alone; ``augmenter`` edits all clips of a plan
together.

Differs from the paper (our choice): an episode that reached one sub-goal of the task may still be edited towards
another (``edit_when_matched``; False is the paper's rule), one desired sub-goal is served once per episode, by the
earliest achieved one, and decisions long before the sub-goal weigh less (``discount``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from daag_jax.agent.orchestrator import Orchestrator
from daag_jax.editing.masks import SWAP_MODES

ARMS = ("reward", "subgoals", "hindsight")


@dataclass(frozen=True)
class HindsightConfig:
    """What to keep of an episode; our choice."""

    discount: float = 0.1  # weight of a decision falls by this per step before the sub-goal
    edit_when_matched: bool = (
        True  # also edit towards the sub-goals that an episode did not reach itself
    )
    swap_mode: str = "permute"
    max_edits: int = 4  # of one episode

    def __post_init__(self):
        if self.swap_mode not in SWAP_MODES:
            raise ValueError(f"swap_mode {self.swap_mode!r} is unknown; use one of {SWAP_MODES}.")
        if self.max_edits < 0:
            raise ValueError(f"max_edits={self.max_edits} is negative; 0 edits nothing.")
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount={self.discount} is not in [0, 1]; 1 weighs all alike.")


class Kept(NamedTuple):
    """A piece of an episode that is kept as it is: the first ``end`` decisions."""

    episode: int
    end: int
    caption: str


class Request(NamedTuple):
    """A piece of an episode that a swap would turn into a success."""

    episode: int
    end: int
    achieved: str
    desired: str
    swaps: tuple[tuple[str, str], ...]


class Plan(NamedTuple):
    """What to do with a block of episodes; ``outcomes`` counts every branch."""

    kept: tuple[Kept, ...]
    requests: tuple[Request, ...]
    outcomes: Counter


def first_times(
    scores: Float[np.ndarray, "B T1 M"],
    thresholds: Float[np.ndarray, "M"],
    length: Int[np.ndarray, "B"],
    columns: Bool[np.ndarray, "M"],
) -> Int[np.ndarray, "B M"]:
    """t_g of every episode and caption, -1 where it is never seen.  Frame 0 shows what no action has done."""
    seen = (scores > thresholds[None, None]) & columns[None, None]
    steps = np.arange(scores.shape[1])[None, :, None]
    seen = seen & (steps > 0) & (steps <= length[:, None, None])
    # what is true from the start is no achievement
    seen = seen & ~(scores[:, :1] > thresholds[None, None])
    return np.where(seen.any(axis=1), seen.argmax(axis=1), -1)


def plan(
    times: Int[np.ndarray, "B M"],
    captions: Sequence[str],
    task: str,
    orchestrator: Orchestrator,
    config: HindsightConfig,
    may_edit: bool = True,
) -> Plan:
    """Sorts a block of episodes into pieces to keep and pieces to edit."""
    goals = orchestrator.decompose(task)
    kept, requests, outcomes = [], [], Counter()
    for episode in range(times.shape[0]):
        achieved = [(int(t), captions[m]) for m, t in enumerate(times[episode]) if t > 0]
        achieved.sort()
        matched = [(t, g) for t, g in achieved if g in goals]
        kept += [Kept(episode, t, g) for t, g in matched]
        outcomes[
            "matched" if matched else "achieved other" if achieved else "achieved nothing"
        ] += 1
        if not may_edit or not achieved or (matched and not config.edit_when_matched):
            continue
        served = {g for _, g in matched}
        found = 0
        for t, g in achieved:
            for goal in goals:
                if goal in served or found >= config.max_edits:
                    continue
                decision = orchestrator.can_swap(g, goal)
                outcomes["swap possible" if decision.possible else "swap refused"] += 1
                if decision.possible:
                    requests.append(Request(episode, t, g, goal, decision.swaps))
                    served.add(goal)
                    found += 1
    return Plan(tuple(kept), tuple(requests), outcomes)


def with_rewarded(
    decided: Plan,
    success: Bool[np.ndarray, "B"],
    length: Int[np.ndarray, "B"],
    task: str,
    last_goal: str = "",
) -> Plan:
    """A plan that also keeps, whole, the episodes that the environment rewarded.

    Args:
        last_goal: of the task; an episode that is kept up to its end for it is not kept twice.
    """
    ends = [(kept.episode, kept.end) for kept in decided.kept if kept.caption == last_goal]
    whole = {episode for episode, end in ends if end == length[episode]}
    rewarded = [int(i) for i in np.flatnonzero(success)]
    kept = [Kept(i, int(length[i]), task) for i in rewarded if i not in whole]
    counts = Counter({"rewarded": len(rewarded), "not rewarded": int(success.size - len(rewarded))})
    return Plan((*decided.kept, *kept), decided.requests, decided.outcomes + counts)

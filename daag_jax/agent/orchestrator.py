"""The words above the arrays: what a task consists of, and which swaps of objects turn one success into another.

An orchestrator answers two questions (DAAG's two prompts):

    decompose(task)              -> the sub-goals, as captions, in order
    can_swap(achieved, desired)  -> could other colours turn the achieved caption into the desired one, and which?

``RuleOrchestrator`` answers by grammar: exact, no network, the upper bound of any language model.
``NoisyOrchestrator`` is wrong with a set probability, to measure what an agent owes to its language model.  ``llm`` has
the real ones.  What to look for in old episodes (``extract_query``) follows from the two answers: no third prompt.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

GRASPING = re.compile(r"^the robot is grasping the (\w+) object\.?$", re.IGNORECASE)
ON_TOP = re.compile(r"^the (\w+) object is on top of the (\w+) object\.?$", re.IGNORECASE)
GRASP_TASK = re.compile(r"^grasp the (\w+) object\.?$", re.IGNORECASE)
STACK_TASK = re.compile(
    r"^stack the (\w+) object((?: on top of the \w+ object){1,2})\.?$", re.IGNORECASE
)


class SwapDecision(NamedTuple):
    """Whether recolouring can help, which colour becomes which, and why (or why not)."""

    possible: bool
    swaps: tuple[tuple[str, str], ...] = ()
    reason: str = ""


@runtime_checkable
class Orchestrator(Protocol):
    """Anything that can break a task down and judge a swap."""

    def decompose(self, task: str) -> tuple[str, ...]:
        """Sub-goals of a task in the order in which they are reached; the last one is the task's own goal."""
        ...

    def can_swap(self, achieved: str, desired: str) -> SwapDecision:
        """Whether new colours alone would make ``achieved`` read as ``desired``."""
        ...


class Statement(NamedTuple):
    """A caption as a relation between named objects."""

    relation: str  # "grasping" or "on top"
    objects: tuple[str, ...]


def read_caption(caption: str) -> Statement | None:
    """The relation that a caption states, None for any other sentence."""
    text = " ".join(caption.split())
    if found := GRASPING.match(text):
        return Statement("grasping", (found[1].lower(),))
    if found := ON_TOP.match(text):
        return Statement("on top", (found[1].lower(), found[2].lower()))
    return None


def grasping(color: str) -> str:
    """The caption of a grasp."""
    return f"The robot is grasping the {color} object"


def on_top(top: str, bottom: str) -> str:
    """The caption of a stack of two."""
    return f"The {top} object is on top of the {bottom} object"


def caption_of(statement: Statement) -> str:
    """The caption that states a relation: the inverse of :func:`read_caption`."""
    sentence = grasping if statement.relation == "grasping" else on_top
    return sentence(*statement.objects)


def extract_query(
    orchestrator: Orchestrator, task: str, captions: Sequence[str]
) -> tuple[str, ...]:
    """The captions worth looking for in the episodes of other tasks: sub-goals, and what a swap turns into one."""
    goals = orchestrator.decompose(task)
    is_useful = lambda g: (
        g in goals or any(orchestrator.can_swap(g, goal).possible for goal in goals)
    )
    return tuple(filter(is_useful, captions))


@dataclass(frozen=True)
class RuleOrchestrator:
    """Exact answers for the grammar of the stacking tasks."""

    def decompose(self, task: str) -> tuple[str, ...]:
        """Sub-goals of "Grasp ...", "Stack X on top of Y" and "Stack X on top of Y on top of Z".

        Raises:
            ValueError: the sentence is none of these.
        """
        text = " ".join(task.split())
        if found := GRASP_TASK.match(text):
            return (grasping(found[1].lower()),)
        if found := STACK_TASK.match(text):
            tower = [found[1].lower(), *(c.lower() for c in re.findall(r"the (\w+)", found[2]))]
            pairs = list(zip(tower[:-1], tower[1:], strict=True))[::-1]  # built from below
            return tuple(s for top, bottom in pairs for s in (grasping(top), on_top(top, bottom)))
        raise ValueError(
            f"task {task!r} is not understood; try 'Stack the red object on top of the blue object'."
        )

    def can_swap(self, achieved: str, desired: str) -> SwapDecision:
        """Yes, where both state the same relation of as many distinct objects; colours follow by position."""
        have, want = read_caption(achieved), read_caption(desired)
        if have is None or want is None:
            which = achieved if have is None else desired
            return SwapDecision(False, (), f"{which!r} states no relation that can be read")
        if have.relation != want.relation:
            return SwapDecision(
                False, (), f"{have.relation!r} does not become {want.relation!r} by other colours"
            )
        if len(set(want.objects)) != len(want.objects):
            return SwapDecision(False, (), "an object cannot be in relation to itself")
        pairs = tuple((a, b) for a, b in zip(have.objects, want.objects, strict=True) if a != b)
        if not pairs:
            return SwapDecision(False, (), "it is the desired caption already")
        return SwapDecision(True, pairs, f"{have.relation!r} holds; only the colours differ")


@dataclass(frozen=True)
class NoisyOrchestrator:
    """Answers of another orchestrator, each turned into its opposite with probability ``p_err``.

    An error is a function of (seed, question): asked again, it errs again, and a run can be repeated.  A refused swap
    that becomes possible maps the first object named to the last one named: a wrong edit, as a language model's would
    be.
    """

    inner: Orchestrator = RuleOrchestrator()
    p_err: float = 0.1
    seed: int = 0

    def __post_init__(self):
        if not 0.0 <= self.p_err <= 1.0:
            raise ValueError(f"p_err={self.p_err} is no probability; try 0.1.")

    def decompose(self, task: str) -> tuple[str, ...]:
        """Sub-goals; an error forgets all but the last one."""
        goals = self.inner.decompose(task)
        return goals[-1:] if self._errs("decompose", task) else goals

    def can_swap(self, achieved: str, desired: str) -> SwapDecision:
        """The verdict, or its opposite."""
        decision = self.inner.can_swap(achieved, desired)
        if not self._errs("can_swap", achieved, desired):
            return decision
        if decision.possible:
            return SwapDecision(False, (), "an error of the model: refused")
        have, want = read_caption(achieved), read_caption(desired)
        if have is None or want is None or have.objects[0] == want.objects[-1]:
            return decision
        return SwapDecision(True, ((have.objects[0], want.objects[-1]),), "an error of the model")

    def _errs(self, *question: str) -> bool:
        digest = hashlib.sha256(repr((self.seed, question)).encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < self.p_err

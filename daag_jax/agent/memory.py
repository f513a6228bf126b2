"""What an agent makes of its episodes: kept pieces, edited pieces, and how right their labels are.

A block of episodes is scored by the detector once.  A lesson for a task is what ``hindsight.plan`` decides, carried
out: steps to imitate.  Edits are kept by (block, episode, swap), for several tasks may want the same.  What only a
simulator knows (truth of captions) is used to *measure* the lesson, never to make it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from daag_jax.agent.augmenter import Augment, run_requests
from daag_jax.agent.detectors import known_columns
from daag_jax.agent.hindsight import (
    HindsightConfig,
    Plan,
    Request,
    first_times,
    plan,
    with_rewarded,
)
from daag_jax.agent.orchestrator import Orchestrator, RuleOrchestrator
from daag_jax.agent.reward import Detector, score_all
from daag_jax.data.buffer import LifelongBuffer, Steps, episode_steps
from daag_jax.editing.validity import Truths, judge_labels
from daag_jax.envs.tasks.rgb_stacking import RgbStacking
from daag_jax.envs.tasks.rgb_stacking_scenes import caption_truth, relations_of
from daag_jax.training.keys import key_at
from daag_jax.types import Episode, Key


class Edited(NamedTuple):
    """An edited piece: what was asked, frames [T + 1, V, H, W, 3], colours [J], and what is true of it."""

    request: Request
    frames: np.ndarray
    colors: np.ndarray
    verdict: str  # "edited valid", or whose error it is


class World(NamedTuple):
    """What all arms share: compiled functions of one environment."""

    env: RgbStacking
    scores: Callable[[Detector, Any], Any] | None  # [N, V, H, W, 3] -> [N, M]
    look: Callable[[Any, Any], Any] | None  # judges edits; see ``augmenter.make_looker``
    augment: Augment | None
    orchestrator: Orchestrator = RuleOrchestrator()
    identity: str = (
        ""  # of what env and orchestrator were made from; a run continues only with the same
    )
    editor_identity: str = ""  # of what augment was made from
    # the embedding [D] of a task that the policy is told; with one policy per task it may go untold
    instruct: Callable[[str], np.ndarray] | None = None


class Lesson(NamedTuple):
    """What a block of episodes gave: steps to learn from, and how right their labels are."""

    steps: Steps | None
    counts: Counter


@jax.jit
def truth_of(qpos: Float[Array, "N Q"], colors: Int[Array, "N 3"]) -> Bool[Array, "N M"]:
    """Truth of every caption in states whose cubes have some colours."""
    return jax.vmap(lambda q, c: caption_truth(relations_of(q), c))(qpos, colors)


class Memory:
    """All episodes of a run, what the detector saw in them, and how edits came out.

    Args:
        arm: which lessons are drawn, see ``hindsight.ARMS``.
        root: key of the run; edits are drawn from it.
    """

    def __init__(
        self,
        world: World,
        detector: Detector | None,
        arm: str,
        hindsight: HindsightConfig,
        root: Key,
    ):
        self.world, self.detector, self.arm, self.hindsight = world, detector, arm, hindsight
        self.root, self.captions = root, world.env.captions
        # sub-goals about colours that the world does not have are not looked for
        self.columns = known_columns(world.env, novel=())
        self.lifelong = LifelongBuffer()
        self.scores: list[np.ndarray] = []  # of each block
        self.edits: dict[tuple, tuple] = {}  # by block, episode and swap

    def add(self, episodes: Episode, task: str) -> int:
        """Stores a block and what the detector sees in it."""
        self.lifelong = self.lifelong.add(episodes, task)
        block = self.lifelong.blocks[-1]
        if self.arm != "reward":
            num, frames = block.images.shape[:2]
            flat = block.images.reshape(num * frames, *block.images.shape[2:])
            seen = score_all(self.world.scores, self.detector, flat)
            self.scores.append(seen.reshape(num, frames, -1))
        return len(self.lifelong.blocks) - 1

    def lesson(self, index: int, task: str) -> Lesson:
        """Relabels and edits one block for a task."""
        return self._carry_out(index, self.decide(index, task), task)

    def decide(self, index: int, task: str) -> Plan:
        """What of a block is kept and edited for a task; a reward counts where it was given for this task."""
        block = self.lifelong.blocks[index]
        decided = Plan((), (), Counter())
        if self.arm != "reward":
            thresholds = np.asarray(self.detector.thresholds)
            times = first_times(self.scores[index], thresholds, block.length, self.columns)
            may_edit = self.arm == "hindsight"
            orchestrator = self.world.orchestrator
            decided = plan(times, self.captions, task, orchestrator, self.hindsight, may_edit)
        if self.lifelong.tasks[index] == task:
            goals = self.world.orchestrator.decompose(task)
            rewarded = (block.extras["success"], block.length, task, *goals[-1:])
            decided = with_rewarded(decided, *rewarded)
        return decided

    def _carry_out(self, index: int, decided: Plan, task: str) -> Lesson:
        block, discount = self.lifelong.blocks[index], self.hindsight.discount
        goals = self.world.orchestrator.decompose(task)
        counts, pieces = Counter(decided.outcomes), []
        for kept in decided.kept:
            # a rewarded episode stands with the pieces of the last sub-goal
            last = max(len(goals) - 1, 0)
            goal = goals.index(kept.caption) if kept.caption in goals else last
            pieces.append(episode_steps(block, kept.episode, kept.end, discount, goal))
            counts["kept"] += 1
            is_valid = kept.caption not in self.captions or bool(
                block.extras["labels"][kept.episode, kept.end, self.captions.index(kept.caption)]
            )
            counts["kept valid"] += is_valid
            counts["wrong detector"] += not is_valid
        for edited in self.edited(index, decided.requests):
            request, frames = edited.request, edited.frames
            where = (request.episode, request.end, discount, goals.index(request.desired))
            pieces.append(episode_steps(block, *where, frames, is_edited=True))
            counts["edited"] += 1
            counts[edited.verdict] += 1
        if not pieces:
            return Lesson(None, counts)
        return Lesson(jax.tree.map(lambda *x: np.concatenate(x), *pieces), counts)

    def edited(self, index: int, requests: Sequence[Request]) -> Iterator[Edited]:
        """Requests carried out, from the cache or by the editor; not those whose colours are not seen."""
        block = self.lifelong.blocks[index]
        name = lambda r: (index, r.episode, r.swaps)
        missing = {name(r): r for r in requests if name(r) not in self.edits}
        key = key_at(self.root, "edit", index)
        frames, seen, wanted = run_requests(
            block,
            list(missing.values()),
            self.world.augment,
            self.world.env.default_colors,
            self.hindsight.swap_mode,
            key,
        )
        for (which, request), one, before, after in zip(
            missing.items(), frames, seen, wanted, strict=True
        ):
            shown = self.world.look(
                jnp.asarray(one[None]), jnp.asarray(block.extras["qpos"][None, request.episode])
            )
            self.edits[which] = (one, before, after, np.asarray(shown)[0])
        for request in requests:
            one, before, after, shown = self.edits[name(request)]
            if (before != after).any():
                yield Edited(request, one, after, self._verdict(block, request, after, shown))

    def _verdict(self, block: Episode, request, wanted: np.ndarray, shown: np.ndarray) -> str:
        """Whether the edited piece truly shows a success at the desired sub-goal, and whose error it is if not."""
        state = jnp.asarray(block.extras["qpos"][request.episode, request.end])[None]
        truths = Truths(
            jnp.asarray(block.extras["labels"][request.episode, request.end])[None],
            truth_of(state, jnp.asarray(wanted)[None]),
            truth_of(state, jnp.asarray(shown)[None]),
        )
        columns = [jnp.array([self.captions.index(g)]) for g in (request.achieved, request.desired)]
        verdict = judge_labels(truths, *columns)
        if verdict.detector[0]:
            return "wrong detector"
        if verdict.orchestrator[0]:
            return "wrong swap"
        return "wrong picture" if verdict.diffusion[0] else "edited valid"

"""Diffusion Augmented Agents: the lifelong loop over a sequence of tasks (arXiv 2407.20798).

    for task in tasks:
        policy <- new; D_new <- extracted(D_LL); policy <- self-imitation     policy re-initialised, as the predecessor
        for iteration:
            E <- collect(policy); D_LL <- D_LL + E
            D_new <- D_new + relabelled(E) + edited(E)                        by arm, see ``hindsight.ARMS``
            policy <- self-imitation on D_new, anew or from where it was

Three arms, one code: "reward" keeps episodes that the environment rewarded; "subgoals" also keeps pieces in which CLIP
saw a sub-goal of the task; "hindsight" also edits pieces that are a success at something else.

The policy sees pixels and its own gripper; the editor sees depth and normals beside them, as of an RGB-D camera.  A run
continues bit for bit after a kill: episodes are files, the rest is a checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool

from daag_jax.agent.daag_config import DaagConfig
from daag_jax.agent.memory import Lesson, Memory, World
from daag_jax.agent.orchestrator import RuleOrchestrator
from daag_jax.agent.programs import EXPLORE_ALL, Programs, return_then_explore
from daag_jax.agent.reward import Detector, fingerprint
from daag_jax.algorithms.parts.trainable import Trainable
from daag_jax.data.buffer import TaskBuffer, add_steps, empty_task_buffer
from daag_jax.data.disk import read_episodes, write_episodes
from daag_jax.envs.tasks.rgb_stacking import parse_task
from daag_jax.training.checkpoint import Checkpoints
from daag_jax.training.devices import replicate
from daag_jax.training.keys import key_at
from daag_jax.training.processes import is_main
from daag_jax.types import Episode

FORMAT = 2  # of a run folder's rows; a run of another format is not continued
EPISODES = "episodes/{:06d}.safetensors"  # of a run, one file per iteration


class AgentState(NamedTuple):
    """What must survive an iteration, beside the episodes on disk."""

    policy: Trainable
    buffer: TaskBuffer


def run_daag(
    world: World,
    detector: Detector | None,
    config: DaagConfig,
    directory: str | Path | None = None,
    progress: Callable[[dict], None] = lambda row: None,
    programs: Programs | None = None,
) -> list[dict]:
    """Runs the loop; one row of numbers per iteration.

    Args:
        directory: where episodes and checkpoints go; a run found there continues.
        programs: compiled functions to share between arms and seeds (``Programs(world, config)``).

    Raises:
        ValueError: an arm that sees sub-goals has no detector, one that edits has no augmenter, or the directory holds
            a run of another configuration.
    """
    if config.arm != "reward" and (detector is None or world.scores is None):
        raise ValueError(f"arm {config.arm!r} needs a detector and its scorer; pass both.")
    if config.arm == "hindsight" and (world.augment is None or world.look is None):
        raise ValueError("arm 'hindsight' needs an augmenter; see augmenter.make_augmenter.")
    agent = _Agent(world, detector, config, programs or Programs(world, config), directory)
    return agent.run(progress)


def memory_of(world: World, detector: Detector | None, config: DaagConfig) -> Memory:
    """The memory of a run, empty; its edits are drawn from the run's key."""
    return Memory(world, detector, config.arm, config.hindsight, jax.random.key(config.seed))


class _Agent:
    """One run: its episodes, its place in the sequence of tasks, its rows."""

    def __init__(self, world, detector, config: DaagConfig, programs: Programs, directory):
        self.world, self.config, self.programs = world, config, programs
        self.root = jax.random.key(config.seed)
        self.memory = memory_of(world, detector, config)
        for task in config.tasks:  # an unknown one is refused before hours of work
            parse_task(task, world.env.config.colors)
        self.identity = {
            "format": FORMAT,
            "configuration": repr(config),
            "world": world.identity,
            "editor": world.editor_identity if config.arm == "hindsight" else "",
            "detector": None if detector is None else fingerprint(detector),
        }
        self.directory = None if directory is None else Path(directory)
        self.checkpoints = None
        if self.directory is not None:
            self.checkpoints = Checkpoints(self.directory / "checkpoints", keep=2)

    def run(self, progress) -> list[dict]:
        state, step, rows = self._resume()
        per_task = self.config.iterations
        while step < per_task * len(self.config.tasks):
            task, iteration = self.config.tasks[step // per_task], step % per_task
            if iteration == 0:
                state, extracted = self._start_task(step, task)
            else:
                extracted = Counter()
            state, row = self._iterate(state, step, task)
            before = sum(r["episodes"] for r in rows if r["task"] == task)
            row |= {
                "task": task,
                "iteration": iteration,
                "episodes_of_task": before + row["episodes"],
                "extracted": extracted["kept"] + extracted["edited"],
                "extracted_valid": extracted["kept valid"] + extracted["edited valid"],
                "succeeded_before": extracted["succeeded"],
            }
            rows.append(row)
            progress(row)
            step += 1
            if self.config.success_threshold and row["success"] >= self.config.success_threshold:
                step = (step - 1) // per_task * per_task + per_task
            if self.checkpoints is not None:
                self.checkpoints.save(step, state, {"rows": rows} | self.identity)
        if self.checkpoints is not None:
            self.checkpoints.wait()
        return rows

    def _resume(self) -> tuple[AgentState, int, list[dict]]:
        fresh = self._fresh(0)
        if self.checkpoints is None:
            return fresh, 0, []
        try:
            restored = self.checkpoints.restore(fresh)
        except FileNotFoundError:
            return fresh, 0, []
        differing = [k for k, v in self.identity.items() if restored.metadata.get(k) != v]
        if differing:
            raise ValueError(
                f"{self.directory} holds a run of another {' and '.join(differing)}; remove it, or name another "
                "directory."
            )
        rows = restored.metadata["rows"]
        for index in range(len(rows)):
            self.memory.add(*read_episodes(self._file(index)))
        return restored.state, restored.step, rows

    def _file(self, index: int) -> Path:
        return self.directory / EPISODES.format(index)

    def _fresh(self, step: int) -> AgentState:
        policy = self.programs.init(key_at(self.root, "policy", step))
        return AgentState(policy, empty_task_buffer(self.world.env.spec, self.config.capacity))

    def _start_task(self, step: int, task: str) -> tuple[AgentState, Counter]:
        """A new policy, taught by what earlier episodes show of the task."""
        state, counts = self._fresh(step), Counter()
        for index, block in enumerate(self.memory.lifelong.blocks):
            lesson = self.memory.lesson(index, task)
            counts += lesson.counts
            counts["succeeded"] += int(self._truly_reached(block, task)[:, -1].sum())
            if lesson.steps is not None:
                state = state._replace(buffer=add_steps(state.buffer, lesson.steps))
        policy, _ = self._train(state, task, "train-extracted", step)
        return state._replace(policy=policy), counts

    def _train(self, state: AgentState, task: str, name: str, step: int) -> tuple[Trainable, dict]:
        """Self-imitation of what the buffer holds, with keys of that name and step."""
        policy, metrics = state.policy, {}
        if not int(state.buffer.size):
            return policy, metrics
        if not self.config.warm_start:
            policy = self.programs.init(key_at(self.root, "policy", step))
        steps = replicate(state.buffer.steps, self.programs.mesh)
        size, instruction = state.buffer.size, self.programs.instruction(task)
        for n in range(self.config.train_steps):
            key = key_at(self.root, name, step * self.config.train_steps + n)
            policy, metrics = self.programs.train(policy, steps, size, key, instruction)
        return policy, metrics

    def _iterate(self, state: AgentState, step: int, task: str) -> tuple[AgentState, dict]:
        """Collects, learns, and tries the policy without exploration."""
        shape = (self.config.episodes, self.world.env.horizon)
        scales = np.full(shape, EXPLORE_ALL, np.float32)
        if int(state.buffer.size):  # before anything is learnt, all is random
            scales = return_then_explore(key_at(self.root, "switch", step), *shape)
        episodes = self._act(state.policy, "collect", step, task, scales)
        index = self.memory.add(episodes, task)
        if self.directory is not None and is_main():
            cameras = self.world.env.config.cameras
            write_episodes(self._file(index), episodes, task, cameras)
        lesson = self.memory.lesson(index, task)
        if lesson.steps is not None:
            state = state._replace(buffer=add_steps(state.buffer, lesson.steps))
        policy, metrics = self._train(state, task, "train", step)
        tested = self._act(policy, "test", step, task, np.zeros(shape, np.float32))
        row = self._row(episodes, lesson, tested, task) | {
            "buffer": int(state.buffer.size),
            "loss": float(metrics.get("loss/policy", np.nan)) if metrics else None,
        }
        return state._replace(policy=policy), row

    def _act(self, policy: Trainable, name: str, step: int, task: str, scales) -> Episode:
        """Episodes of a policy at a task, with keys of that name and step."""
        parsed = parse_task(task, self.world.env.config.colors)
        key, instruction = key_at(self.root, name, step), self.programs.instruction(task)
        return self.programs.collect(policy, key, parsed, instruction, scales)

    def _row(self, episodes: Episode, lesson: Lesson, tested: Episode, task: str) -> dict:
        """The numbers of an iteration: what was collected and kept, and what the policy does without exploration."""
        return {
            "episodes": int(episodes.length.shape[0]),
            "rewarded": int(episodes.extras["success"].sum()),
            "kept": lesson.counts["kept"],
            "edited": lesson.counts["edited"],
            "kept_valid": lesson.counts["kept valid"],
            "edited_valid": lesson.counts["edited valid"],
            "wrong_detector": lesson.counts["wrong detector"],
            "wrong_swap": lesson.counts["wrong swap"],
            "wrong_picture": lesson.counts["wrong picture"],
            "outcomes": dict(lesson.counts),
            "success": float(np.mean(np.asarray(tested.extras["success"]))),
            "reached": self._truly_reached(tested, task).mean(axis=0).tolist(),
        }

    def _truly_reached(self, episodes: Episode, task: str) -> Bool[np.ndarray, "B G"]:
        """Which sub-goals of the task each episode truly reached."""
        columns = [
            self.world.env.captions.index(goal) for goal in RuleOrchestrator().decompose(task)
        ]
        return np.asarray(episodes.extras["labels"])[:, 1:, columns].any(axis=1)

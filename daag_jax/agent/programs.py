"""The compiled parts of the lifelong loop: collect and train; and how far each decision explores."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from daag_jax.agent.daag_config import DaagConfig
from daag_jax.agent.memory import World
from daag_jax.algorithms.parts.trainable import Trainable
from daag_jax.algorithms.self_imitation import self_imitation
from daag_jax.data.buffer import Steps, empty_task_buffer, sample_steps
from daag_jax.envs.tasks.rgb_stacking import Task, parse_task
from daag_jax.evaluation.rollout import grouped_rollout, rollout
from daag_jax.training.devices import mesh_for_batch, replicate, split_batch
from daag_jax.training.processes import barrier, gathered
from daag_jax.types import Episode, Key

EXPLORE_ALL = 1e3  # scale of exploration at which every action is random


class Programs:
    """The compiled functions of a loop: collect and train, over as many devices as divide the groups and the batch.

    Each of several processes simulates its groups and learns its rows; episodes come back whole to all of them.
    """

    def __init__(self, world: World, config: DaagConfig):
        self._env, self._instruct, self._config = world.env, world.instruct, config
        env = world.env
        spec = env.spec._replace(task_dim=self.instruction(config.tasks[0]).size)
        self.group = group = min(config.group, config.episodes)
        self.mesh = mesh = mesh_for_batch(
            math.gcd(config.episodes // group, config.batch),
            name="the greatest common divisor of episodes / group and batch",
        )
        self.algorithm = self_imitation(config.policy, spec)
        act = self.algorithm.act
        given = lambda instruction: instruction if spec.task_dim else None

        def run(shared: tuple[Trainable, Task, Array], key: Key, scales: Array) -> Episode:
            policy, task, instruction = shared
            world = (task, env.default_colors, given(instruction))
            return rollout(env, act, policy, key, group, *world, explore=scales)

        def train(policy: Trainable, steps: Steps, size, key: Key, instruction: Array):
            sample_key, update_key = jax.random.split(key)
            wanted = (config.batch, given(instruction), config.edited_share)
            batch = sample_steps(steps, size, sample_key, *wanted)
            return self.algorithm.update(policy, split_batch(batch, mesh), update_key)

        everywhere = NamedSharding(mesh, PartitionSpec())
        self._init = jax.jit(self.algorithm.init, out_shardings=everywhere)
        self._train = jax.jit(train, donate_argnums=0, out_shardings=everywhere)
        self._collect = grouped_rollout(run, mesh)
        if jax.process_count() > 1:
            self.compile()
            barrier(
                "compiled"
            )  # one that is slower would let the collectives of the others time out

    def compile(self) -> None:
        """Compiles all of them before their first use, in a thread beside other work."""
        key = jax.random.key(0)
        policy, task = self.init(key), self._config.tasks[0]
        instruction = self.instruction(task)
        parsed = parse_task(task, self._env.config.colors)
        episodes = self._config.episodes
        scales = np.zeros((episodes, self._env.horizon), np.float32)
        self._collect.lower(*self._grouped(policy, key, parsed, instruction, scales)).compile()
        buffer = empty_task_buffer(self._env.spec, self._config.capacity)
        given = replicate((buffer.steps, buffer.size, key, instruction), self.mesh)
        self._train.lower(policy, *given).compile()

    def init(self, key: Key) -> Trainable:
        """A new policy."""
        return self._init(replicate(key, self.mesh))

    def train(self, policy: Trainable, steps: Steps, size, key: Key, instruction: Array) -> Any:
        """One update of a policy, which is consumed, on steps of the buffer; and its metrics."""
        return self._train(policy, *replicate((steps, size, key, instruction), self.mesh))

    def instruction(self, task: str) -> Float[np.ndarray, "D"]:
        """What the policy is told of a task; nothing (D = 0) in a world without ``instruct``."""
        return np.zeros(0, np.float32) if self._instruct is None else self._instruct(task)

    def collect(
        self, policy: Trainable, key: Key, task: Task, instruction: Array, scales: Array
    ) -> Episode:
        """Episodes of the policy, each decision exploring by its scale [B, D]; whole, on the host."""
        return gathered(self._collect(*self._grouped(policy, key, task, instruction, scales)))

    def _grouped(self, policy, key, task, instruction, scales) -> tuple:
        scales = scales.reshape(-1, self.group, scales.shape[-1])
        shared, keys = (policy, task, instruction), jax.random.split(key, len(scales))
        return replicate((shared, keys, scales), self.mesh)


def return_then_explore(key: Key, episodes: int, decisions: int) -> Float[np.ndarray, "B D"]:
    """Scales of exploration: each episode follows the policy up to a random decision, then acts at random.

    The policy brings the world to where it already succeeds, and what comes next is tried from there (Ecoffet et al.
    2021, "First return, then explore").
    """
    switch = np.asarray(jax.random.randint(key, (episodes, 1), 1, decisions + 1))
    return np.where(np.arange(decisions)[None] < switch, 1.0, EXPLORE_ALL).astype(np.float32)

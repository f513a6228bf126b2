"""The choices of the lifelong loop (``daag.py``).

Differs from the paper, which gives none of these numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from daag_jax.agent.hindsight import ARMS, HindsightConfig
from daag_jax.algorithms.parts.action_head import Exploration
from daag_jax.algorithms.self_imitation import SelfImitationConfig


@dataclass(frozen=True)
class DaagConfig:
    """The loop's choices; the paper gives none of these numbers."""

    arm: str = "hindsight"
    tasks: tuple[str, ...] = (
        "Stack the red object on top of the blue object",
        "Stack the green object on top of the red object",
    )
    iterations: int = 8  # of each task
    episodes: int = (
        64  # collected per iteration, and as many without exploration to measure success
    )
    group: int = 16  # worlds that share a key and step together
    train_steps: int = (
        300  # of self-imitation per iteration, and on what a new task finds in earlier episodes
    )
    batch: int = 32
    # keep training one policy within a task: better after few steps, but what the first data taught may stay for ever
    # (Ash and Adams 2020)
    warm_start: bool = False
    capacity: int = 8192  # steps in the task buffer
    edited_share: float = -1.0  # of the loss' weight; below 0 as they come
    success_threshold: float = 0.0  # a task ends early at this success; 0 never
    policy: SelfImitationConfig = field(
        default_factory=lambda: SelfImitationConfig(
            width=8,
            binary_dims=(2,),
            shift=1,
            ema_decay=0.98,
            exploration=Exploration(epsilon=0.02, noise=0.06),
        )
    )
    hindsight: HindsightConfig = HindsightConfig()
    seed: int = 0

    def __post_init__(self):
        if self.arm not in ARMS:
            raise ValueError(f"arm {self.arm!r} is unknown; use one of {ARMS}.")
        if self.group < 1 or self.episodes % min(self.group, self.episodes):
            raise ValueError(
                f"episodes={self.episodes} is not a multiple of group={self.group}; try group=1 or "
                f"episodes={max(1, self.episodes // max(self.group, 1)) * max(self.group, 1)}."
            )
        if not self.tasks:
            raise ValueError("tasks is empty; name at least one task.")
        if (self.policy.history, self.policy.execute) != (1, 1):
            raise ValueError(
                f"policy.history={self.policy.history}, policy.execute={self.policy.execute}: the loop's pieces are "
                "single decisions; set both to 1."
            )
        if self.policy.exploration.epsilon <= 0:
            raise ValueError(
                "policy.exploration.epsilon is 0: nothing would ever act at random; try 0.02."
            )

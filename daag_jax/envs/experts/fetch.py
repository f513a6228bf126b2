"""Scripted experts of FetchPick and FetchPush: proportional control of the gripper through a few stages.

The stages follow the expert of goal_prox_il's pick-and-place, and a push in the same manner; gains and thresholds are
those that succeed in every episode of the boxes at noise 1.  An expert reads nothing but the observation, and remembers
its stage.  A demonstration ends with the first success.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from daag_jax.envs.env import State
from daag_jax.envs.experts.expert import Expert, until_done
from daag_jax.envs.tasks.fetch import Fetch, Seen, seen

GAIN = 6.0  # action per metre of error
ABOVE = 0.03  # over the object before the gripper is lowered on it [m]
OPEN, CLOSE = 0.05, -0.005  # action of the fingers
LIFTED = 0.08  # height in which a pushing gripper goes round the object [m]
BEHIND = 0.1  # from the object's centre, away from the goal [m]
CLOSE_ENOUGH = {"pick": (0.005, 0.005, 0.01), "push": (0.02, 0.02, 0.02)}  # ends a stage [m]


def scripted(env: Fetch) -> Expert:
    """The demonstrator of a Fetch world; its actions are clipped to [-1, 1]."""
    plan, start = {"pick": (picking, pick_start), "push": (pushing, push_start)}[env.config.task]
    return Expert(
        start=lambda state, key: start(seen(state.obs)),
        act=lambda memory, state, key: act(plan, CLOSE_ENOUGH[env.config.task], memory, state),
        is_accepted=lambda state: state.metrics["success"] > 0,
        **until_done(env.horizon),
    )


class Memory(NamedTuple):
    """Where a demonstration stands."""

    stage: Int[Array, ""]
    targets: Float[Array, "W 3"]  # places of the gripper, decided at the start [m]; none for pick


Plan = Callable[[Memory, Seen], tuple[Array, Array]]  # -> errors [4, 3], fingers' actions [4, F]


def act(plan: Plan, close_enough: tuple, memory: Memory, state: State) -> tuple[Array, Memory]:
    """Leaves every stage that is done, then corrects the error of the one that is not; the last one stays."""
    errors, fingers = plan(memory, seen(state.obs))
    is_done = jnp.linalg.norm(errors[:-1], axis=-1) < jnp.asarray(close_enough)
    stage = memory.stage
    for n in range(len(close_enough)):
        stage = stage + ((stage == n) & is_done[n])
    action = jnp.concatenate([GAIN * errors[stage], fingers[stage]])
    return jnp.clip(action, -1.0, 1.0), memory._replace(stage=stage)


def pick_start(at: Seen) -> Memory:
    """The first stage; every target is seen."""
    return Memory(jnp.zeros((), jnp.int32), jnp.zeros((0, 3)))


def picking(memory: Memory, at: Seen) -> tuple[Array, Array]:
    """Over the object with open fingers, down on it, close them and carry it to the goal, hold."""
    above = at.relative + jnp.array([0.0, 0.0, ABOVE])
    errors = jnp.stack([above, at.relative, at.goal - at.object, jnp.zeros(3)])
    return errors, jnp.array([[OPEN], [CLOSE], [CLOSE], [0.0]])


def push_start(at: Seen) -> Memory:
    """Up, behind the object as seen from the goal, and down again."""
    away = at.object[:2] - at.goal[:2]
    behind = at.object[:2] + BEHIND * away / jnp.linalg.norm(away)
    low, high = at.grip[2], at.grip[2] + LIFTED
    targets = jnp.stack(
        [at.grip.at[2].set(high), jnp.append(behind, high), jnp.append(behind, low)]
    )
    return Memory(jnp.zeros((), jnp.int32), targets)


def pushing(memory: Memory, at: Seen) -> tuple[Array, Array]:
    """Along the targets, then towards the goal."""
    targets = jnp.concatenate([memory.targets, at.goal[None]])
    return targets - at.grip[None], jnp.zeros((4, 0))

"""Probe worlds: so small that what fails in one of them says which part of an algorithm is broken.

    constant   the right action is 0.5, whatever is observed       can it learn at all?
    observe    the right action is the observation                 does it read its observations?
    see        the right action is where the white bar stands      does it read its pixels?
    delay      as "observe", but the reward comes a step later     does credit reach the first action?

Each keeps the contract of ``envs.env`` (reset, step, pixels, captions) with an action of one dimension in [-1, 1]; an
episode lasts one step, or two in "delay".  Reward is 1 where the action is within TOLERANCE of the right one.
``expert`` gives the right action.  The idea is that of A. Jones, "Debugging Reinforcement Learning Systems" (2021), and
of bsuite (arXiv 1908.03568).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from daag_jax.envs.env import State
from daag_jax.envs.physics import PhysicsState
from daag_jax.envs.renderer import Frame
from daag_jax.types import Key, Spec

PROBES = ("constant", "observe", "see", "delay")
SIDE = 16  # [px]
TOLERANCE = 0.25  # of an action


class Probe:
    """One probe world.  ``qpos`` is [goal, first action]; methods are pure, for one world, and meant for ``jax.vmap``.

    Raises:
        ValueError: the name is not one of PROBES.
    """

    captions = ("The action was right",)

    def __init__(self, name: str):
        if name not in PROBES:
            raise ValueError(f"probe {name!r} is unknown; use one of {PROBES}.")
        self.name = name
        self.horizon = 2 if name == "delay" else 1
        self.spec = Spec(observation_dim=1, action_dim=1, image_shape=(1, SIDE, SIDE, 3))

    def reset(self, key: Key, task: None = None, colors: Int[Array, "3"] | None = None) -> State:
        """A goal in [-0.9, 0.9]; tasks and colours change nothing."""
        del task, colors
        drawn = jax.random.uniform(key, (), minval=-0.9, maxval=0.9)
        goal = jnp.full((), 0.5) if self.name == "constant" else drawn
        physics = PhysicsState(jnp.stack([goal, jnp.zeros(())]), *jnp.zeros((3, 1)))
        zero = jnp.zeros(())
        info = {"steps": jnp.zeros((), jnp.int32), "colors": jnp.arange(3, dtype=jnp.int32)}
        obs = self._observed(physics.qpos, info["steps"])
        return State(physics, obs, zero, zero, {"success": zero}, info)

    def step(self, state: State, action: Float[Array, "1"]) -> State:
        """The first action counts; the reward comes with the last step."""
        steps = state.info["steps"] + 1
        goal, first = state.pipeline_state.qpos
        first = jnp.where(steps == 1, jnp.clip(action[0], -1.0, 1.0), first)
        qpos = jnp.stack([goal, first])
        done = (steps >= self.horizon).astype(jnp.float32)
        reward = done * (jnp.abs(first - goal) < TOLERANCE)
        return state.replace(
            pipeline_state=state.pipeline_state._replace(qpos=qpos),
            obs=self._observed(qpos, steps),
            reward=reward,
            done=done,
            metrics={**state.metrics, "success": reward},
            info={**state.info, "steps": steps},
        )

    def render(self, state: State) -> Frame:
        """One view: in "see" a white bar whose column is the goal, else black."""
        return self.render_qpos(state.pipeline_state.qpos, state.info["colors"])

    def render_qpos(self, qpos: Float[Array, "2"], colors: Int[Array, "3"]) -> Frame:
        """The picture of a stored state; colours change nothing."""
        del colors
        place = (qpos[0] + 1.0) / 2.0 * (SIDE - 1)
        bar = jnp.abs(jnp.arange(SIDE) - place) < 1.0
        bar = bar & (self.name == "see")
        rgb = jnp.broadcast_to(jnp.where(bar, 255, 0)[None, None, :, None], (1, SIDE, SIDE, 3))
        blank = jnp.zeros((1, SIDE, SIDE))
        normals = jnp.zeros((1, SIDE, SIDE, 3))
        return Frame(rgb.astype(jnp.uint8), blank, normals, blank.astype(jnp.int32))

    def labels(self, state: State) -> Bool[Array, "1"]:
        """Whether the action that counts was taken and right."""
        goal, first = state.pipeline_state.qpos
        was_taken = state.info["steps"] > 0
        return (was_taken & (jnp.abs(first - goal) < TOLERANCE))[None]

    def expert(self, state: State) -> Float[Array, "1"]:
        """The right action."""
        return state.pipeline_state.qpos[:1]

    def _observed(self, qpos: Float[Array, "2"], steps: Int[Array, ""]) -> Float[Array, "1"]:
        """The goal where it may be read off, and only before the action that counts."""
        is_told = (steps == 0) & (self.name in ("observe", "delay"))
        return jnp.where(is_told, qpos[:1], 0.0)

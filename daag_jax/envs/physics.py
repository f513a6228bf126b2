"""MJX physics: a compiled model, a small state, and many steps in one scan.

The state that an environment keeps is four vectors, not a whole ``mjx.Data``: the rest is recomputed by every step, and
states are stored, compared and reset by the thousand.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
from jaxtyping import Array, Float
from mujoco import mjx


class PhysicsState(NamedTuple):
    """What a step of MuJoCo reads: positions, velocities, targets of actuators, and the solver's warm start."""

    qpos: Float[Array, "*B Q"]
    qvel: Float[Array, "*B V"]
    ctrl: Float[Array, "*B U"]
    warmstart: Float[Array, "*B V"]


def at_rest(qpos: Float[Array, "Q"], ctrl: Float[Array, "U"], num_dofs: int) -> PhysicsState:
    """A state that does not move."""
    still = jnp.zeros((num_dofs,))
    return PhysicsState(qpos, still, ctrl, still)


class Physics:
    """MJX of one model.  Methods are pure and meant for ``jax.vmap``."""

    def __init__(self, model: mujoco.MjModel):
        self.model = model
        own = jax.local_devices()[0]  # MJX takes the first of all, which may be another process's
        self.mjx_model = mjx.put_model(model, device=own)
        self.blank = mjx.make_data(self.mjx_model, device=own)

    @property
    def timestep(self) -> float:
        """Length of a step [s]."""
        return float(self.model.opt.timestep)

    def start(self, qpos: Float[Array, "Q"], ctrl: Float[Array, "U"]) -> PhysicsState:
        """A state at rest."""
        return at_rest(qpos, ctrl, self.model.nv)

    def step(self, state: PhysicsState, ctrl: Float[Array, "U"]) -> PhysicsState:
        """One step under the given targets."""
        return self._sensed_step(state, ctrl)[0]

    def follow(self, state: PhysicsState, ctrls: Float[Array, "N U"]) -> PhysicsState:
        """N steps, each with its own targets."""
        return jax.lax.scan(lambda s, ctrl: (self.step(s, ctrl), None), state, ctrls)[0]

    def hold(
        self, state: PhysicsState, ctrl: Float[Array, "U"], num_steps: int
    ) -> tuple[PhysicsState, Float[Array, "S"]]:
        """``num_steps`` steps under the same controls, and the sensors' values at the last one (before it moved)."""
        blank = jnp.zeros((self.model.nsensordata,), state.qpos.dtype)
        step = lambda carry, _: (self._sensed_step(carry[0], ctrl), None)
        return jax.lax.scan(step, (state._replace(ctrl=ctrl), blank), None, length=num_steps)[0]

    def _sensed_step(
        self, state: PhysicsState, ctrl: Float[Array, "U"]
    ) -> tuple[PhysicsState, Float[Array, "S"]]:
        """One step, and what the sensors say before it moves."""
        data = self.blank.replace(
            qpos=state.qpos, qvel=state.qvel, ctrl=ctrl, qacc_warmstart=state.warmstart
        )
        with jax.numpy_rank_promotion("allow"):  # MJX relies on it; our own code does not
            data = mjx.step(self.mjx_model, data)
        return PhysicsState(data.qpos, data.qvel, ctrl, data.qacc_warmstart), data.sensordata

"""C MuJoCo with the verbs of :mod:`daag_jax.envs.physics`: for models that MJX cannot run, or not fast enough.

A step of B worlds is one call to the host, which spreads them over threads (``mujoco.rollout``); it stands inside
``jit``, ``vmap`` and ``scan``, but not inside ``grad``.  On a CPU it is ten times faster than MJX and more; on an
accelerator every call costs a transfer.

Each call begins without a warm start of the solver, so that a state is nothing but positions, velocities and controls;
against steps with one the difference is the solver's tolerance.
"""

from __future__ import annotations

import os
import threading

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float
from mujoco import rollout

from daag_jax.envs.physics import PhysicsState, at_rest

SPEC = mujoco.mjtState.mjSTATE_CTRL
MOCAP = mujoco.mjtState.mjSTATE_MOCAP_POS | mujoco.mjtState.mjSTATE_MOCAP_QUAT


class HostPhysics:
    """C MuJoCo of one model.  Methods are pure and meant for ``jax.vmap``.

    Args:
        num_threads: of the host; None takes one per core.

    Raises:
        ValueError: the model's state is more than positions and velocities (activations, plugins).
    """

    def __init__(self, model: mujoco.MjModel, num_threads: int | None = None):
        size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        if size != 1 + model.nq + model.nv:
            raise ValueError(
                f"the model's state has {size} numbers and {1 + model.nq + model.nv} are time, qpos and qvel; "
                "activations and plugins are not supported: remove them from the MJCF."
            )
        self.model = model
        self._threads = num_threads or os.cpu_count() or 1
        self._data = [mujoco.MjData(model) for _ in range(self._threads)]
        self._lock = threading.Lock()  # several devices may call at once

    @property
    def timestep(self) -> float:
        """Length of a step [s]."""
        return float(self.model.opt.timestep)

    def start(self, qpos: Float[Array, "Q"], ctrl: Float[Array, "U"]) -> PhysicsState:
        """A state at rest."""
        return at_rest(qpos, ctrl, self.model.nv)

    def step(self, state: PhysicsState, ctrl: Float[Array, "U"]) -> PhysicsState:
        """One step under the given controls."""
        return self.hold(state, ctrl, 1)[0]

    def hold(
        self,
        state: PhysicsState,
        ctrl: Float[Array, "U"],
        num_steps: int,
        mocap: Float[Array, "7"] | None = None,
    ) -> tuple[PhysicsState, Float[Array, "S"]]:
        """``num_steps`` steps under the same controls, and the sensors' values at the last one (before it moved).

        Args:
            mocap: position and quaternion of the first mocap body; None leaves mocap bodies where the model has them.
        """
        model = self.model
        out = jax.ShapeDtypeStruct(
            (model.nq + model.nv + model.nsensordata,), jnp.result_type(state.qpos)
        )
        control = ctrl if mocap is None else jnp.concatenate([ctrl, mocap])
        spec = SPEC if mocap is None else SPEC | MOCAP
        moved = jax.pure_callback(
            lambda *args: self._run(num_steps, spec, *args),
            out,
            state.qpos,
            state.qvel,
            control,
            vmap_method="broadcast_all",
        )
        qpos, qvel, sensors = jnp.split(moved, [model.nq, model.nq + model.nv])
        return PhysicsState(qpos, qvel, ctrl, jnp.zeros_like(qvel)), sensors

    def _run(self, num_steps: int, spec: int, *args: Array) -> np.ndarray:
        """On the host: positions, velocities and controls with any leading axes."""
        lead, dtype = args[0].shape[:-1], args[0].dtype
        flat = [np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in args]
        initial = np.concatenate([np.zeros((len(flat[0]), 1)), flat[0], flat[1]], axis=1)
        with self._lock:
            state, sensors = rollout.rollout(
                self.model,
                self._data[: max(1, min(self._threads, len(initial)))],
                initial,
                flat[2][:, None],
                control_spec=int(spec),
                nstep=num_steps,
                initial_warmstart=np.zeros((len(initial), self.model.nv)),
                persistent_pool=True,
            )
        moved = np.concatenate([state[:, -1, 1:], sensors[:, -1]], axis=1)
        return moved.reshape(*lead, -1).astype(dtype)

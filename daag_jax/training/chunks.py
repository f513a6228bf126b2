"""Chunks of training steps as one compiled function; why a chunk is a Python loop on CPU is said in ``fit``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from daag_jax.training import devices
from daag_jax.training.keys import key_at
from daag_jax.types import Algorithm, Batch, Key, State


class Totals(NamedTuple):
    """Sums over the log period, and the first step at which each metric was bad (-1: never)."""

    count: jax.Array
    sums: Mapping[str, jax.Array]
    bad: Mapping[str, jax.Array]


def compile_chunk(
    algorithm: Algorithm, draw: Callable, mesh: Mesh, limit: float, is_compiled: bool | None
) -> Callable:
    """``(data, root, state, totals, start, stop) -> (state, totals)``, compiled once for any start and stop.

    Args:
        limit: metrics above it are noted as bad.
        is_compiled: many steps per dispatch; None on accelerators only.
    """

    def step(data: Any, root: Key, state: State, totals: Totals, n: jax.Array) -> Any:
        batch = devices.split_batch(draw(data, key_at(root, "data", n), n), mesh)
        state, metrics = algorithm.update(state, batch, key_at(root, "update", n))
        sums, bad = {}, {}
        for name, value in metrics.items():
            value = value.astype(jnp.float32)
            is_bad = ~jnp.isfinite(value) | (jnp.abs(value) > limit)
            sums[name] = totals.sums[name] + value
            bad[name] = jnp.where((totals.bad[name] < 0) & is_bad, n, totals.bad[name])
        return state, Totals(totals.count + 1, sums, bad)

    def loop(data, root, state, totals, start, stop):
        return jax.lax.fori_loop(start, stop, lambda n, c: step(data, root, *c, n), (state, totals))

    one_step = jax.jit(step, donate_argnums=(2, 3))

    def dispatched(data, root, state, totals, start, stop):
        for n in range(int(start), int(stop)):
            state, totals = one_step(data, root, state, totals, np.int32(n))
            if (
                mesh.size > 1
            ):  # steps in flight at once starve each other's collectives on virtual devices
                jax.block_until_ready(totals)
        return state, totals

    if is_compiled is None:
        is_compiled = next(iter(mesh.devices.flat)).platform != "cpu"
    return jax.jit(loop, donate_argnums=(2, 3)) if is_compiled else dispatched


def zero_totals(metrics: Mapping[str, Any]) -> Totals:
    """Nothing summed yet."""
    sums = {name: jnp.zeros((), jnp.float32) for name in metrics}
    return Totals(jnp.int32(0), sums, {name: jnp.full((), -1, jnp.int32) for name in metrics})


def check_update(algorithm: Algorithm, state: State, batch: Batch, root: Key) -> Any:
    """The shapes of the metrics; an update that changes the state's structure is refused by name."""
    after, metrics = jax.eval_shape(algorithm.update, state, batch, root)
    if jax.tree.structure(after) != jax.tree.structure(state):
        raise ValueError(
            "update returns a state of another structure than init; return state._replace(...)."
        )
    leaves = jax.tree_util.tree_leaves_with_path(state)
    for (path, old), new in zip(leaves, jax.tree.leaves(after), strict=True):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise ValueError(
                f"update changes {devices.path_name(path)} from {old.dtype}{list(old.shape)} to "
                f"{new.dtype}{list(new.shape)}; a state keeps its shapes and types."
            )
    for name, value in metrics.items():
        if value.shape != ():
            raise ValueError(
                f"metric {name} has shape {value.shape}; metrics are scalars: .mean()?"
            )
    return dict(metrics)

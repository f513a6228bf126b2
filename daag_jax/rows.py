"""Functions of rows, each of which stands alone: divided among devices, and on a CPU a few rows at a time.

A network's activations for thousands of rows outgrow a CPU's caches: 3,200 plans of Diffuser took 1.2 times as long at
once, and 1.8 times where the gradient of its value guides them (``benchmarks.chunks``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PyTree

CHUNK = 256  # rows that a CPU computes at once


def divided(rows: Float[Array, "N *D"], axis: int = 0) -> Float[Array, "N *D"]:
    """The same, its axis over the devices of the mesh in use (``jax.set_mesh``), where these divide it."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or rows.shape[axis] % mesh.size:
        return rows
    return jax.lax.with_sharding_constraint(rows, PartitionSpec(*(None,) * axis, mesh.axis_names))


def in_chunks(function: Callable[..., PyTree], size: int = 0) -> Callable[..., PyTree]:
    """``function(*rows)``, on a CPU at most ``size`` rows of a device at a time; elsewhere all at once.

    Args:
        function: of arrays [N, ...] to arrays [N, ...]; a row of its results depends on that row alone.
        size: 0 takes ``CHUNK``.

    Returns:
        The same function.  Where no size from a quarter of ``size`` up to it divides the rows, they are not split.
    """

    def on_rows(*rows: PyTree) -> PyTree:
        num = jax.tree.leaves(rows)[0].shape[0]
        mesh = jax.sharding.get_abstract_mesh()
        devices = 1 if mesh.empty or num % mesh.size else mesh.size
        chunk = chunk_of(num // devices, size or CHUNK)
        if chunk * devices == num:
            return function(*rows)
        by_chunks = partial(map_chunks, function, devices=devices, chunk=chunk)
        return jax.lax.platform_dependent(*rows, cpu=by_chunks, default=function)

    return on_rows


def map_chunks(function: Callable, *rows: PyTree, devices: int, chunk: int) -> PyTree:
    """``function`` of every device's first chunk, then of every device's second, .."""

    def split(leaf: Array) -> Array:
        rest = leaf.shape[1:]
        leaf = leaf.reshape(devices, -1, chunk, *rest).swapaxes(0, 1)
        return divided(leaf.reshape(-1, devices * chunk, *rest), 1)

    def join(leaf: Array) -> Array:
        rest = leaf.shape[2:]
        leaf = leaf.reshape(-1, devices, chunk, *rest).swapaxes(0, 1)
        return divided(leaf.reshape(-1, *rest))

    found = jax.lax.map(lambda rows: function(*rows), jax.tree.map(split, rows))
    return jax.tree.map(join, found)


def chunk_of(num: int, size: int) -> int:
    """The largest divisor of ``num`` up to ``size``, if it is at least a quarter of it; else ``num``."""
    if num <= size:
        return num
    chunk = next(n for n in range(size, 0, -1) if num % n == 0)
    return chunk if chunk >= math.ceil(size / 4) else num

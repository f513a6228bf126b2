"""Functions of rows, each of which stands alone: divided among devices, and on a CPU a few rows at a time.

A network's activations for thousands of rows outgrow a CPU's caches: 3,200 plans of Diffuser took 1.2 times as long at
once, and 1.8 times where the gradient of its value guides them (``benchmarks.chunks``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PyTree

CHUNK = 256  # rows that a CPU computes at once


def divided(rows: Float[Array, "N *D"]) -> Float[Array, "N *D"]:
    """The same, over the devices of the mesh in use (``jax.set_mesh``), where these divide N."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or rows.shape[0] % mesh.size:
        return rows
    return jax.lax.with_sharding_constraint(rows, PartitionSpec(mesh.axis_names))


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
        parts = num // devices // chunk_of(num // devices, size or CHUNK)
        if parts == 1:
            return function(*rows)
        return jax.lax.platform_dependent(
            *rows, cpu=partial(in_parts, function, parts), default=function
        )

    return on_rows


def in_parts(function: Callable[..., PyTree], parts: int, *rows: PyTree) -> PyTree:
    """``function(*rows)``, every ``parts``-th row at once: rows divided among devices stay so in every part."""

    def split(leaf: Array) -> Array:
        return jnp.swapaxes(leaf.reshape(-1, parts, *leaf.shape[1:]), 0, 1)

    def join(leaf: Array) -> Array:
        return jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:])

    found = jax.lax.map(lambda part: function(*part), jax.tree.map(split, rows))
    return jax.tree.map(join, found)


def chunk_of(num: int, size: int) -> int:
    """The largest divisor of ``num`` up to ``size``, if it is at least a quarter of it; else ``num``."""
    if num <= size:
        return num
    chunk = next(n for n in range(size, 0, -1) if num % n == 0)
    return chunk if chunk >= math.ceil(size / 4) else num

"""Fingerprints of arrays, computed where they live: what is read back different is noticed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _words(leaf: Any, xp: Any) -> Any:
    """The bits of a leaf as unsigned integers of at most 32 bits."""
    if xp is np:
        array = np.ascontiguousarray(leaf)
        array = array.reshape(1) if array.ndim == 0 else array
        return array.view({1: np.uint8, 2: np.uint16}.get(array.itemsize, np.uint32)).astype(
            np.uint32
        )
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)


def _fingerprint(leaf: Any) -> Any:
    """sum_i (2 i + 1) word_i modulo 2^32: any single changed word changes it, however the leaf is sharded."""
    xp = jnp if isinstance(leaf, jax.Array) else np
    words = _words(leaf, xp)
    if xp is np:
        index = np.arange(words.size, dtype=np.uint32)
        return int((words.reshape(-1) * (2 * index + 1)).sum(dtype=np.uint64) & 0xFFFFFFFF)
    index, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        index += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * np.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return jnp.sum(words * (2 * index + 1), dtype=jnp.uint32)


@jax.jit
def _device_fingerprints(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([_fingerprint(leaf) for leaf in leaves])


def fingerprints(leaves: dict[str, Any]) -> dict[str, int]:
    """One 32-bit number per named array."""
    groups: dict[frozenset[jax.Device], list[str]] = {}
    result: dict[str, int] = {}
    for name, leaf in leaves.items():
        if isinstance(leaf, jax.Array):
            groups.setdefault(frozenset(leaf.sharding.device_set), []).append(name)
        else:
            result[name] = _fingerprint(leaf)
    for names in groups.values():  # the numbers of a group in one transfer
        numbers = jax.device_get(_device_fingerprints([leaves[name] for name in names]))
        result.update(zip(names, numbers.tolist(), strict=True))
    return result

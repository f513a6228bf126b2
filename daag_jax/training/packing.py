"""Small arrays as a few long vectors: Orbax takes about a millisecond for each array, however small.

Arrays below ``SMALL`` elements that lie whole on every device are joined by type; larger ones and slices stay apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from daag_jax.training.leaves import dtype_name, put_like

SMALL = 2**20  # elements
Groups = Mapping[str, Sequence[str]]  # of a vector, the names of what it holds, in order


def groups_of(leaves: Mapping[str, Any]) -> dict[str, list[str]]:
    """The vectors for these arrays: one for each type and set of devices that has at least two."""
    found: dict[tuple, list[str]] = {}
    for name, leaf in leaves.items():
        if not isinstance(leaf, jax.Array) or not leaf.is_fully_replicated:
            continue
        if 0 < leaf.size < SMALL:
            devices = tuple(sorted(device.id for device in leaf.sharding.device_set))
            found.setdefault((dtype_name(leaf.dtype), devices), []).append(name)
    several = [(dtype, names) for (dtype, _), names in found.items() if len(names) > 1]
    return {f"packed/{dtype}/{i}": names for i, (dtype, names) in enumerate(several)}


@jax.jit
def joined(leaves: Sequence[jax.Array]) -> jax.Array:
    """One vector of all elements, in a buffer of its own."""
    return jnp.concatenate([leaf.reshape(-1) for leaf in leaves])


def pack(leaves: Mapping[str, Any], groups: Groups) -> dict[str, jax.Array]:
    """The vectors."""
    return {name: joined([leaves[k] for k in members]) for name, members in groups.items()}


def vectors_of(stored: Mapping[str, np.ndarray], groups: Groups) -> dict[str, np.ndarray]:
    """Vectors of the right size and type, to be read into."""
    size = lambda members: sum(stored[k].size for k in members)
    return {name: np.empty(size(m), stored[m[0]].dtype) for name, m in groups.items()}


def unpack(
    vectors: Mapping[str, np.ndarray], groups: Groups, targets: Mapping[str, Any]
) -> dict[str, Any]:
    """The arrays, of the shapes and in the places of ``targets``: numpy where those are."""
    found = {}
    for vector, members in groups.items():
        ends = np.cumsum([targets[name].size for name in members])
        for name, piece in zip(members, np.split(vectors[vector], ends[:-1]), strict=True):
            found[name] = put_like(piece.reshape(targets[name].shape), targets[name])
    return found

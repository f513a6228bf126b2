"""Leaves of a state as a safetensors file: what of a trained state ships or travels, by the names of its leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from daag_jax.networks import tensor_file
from daag_jax.training.devices import path_name


def save_leaves(tree: Any, path: Path) -> None:
    """Writes every leaf under the name of its path (``net/params/conv/kernel``)."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    tensor_file.write({path_name(place): np.asarray(leaf) for place, leaf in leaves}, path)


def load_leaves(like: Any, path: Path) -> Any:
    """Reads a file of :func:`save_leaves` in the structure of ``like`` (arrays or shapes).

    Raises:
        ValueError: a leaf is missing or of another shape, or the file is damaged.
    """
    with tensor_file.opened(path) as file:
        names = set(file.keys())

        def read(place: tuple[Any, ...], leaf: Any) -> jax.Array:
            name = path_name(place)
            found = file.get_tensor(name) if name in names else None
            if found is None or found.shape != leaf.shape:
                has = "nothing" if found is None else f"shape {found.shape}"
                raise ValueError(
                    f"{path}: {name} has {has}, expected {leaf.shape}; it is of another configuration."
                )
            return jnp.asarray(found, leaf.dtype)

        return jax.tree_util.tree_map_with_path(read, like)

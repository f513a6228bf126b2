"""The leaves of a state by name, as checkpoints hold them, and the way back into the state's own structure."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from daag_jax.training.devices import path_name, put_whole


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, and why."""


class WrongStructure(CheckpointError):
    """The checkpoint is sound but belongs to another architecture."""


@functools.cache
def dtype_name(dtype: np.dtype) -> str:
    """``"float32"``; numpy takes some 10 us to say it, and a checkpoint asks for every leaf."""
    return str(dtype)


def is_key(leaf: Any) -> bool:
    """Whether it is a typed random key."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def named_leaves(state: Any) -> dict[str, Any]:
    """The leaves by the names of their paths.

    Raises:
        ValueError: two have the same name, or one is no array and no number.
    """
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = path_name(path) or "state"
        if name in named:
            raise ValueError(f"two leaves of the state are both called {name!r}; rename one.")
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, int, float, bool)):
            raise ValueError(
                f"{name} is a {type(leaf).__name__}; a state holds arrays and numbers "
                "(put text into the checkpoint's metadata)."
            )
        named[name] = leaf
    return named


def raw_numbers(leaf: Any) -> jax.Array | np.ndarray:
    """Numbers: a key's own, and an array of what is none."""
    if is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def own_copy(leaf: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """A copy that can be written while training goes on; of an accelerator's array the writer makes it."""
    if isinstance(leaf, jax.Array):
        on_cpu = next(iter(leaf.devices())).platform == "cpu"
        return jnp.copy(leaf) if on_cpu else leaf
    return np.array(leaf, copy=True)


def put_like(array: np.ndarray, target: Any) -> np.ndarray | jax.Array:
    """An array where the target is, in a buffer of its own, which can be donated: numpy where that is."""
    if isinstance(target, np.ndarray):
        return array.copy()
    if jax.process_count() > 1:
        return put_whole(array, target.sharding)
    return jax.device_put(array, target.sharding, may_alias=False)


def abstract_leaves(like: Any) -> dict[str, Any]:
    """What to read: numpy arrays stay numpy, jax arrays go to the devices of ``like``."""

    def abstract(leaf: Any) -> Any:
        if isinstance(leaf, (np.ndarray, np.generic, int, float, bool)):
            return np.asarray(leaf)
        raw = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
        sharding = getattr(leaf, "sharding", None)
        if sharding is None:
            sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=sharding)

    leaves = jax.tree_util.tree_leaves_with_path(like)
    return {path_name(path) or "state": abstract(leaf) for path, leaf in leaves}


def check_structure(stored: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    """Raises WrongStructure, naming the leaf, where what is stored is not what is wanted."""
    cure = "it was saved by another architecture; use the configuration that made it"
    for name, leaf in wanted.items():
        if name not in stored:
            raise WrongStructure(f"{path} has no {name}; {cure}.")
        found = stored[name]
        if found.shape != leaf.shape or found.dtype != leaf.dtype:
            raise WrongStructure(
                f"{path}: {name} is {found.dtype}{list(found.shape)}, "
                f"expected {leaf.dtype}{list(leaf.shape)}; {cure}."
            )
    if unknown := sorted(set(stored) - set(wanted)):
        raise WrongStructure(f"{path} holds {unknown[0]} (of {len(unknown)} unknown); {cure}.")


def as_like(arrays: dict[str, Any], like: Any) -> Any:
    """Arrays by name in the structure and types of ``like``."""

    def rebuild(path: tuple[Any, ...], leaf: Any) -> Any:
        array = arrays[path_name(path) or "state"]
        if is_key(leaf):
            return jax.random.wrap_key_data(array, impl=leaf.dtype._impl.name)
        if isinstance(leaf, (bool, int, float)) and not isinstance(leaf, np.generic):
            return type(leaf)(array)
        if isinstance(leaf, np.generic):
            return array[()]
        return array if isinstance(leaf, np.ndarray) else jnp.asarray(array)

    return jax.tree_util.tree_map_with_path(rebuild, like)

"""Devices: a mesh of two axes, where each parameter lives on it, and states that are born there.

The mesh has the axes ``data`` (copies of the model) and ``fsdp`` (slices of the model); a batch is split over
both.  A leaf of the state is placed by the first rule whose regular expression matches its path, and otherwise
along its largest axis that the ``fsdp`` axis divides.  Nothing is ever materialised whole on one device:
``eval_shape -> shardings -> jit(init, out_shardings)`` (the pattern of openpi).
"""

from __future__ import annotations

import collections
import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ("data", "fsdp")
Rules = Sequence[
    tuple[str, PartitionSpec]
]  # regular expression over the leaf's path -> where it lives


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes ``data`` and ``fsdp``; ``data=-1`` takes all the devices that remain.

    Raises:
        ValueError: the product of the axes is not the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    if fsdp < 1 or (data != -1 and data < 1):
        raise ValueError(f"mesh axes must be positive, got data={data}, fsdp={fsdp}; try fsdp=1.")
    if data == -1:
        data = len(devices) // fsdp
    if data * fsdp != len(devices):
        raise ValueError(
            f"data={data} x fsdp={fsdp} is not the number of devices, {len(devices)}; "
            f"try data=-1 and an fsdp that divides {len(devices)}."
        )
    grid = np.asarray(devices).reshape(data, fsdp)
    return Mesh(grid, BATCH_AXES, axis_types=(AxisType.Auto,) * 2)


def every_core_a_device() -> None:
    """Makes each core that this process may use a device of its own, for physics runs on one core per device.

    Only before anything was computed; accelerators are not touched.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(RuntimeError):  # too late: the devices are there
        jax.config.update("jax_num_cpu_devices", cores)


def mesh_for_batch(
    batch_size: int,
    fsdp: int = 1,
    devices: Sequence[jax.Device] | None = None,
    name: str = "batch size",
) -> Mesh:
    """The largest mesh whose number of devices divides the batch; all devices where they are of several processes.

    Args:
        name: what the batch size is to the user, for the error.

    Raises:
        ValueError: there is none.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if fsdp > count:
        raise ValueError(f"fsdp={fsdp} is more than the {count} devices; try fsdp={count}.")
    is_shared = len({device.process_index for device in devices}) > 1
    while batch_size % count or count % fsdp:
        if is_shared:
            raise ValueError(
                f"{name} {batch_size} is not a multiple of the {count} devices of {jax.process_count()} processes "
                f"(fsdp={fsdp}); try {count * max(1, round(batch_size / count))}, and an fsdp that divides {count}."
            )
        count -= 1
        if count < 1:
            raise ValueError(
                f"{name} {batch_size} is not a multiple of fsdp={fsdp}; "
                f"try {fsdp * max(1, round(batch_size / fsdp))}."
            )
    return make_mesh(-1, fsdp, devices[:count])


def largest_axis(shape: Sequence[int], size: int, min_elements: int = 2**12) -> PartitionSpec:
    """The FSDP rule: split the largest axis that ``size`` divides; small leaves stay whole."""
    if size == 1 or math.prod(shape) < min_elements:
        return PartitionSpec()
    divisible = [axis for axis, length in enumerate(shape) if length % size == 0]
    if not divisible:
        return PartitionSpec()
    chosen = max(divisible, key=lambda axis: shape[axis])
    return PartitionSpec(*(None,) * chosen, "fsdp")


def path_name(path: tuple[Any, ...]) -> str:
    """``params/dense/kernel``: the path of a leaf, as the rules and error messages write it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def shardings(tree: Any, mesh: Mesh, rules: Rules = (), min_elements: int = 2**12) -> Any:
    """Where each leaf of ``tree`` (arrays or shapes) lives: the first matching rule, else :func:`largest_axis`."""
    size = mesh.shape["fsdp"]

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name, shape = path_name(path), np.shape(leaf)
        for pattern, spec in rules:
            if re.search(pattern, name):
                _check_rule(name, shape, spec, mesh, pattern)
                return NamedSharding(mesh, spec)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, largest_axis(shape, size, min_elements))

    return jax.tree_util.tree_map_with_path(place, tree)


def _check_rule(
    name: str, shape: Sequence[int], spec: PartitionSpec, mesh: Mesh, pattern: str
) -> None:
    if len(spec) > len(shape):
        raise ValueError(f"rule {pattern!r} gives {name} {spec}, but its shape is {tuple(shape)}.")
    for length, axes in zip(shape, spec, strict=False):
        names = () if axes is None else (axes,) if isinstance(axes, str) else axes
        size = math.prod(mesh.shape[axis] for axis in names)
        if length % size:
            raise ValueError(
                f"rule {pattern!r} splits {name} of shape {tuple(shape)} as {spec}, but {length} is "
                f"not a multiple of {size}; try another axis, or PartitionSpec() to keep it whole."
            )


def born_sharded(
    init: Callable[..., Any], mesh: Mesh, *args: Any, rules: Rules = (), min_elements: int = 2**12
) -> Any:
    """``init(*args)``, every leaf created where it will live; no device ever holds the whole state."""
    shapes = jax.eval_shape(init, *args)
    places = shardings(shapes, mesh, rules, min_elements)
    return jax.jit(init, out_shardings=places)(*args)


def over_all(mesh: Mesh) -> NamedSharding:
    """Rows split over every device of the mesh."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def split_batch(batch: Any, mesh: Mesh) -> Any:
    """Constrains the leading axis of every leaf to be split over the whole mesh (inside jit)."""
    count = mesh.size

    def split(leaf: jax.Array) -> jax.Array:
        if leaf.ndim == 0 or leaf.shape[0] % count:
            return leaf
        place = over_all(mesh)
        return jax.lax.with_sharding_constraint(leaf, place)

    return jax.tree.map(split, batch)


def placed_shapes(tree: Any, place: NamedSharding) -> Any:
    """Shapes of arrays that live somewhere."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def placed(batches: Iterator[Any], mesh: Mesh, ahead: int = 1) -> Iterator[Any]:
    """Batches on the mesh, of each of which this process brings its rows; ``ahead`` of them are on their way."""
    place = over_all(mesh)
    put = lambda rows: jax.make_array_from_process_local_data(place, np.asarray(rows))
    waiting: collections.deque[Any] = collections.deque()
    try:
        for batch in batches:
            waiting.append(jax.tree.map(put, batch))
            if len(waiting) > ahead:
                yield waiting.popleft()
        yield from waiting
    finally:
        getattr(batches, "close", lambda: None)()  # ends the threads of a feed


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts arrays on every device of the mesh; leaves already placed on that mesh stay where they are."""

    def put(leaf: Any) -> jax.Array:
        placed = isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding)
        if placed and leaf.sharding.mesh == mesh:
            return leaf
        return put_whole(leaf, NamedSharding(mesh, PartitionSpec()))

    return jax.tree.map(put, tree)


def put_whole(leaf: Any, place: NamedSharding) -> jax.Array:
    """An array that every process holds whole, to where it lives: each process brings what its devices need."""
    if jax.process_count() == 1:
        return jax.device_put(leaf, place)
    if jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
        words = put_whole(jax.random.key_data(leaf), place)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, place, lambda index: array[index])


def spread(data: Any, mesh: Mesh) -> Any:
    """Rows of a dataset spread over the devices of the mesh: leaves [N, ...] become [devices, N / devices, ...].

    Rows that the number of devices does not divide are left out.

    Raises:
        ValueError: there are fewer rows than devices.
    """
    place = over_all(mesh)

    def put(leaf: Any) -> jax.Array:
        own = leaf.shape[0] // mesh.size
        if own == 0:
            raise ValueError(
                f"a dataset of {leaf.shape[0]} rows has none for some of {mesh.size} devices; use more rows."
            )
        return jax.device_put(leaf[: own * mesh.size].reshape(-1, own, *leaf.shape[1:]), place)

    return jax.tree.map(put, data)


def draw_rows(data: Any, key: jax.Array, count: int) -> Any:
    """``count`` rows of a dataset of :func:`spread`, as many from every device, which keeps them: no row travels.

    Which rows they are depends on the number of devices.

    Raises:
        ValueError: the devices do not divide ``count``.
    """
    shards, rows = jax.tree.leaves(data)[0].shape[:2]
    if count % shards:
        raise ValueError(
            f"count={count} is not a multiple of the {shards} devices that hold the rows; try "
            f"{max(1, count // shards) * shards}."
        )
    index = jax.random.randint(key, (shards, count // shards), 0, rows)
    chosen = jax.tree.map(lambda x: jax.vmap(lambda own, i: own[i])(x, index), data)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), chosen)

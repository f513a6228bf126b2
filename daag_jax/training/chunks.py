"""Chunks of training steps as one compiled function.

The bounds of the loop are arguments: it is compiled once.  On CPU the compiled function is one step, called in a loop:
there XLA's gradient of a convolution's kernel inside a compiled loop was 60 times slower than outside (jaxlib 0.10.2:
2.3 s against 0.03 s, 16 images of 64x64x32; forward passes do not suffer).  So it is, too, where batches come from the
host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from daag_jax.data.feeding import Feed
from daag_jax.training import devices
from daag_jax.training.keys import key_at
from daag_jax.types import Algorithm, Batch, Key, State


class Sampler(NamedTuple):
    """Batch n of a dataset that lives on the devices: ``draw(data, key, n)``, with data an argument, not a constant."""

    data: Any
    draw: Callable[[Any, Key, jax.Array], Batch]


class Totals(NamedTuple):
    """Sums over the log period, and the first step at which each metric was bad (-1: never)."""

    count: jax.Array
    sums: Mapping[str, jax.Array]
    bad: Mapping[str, jax.Array]


class Chunk(NamedTuple):
    """Compiled steps of training."""

    run: Callable[[State, Totals, int, int], tuple[State, Totals]]  # steps start .. stop
    flops: float | None  # of a step, one device; None where the compiler does not say
    seconds: float  # that compiling took


@runtime_checkable
class ChunkConfig(Protocol):
    """What of a run's configuration matters here."""

    watch_limit: float  # metrics above it are noted as bad
    compiled_loop: bool | None  # many steps per dispatch; None: on accelerators only


def example_of(batches: Sampler | Feed, root: Key) -> Batch:
    """The shapes of a batch."""
    if isinstance(batches, Feed):
        return batches.example
    return jax.eval_shape(batches.draw, batches.data, root, jnp.int32(0))


def compile_chunk(
    algorithm: Algorithm,
    batches: Sampler | Feed,
    mesh: Mesh,
    config: ChunkConfig,
    carried: tuple[Key, State, Totals],
    start: int,
) -> Chunk:
    """Steps of training, compiled once for any bounds; the state keeps the places in which it is given.

    Args:
        carried: the root key, and what the first chunk starts from.
        start: the step at which the batches of a feed begin.
    """
    root, *carry = carried
    places = jax.tree.map(lambda x: x.sharding, tuple(carry))
    began = time.monotonic()

    def learn(batch: Batch, root: Key, state: State, totals: Totals, n: jax.Array) -> Any:
        state, metrics = algorithm.update(state, batch, key_at(root, "update", n))
        return state, added(totals, metrics, n, config.watch_limit)

    def step(data: Any, root: Key, state: State, totals: Totals, n: jax.Array) -> Any:
        batch = devices.split_batch(batches.draw(data, key_at(root, "data", n), n), mesh)
        return learn(batch, root, state, totals, n)

    def loop(data: Any, root: Key, state: State, totals: Totals, start: Any, stop: Any) -> Any:
        one = lambda n, carry: step(data, root, *carry, n)
        return jax.lax.fori_loop(start, stop, one, (state, totals))

    def compiled(function: Callable, first: Any, num_bounds: int) -> jax.stages.Compiled:
        jitted = jax.jit(function, donate_argnums=(2, 3), out_shardings=places)
        return jitted.lower(first, root, *carry, *[np.int32(0)] * num_bounds).compile()

    if isinstance(batches, Feed):
        one = compiled(learn, devices.placed_shapes(batches.example, devices.over_all(mesh)), 1)
        arriving = devices.placed(batches.start(start), mesh)
        run = in_turn(lambda *carry, n: one(next(arriving), root, *carry, n), mesh)
        return Chunk(run, flops_of(one), time.monotonic() - began)
    data = devices.replicate(batches.data, mesh)
    is_loop = config.compiled_loop
    if is_loop is None:
        is_loop = next(iter(mesh.devices.flat)).platform != "cpu"
    if is_loop:
        one = compiled(loop, data, 2)
        run = lambda state, totals, start, stop: one(
            data, root, state, totals, np.int32(start), np.int32(stop)
        )
    else:
        one = compiled(step, data, 1)
        run = in_turn(lambda *carry, n: one(data, root, *carry, n), mesh)
    return Chunk(run, flops_of(one), time.monotonic() - began)


def in_turn(step: Callable, mesh: Mesh) -> Callable:
    """Steps start .. stop, each dispatched by the host."""

    waits = mesh.size > 1 and next(iter(mesh.devices.flat)).platform == "cpu"

    def run(state: State, totals: Totals, start: int, stop: int) -> tuple[State, Totals]:
        for n in range(int(start), int(stop)):
            state, totals = step(state, totals, n=np.int32(n))
            if waits:  # steps in flight starve each other's collectives on virtual devices
                jax.block_until_ready(totals)
        return state, totals

    return run


def flops_of(compiled: jax.stages.Compiled) -> float | None:
    """FLOP of one device in a compiled program, a loop's body counted once; None where the compiler does not say."""
    cost = compiled.cost_analysis() or {}
    return cost.get("flops") or None


def added(totals: Totals, metrics: Mapping[str, jax.Array], n: jax.Array, limit: float) -> Totals:
    """The sums with those of step n."""
    sums, bad = {}, {}
    for name, value in metrics.items():
        value = value.astype(jnp.float32)
        is_bad = ~jnp.isfinite(value) | (jnp.abs(value) > limit)
        sums[name] = totals.sums[name] + value
        bad[name] = jnp.where((totals.bad[name] < 0) & is_bad, n, totals.bad[name])
    return Totals(totals.count + 1, sums, bad)


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

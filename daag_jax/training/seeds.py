"""Many seeds of one algorithm as one program: ``jax.vmap`` over states, batches and keys, spread over the devices.

Seed s sees the batches and keys of ``fit`` with ``seed=s``; what it learns is the same to rounding.  For networks
without pixels; a run this short is repeated, not resumed (``fit`` resumes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from daag_jax.training.devices import BATCH_AXES, mesh_for_batch, over_all, replicate
from daag_jax.training.fit import Diverged, Sampler
from daag_jax.training.keys import key_at
from daag_jax.training.report import Report
from daag_jax.types import Algorithm, State


class Trained(NamedTuple):
    """States with a leading axis of seeds, and what was measured on the way."""

    states: State  # the last, or of each seed the one that validated best
    history: list[dict[str, Any]]  # "step", and per metric a list over seeds


def roots_of(seeds: Sequence[int]) -> jax.Array:
    """One root key per seed."""
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds {tuple(seeds)} must be different, and at least one.")
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def init_seeds(algorithm: Algorithm, seeds: Sequence[int]) -> State:
    """Initial states of all seeds, leading axis S."""
    init = lambda root: algorithm.init(key_at(root, "init", 0))
    # one after the other: jaxlib 0.10.2 never returns from a batched QR (orthogonal kernels) on two cores
    return jax.jit(lambda roots: jax.lax.map(init, roots))(roots_of(seeds))


def fit_seeds(
    algorithm: Algorithm,
    sampler: Sampler,
    steps: int,
    seeds: Sequence[int],
    *,
    states: State | None = None,
    validate: Callable[[State], jax.Array] | None = None,
    validate_every: int = 100,
    in_turn: bool = False,
    name: str = "train",
    progress: bool = True,
) -> Trained:
    """Trains ``steps`` updates of every seed.

    Args:
        states: to start from, leading axis S; not consumed.  None starts from ``algorithm.init``.
        validate: early stopping: ``states -> losses [S]`` on data that are held out, every ``validate_every`` steps and
            at the end; each seed's state of the least loss is given back.
        in_turn: one seed after the other inside the program: on a CPU 1.8 times faster for a U-Net, whose activations
            stay in the cache, and slower for small MLPs.

    Raises:
        Diverged: a loss of a seed is not finite.
    """
    states = init_seeds(algorithm, seeds) if states is None else jax.tree.map(jnp.copy, states)
    mesh = mesh_for_batch(len(seeds), devices=jax.local_devices())
    states = jax.device_put(states, over_all(mesh))
    chunk = compile_steps(algorithm, sampler, roots_of(seeds), in_turn, mesh)
    data = replicate(sampler.data, mesh)
    step, history = 0, []
    period = validate_every if validate is not None else steps
    stride = min(period, max(1, steps // 20))
    best, least = jax.tree.map(jnp.copy, states), jnp.full(len(seeds), jnp.inf)
    with Report(None, steps, 0, False, progress, name) as report:
        while step < steps:
            stop = min(step + stride, steps, (step // period + 1) * period)
            states, metrics = chunk(data, states, np.int32(step), np.int32(stop))
            metrics = jax.device_get(metrics)
            check_finite(metrics, seeds, stop)
            step = stop
            row = {"step": step} | {k: np.asarray(v).tolist() for k, v in metrics.items()}
            if validate is not None and (step % period == 0 or step == steps):
                found = validate(states)
                best, least = better(found, states, least, best)
                row["validation"] = np.asarray(found).tolist()
            history.append(row)
            report.log(step, {k: float(np.mean(v)) for k, v in metrics.items()})
            report.progress(step)
    return Trained(states if validate is None else best, history)


@jax.jit
def better(
    found: Float[Array, "S"], states: State, least: Float[Array, "S"], best: State
) -> tuple[State, Float[Array, "S"]]:
    """Of each seed the state with the lesser loss, in buffers of its own, and that loss."""
    is_better = found < least
    pick = lambda new, old: jnp.where(is_better.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)
    return jax.tree.map(pick, states, best), jnp.where(is_better, found, least)


def compile_steps(
    algorithm: Algorithm,
    sampler: Sampler,
    roots: jax.Array,
    in_turn: bool = False,
    mesh: Mesh | None = None,
) -> Callable:
    """``(data, states, start, stop) -> (states, means of the metrics [S])``, compiled once.

    Args:
        mesh: devices that divide the seeds; each learns its own, and none waits for another.
    """

    def run(data: Any, state: State, root: jax.Array, start: jax.Array, stop: jax.Array) -> Any:
        def one(n: jax.Array, carry: tuple) -> tuple:
            state, sums = carry
            batch = sampler.draw(data, key_at(root, "data", n), n)
            state, metrics = algorithm.update(state, batch, key_at(root, "update", n))
            return state, {k: sums[k] + v.astype(jnp.float32) for k, v in metrics.items()}

        batch = jax.eval_shape(sampler.draw, data, root, jnp.int32(0))
        shapes = jax.eval_shape(algorithm.update, state, batch, root)[1]
        sums = {k: jnp.zeros((), jnp.float32) for k in shapes}
        state, sums = jax.lax.fori_loop(start, stop, one, (state, sums))
        return state, {k: v / (stop - start) for k, v in sums.items()}

    def mapped(data: Any, states: State, roots: jax.Array, start: Any, stop: Any) -> Any:
        one = lambda pair: run(data, *pair, start, stop)
        return jax.lax.map(one, (states, roots))

    over_seeds = mapped if in_turn else jax.vmap(run, in_axes=(None, 0, 0, None, None))
    if mesh is not None and mesh.size > 1:
        whole, cut = PartitionSpec(), PartitionSpec(BATCH_AXES)
        places = (whole, cut, cut, whole, whole)
        over_seeds = jax.shard_map(
            over_seeds, mesh=mesh, in_specs=places, out_specs=cut, check_vma=False
        )
    compiled = jax.jit(over_seeds, donate_argnums=(1,))
    return lambda data, states, start, stop: compiled(data, states, roots, start, stop)


def check_finite(metrics: dict[str, np.ndarray], seeds: Sequence[int], step: int) -> None:
    """Raises Diverged where a loss is not finite, naming the seed."""
    for name, values in metrics.items():
        for seed, value in zip(seeds, np.atleast_1d(values), strict=True):
            if name.startswith("loss") and not math.isfinite(value):
                raise Diverged(
                    f"{name} of seed {seed} is not finite before step {step}; lower the learning rate."
                )

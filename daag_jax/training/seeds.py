"""Many seeds of one algorithm as one program: ``jax.vmap`` over states, batches and keys.

Seed s sees the batches and keys of ``fit`` with ``seed=s``; what it learns is the same to rounding.  For networks
without pixels; a run this short is repeated, not resumed (``fit`` resumes).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from daag_jax.training.fit import Diverged, Sampler
from daag_jax.training.keys import key_at
from daag_jax.training.report import Report
from daag_jax.types import Algorithm, State


class Trained(NamedTuple):
    """States with a leading axis of seeds, what was measured on the way, and the time of the updates."""

    states: State
    history: list[dict[str, Any]]  # "step", and per metric a list over seeds
    seconds: float  # of all updates but the first chunk, which compiles
    steps_timed: int


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
    evaluate: Callable[[State, int], dict[str, Any]] | None = None,
    evaluate_every: int = 0,
    name: str = "train",
    progress: bool = True,
) -> Trained:
    """Trains ``steps`` updates of every seed.

    Args:
        states: to start from, leading axis S; not consumed.  None starts from ``algorithm.init``.
        evaluate: ``(states, step) -> numbers`` to stand in the history; every ``evaluate_every`` steps and at the end.

    Raises:
        Diverged: a loss of a seed is not finite.
    """
    states = init_seeds(algorithm, seeds) if states is None else jax.tree.map(jnp.copy, states)
    chunk = compile_steps(algorithm, sampler, roots_of(seeds))
    period = evaluate_every if evaluate is not None and evaluate_every else steps
    stride = min(period, max(1, steps // 20))
    step, history, seconds, timed = 0, [], 0.0, 0
    with Report(None, steps, 0, False, progress, name) as report:
        while step < steps:
            stop = min(step + stride, steps, (step // period + 1) * period)
            began = time.perf_counter()
            states, metrics = chunk(sampler.data, states, np.int32(step), np.int32(stop))
            metrics = jax.device_get(metrics)
            if step:
                seconds, timed = seconds + time.perf_counter() - began, timed + stop - step
            check_finite(metrics, seeds, stop)
            step = stop
            row = {"step": step} | {k: np.asarray(v).tolist() for k, v in metrics.items()}
            if evaluate is not None and (step % period == 0 or step == steps):
                row |= evaluate(states, step)
            history.append(row)
            report.log(step, {k: float(np.mean(v)) for k, v in metrics.items()})
            report.progress(step)
    return Trained(states, history, seconds, timed)


def compile_steps(algorithm: Algorithm, sampler: Sampler, roots: jax.Array) -> Callable:
    """``(data, states, start, stop) -> (states, means of the metrics [S])``, compiled once."""

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

    over_seeds = jax.vmap(run, in_axes=(None, 0, 0, None, None))
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

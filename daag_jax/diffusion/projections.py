"""Projections: ``(x_before, x_after, time, context) -> x_after``, applied by a sampler after each of its steps.

    replace_known   x_after = m x_after + (1 - m) (alpha known + sigma noise)     (Lugmayr et al. 2022, Eq. 8)
    hold            x_after = known where known                                   (Diffuser's conditioning)
    climb           x_after <- x_after + scale Sigma grad value(x_after)          (Janner et al. 2022, as released)
    barrier         the nearest step with  grad b . step + rate b >= 0            (SafeDiffuser, Xiao et al. 2023)
    clamp           a box

``time`` is that of x_after.  The state that a sampler begins with is not projected: to do so,
``project(x, x, times[0], context)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.diffusion.process import like, posterior_variance
from daag_jax.diffusion.samplers import Project
from daag_jax.diffusion.schedules import Schedule, ratio
from daag_jax.rows import in_chunks
from daag_jax.types import Key


def replace_known(
    schedule: Schedule,
    known: Float[Array, "B *D"],
    mask: Float[Array, "B *#D"],
    noise: Float[Array, "#B *D"] | Key,
) -> Project:
    """Masked blending: outside the mask the state is the known sample at its noise level.

    Exact at time 0, where the known part is noiseless; a walk that ends above 0 leaves sigma of its noise there.

    Args:
        mask: 1 where the sampler may paint, 0 where ``known`` holds; soft values blend.
        noise: an array is one noise for all steps, which keeps the known part on one ODE path and, shared over
            frames, does not flicker; a key draws a fresh noise at each time.
    """
    is_key = jnp.issubdtype(noise.dtype, jax.dtypes.prng_key)

    def project(before: Array, after: Array, time: Array, context: Any) -> Array:
        del before, context
        present = noise
        if is_key:
            stamp = jax.lax.bitcast_convert_type(jnp.asarray(time, jnp.float32), jnp.uint32)
            present = jax.random.normal(jax.random.fold_in(noise, stamp), known.shape, known.dtype)
        alpha, sigma = like(schedule.alpha(time), known), like(schedule.sigma(time), known)
        return mask * after + (1.0 - mask) * (alpha * known + sigma * present)

    return project


def hold(known: Float[Array, "B *D"], is_known: Array) -> Project:
    """Sets known entries to their clean values at every noise level, as Diffuser does with start and goal."""
    return lambda before, after, time, context: jnp.where(is_known, known, after)


def clamp(low: float | Array, high: float | Array) -> Project:
    """Keeps the state inside a box."""
    return lambda before, after, time, context: jnp.clip(after, low, high)


def climb(
    schedule: Schedule,
    value: Callable[[Array, Array], Array],
    scale: float,
    num_steps: int = 2,
    stop_time: float = 0.0,
    interval: float | None = None,
    is_scaled_by_variance: bool = True,
    condition: Callable[[Array], Array] = lambda x: x,
) -> Project:
    """Diffuser's guide: gradient steps of ``value(xt, time [B]) -> [B]`` on the state itself, before the next step.

    Differs from the released code: it also climbs on the initial noise; do so by projecting that (see above).  The
    finished sample, at time 0, is left alone, as there.

    Args:
        value: of a row depends on that row alone (a CPU takes a few rows at a time: ``rows.in_chunks``).
        num_steps: n_guide_steps of the released code.
        stop_time: no climb below this time; of its t_stopgrad, ``time_of(schedule, t_stopgrad)``.
        interval: how much time the next step takes, for its variance (default: one step of the table).
        is_scaled_by_variance: multiplies gradients by the variance of the next step (its scale_grad_by_std).
        condition: applied after each gradient step (its in-painting of start and goal).
    """
    if interval is None and not schedule.num_steps and is_scaled_by_variance:
        raise ValueError("interval=None: a continuous schedule has no step of its own; pass 1 / N.")
    span = 1.0 / schedule.num_steps if interval is None and schedule.num_steps else interval

    gradient_of = in_chunks(jax.grad(lambda x, times: jnp.sum(value(x, times))))

    def project(before: Array, after: Array, time: Array, context: Any) -> Array:
        del before, context
        climbs = (time > stop_time - 1e-5) & (time > 0)  # times of a grid are rounded
        size = jnp.asarray(scale, after.dtype)
        if is_scaled_by_variance:
            size = size * posterior_variance(schedule, time, jnp.maximum(time - span, 0.0))
        times = jnp.full((after.shape[0],), time)
        for _ in range(num_steps):
            gradient = gradient_of(after, times)
            after = condition(after + jnp.where(climbs, size * gradient, 0.0))
        return after

    return project


def barrier(safety: Callable[[Array], Array], rate: float = 1.0) -> Project:
    """The step nearest to the sampler's that keeps ``safety(x) -> [B]`` from falling too fast below zero.

    min |u - (x_after - x_before)|^2  such that  grad b(x_before) . u + rate b(x_before) >= 0,  in closed form.
    For an affine b and rate in (0, 1] this is b(x_after) >= (1 - rate) b(x_before): once safe, always safe.
    """

    def project(before: Array, after: Array, time: Array, context: Any) -> Array:
        del time, context
        gradient = jax.grad(lambda x: jnp.sum(safety(x)))(before)
        axes = tuple(range(1, before.ndim))
        change = jnp.sum(gradient * (after - before), axis=axes)
        lack = jnp.maximum(-(change + rate * safety(before)), 0.0)
        return after + like(ratio(lack, jnp.sum(jnp.square(gradient), axis=axes)), after) * gradient

    return project


def chain(*projects: Project) -> Project:
    """Applies projections one after the other."""

    def project(before: Array, after: Array, time: Array, context: Any) -> Array:
        for one in projects:
            after = one(before, after, time, context)
        return after

    return project

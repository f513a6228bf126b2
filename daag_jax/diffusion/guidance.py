"""Guides: functions ``denoise -> denoise`` that steer a sampler.

With noise(x0) = (xt - alpha x0) / sigma, adding g to the score adds sigma^2 / alpha g to the estimate of x0:

    classifier        score + w grad log p(y | xt)                        (Dhariwal and Nichol 2021)
    classifier_free   x0 = x0_u + w (x0_c - x0_u)                         (Ho and Salimans 2022)
    compose           x0 = x0_u + sum_i w_i (x0_i - x0_u), w_i < 0 negates  (Ajay et al. 2022, Eq. 9)
    ascend            denoises at a point n gradient steps higher         (after Janner et al. 2022)
    inpaint           known entries are told to the estimate
    clip              estimate clipped to the data's range

As x0 and noise are affine in each other at a given xt, mixing estimates of x0 is mixing noises or scores.  Classifier
guidance is in the form for deterministic samplers (their algorithm 2); Diffuser's own, which moves the state, is the
projection ``climb``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.diffusion.process import Denoise, like
from daag_jax.diffusion.schedules import Schedule, ratio


def classifier(
    denoise: Denoise, schedule: Schedule, log_prob: Callable[[Array, Array], Array], weight: float
) -> Denoise:
    """Steers by the gradient of ``log_prob(xt, time) -> [B]``, with ``weight`` as the temperature's inverse."""

    def guided(x: Array, time: Array) -> Array:
        gradient = jax.grad(lambda x: jnp.sum(log_prob(x, time)))(x)
        alpha, sigma = like(schedule.alpha(time), x), like(schedule.sigma(time), x)
        return denoise(x, time) + weight * ratio(jnp.square(sigma), alpha) * gradient

    return guided


def ascend(
    denoise: Denoise,
    schedule: Schedule,
    value: Callable[[Array, Array], Array],
    scale: float,
    num_steps: int = 2,
    stop_time: float = 0.0,
    project: Callable[[Array], Array] = lambda x: x,
) -> Denoise:
    """The estimate at ``x + scale sigma^2 grad value(x)``, climbed ``num_steps`` times; the state itself stays.

    Differs from Diffuser, whose steps also start from the climbed state (``projections.climb`` does that).

    Args:
        stop_time: no ascent below this time (t_stopgrad of the released code).
        project: applied after each ascent (their in-painting of start and goal).
    """

    def guided(x: Array, time: Array) -> Array:
        size = scale * jnp.square(schedule.sigma(time)) * (time >= stop_time)
        for _ in range(num_steps):
            gradient = jax.grad(lambda x: jnp.sum(value(x, time)))(x)
            x = project(x + like(size, x) * gradient)
        return denoise(x, time)

    return guided


def mix(base: Array, other: Array, weight: float | Array) -> Array:
    """base + weight (other - base), exact at 0 and 1."""
    return (1.0 - weight) * base + weight * other


def classifier_free(conditional: Denoise, unconditional: Denoise, weight: float) -> Denoise:
    """Weight 1 is the conditional model, 0 the unconditional one."""

    def guided(x: Array, time: Array) -> Array:
        return mix(unconditional(x, time), conditional(x, time), weight)

    return guided


def classifier_free_fused(denoise_pair: Callable[[Array, Array], Array], weight: float) -> Denoise:
    """Both halves in one call: ``denoise_pair`` takes [2B, *D] (conditional first) and returns [2B, *D]."""

    def guided(x: Array, time: Array) -> Array:
        time = jnp.broadcast_to(time, x.shape[:1])
        both = denoise_pair(jnp.concatenate([x, x]), jnp.concatenate([time, time]))
        with_condition, without = jnp.split(both, 2)
        return mix(without, with_condition, weight)

    return guided


def compose(unconditional: Denoise, parts: Sequence[tuple[Denoise, float]]) -> Denoise:
    """Holds several conditions at once; a negative weight asks for the opposite."""

    def guided(x: Array, time: Array) -> Array:
        base = unconditional(x, time)
        return base + sum(weight * (part(x, time) - base) for part, weight in parts)

    return guided


def inpaint(denoise: Denoise, known: Float[Array, "B *D"], is_known: Array) -> Denoise:
    """Sets the entries of the estimate to their known clean values where ``is_known``."""
    return lambda x, time: mix(denoise(x, time), known, is_known)


def clip(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Keeps the estimate inside the range of the data (``clip_denoised`` of the released DDPM code)."""
    return lambda x, time: jnp.clip(denoise(x, time), low, high)

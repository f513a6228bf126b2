"""Noise schedules: how much signal alpha(t) and how much noise sigma(t) there is at time t, from 0 (clean) to 1.

    xt = alpha(t) x0 + sigma(t) noise                                                     (1)

Variance preserving (alpha^2 + sigma^2 = 1): linear (Ho et al. 2020), cosine (Nichol and Dhariwal 2021), sigmoid
(Jabri et al. 2022), scaled_linear (Stable Diffusion), vp (Song et al. 2021 as discretised by Diffusion-QL).
Variance exploding: ve (Karras et al. 2022, Eq. 5).  Straight paths: rectified_flow (Liu et al. 2022).

A discrete schedule of N steps keeps its table exactly: step i = 0 .. N-1 has time (i + 1) / N, and between steps
log alpha^2 is linear.  ``step_of`` gives the (fractional) step that a network trained on integers wants to read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Schedule(NamedTuple):
    """alpha and sigma as functions of time, of any shape; ``num_steps`` is 0 where there is no table."""

    alpha: Callable[[Array], Array]
    sigma: Callable[[Array], Array]
    num_steps: int = 0


def log_snr(schedule: Schedule, time: Array) -> Array:
    """log(alpha^2 / sigma^2), the logarithm of the signal-to-noise ratio."""
    return 2.0 * (jnp.log(schedule.alpha(time)) - jnp.log(schedule.sigma(time)))


def step_of(schedule: Schedule, time: Array) -> Array:
    """The step i (a float) of a time, for networks that were trained on the integers 0 .. N-1."""
    return jnp.asarray(time) * schedule.num_steps - 1.0


def time_of(schedule: Schedule, step: Array) -> Array:
    """The time of a step."""
    return (jnp.asarray(step, jnp.float32) + 1.0) / schedule.num_steps


def from_betas(betas: Float[np.ndarray, "N"]) -> Schedule:
    """A discrete schedule: alpha^2 of step i is the product of 1 - beta up to it (Ho et al. 2020, Eq. 4)."""
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or betas.size == 0 or betas.min() <= 0 or betas.max() >= 1:
        raise ValueError(
            f"betas must be a non-empty list inside (0, 1), got {betas}; try 1e-4 .. 0.02."
        )
    log_alpha2 = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
    table = jnp.asarray(log_alpha2, jnp.float32)
    positions = jnp.arange(betas.size + 1, dtype=jnp.float32)

    def log_alpha_squared(time: Array) -> Array:
        return jnp.interp(jnp.asarray(time, jnp.float32) * betas.size, positions, table)

    return Schedule(
        lambda time: jnp.exp(0.5 * log_alpha_squared(time)),
        lambda time: jnp.sqrt(-jnp.expm1(log_alpha_squared(time))),
        betas.size,
    )


def linear(num_steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> Schedule:
    """Betas on a line (Ho et al. 2020)."""
    return from_betas(np.linspace(start, end, num_steps))


def scaled_linear(num_steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> Schedule:
    """Square roots of betas on a line: Stable Diffusion 1.x."""
    return from_betas(np.linspace(start**0.5, end**0.5, num_steps) ** 2)


def cosine(num_steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """alpha(t)^2 = cos^2((t + s) / (1 + s) pi / 2), normalised, betas clipped (Nichol and Dhariwal 2021, Eq. 17)."""
    times = np.linspace(0.0, 1.0, num_steps + 1)
    alpha2 = np.cos((times + offset) / (1 + offset) * np.pi / 2) ** 2
    return from_betas(np.clip(1.0 - alpha2[1:] / alpha2[:-1], 1e-8, max_beta))


def sigmoid(
    num_steps: int = 1000, start: float = -3.0, end: float = 3.0, temperature: float = 1.0
) -> Schedule:
    """alpha(t)^2 falls as a logistic curve (Jabri et al. 2022, algorithm 1)."""
    curve = lambda x: 1.0 / (1.0 + np.exp(-x / temperature))
    times = np.linspace(0.0, 1.0, num_steps + 1)
    alpha2 = (curve(end) - curve(times * (end - start) + start)) / (curve(end) - curve(start))
    alpha2 = np.clip(alpha2, 1e-9, 1.0)
    return from_betas(np.clip(1.0 - alpha2[1:] / alpha2[:-1], 1e-8, 0.999))


def vp(num_steps: int = 5, beta_min: float = 0.1, beta_max: float = 10.0) -> Schedule:
    """beta_i = 1 - exp(-b_min / N - (b_max - b_min) (2 i - 1) / (2 N^2)), i = 1 .. N (Diffusion-QL)."""
    i = np.arange(1, num_steps + 1)
    exponent = beta_min / num_steps + 0.5 * (beta_max - beta_min) * (2 * i - 1) / num_steps**2
    return from_betas(-np.expm1(-exponent))


def ve(sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Schedule:
    """alpha = 1; sigma(t) spaced by the power 1 / rho (Karras et al. 2022, Eq. 5, read from small to large)."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return Schedule(
        lambda time: jnp.ones_like(jnp.asarray(time, jnp.float32)),
        lambda time: (low + jnp.asarray(time, jnp.float32) * (high - low)) ** rho,
    )


def rectified_flow() -> Schedule:
    """alpha = 1 - t, sigma = t: straight lines from data to noise (Liu et al. 2022)."""
    return Schedule(
        lambda time: 1.0 - jnp.asarray(time, jnp.float32),
        lambda time: jnp.asarray(time, jnp.float32),
    )


def derivatives(schedule: Schedule, time: Array) -> tuple[Array, Array]:
    """d alpha / dt and d sigma / dt."""
    time = jnp.asarray(time, jnp.float32)
    one = jnp.ones_like(time)
    slope = lambda f: jax.jvp(f, (time,), (one,))[1]
    return slope(schedule.alpha), slope(schedule.sigma)


def uniform_times(num: int, start: float = 1.0, end: float = 0.0) -> Float[Array, "N1"]:
    """num + 1 times from ``start`` (noisy) down to ``end``."""
    if num < 1:
        raise ValueError(f"num={num} steps; a sampler needs at least 1.")
    return jnp.linspace(start, end, num + 1, dtype=jnp.float32)


def leading_times(schedule: Schedule, num: int, steps_offset: int = 1) -> Float[Array, "N1"]:
    """The times of Stable Diffusion's DDIM: steps (N // num) k + offset, and step 0 at the end (set_alpha_to_one off)."""
    if not 1 <= num <= schedule.num_steps:
        raise ValueError(
            f"num={num} is not between 1 and the {schedule.num_steps} steps of training."
        )
    steps = np.arange(num)[::-1] * (schedule.num_steps // num) + steps_offset
    return time_of(schedule, jnp.asarray(np.append(steps, 0)))

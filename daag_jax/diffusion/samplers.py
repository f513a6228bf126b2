"""Samplers: from noise to data by a scan over times that keeps only the current state.

A denoiser maps (xt [B, *D], time [B]) to an estimate of x0.  ``sample(denoise, ...)`` walks down ``times``:

    ddim            x' = alpha' x0 + sqrt(sigma'^2 - s^2) noise + s z,  s = eta sigma_posterior   (Song et al. 2020, Eq. 12)
    ddpm            ddim with eta = 1: the ancestral step                                          (Ho et al. 2020)
    dpm_solver_2m   DPM-Solver++(2M), data prediction, second order multistep                      (Lu et al. 2022b, algorithm 2)
    euler, heun     dx/dt = alpha' x0 + sigma' noise, first and second order                       (Karras et al. 2022)

Two hooks: a *guide* is ``denoise -> denoise`` (``guidance``), applied by the caller; a *projection* is
``(x_before, x_after, time, context) -> x_after`` after each step (``projections``).

Differs from the papers: stochastic samplers accept a ``temperature`` that scales the noise they add (Decision Diffuser's
low-temperature sampling; scale the initial noise as well).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.diffusion.process import Denoise, like
from daag_jax.diffusion.schedules import Schedule, derivatives
from daag_jax.types import Key

METHODS = ("ddim", "ddpm", "dpm_solver_2m", "euler", "heun")
Project = Callable[[Array, Array, Array, Any], Array]


class Carry(NamedTuple):
    """What one step hands to the next: x, and for multistep methods the last estimate of x0."""

    x: Float[Array, "B *D"]
    x0: Float[Array, "B *D"]


def ratio(numerator: Array, denominator: Array) -> Array:
    """A quotient that is 0 where the denominator is 0."""
    safe = jnp.where(denominator == 0, 1.0, denominator)
    return jnp.where(denominator == 0, 0.0, numerator / safe)


def ddim_step(
    schedule: Schedule, x: Array, x0: Array, time: Array, after: Array, z: Array | None, eta: float
) -> Array:
    """One step of DDIM from ``time`` to ``after`` (scalars), given the estimate of x0."""
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    alpha_after, sigma_after = schedule.alpha(after), schedule.sigma(after)
    noise = (x - alpha * x0) / sigma
    if z is None:
        return alpha_after * x0 + sigma_after * noise
    step_variance = jnp.maximum(sigma**2 - (alpha / alpha_after) ** 2 * sigma_after**2, 0.0)
    spread = eta * sigma_after / sigma * jnp.sqrt(step_variance)
    rest = jnp.sqrt(jnp.maximum(sigma_after**2 - spread**2, 0.0))
    return alpha_after * x0 + rest * noise + spread * z


def dpm_step(
    schedule: Schedule, carry: Carry, x0: Array, times: Float[Array, "3"], is_first: Array
) -> Array:
    """One step of DPM-Solver++(2M); ``times`` are the last, the present and the next time."""
    before, time, after = times
    alpha_after, sigma_after = schedule.alpha(after), schedule.sigma(after)
    lam = lambda t: jnp.log(schedule.alpha(t)) - jnp.log(schedule.sigma(t))
    is_last = sigma_after == 0
    safe_after = jnp.where(is_last, time, after)
    h = lam(safe_after) - lam(time)
    h_last = lam(time) - lam(before)
    # first order at both ends: there is no history at the first step, and h is infinite at sigma' = 0
    factor = jnp.where(is_first | is_last, 0.0, 0.5 * ratio(h, h_last))
    estimate = x0 + factor * (x0 - carry.x0)
    decay = jnp.where(is_last, -1.0, jnp.expm1(-h))
    return sigma_after / schedule.sigma(time) * carry.x - alpha_after * decay * estimate


def slope(schedule: Schedule, x: Array, x0: Array, time: Array) -> Array:
    """dx/dt of the probability-flow ODE: alpha' x0 + sigma' noise."""
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    alpha_slope, sigma_slope = derivatives(schedule, time)
    return alpha_slope * x0 + sigma_slope * (x - alpha * x0) / sigma


def sample(
    denoise: Denoise,
    schedule: Schedule,
    x: Float[Array, "B *D"],
    times: Float[Array, "N1"],
    key: Key | None = None,
    method: str = "ddim",
    eta: float = 0.0,
    temperature: float = 1.0,
    project: Project | None = None,
    context: Any = None,
) -> Float[Array, "B *D"]:
    """Walks x from times[0] to times[-1] and returns it there.

    Start from ``times[0] < 1`` with corrupted data to edit it (SDEdit) or to warm-start a plan.

    Args:
        x: the state at times[0]: noise times sigma(times[0]), plus signal where it starts warm.
        key: needed by stochastic methods (ddpm, or ddim with eta > 0).

    Raises:
        ValueError: the method is unknown, or is stochastic and has no key.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; use one of {METHODS}.")
    eta = 1.0 if method == "ddpm" else eta
    is_noisy = method in ("ddim", "ddpm") and eta > 0
    if is_noisy and key is None:
        raise ValueError(f"method {method!r} with eta={eta} draws noise; pass key, or eta=0.")
    num = times.shape[0] - 1
    keys = jax.random.split(key, num) if is_noisy else None  # scanned over, like the index

    def estimate(x: Array, time: Array) -> Array:
        return denoise(x, jnp.full((x.shape[0],), time))

    def step(carry: Carry, inputs: tuple[Array, Key | None]) -> tuple[Carry, None]:
        index, step_key = inputs
        time, after = times[index], times[index + 1]
        x0 = estimate(carry.x, time)
        if method in ("ddim", "ddpm"):
            z = None
            if is_noisy:
                z = temperature * jax.random.normal(step_key, x.shape, x.dtype)
            moved = ddim_step(schedule, carry.x, x0, time, after, z, eta)
        elif method == "dpm_solver_2m":
            trio = jnp.stack([times[jnp.maximum(index - 1, 0)], time, after])
            moved = dpm_step(schedule, carry, x0, trio, index == 0)
        else:
            first = slope(schedule, carry.x, x0, time)
            moved = carry.x + (after - time) * first
            if (
                method == "heun"
            ):  # at the clean end the ODE is singular: Euler there, as Karras et al. do
                is_end = schedule.sigma(after) == 0
                safe = jnp.where(is_end, time, after)
                second = slope(schedule, moved, estimate(moved, safe), safe)
                moved = jnp.where(is_end, moved, carry.x + (after - time) * 0.5 * (first + second))
        if project is not None:
            moved = project(carry.x, moved, after, context)
        return Carry(moved, x0), None

    carry, _ = jax.lax.scan(step, Carry(x, jnp.zeros_like(x)), (jnp.arange(num), keys))
    return carry.x


def start(
    schedule: Schedule,
    x0: Float[Array, "B *D"],
    noise: Float[Array, "B *D"],
    time: float | Array = 1.0,
) -> Float[Array, "B *D"]:
    """The state at ``time`` that begins an edit of x0 (SDEdit, Meng et al. 2021) with strength ``time``."""
    time = jnp.asarray(time, jnp.float32)
    return like(schedule.alpha(time), x0) * x0 + like(schedule.sigma(time), x0) * noise

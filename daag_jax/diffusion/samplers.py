"""Samplers: from noise to data by a scan over times that keeps only the current state.

A denoiser maps (xt [B, *D], time [B]) to an estimate of x0.  ``sample(denoise, ...)`` walks down ``times``:

    ddim            x' = alpha' x0 + sqrt(sigma'^2 - s^2) noise + s z,  s = eta sigma_posterior
                    (Song et al. 2020, Eq. 12)
    ddpm            ddim with eta = 1: the ancestral step (Ho et al. 2020)
    dpm_solver_2m   DPM-Solver++(2M), data prediction, second order multistep (Lu et al. 2022b, algorithm 2)
    euler, heun     dx = x0 d alpha + noise d sigma, first and second order; with ``Churn``, the stochastic sampler
                    of EDM (Karras et al. 2022, algorithm 2)

Stepping in alpha and sigma instead of t makes Euler the sampler of EDM where alpha = 1, of rectified flow where
alpha = 1 - t, and DDIM anywhere; nothing is infinite at the clean end.

Two hooks: a *guide* is ``denoise -> denoise`` (``guidance``), applied by the caller; a *projection* is
``(x_before, x_after, time, context) -> x_after`` after each step, ``time`` being that of x_after (``projections``).

Differs from the papers: stochastic samplers accept a ``temperature`` that scales the noise they add (Decision
Diffuser's low-temperature sampling; scale the initial noise as well: ``prior``).  Churn cannot raise sigma beyond
that of time 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.diffusion.process import Denoise, like, posterior_variance
from daag_jax.diffusion.schedules import Schedule, ratio, root, time_at
from daag_jax.types import Key

METHODS = ("ddim", "ddpm", "dpm_solver_2m", "euler", "heun")
Project = Callable[[Array, Array, Array, Any], Array]


class Carry(NamedTuple):
    """What one step hands to the next: x, and for multistep methods the last estimate of x0."""

    x: Float[Array, "B *D"]
    x0: Float[Array, "B *D"]


class Churn(NamedTuple):
    """Noise put back before each step of euler or heun (Karras et al. 2022, algorithm 2); levels are sigma / alpha."""

    amount: float = 0.0  # S_churn, over the whole walk
    low: float = 0.0  # S_tmin
    high: float = float("inf")  # S_tmax
    noise: float = 1.0  # S_noise


def ddim_step(
    schedule: Schedule, x: Array, x0: Array, time: Array, after: Array, z: Array | None, eta: float
) -> Array:
    """One step of DDIM from ``time`` to ``after`` (scalars), given the estimate of x0."""
    alpha_after, sigma_after = schedule.alpha(after), schedule.sigma(after)
    noise = ratio(x - schedule.alpha(time) * x0, schedule.sigma(time))
    if z is None:
        return alpha_after * x0 + sigma_after * noise
    variance = jnp.square(eta) * posterior_variance(schedule, time, after)
    return alpha_after * x0 + root(jnp.square(sigma_after) - variance) * noise + root(variance) * z


def dpm_step(
    schedule: Schedule, carry: Carry, x0: Array, times: Float[Array, "3"], is_first: Array
) -> Array:
    """One step of DPM-Solver++(2M); ``times`` are the last, the present and the next time."""
    _, time, after = times
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    tiny = jnp.finfo(sigma.dtype).tiny  # keeps infinite ends out of differences
    lam = jnp.log(jnp.maximum(alpha, tiny)) - jnp.log(jnp.maximum(sigma, tiny))
    is_last = sigma[2] == 0
    # first order at both ends: there is no history at the first step, and lam is infinite at sigma' = 0
    factor = jnp.where(is_first | is_last, 0.0, 0.5 * ratio(lam[2] - lam[1], lam[1] - lam[0]))
    estimate = x0 + factor * (x0 - carry.x0)
    shrink = ratio(sigma[2], sigma[1])
    return shrink * carry.x + (alpha[2] - shrink * alpha[1]) * estimate


def flow_step(
    denoise: Denoise, schedule: Schedule, x: Array, x0: Array, time: Array, after: Array, order: int
) -> Array:
    """One step of Euler (order 1) or Heun (order 2) along dx = x0 d alpha + noise d sigma."""
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    alpha_change, sigma_change = schedule.alpha(after) - alpha, schedule.sigma(after) - sigma
    first = alpha_change * x0 + sigma_change * ratio(x - alpha * x0, sigma)
    moved = x + first
    if order == 1:
        return moved
    # at the clean end there is no noise to estimate: Euler there, as Karras et al. do
    is_end = schedule.sigma(after) == 0
    there = jnp.where(is_end, time, after)
    x0 = denoise(moved, jnp.full((x.shape[0],), there))
    noise = ratio(moved - schedule.alpha(there) * x0, schedule.sigma(there))
    second = alpha_change * x0 + sigma_change * noise
    return jnp.where(is_end, moved, x + 0.5 * (first + second))


def add_churn(
    schedule: Schedule, x: Array, time: Array, num: int, churn: Churn, z: Array
) -> tuple[Array, Array]:
    """Goes back to a noisier time: x and that time."""
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    level = ratio(sigma, alpha)
    gain = min(churn.amount / num, 2**0.5 - 1.0)
    is_inside = (level >= churn.low) & (level <= churn.high) & (alpha > 0)
    wanted = jnp.where(is_inside, level * (1.0 + gain), level)
    earlier = jnp.where(is_inside, time_at(schedule, -2.0 * jnp.log(wanted)), time)
    earlier = jnp.maximum(earlier, time)  # the inverse is only as exact as a float
    alpha_earlier, sigma_earlier = schedule.alpha(earlier), schedule.sigma(earlier)
    scale = jnp.where(is_inside, ratio(alpha_earlier, alpha), 1.0)
    added = root(jnp.square(sigma_earlier) - jnp.square(scale * sigma))
    return scale * x + churn.noise * added * z, earlier


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
    churn: Churn | None = None,
) -> Float[Array, "B *D"]:
    """Walks x from times[0] to times[-1] and returns it there, in float32 or wider.

    Start from ``times[0] < 1`` with corrupted data to edit it (SDEdit) or to warm-start a plan: ``start``.

    Args:
        x: the state at times[0]: noise times sigma(times[0]), plus signal where it starts warm.  It is not projected.
        key: needed by stochastic methods (ddpm, ddim with eta > 0, churn).

    Raises:
        ValueError: the method is unknown, or is stochastic and has no key, or cannot churn.
    """
    eta = 1.0 if method == "ddpm" else eta
    is_noisy = is_stochastic(method, eta, churn, key)
    num = times.shape[0] - 1
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def step(carry: Carry, index: Array) -> tuple[Carry, None]:
        x, time, after = carry.x, times[index], times[index + 1]
        z = None
        if (
            is_noisy
        ):  # folded in, not split and scanned over: the reuse check refuses that under vmap
            step_key = jax.random.fold_in(key, index)
            z = temperature * jax.random.normal(step_key, x.shape, x.dtype)
        if churn is not None:
            x, time = add_churn(schedule, x, time, num, churn, z)
        x0 = denoise(x, jnp.full((x.shape[0],), time)).astype(x.dtype)
        if method in ("ddim", "ddpm"):
            moved = ddim_step(schedule, x, x0, time, after, z, eta)
        elif method == "dpm_solver_2m":
            trio = jnp.stack([times[jnp.maximum(index - 1, 0)], time, after])
            moved = dpm_step(schedule, carry, x0, trio, index == 0)
        else:
            order = 1 if method == "euler" else 2
            moved = flow_step(denoise, schedule, x, x0, time, after, order)
        if project is not None:
            moved = project(carry.x, moved, after, context)
        return Carry(moved.astype(x.dtype), x0), None

    carry, _ = jax.lax.scan(step, Carry(x, jnp.zeros_like(x)), jnp.arange(num))
    return carry.x


def is_stochastic(method: str, eta: float, churn: Churn | None, key: Key | None) -> bool:
    """Whether a sampler draws noise; raises ValueError where its arguments do not fit together."""
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; use one of {METHODS}.")
    if churn is not None and method not in ("euler", "heun"):
        raise ValueError(f"method {method!r} cannot churn; use 'heun' or 'euler', or churn=None.")
    is_noisy = churn is not None or (method in ("ddim", "ddpm") and eta > 0)
    if is_noisy and key is None:
        raise ValueError(
            f"method {method!r} with eta={eta}, churn={churn} draws noise; pass key, or eta=0."
        )
    return is_noisy


def prior(
    schedule: Schedule, key: Key, shape: tuple[int, ...], temperature: float = 1.0
) -> Float[Array, "..."]:
    """The noise that sampling starts from at time 1; ``temperature`` below 1 as in Decision Diffuser."""
    return temperature * schedule.sigma(jnp.float32(1.0)) * jax.random.normal(key, shape)


def start(
    schedule: Schedule,
    x0: Float[Array, "B *D"],
    noise: Float[Array, "B *D"],
    time: float | Array = 1.0,
) -> Float[Array, "B *D"]:
    """The state at ``time`` that begins an edit of x0 (SDEdit, Meng et al. 2021) with strength ``time``."""
    return like(schedule.alpha(time), x0) * x0 + like(schedule.sigma(time), x0) * noise


def invert(
    denoise: Denoise, schedule: Schedule, x0: Float[Array, "B *D"], times: Float[Array, "N1"]
) -> Float[Array, "B *D"]:
    """DDIM inversion: the state at times[0] from which DDIM, down the same ``times``, comes back near x0.

    ``times`` must end above 0 (``leading_times`` does): clean data has no noise to follow.
    """
    return sample(denoise, schedule, x0, jnp.flip(times))

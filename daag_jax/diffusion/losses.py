"""The loss of a denoising network, its weighting over time, and the times to train at.

    L = E_{x0, noise, t} w(t) | prediction(xt, t) - target |^2

Weights are stated for the error of x0 and translated to what the network predicts, so that a weighting means the same
for all parameterisations.  Reduction: the mean over the entries of an example (by ``mask`` where there is one); the
mean over the batch is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.diffusion.process import GaussianProcess, like
from daag_jax.diffusion.schedules import Schedule, derivatives, log_snr, ratio, time_at, time_of
from daag_jax.types import Key

WEIGHTINGS = ("uniform", "target", "min_snr", "snr", "x0", "edm")
FLOOR = 1e-4  # of alpha and sigma in weights, which keeps them finite at both ends of time


def weight_of(
    process: GaussianProcess,
    time: Float[Array, "B"],
    weighting: str,
    gamma: float = 5.0,
    sigma_data: float = 0.5,
) -> Float[Array, "B"]:
    """w(t) for the process' own target.

    uniform: 1 on the noise (L_simple, Ho et al. 2020); x0: 1 on x0; snr: the signal-to-noise ratio on x0 (the same as
    uniform); min_snr: min(SNR, gamma) on x0 (Hang et al. 2023, Eq. 9); edm: 1 / c_out^2 on x0 (Karras et al. 2022,
    table 1); target: 1 on whatever the network predicts.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting {weighting!r} is unknown; use one of {WEIGHTINGS}.")
    if weighting == "target":
        return jnp.ones_like(time)
    alpha = jnp.maximum(process.schedule.alpha(time), FLOOR)
    sigma = jnp.maximum(process.schedule.sigma(time), FLOOR)
    snr = jnp.square(alpha / sigma)
    on_x0 = {
        "uniform": snr,
        "snr": snr,
        "min_snr": jnp.minimum(snr, gamma),
        "x0": jnp.ones_like(snr),
        "edm": (jnp.square(sigma) + jnp.square(alpha * sigma_data))
        / jnp.square(sigma * sigma_data),
    }[weighting]
    if process.parameterisation == "x0":
        return on_x0
    if process.parameterisation == "velocity":
        alpha_slope, sigma_slope = derivatives(process.schedule, time)
        return on_x0 * jnp.square(ratio(sigma, alpha_slope * sigma - sigma_slope * alpha))
    gain = {  # |d target / d x0| at a given xt
        "noise": alpha / sigma,
        "v": (jnp.square(alpha) + jnp.square(sigma)) / sigma,
        "score": alpha / jnp.square(sigma),
    }[process.parameterisation]
    return on_x0 / jnp.square(gain)


def diffusion_loss(
    process: GaussianProcess,
    network: Callable[[Array, Array], Array],
    x0: Float[Array, "B *D"],
    time: Float[Array, "B"],
    key: Key | None = None,
    weighting: str = "uniform",
    gamma: float = 5.0,
    mask: Array | None = None,
    noise: Float[Array, "B *D"] | None = None,
) -> Float[Array, "B"]:
    """The loss of each example: the mean over its entries of squared errors, weighted by w(t) and ``mask``.

    Args:
        mask: any weights, [B], [B, T ..] or of the rank of x0; the mean is over their sum, and 0 where that is 0.
        noise: instead of ``key``, where several losses share one noise (Diffusion-BC's agent and expert).
    """
    if (key is None) == (noise is None):
        raise ValueError("diffusion_loss needs exactly one of key and noise.")
    if noise is None:
        noise = jax.random.normal(key, x0.shape, x0.dtype)
    xt = process.corrupt(x0, noise, time)
    error = jnp.square(network(xt, time) - process.target(x0, noise, time))
    error = error * like(weight_of(process, time, weighting, gamma), x0)
    axes = tuple(range(1, x0.ndim))
    if mask is None:
        return jnp.mean(error, axis=axes)
    mask = jnp.broadcast_to(like(mask, error), error.shape).astype(error.dtype)
    return jnp.sum(error * mask, axis=axes) / jnp.maximum(jnp.sum(mask, axis=axes), 1e-8)


def draw_times(
    key: Key,
    num: int,
    schedule: Schedule,
    is_antithetic: bool = False,
    time_range: tuple[float, float] = (0.0, 1.0),
) -> Float[Array, "B"]:
    """Times to train at: the steps of a table, each as likely; without a table, uniform in [min_time, 1].

    Args:
        is_antithetic: the second half mirrors the first, t and T - 1 - t (as Diffusion-BC does): less variance.
        time_range: the part of time that is drawn from, at least one step of a table.
    """
    half = -(-num // 2) if is_antithetic else num
    steps, (low, high) = schedule.num_steps, time_range
    if steps:
        first = round(low * steps)
        stop = max(round(high * steps), first + 1)
        index = jax.random.randint(key, (half,), first, stop)
        time, mirrored = time_of(schedule, index), time_of(schedule, first + stop - 1 - index)
    else:
        low = max(low, schedule.min_time)
        time = jax.random.uniform(key, (half,), minval=low, maxval=high)
        mirrored = low + high - time
    return jnp.concatenate([time, mirrored])[:num] if is_antithetic else time


def draw_lognormal_times(
    key: Key, num: int, schedule: Schedule, mean: float = -1.2, std: float = 1.2
) -> Float[Array, "B"]:
    """Times at which log(sigma / alpha) is normal (Karras et al. 2022, table 1), inside [min_time, 1]."""
    level = mean + std * jax.random.normal(key, (num,))
    lowest = -0.5 * log_snr(schedule, jnp.float32(schedule.min_time))
    return time_at(schedule, -2.0 * jnp.maximum(level, lowest))

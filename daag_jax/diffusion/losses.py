"""The loss of a denoising network, and its weighting over time.

    L = E_{x0, noise, t} w(t) | prediction(xt, t) - target |^2

Weights are stated for the noise target (``"uniform"`` there is the L_simple of Ho et al. 2020) and translated to the
other targets, so that a weighting means the same for all parameterisations.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.diffusion.process import GaussianProcess, like
from daag_jax.types import Key

WEIGHTINGS = ("uniform", "target", "min_snr", "snr", "x0")


def weight_of(
    process: GaussianProcess, time: Float[Array, "B"], weighting: str, gamma: float = 5.0
) -> Float[Array, "B"]:
    """w(t) for the process' own target.

    uniform: 1 on the noise; x0: 1 on x0; snr: the signal-to-noise ratio on x0 (the same as uniform); min_snr:
    min(SNR, gamma) on x0 (Hang et al. 2023, Eq. 9); target: 1 on whatever the network predicts.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting {weighting!r} is unknown; use one of {WEIGHTINGS}.")
    if weighting == "target":
        return jnp.ones_like(time)
    alpha, sigma = process.schedule.alpha(time), process.schedule.sigma(time)
    snr = jnp.square(alpha / sigma)
    on_x0 = {
        "uniform": snr,
        "snr": snr,
        "min_snr": jnp.minimum(snr, gamma),
        "x0": jnp.ones_like(snr),
    }
    scale = {  # |target error|^2 = scale |x0 error|^2
        "noise": snr,
        "x0": jnp.ones_like(snr),
        "v": jnp.square((jnp.square(alpha) + jnp.square(sigma)) / sigma),
        "score": jnp.square(alpha / jnp.square(sigma)),
    }
    if process.parameterisation == "velocity":
        raise ValueError("weighting of the parameterisation 'velocity' is 'target'; use that.")
    return on_x0[weighting] / scale[process.parameterisation]


def diffusion_loss(
    process: GaussianProcess,
    network: Callable[[Array, Array], Array],
    x0: Float[Array, "B *D"],
    time: Float[Array, "B"],
    key: Key,
    weighting: str = "uniform",
    gamma: float = 5.0,
    mask: Array | None = None,
) -> Float[Array, "B"]:
    """The loss of each example: mean over its entries, of squared errors weighted by w(t) and ``mask`` (any weights)."""
    noise = jax.random.normal(key, x0.shape, x0.dtype)
    xt = process.corrupt(x0, noise, time)
    error = jnp.square(network(xt, time) - process.target(x0, noise, time))
    error = error * like(weight_of(process, time, weighting, gamma), x0)
    axes = tuple(range(1, x0.ndim))
    if mask is None:
        return jnp.mean(error, axis=axes)
    mask = jnp.broadcast_to(mask, error.shape)
    return jnp.sum(error * mask, axis=axes) / jnp.maximum(jnp.sum(mask, axis=axes), 1e-8)

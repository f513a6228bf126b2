"""The Gaussian process of diffusion, and the five things a network may predict of it.

    xt = alpha x0 + sigma noise                                                           (1)
    noise;  x0;  v = alpha noise - sigma x0;  score = -noise / sigma;  velocity = alpha' x0 + sigma' noise

All are affine in each other at a given (xt, t), so a prediction of any of them is a denoiser: ``to_x0``.
(v: Salimans and Ho 2022, here for any alpha, sigma; velocity: the right side of the flow dx/dt, Lipman et al. 2022.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.diffusion.schedules import Schedule, derivatives

PARAMETERISATIONS = ("noise", "x0", "v", "score", "velocity")
Denoise = Callable[[Array, Array], Array]  # (xt [B, *D], time [B]) -> x0 [B, *D]


def like(values: Array, x: Array) -> Array:
    """Values of time, [] or [B], with as many axes as x [B, *D]."""
    values = jnp.asarray(values)
    return values.reshape(values.shape + (1,) * (x.ndim - values.ndim))


@dataclass(frozen=True)
class GaussianProcess:
    """A schedule, and what the network predicts.

    Raises:
        ValueError: the parameterisation is unknown.
    """

    schedule: Schedule
    parameterisation: str = "noise"

    def __post_init__(self):
        if self.parameterisation not in PARAMETERISATIONS:
            raise ValueError(
                f"parameterisation {self.parameterisation!r} is unknown; use one of {PARAMETERISATIONS}."
            )

    def coefficients(self, time: Array, x: Array) -> tuple[Array, Array]:
        """alpha and sigma, broadcastable to x."""
        return like(self.schedule.alpha(time), x), like(self.schedule.sigma(time), x)

    def corrupt(
        self, x0: Float[Array, "B *D"], noise: Float[Array, "B *D"], time: Float[Array, "B"]
    ) -> Float[Array, "B *D"]:
        """Adds noise (Eq. 1)."""
        alpha, sigma = self.coefficients(time, x0)
        return alpha * x0 + sigma * noise

    def target(
        self, x0: Float[Array, "B *D"], noise: Float[Array, "B *D"], time: Float[Array, "B"]
    ) -> Float[Array, "B *D"]:
        """What the network should predict of (x0, noise) at a time."""
        alpha, sigma = self.coefficients(time, x0)
        if self.parameterisation == "noise":
            return noise
        if self.parameterisation == "x0":
            return x0
        if self.parameterisation == "v":
            return alpha * noise - sigma * x0
        if self.parameterisation == "score":
            return -noise / sigma
        alpha_slope, sigma_slope = (like(d, x0) for d in derivatives(self.schedule, time))
        return alpha_slope * x0 + sigma_slope * noise

    def to_x0(
        self, prediction: Float[Array, "B *D"], xt: Float[Array, "B *D"], time: Float[Array, "B"]
    ) -> Float[Array, "B *D"]:
        """The clean sample that a prediction means."""
        alpha, sigma = self.coefficients(time, xt)
        if self.parameterisation == "noise":
            return (xt - sigma * prediction) / alpha
        if self.parameterisation == "x0":
            return prediction
        if self.parameterisation == "v":
            return (alpha * xt - sigma * prediction) / (alpha**2 + sigma**2)
        if self.parameterisation == "score":
            return (xt + sigma**2 * prediction) / alpha
        alpha_slope, sigma_slope = (like(d, xt) for d in derivatives(self.schedule, time))
        return (sigma * prediction - sigma_slope * xt) / (alpha_slope * sigma - sigma_slope * alpha)

    def to_noise(
        self, x0: Float[Array, "B *D"], xt: Float[Array, "B *D"], time: Float[Array, "B"]
    ) -> Float[Array, "B *D"]:
        """The noise that makes xt of x0."""
        alpha, sigma = self.coefficients(time, xt)
        return (xt - alpha * x0) / sigma

    def denoiser(self, network: Callable[[Array, Array], Array]) -> Denoise:
        """Turns ``network(xt, time) -> prediction`` into a denoiser."""
        return lambda xt, time: self.to_x0(network(xt, time), xt, time)


def edm_denoiser(network: Callable[[Array, Array], Array], sigma_data: float = 0.5) -> Denoise:
    """Karras et al. 2022, Eq. 7: D(x, s) = c_skip x + c_out F(c_in x, log(s) / 4); ``time`` holds sigma here."""

    def denoise(x: Array, sigma: Array) -> Array:
        total = jnp.sqrt(sigma**2 + sigma_data**2)
        skip, out, scale = sigma_data**2 / total**2, sigma * sigma_data / total, 1.0 / total
        return like(skip, x) * x + like(out, x) * network(like(scale, x) * x, jnp.log(sigma) / 4)

    return denoise

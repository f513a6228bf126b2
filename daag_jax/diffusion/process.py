"""The Gaussian process of diffusion, and the five things a network may predict of it.

    xt = alpha x0 + sigma noise                                                           (1)
    noise;  x0;  v = alpha noise - sigma x0;  score = -noise / sigma;  velocity = alpha' x0 + sigma' noise

All are affine in each other at a given (xt, t), so a prediction of any of them is a denoiser: ``to_x0``.
(v: Salimans and Ho 2022, here for any alpha, sigma; velocity: the right side of the flow dx/dt, Lipman et al. 2022.)

Where (1) says nothing, the answer is finite: at sigma = 0 the noise is taken as 0, and at alpha = 0 a predicted noise
means x0 = 0, the mean of normalised data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.diffusion.schedules import Schedule, as_float, derivatives, log_snr, ratio

PARAMETERISATIONS = ("noise", "x0", "v", "score", "velocity")
Denoise = Callable[[Array, Array], Array]  # (xt [B, *D], time [B] or []) -> x0 [B, *D]
Time = Float[Array, "B"] | Float[Array, ""]


def like(values: Array, x: Array) -> Array:
    """Values [], [B] or [B, T ..] with as many axes as x [B, T .., *D]."""
    values = jnp.asarray(values)
    return values.reshape(values.shape + (1,) * (x.ndim - values.ndim))


def posterior_variance(schedule: Schedule, time: Array, after: Array) -> Array:
    """The variance of q(x_after | x_time, x0) (Ho et al. 2020, Eq. 7, for any alpha and sigma)."""
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    alpha_after, sigma_after = schedule.alpha(after), schedule.sigma(after)
    step_variance = jnp.square(sigma) - jnp.square(ratio(alpha, alpha_after) * sigma_after)
    return jnp.square(ratio(sigma_after, sigma)) * jnp.maximum(step_variance, 0.0)


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

    def slopes(self, time: Array, x: Array) -> tuple[Array, Array]:
        """d alpha / dt and d sigma / dt, broadcastable to x."""
        alpha_slope, sigma_slope = derivatives(self.schedule, time)
        return like(alpha_slope, x), like(sigma_slope, x)

    def corrupt(
        self, x0: Float[Array, "B *D"], noise: Float[Array, "B *D"], time: Time
    ) -> Float[Array, "B *D"]:
        """Adds noise (Eq. 1)."""
        alpha, sigma = self.coefficients(time, x0)
        return alpha * x0 + sigma * noise

    def target(
        self, x0: Float[Array, "B *D"], noise: Float[Array, "B *D"], time: Time
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
            return -ratio(noise, sigma)
        alpha_slope, sigma_slope = self.slopes(time, x0)
        return alpha_slope * x0 + sigma_slope * noise

    def to_x0(
        self, prediction: Float[Array, "B *D"], xt: Float[Array, "B *D"], time: Time
    ) -> Float[Array, "B *D"]:
        """The clean sample that a prediction means."""
        alpha, sigma = self.coefficients(time, xt)
        if self.parameterisation == "noise":
            return ratio(xt - sigma * prediction, alpha)
        if self.parameterisation == "x0":
            return prediction
        if self.parameterisation == "v":
            return (alpha * xt - sigma * prediction) / (alpha**2 + sigma**2)
        if self.parameterisation == "score":
            return ratio(xt + sigma**2 * prediction, alpha)
        alpha_slope, sigma_slope = self.slopes(time, xt)
        x0 = ratio(sigma * prediction - sigma_slope * xt, alpha_slope * sigma - sigma_slope * alpha)
        return jnp.where(sigma == 0, xt, x0)

    def to_noise(
        self, x0: Float[Array, "B *D"], xt: Float[Array, "B *D"], time: Time
    ) -> Float[Array, "B *D"]:
        """The noise that makes xt of x0."""
        alpha, sigma = self.coefficients(time, xt)
        return ratio(xt - alpha * x0, sigma)

    def from_x0(
        self, x0: Float[Array, "B *D"], xt: Float[Array, "B *D"], time: Time
    ) -> Float[Array, "B *D"]:
        """The prediction that means x0: the inverse of ``to_x0``."""
        return self.target(x0, self.to_noise(x0, xt, time), time)

    def denoiser(self, network: Callable[[Array, Array], Array]) -> Denoise:
        """Turns ``network(xt, time) -> prediction`` into a denoiser."""
        return lambda xt, time: self.to_x0(network(xt, time), xt, time)


def edm_denoiser(
    network: Callable[[Array, Array], Array], schedule: Schedule, sigma_data: float = 0.5
) -> Denoise:
    """A denoiser whose network sees and makes numbers of unit size at every time.

    D(x, t) = c_skip x + c_out F(c_in x, log(sigma / alpha) / 4)       (Karras et al. 2022, Eq. 7, there with alpha = 1)
    """

    def denoise(x: Array, time: Array) -> Array:
        time = as_float(time)
        alpha, sigma = schedule.alpha(time), schedule.sigma(time)
        total = jnp.sqrt(jnp.square(alpha * sigma_data) + jnp.square(sigma))
        skip = alpha * sigma_data**2 / jnp.square(total)
        out, scale = sigma * sigma_data / total, 1.0 / total
        level = -log_snr(schedule, jnp.maximum(time, schedule.min_time)) / 8.0
        return like(skip, x) * x + like(out, x) * network(like(scale, x) * x, level)

    return denoise

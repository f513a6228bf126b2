"""Noise schedules: how much signal alpha(t) and how much noise sigma(t) there is at time t, from 0 (clean) to 1.

    xt = alpha(t) x0 + sigma(t) noise                                                     (1)

Variance preserving (alpha^2 + sigma^2 = 1): linear (Ho et al. 2020), cosine (Nichol and Dhariwal 2021), sigmoid
(Jabri et al. 2022), sigmoid_betas (Diffusion-BC), scaled_linear (Stable Diffusion), vp (as discretised by
Diffusion-QL) and its continuous limit vp_sde (Song et al. 2021).  Variance exploding: ve (Karras et al. 2022).
Straight paths: rectified_flow (Liu et al. 2022).

A discrete schedule of N steps keeps its table exactly: step i = 0 .. N-1 has time (i + 1) / N, and between steps
log alpha^2 is linear.  ``step_of`` gives the (fractional) step that a network trained on integers wants to read.
Time 0 is clean data in every schedule: alpha = 1, sigma = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

SPACINGS = ("trailing", "leading", "linspace")


class Schedule(NamedTuple):
    """alpha and sigma as functions of time, of any shape; ``num_steps`` is 0 where there is no table."""

    alpha: Callable[[Array], Array]
    sigma: Callable[[Array], Array]
    num_steps: int = 0
    min_time: float = 1e-3  # the smallest time at which a network is asked


def as_float(time: Array | float) -> Array:
    """Time in float32, or in float64 where the caller computes in it."""
    return jnp.asarray(time, jnp.promote_types(jnp.result_type(time), jnp.float32))


def snap(position: Array, num_steps: int) -> Array:
    """Rounds off the rounding error of time * N, so that steps of a table are met exactly."""
    near = jnp.round(position)
    tolerance = 4 * max(num_steps, 1) * jnp.finfo(position.dtype).eps
    shift = jnp.where(jnp.abs(near - position) < tolerance, near - position, 0.0)
    return position + jax.lax.stop_gradient(shift)  # the slope in time stays that of the line


def root(square: Array) -> Array:
    """A square root whose slope at 0 is 0 instead of infinite."""
    is_positive = square > 0
    return jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, square, 1.0)), 0.0)


def ratio(numerator: Array, denominator: Array) -> Array:
    """A quotient that is 0 where the denominator is 0."""
    safe = jnp.where(denominator == 0, 1.0, denominator)
    return jnp.where(denominator == 0, 0.0, numerator / safe)


def log_snr(schedule: Schedule, time: Array) -> Array:
    """log(alpha^2 / sigma^2), the logarithm of the signal-to-noise ratio."""
    return 2.0 * (jnp.log(schedule.alpha(time)) - jnp.log(schedule.sigma(time)))


def time_at(schedule: Schedule, log_snr_wanted: Array) -> Array:
    """The time in [0, 1] at which log_snr has a value: bisection, as it falls with time."""
    wanted = as_float(log_snr_wanted)

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        is_early = log_snr(schedule, middle) > wanted
        return jnp.where(is_early, middle, low), jnp.where(is_early, high, middle)

    rounds = jnp.finfo(wanted.dtype).nmant + 8
    low, high = jax.lax.fori_loop(0, rounds, halve, (0.0 * wanted, 0.0 * wanted + 1.0))
    return 0.5 * (low + high)


def step_of(schedule: Schedule, time: Array) -> Array:
    """The step i (a float) of a time, for networks that were trained on the integers 0 .. N-1."""
    check_has_steps(schedule)
    return snap(as_float(time) * schedule.num_steps, schedule.num_steps) - 1.0


def time_of(schedule: Schedule, step: Array) -> Array:
    """The time of a step."""
    check_has_steps(schedule)
    return (as_float(step) + 1.0) / schedule.num_steps


def check_has_steps(schedule: Schedule) -> None:
    """Raises ValueError where a schedule is continuous."""
    if schedule.num_steps < 1:
        raise ValueError("num_steps=0: a continuous schedule has no steps; use its time in [0, 1].")


def from_betas(betas: Float[np.ndarray, "N"]) -> Schedule:
    """A discrete schedule: alpha^2 of step i is the product of 1 - beta up to it (Ho et al. 2020, Eq. 4)."""
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or betas.size == 0 or betas.min() <= 0 or betas.max() >= 1:
        raise ValueError(
            f"betas must be a non-empty list inside (0, 1), got {betas}; try 1e-4 .. 0.02."
        )
    num_steps = betas.size
    table = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])  # log alpha^2

    def log_alpha_squared(time: Array) -> Array:
        position = snap(as_float(time) * num_steps, num_steps)
        index = jnp.clip(jnp.floor(position), 0, num_steps - 1).astype(jnp.int32)
        values = jnp.asarray(table, position.dtype)
        return values[index] + (position - index) * (values[index + 1] - values[index])

    return variance_preserving(log_alpha_squared, num_steps, 1.0 / num_steps)


def variance_preserving(
    log_alpha_squared: Callable[[Array], Array], num_steps: int = 0, min_time: float = 1e-3
) -> Schedule:
    """alpha and sigma of log alpha^2, with sigma exact also where it is small."""
    return Schedule(
        lambda time: jnp.exp(0.5 * log_alpha_squared(time)),
        lambda time: root(-jnp.expm1(log_alpha_squared(time))),
        num_steps,
        min_time,
    )


def linear(num_steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> Schedule:
    """Betas on a line (Ho et al. 2020); for N steps instead of 1000, scale both ends by 1000 / N."""
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


def sigmoid_betas(num_steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> Schedule:
    """Betas on a logistic curve between -6 and 6 (the released code of Diffusion-BC)."""
    curve = 1.0 / (1.0 + np.exp(-np.linspace(-6.0, 6.0, num_steps)))
    return from_betas(np.clip(start + curve * (end - start), 1e-4, 0.9999))


def vp(num_steps: int = 5, beta_min: float = 0.1, beta_max: float = 10.0) -> Schedule:
    """beta_i = 1 - exp(-b_min / N - (b_max - b_min) (2 i - 1) / (2 N^2)), i = 1 .. N (Diffusion-QL)."""
    i = np.arange(1, num_steps + 1)
    exponent = beta_min / num_steps + 0.5 * (beta_max - beta_min) * (2 * i - 1) / num_steps**2
    return from_betas(-np.expm1(-exponent))


def vp_sde(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """log alpha^2 = -(beta_min t + (beta_max - beta_min) t^2 / 2) (Song et al. 2021); vp(N, ..) is its table."""

    def log_alpha_squared(time: Array) -> Array:
        time = as_float(time)
        return -time * (beta_min + 0.5 * (beta_max - beta_min) * time)

    return variance_preserving(log_alpha_squared)


def ve(sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Schedule:
    """alpha = 1, sigma = sigma_max t^rho: times on a line are the levels of Karras et al. 2022, Eq. 5.

    ``min_time`` has sigma_min; their grid, with its clean end, is ``ending_times``.
    """
    return Schedule(
        lambda time: jnp.ones_like(as_float(time)),
        lambda time: sigma_max * as_float(time) ** rho,
        min_time=(sigma_min / sigma_max) ** (1.0 / rho),
    )


def rectified_flow() -> Schedule:
    """alpha = 1 - t, sigma = t: straight lines from data to noise (Liu et al. 2022)."""
    return Schedule(lambda time: 1.0 - as_float(time), as_float)


def derivatives(schedule: Schedule, time: Array) -> tuple[Array, Array]:
    """d alpha / dt and d sigma / dt."""
    time = as_float(time)
    one = jnp.ones_like(time)
    slope = lambda f: jax.jvp(f, (time,), (one,))[1]
    return slope(schedule.alpha), slope(schedule.sigma)


def uniform_times(num: int, start: float = 1.0, end: float = 0.0) -> Float[Array, "N1"]:
    """num + 1 times from ``start`` (noisy) down to ``end``."""
    if num < 1:
        raise ValueError(f"num={num} steps; a sampler needs at least 1.")
    return jnp.linspace(start, end, num + 1, dtype=jnp.float32)


def ending_times(schedule: Schedule, num: int) -> Float[Array, "N1"]:
    """``num`` times on a line from 1 to ``min_time``, then 0: Karras et al. 2022, Eq. 5, where the schedule is ve."""
    if num < 2:
        raise ValueError(f"num={num} steps; times spaced between two ends need at least 2.")
    return jnp.append(uniform_times(num - 1, 1.0, schedule.min_time), 0.0)


def log_snr_times(schedule: Schedule, num: int, start: float = 0.999) -> Float[Array, "N1"]:
    """``num`` times evenly spaced in log_snr from ``start`` to ``min_time``, then 0 (Lu et al. 2022, section 3.3)."""
    if num < 2:
        raise ValueError(f"num={num} steps; times spaced between two ends need at least 2.")
    ends = log_snr(schedule, jnp.array([start, schedule.min_time]))
    inner = time_at(schedule, jnp.linspace(ends[0], ends[1], num)[1:-1])
    return jnp.concatenate([jnp.array([start]), inner, jnp.array([schedule.min_time, 0.0])])


def leading_times(
    schedule: Schedule, num: int, steps_offset: int = 1, is_end_clean: bool = False
) -> Float[Array, "N1"]:
    """The times of Stable Diffusion's DDIM: steps (N // num) k + offset, then step 0.

    Args:
        is_end_clean: ends on clean data instead of on step 0 (the reference's set_alpha_to_one, off for SD 1.5).
    """
    if not 1 <= num <= schedule.num_steps - steps_offset:
        raise ValueError(
            f"num={num} is not between 1 and {schedule.num_steps - steps_offset}, the steps of "
            f"training less steps_offset={steps_offset}; try 50."
        )
    steps = np.arange(num)[::-1] * (schedule.num_steps // num) + steps_offset
    return time_of(schedule, jnp.asarray(np.append(steps, -1 if is_end_clean else 0)))


def last_part(times: Float[Array, "N1"], strength: float) -> Float[Array, "M1"]:
    """The last int(N strength) steps: where an edit of that strength starts (SDEdit, as in Stable Diffusion)."""
    num = times.shape[0] - 1
    kept = min(int(num * strength), num)
    if kept < 1:
        raise ValueError(f"strength={strength} leaves none of {num} steps; try {1 / num} or more.")
    return times[num - kept :]


def spaced_times(
    schedule: Schedule, num: int, spacing: str = "trailing", strength: float = 1.0
) -> Float[Array, "N1"]:
    """The times of ``num`` steps as image models are sampled; ``strength`` below 1 is where an edit starts (SDEdit).

        trailing   even from ``strength`` to 0 (Lin et al. 2024, table 2); all steps are spent there
        leading    of DDIM in Stable Diffusion: ``leading_times``, of which the last share
        linspace   of DPM-Solver++ in diffusers: steps 0 .. N - 1 rounded, without step 0, then clean data; likewise

    Raises:
        ValueError: the spacing is unknown, or the strength leaves no step.
    """
    if spacing == "trailing":
        return uniform_times(num, strength, 0.0)
    if spacing == "leading":
        return last_part(leading_times(schedule, num), strength)
    if spacing != "linspace":
        raise ValueError(f"spacing {spacing!r} is unknown; use one of {SPACINGS}.")
    check_has_steps(schedule)
    if not 1 <= num < schedule.num_steps:
        raise ValueError(f"num={num} is not between 1 and {schedule.num_steps - 1}; try 20.")
    steps = np.round(np.linspace(0, schedule.num_steps - 1, num + 1))[::-1]
    steps[-1] = -1  # clean
    return last_part(time_of(schedule, jnp.asarray(steps)), strength)


def scaled(of_betas: Callable[..., Schedule]) -> Callable[[int], Schedule]:
    """A schedule of betas 1e-4 .. 0.02 at 1000 steps, for any number: both ends times 1000 / N."""
    return lambda num_steps: of_betas(num_steps, 0.1 / num_steps, min(20.0 / num_steps, 0.999))


BY_NAME: dict[str, Callable[[int], Schedule]] = {  # of any number of steps
    "cosine": cosine,
    "linear": scaled(linear),
    "sigmoid_betas": scaled(sigmoid_betas),
}

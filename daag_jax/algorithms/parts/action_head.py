"""From the last layer of a network to bounded actions, and back to a loss.

Dimensions named in ``binary_dims`` (pick or place) are decisions: P(high) = sigmoid(logit), learnt with the logistic
loss.  The others are continuous: mu = tanh(location), learnt in units of half the range with

    squared   (a - mu)^2 / 2        absolute   |a - mu|        gaussian   (a - mu)^2 / (2 sigma^2) + log sigma
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.types import Key, Spec

LIKELIHOODS = ("squared", "absolute", "gaussian")
LOG_SIGMA_RANGE = (-4.0, 1.0)  # of a learnt sigma, in units of half the range; our choice


class ActionHead(NamedTuple):
    """Bounds and likelihood of actions; build it with :func:`action_head`."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    is_binary: tuple[bool, ...]
    likelihood: str
    sigma: float | None  # None: learnt

    @property
    def out_dim(self) -> int:
        """Numbers the network must give per action."""
        has_sigma = self.likelihood == "gaussian" and self.sigma is None
        return len(self.low) * (2 if has_sigma else 1)


@dataclass(frozen=True)
class Exploration:
    """How a decision departs from the best one; zeros are deterministic.  Our choice."""

    epsilon: float = 0.0  # probability of a uniformly random action
    noise: float = 0.0  # standard deviation of Gaussian noise, in half-ranges
    flip: float = 0.0  # probability that a binary dimension is turned over

    def __post_init__(self):
        for name in ("epsilon", "flip"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)} is no probability; try 0.1.")
        if self.noise < 0.0:
            raise ValueError(f"noise={self.noise} is negative; try 0.1.")


def action_head(
    spec: Spec,
    likelihood: str = "squared",
    binary_dims: tuple[int, ...] = (),
    sigma: float | None = None,
) -> ActionHead:
    """Checks the sizes and fills in the bounds that ``spec`` leaves out (-1 and +1)."""
    low = tuple(spec.action_low) or (-1.0,) * spec.action_dim
    high = tuple(spec.action_high) or (1.0,) * spec.action_dim
    for name, bound in (("action_low", low), ("action_high", high)):
        if len(bound) != spec.action_dim:
            raise ValueError(
                f"{name} has {len(bound)} numbers and action_dim is {spec.action_dim}; "
                "give one per dimension."
            )
    if any(lower >= upper for lower, upper in zip(low, high, strict=True)):
        raise ValueError(f"action_low {low} is not below action_high {high} in every dimension.")
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"likelihood {likelihood!r} is unknown; use one of {LIKELIHOODS}.")
    if sigma is not None and sigma <= 0:
        raise ValueError(f"sigma={sigma} is not positive; None learns it.")
    for dim in binary_dims:
        if not 0 <= dim < spec.action_dim:
            raise ValueError(f"binary_dims has {dim}, outside 0..{spec.action_dim - 1}.")
    is_binary = tuple(i in binary_dims for i in range(spec.action_dim))
    return ActionHead(low, high, is_binary, likelihood, sigma)


def to_unit(head: ActionHead, actions: Float[Array, "B k A"]) -> Float[Array, "B k A"]:
    """Actions in [-1, 1]."""
    low, high = jnp.array(head.low)[None, None], jnp.array(head.high)[None, None]
    return 2.0 * (actions - low) / (high - low) - 1.0


def from_unit(head: ActionHead, unit: Float[Array, "B k A"]) -> Float[Array, "B k A"]:
    """The inverse of :func:`to_unit`."""
    low, high = jnp.array(head.low)[None, None], jnp.array(head.high)[None, None]
    return low + 0.5 * (unit + 1.0) * (high - low)


def negative_log_likelihood(
    head: ActionHead, raw: Float[Array, "B k R"], actions: Float[Array, "B k A"]
) -> Float[Array, "B k A"]:
    """The loss of each dimension (for "squared" and "absolute" up to a constant and a scale)."""
    unit, location = to_unit(head, actions), raw[..., : len(head.low)]
    error = unit - jnp.tanh(location)
    if head.likelihood == "squared":
        continuous = 0.5 * jnp.square(error)
    elif head.likelihood == "absolute":
        continuous = jnp.abs(error)
    elif head.sigma is not None:
        continuous = 0.5 * jnp.square(error / head.sigma) + jnp.log(head.sigma)
    else:
        log_sigma = jnp.clip(raw[..., len(head.low) :], *LOG_SIGMA_RANGE)
        continuous = 0.5 * jnp.square(error * jnp.exp(-log_sigma)) + log_sigma
    logistic = jax.nn.softplus(-jnp.sign(unit) * location)
    return jnp.where(jnp.array(head.is_binary)[None, None], logistic, continuous)


def best(head: ActionHead, raw: Float[Array, "B k R"]) -> Float[Array, "B k A"]:
    """The most likely action, in [-1, 1]."""
    location = raw[..., : len(head.low)]
    decided = jnp.where(location > 0, 1.0, -1.0)
    return jnp.where(jnp.array(head.is_binary)[None, None], decided, jnp.tanh(location))


def decide(
    head: ActionHead,
    raw: Float[Array, "B k R"],
    key: Key,
    exploration: Exploration,
    scale: Float[Array, "B"] | None = None,
) -> Float[Array, "B k A"]:
    """Actions within their bounds: the best one, with noise, or (with probability epsilon) a random one.

    Args:
        scale: multiplies the exploration of each row (0: deterministic).
    """
    epsilon_key, random_key, noise_key, flip_key = jax.random.split(key, 4)
    unit = best(head, raw)
    scale = jnp.ones(raw.shape[0]) if scale is None else scale.astype(jnp.float32)
    scale, is_binary = scale[:, None, None], jnp.array(head.is_binary)[None, None]
    noisy = unit + exploration.noise * scale * jax.random.normal(noise_key, unit.shape)
    is_flipped = jax.random.uniform(flip_key, unit.shape) < exploration.flip * scale
    unit = jnp.where(is_binary, jnp.where(is_flipped, -unit, unit), jnp.clip(noisy, -1.0, 1.0))
    uniform = jax.random.uniform(random_key, unit.shape, minval=-1.0, maxval=1.0)
    uniform = jnp.where(is_binary, jnp.where(uniform > 0, 1.0, -1.0), uniform)
    chance = jax.random.uniform(epsilon_key, (raw.shape[0], 1, 1))
    return from_unit(head, jnp.where(chance < exploration.epsilon * scale, uniform, unit))

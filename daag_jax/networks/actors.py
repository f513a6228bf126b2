"""Stochastic policies of actions in [-1, 1].

GaussianActor   N(tanh m(s), std^2), not squashed, one std for all states    (IQL, AWAC)
SquashedActor   tanh of N(m(s), std(s)^2)                                    (SAC, CQL)
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.networks.mlp import Mlp


class GaussianActor(nn.Module):
    """Mean [*B, A] in [-1, 1] and log std [A], which a sigmoid keeps within its range and starts in the middle."""

    hidden_dims: tuple[int, ...]
    action_dim: int
    log_std_range: tuple[float, float]

    @nn.compact
    def __call__(self, x: Float[Array, "*B I"]) -> tuple[Array, Array]:
        net = Mlp(self.hidden_dims, self.action_dim, False, activation=jax.nn.relu, name="mlp")
        place = self.param("log_std", nn.initializers.zeros, (self.action_dim,))
        low, high = self.log_std_range
        return jnp.tanh(net(x)), low + (high - low) * jax.nn.sigmoid(place)


class SquashedActor(nn.Module):
    """Mean and log std [*B, A] of what tanh squashes."""

    hidden_dims: tuple[int, ...]
    action_dim: int
    log_std_range: tuple[float, float] = (-20.0, 2.0)  # SAC (Haarnoja et al. 2018), as released

    @nn.compact
    def __call__(self, x: Float[Array, "*B I"]) -> tuple[Array, Array]:
        net = Mlp(self.hidden_dims, 2 * self.action_dim, False, activation=jax.nn.relu, name="mlp")
        mean, log_std = jnp.split(net(x), 2, axis=-1)
        return mean, jnp.clip(log_std, *self.log_std_range)


def log_density(
    x: Float[Array, "*B A"], mean: Float[Array, "*B A"], log_std: Float[Array, "*B A"]
) -> Float[Array, "*B"]:
    """log N(x; mean, std^2) with independent dimensions."""
    scaled = jnp.square((x - mean) * jnp.exp(-log_std))
    return -0.5 * jnp.sum(scaled + 2 * log_std + jnp.log(2 * jnp.pi), axis=-1)


def squashed(
    mean: Float[Array, "*B A"], log_std: Float[Array, "*B A"], noise: Float[Array, "*B A"]
) -> tuple[Float[Array, "*B A"], Float[Array, "*B"]]:
    """a = tanh(u) of u = mean + std noise, and log pi(a) = log N(u) - sum log(1 - a^2)  (SAC, appendix C)."""
    u = mean + jnp.exp(log_std) * noise
    slope = 2.0 * (jnp.log(2.0) - u - jax.nn.softplus(-2.0 * u))  # log(1 - tanh(u)^2)
    return jnp.tanh(u), log_density(u, mean, log_std) - jnp.sum(slope, axis=-1)

"""Embeddings of time: sinusoids of fixed wavelengths, random Fourier features, and the small network behind them."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def sinusoidal(
    values: Float[Array, "*B"], dim: int, max_period: float = 10000.0
) -> Float[Array, "*B D"]:
    """[sin(w v), cos(w v)] with frequencies w falling geometrically from 1 to about 1 / max_period (Ho et al. 2020).

    Raises:
        ValueError: dim is odd or below 4.
    """
    if dim < 4 or dim % 2:
        raise ValueError(f"dim={dim} is not an even number from 4 on (half sines, half cosines).")
    frequencies = np.exp(-np.log(max_period) * np.arange(dim // 2) / (dim // 2 - 1))
    angles = values[..., None] * jnp.asarray(frequencies, values.dtype).reshape(
        (1,) * values.ndim + (-1,)
    )
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class TimeEmbedding(nn.Module):
    """Sinusoids, then Dense, Mish, Dense (Diffuser's: 32, 128, 32); ``scale`` turns time in [0, 1] into steps."""

    dim: int
    widening: int = 4
    scale: float = 1000.0

    @nn.compact
    def __call__(self, time: Float[Array, "*B"]) -> Float[Array, "*B D"]:
        x = sinusoidal(self.scale * time, self.dim)
        x = jax.nn.mish(nn.Dense(self.widening * self.dim)(x))
        return nn.Dense(self.dim)(x)


class FourierEmbedding(nn.Module):
    """[cos(2 pi w v), sin(2 pi w v)] with w ~ N(0, scale^2), fixed (SynthER: scale 16) or learnt (IDQL: scale 0.2)."""

    dim: int
    scale: float = 16.0
    is_learnt: bool = False

    @nn.compact
    def __call__(self, values: Float[Array, "*B"]) -> Float[Array, "*B D"]:
        if self.dim < 2 or self.dim % 2:
            raise ValueError(f"dim={self.dim} is not an even number (half cosines, half sines).")
        shape = (self.dim // 2,)
        if self.is_learnt:
            frequencies = self.param("frequencies", nn.initializers.normal(self.scale), shape)
        else:  # the same in every run, and out of reach of optimisers and weight decay
            frequencies = jnp.asarray(
                self.scale * np.random.default_rng(0).normal(size=shape), jnp.float32
            )
        frequencies = frequencies.reshape((1,) * values.ndim + shape)
        angles = 2 * jnp.pi * values[..., None] * frequencies
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)

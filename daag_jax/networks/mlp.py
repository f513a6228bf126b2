"""Multi-layer perceptrons: plain (Dense, LayerNorm, SiLU, repeated), residual, and those that denoise vectors.

Mlp            Dense, LayerNorm, activation, repeated; a plain last layer
ResidualMlp    blocks  x + Dense(4 w) act Dense LayerNorm Dropout   (IDQL, Hansen-Estruch et al. 2023)
DenoisingMlp   Mlp of [xt, embedded time, condition]                (Diffusion-QL, Wang et al. 2022)
StepMlp        a learnt vector per step, added before each ReLU     (Diffusion-BC's density model, as released)
VariationalMlp an encoder and a decoder around a Gaussian latent    (Kingma and Welling 2014)
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.networks.embeddings import TimeEmbedding

Activation = Callable[[Array], Array]


class Mlp(nn.Module):
    """Hidden layers and an output of ``out_dim`` numbers (starts near zero when ``out_scale`` is small)."""

    hidden_dims: tuple[int, ...]
    out_dim: int
    layer_norm: bool = True
    out_scale: float = 1.0
    activation: Activation = jax.nn.silu
    orthogonal: bool = False  # hidden kernels, with gain sqrt 2

    @nn.compact
    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B D"]:
        usual, orthogonal = nn.initializers.lecun_normal(), nn.initializers.orthogonal(2**0.5)
        for width in self.hidden_dims:
            x = nn.Dense(width, kernel_init=orthogonal if self.orthogonal else usual)(x)
            x = nn.LayerNorm()(x) if self.layer_norm else x
            x = self.activation(x)
        init = nn.initializers.variance_scaling(self.out_scale, "fan_in", "truncated_normal")
        return nn.Dense(self.out_dim, kernel_init=init, name="out")(x)


class ResidualMlp(nn.Module):
    """Blocks around an identity path; dropout is on where a call passes ``is_training`` and a "dropout" key."""

    width: int
    out_dim: int
    num_blocks: int = 3
    dropout: float = 0.0  # IDQL: 0.1
    activation: Activation = jax.nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, "*B I"], is_training: bool = False) -> Float[Array, "*B D"]:
        x = nn.Dense(self.width)(x)
        for _ in range(self.num_blocks):
            y = nn.Dropout(self.dropout, deterministic=not is_training)(x)
            y = nn.Dense(4 * self.width)(nn.LayerNorm()(y))
            x = x + nn.Dense(self.width)(self.activation(y))
        return nn.Dense(self.out_dim, name="out")(self.activation(x))


class DenoisingMlp(nn.Module):
    """A network(xt, time[, condition]) -> prediction for vectors; the prediction is as long as xt."""

    hidden_dims: tuple[int, ...] = (256, 256, 256)  # Diffusion-QL
    time_dim: int = 16
    layer_norm: bool = False
    activation: Activation = jax.nn.mish

    @nn.compact
    def __call__(
        self,
        xt: Float[Array, "B D"],
        time: Float[Array, "B"],
        condition: Float[Array, "B C"] | None = None,
    ) -> Float[Array, "B D"]:
        embedded = TimeEmbedding(self.time_dim, widening=2)(time)
        parts = [xt, embedded] if condition is None else [xt, embedded, condition]
        net = Mlp(
            self.hidden_dims, xt.shape[-1], self.layer_norm, activation=self.activation, name="mlp"
        )
        return net(jnp.concatenate(parts, axis=-1))


class StepMlp(nn.Module):
    """A network(xt, step[, condition]) -> prediction; steps are 0 .. num_steps - 1, integers or floats that are whole.

    Differs from the release: its fourth hidden layer is built and never used; here it does not exist.
    """

    width: int
    num_steps: int = 1000
    depth: int = 3

    @nn.compact
    def __call__(
        self, xt: Float[Array, "B D"], step: Array, condition: Float[Array, "B C"] | None = None
    ) -> Float[Array, "B D"]:
        index = jnp.round(step).astype(jnp.int32)
        x = xt if condition is None else jnp.concatenate([xt, condition], axis=-1)
        for _ in range(self.depth):
            x = jax.nn.relu(nn.Dense(self.width)(x) + nn.Embed(self.num_steps, self.width)(index))
        return nn.Dense(xt.shape[-1], name="out")(x)


class VariationalMlp(nn.Module):
    """A variational autoencoder of vectors; ``noise`` of the latent's length is drawn by the caller."""

    width: int
    depth: int
    latent_dim: int
    out_dim: int

    def setup(self):
        layers = {"layer_norm": False, "activation": jax.nn.leaky_relu}
        self.encoder = Mlp((self.width,) * self.depth, 2 * self.latent_dim, **layers)
        self.decoder = Mlp((self.width,) * self.depth, self.out_dim, **layers)

    def __call__(self, x: Float[Array, "B D"], noise: Float[Array, "B L"]) -> tuple[Array, Array]:
        """The reconstruction [B, D] and the divergence from the prior [B]."""
        mean, log_variance = jnp.split(self.encoder(x), 2, axis=-1)
        log_variance = jnp.clip(log_variance, -10.0, 10.0)
        latent = mean + jnp.exp(0.5 * log_variance) * noise
        divergence = 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - 1.0 - log_variance, axis=-1)
        return self.decoder(latent), divergence

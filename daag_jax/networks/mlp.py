"""The multi-layer perceptron: Dense, LayerNorm, SiLU, repeated; a plain last layer."""

from __future__ import annotations

import flax.linen as nn
import jax
from jaxtyping import Array, Float


class Mlp(nn.Module):
    """Hidden layers and an output of ``out_dim`` numbers (starts near zero when ``out_scale`` is small)."""

    hidden_dims: tuple[int, ...]
    out_dim: int
    layer_norm: bool = True
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B D"]:
        for width in self.hidden_dims:
            x = nn.Dense(width)(x)
            x = nn.LayerNorm()(x) if self.layer_norm else x
            x = jax.nn.silu(x)
        init = nn.initializers.variance_scaling(self.out_scale, "fan_in", "truncated_normal")
        return nn.Dense(self.out_dim, kernel_init=init, name="out")(x)

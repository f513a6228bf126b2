"""The convolutional parts of Stable Diffusion: residual blocks, resampling, and the embedding of the timestep.

Submodules carry the Hugging Face names (``resnets_0`` stands for ``resnets.0``), so a weight's name in a file is the
path of its module; ``weights.py`` relies on it.  Images and latents are NHWC, where Hugging Face has NCHW.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.networks.stable_diffusion.convolve import convolve, double_and_convolve

Dtype = jnp.dtype | type | None


def conv(features: int, dtype: Dtype, size: int = 3, stride: int = 1, **options) -> nn.Conv:
    """A convolution that keeps the size of the image (or halves it, with stride 2)."""
    pad = size // 2
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        dtype=dtype,
        **{"conv_general_dilated": convolve, **options},
    )


def group_norm(groups: int, eps: float, dtype: Dtype) -> nn.GroupNorm:
    """Group normalisation with statistics in float32."""
    return nn.GroupNorm(num_groups=groups, epsilon=eps, dtype=dtype)


def sinusoid(
    time: Float[Array, "B"], dim: int, flip_sin_to_cos: bool, freq_shift: int
) -> Float[Array, "B {dim}"]:
    """Embeds times as sines and cosines of geometrically spaced frequencies (Vaswani et al. 2017, section 3.5)."""
    half = dim // 2
    exponent = jnp.arange(half, dtype=jnp.float32) / (half - freq_shift)
    angles = time[:, None] * (10000.0**-exponent)[None, :]
    pair = (
        (jnp.cos(angles), jnp.sin(angles))
        if flip_sin_to_cos
        else (jnp.sin(angles), jnp.cos(angles))
    )
    return jnp.concatenate(pair, axis=-1)


class TimestepEmbedding(nn.Module):
    """Two dense layers on the sinusoid of the timestep."""

    features: int
    dtype: Dtype = None

    def setup(self):
        self.linear_1 = nn.Dense(self.features, dtype=self.dtype)
        self.linear_2 = nn.Dense(self.features, dtype=self.dtype)

    def __call__(self, embedding: Float[Array, "B C"]) -> Float[Array, "B E"]:
        return self.linear_2(nn.silu(self.linear_1(embedding)))


class ResnetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + time))), with a 1 x 1 convolution on x where the width changes."""

    in_features: int
    features: int
    groups: int
    eps: float
    has_time: bool = False
    dtype: Dtype = None

    def setup(self):
        self.norm1 = group_norm(self.groups, self.eps, self.dtype)
        self.conv1 = conv(self.features, self.dtype)
        self.norm2 = group_norm(self.groups, self.eps, self.dtype)
        self.conv2 = conv(self.features, self.dtype)
        if self.has_time:
            self.time_emb_proj = nn.Dense(self.features, dtype=self.dtype)
        if self.in_features != self.features:
            self.conv_shortcut = conv(self.features, self.dtype, size=1)

    def __call__(
        self, x: Float[Array, "B H W C"], time: Float[Array, "B E"] | None = None
    ) -> Float[Array, "B H W D"]:
        hidden = self.conv1(nn.silu(self.norm1(x)))
        if self.has_time:
            hidden += self.time_emb_proj(nn.silu(time))[:, None, None, :]
        hidden = self.conv2(nn.silu(self.norm2(hidden)))
        return hidden + (self.conv_shortcut(x) if self.in_features != self.features else x)


class Downsample(nn.Module):
    """Halves an image with a strided convolution; ``is_asymmetric`` pads right and below only, as the VAE does."""

    features: int
    is_asymmetric: bool = False
    dtype: Dtype = None

    def setup(self):
        pad = (0, 1) if self.is_asymmetric else (1, 1)
        self.conv = nn.Conv(
            self.features,
            (3, 3),
            (2, 2),
            (pad, pad),
            dtype=self.dtype,
            conv_general_dilated=convolve,
        )

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
        return self.conv(x)


class Upsample(nn.Module):
    """Doubles an image by repetition, then convolves it."""

    features: int
    dtype: Dtype = None

    def setup(self):
        self.conv = conv(self.features, self.dtype, conv_general_dilated=double_and_convolve)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
        return self.conv(x)

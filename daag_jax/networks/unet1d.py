"""The temporal U-Net: a denoiser of sequences (Diffuser, Janner et al. 2022), modulated by FiLM (Chi et al. 2023).

    block:  h = mish(norm(conv(x)));   h <- (1 + gamma(c)) h + beta(c);   mish(norm(conv(h))) + shortcut(x)

c is the embedded time, with the condition behind it where there is one.  Each level holds two blocks; all but the last
halve the sequence (convolution of 3, stride 2), and the way up doubles it (transposed convolution of 4, stride 2).

    Diffuser            UNet1D((32, 64, 128, 256), time_dim=32, has_scale=False)
    Diffusion Policy    UNet1D((256, 512, 1024), time_dim=256)

Convolutions are matrix products on a CPU, of gathered patches (an update of Diffuser's network was 3.8 times faster
than with XLA's convolutions) or, where there are many rows, by Winograd's filtering (1.7 times faster again for 3,200
sequences), and ``lax.conv_general_dilated`` elsewhere; parameters are those of ``nn.Conv`` and ``nn.ConvTranspose``.

Differs from the papers: FiLM multiplies by 1 + gamma instead of gamma; weights start as flax starts them.  As in both
releases, the features of the first level have no way across: the way up ends on those of the second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from daag_jax.networks.embeddings import TimeEmbedding
from daag_jax.networks.stable_diffusion.convolve import convolve_gathered
from daag_jax.networks.winograd import TILE, convolve_winograd

LAYOUT = ("NTC", "TIO", "NTC")
# by taps: B T from which Winograd's transforms cost less than they save (benchmarks/convolution.py)
WINOGRAD_ROWS = {3: 1024, 5: 256}


class UNet1D(nn.Module):
    """A network(xt, time[, condition]) -> prediction for sequences; the prediction has the shape of xt.

    Raises:
        ValueError: the length of a sequence cannot be halved often enough, or a width is no multiple of the groups.
    """

    widths: tuple[int, ...] = (256, 512, 1024)  # of the levels
    time_dim: int = 256
    kernel: int = 5
    num_groups: int = 8
    has_scale: bool = True  # False: the condition is added only (Diffuser)

    @nn.compact
    def __call__(
        self,
        xt: Float[Array, "B T D"],
        time: Float[Array, "B"],
        condition: Float[Array, "B C"] | None = None,
    ) -> Float[Array, "B T D"]:
        check_horizon(xt.shape[1], len(self.widths))
        embedded = TimeEmbedding(self.time_dim, name="time")(time)
        parts = [embedded] if condition is None else [embedded, condition]
        features = mish(jnp.concatenate(parts, axis=-1))
        block = partial(ResidualBlock, kernel=self.kernel, num_groups=self.num_groups)
        block = partial(block, has_scale=self.has_scale)
        x, across = xt, []
        for level, width in enumerate(self.widths):
            for i in range(2):
                x = block(width, name=f"down{level}_block{i}")(x, features)
            if level < len(self.widths) - 1:
                across.append(x)
                x = Conv1D(width, 3, stride=2, name=f"down{level}_halve")(x)
        across.append(x)
        for i in range(2):
            x = block(self.widths[-1], name=f"middle_block{i}")(x, features)
        for level in reversed(range(1, len(self.widths))):
            x = jnp.concatenate([x, across[level]], axis=-1)
            width = self.widths[level - 1]
            for i in range(2):
                x = block(width, name=f"up{level}_block{i}")(x, features)
            x = Doubling1D(width, name=f"up{level}_double")(x)
        x = ConvBlock(self.widths[0], self.kernel, self.num_groups, name="last")(x)
        return Conv1D(xt.shape[-1], 1, name="out")(x)


class ConditionalUNet1D(nn.Module):
    """A U-Net that sees each named condition through an embedding of its own (Decision Diffuser)."""

    names: tuple[str, ...]
    widths: tuple[int, ...]
    embedding_dim: int = 128
    kernel: int = 5

    @nn.compact
    def __call__(
        self,
        xt: Float[Array, "B T D"],
        time: Float[Array, "B"],
        given: Mapping[str, Array],
        is_given: Mapping[str, Array],
    ) -> Float[Array, "B T D"]:
        """``given[name]`` [B, C] and ``is_given[name]`` [B], where 0 leaves the condition out."""
        embedded = []
        for name in self.names:
            y = mish(nn.Dense(self.embedding_dim, name=f"{name}_in")(given[name]))
            y = mish(nn.Dense(4 * self.embedding_dim, name=f"{name}_hidden")(y))
            y = nn.Dense(self.embedding_dim, name=f"{name}_out")(y)
            embedded.append(y * is_given[name][:, None])
        net = UNet1D(self.widths, self.embedding_dim, self.kernel, has_scale=False)
        return net(xt, time, jnp.concatenate(embedded, axis=-1))


class TemporalValue(nn.Module):
    """V(xt, time) -> one number per sequence: the way down of a U-Net, every level halved, and two layers behind it."""

    widths: tuple[int, ...] = (32, 64, 128, 256)
    time_dim: int = 32
    kernel: int = 5
    num_groups: int = 8

    @nn.compact
    def __call__(self, xt: Float[Array, "B T D"], time: Float[Array, "B"]) -> Float[Array, "B"]:
        embedded = TimeEmbedding(self.time_dim, name="time")(time)
        features, x = mish(embedded), xt
        for level, width in enumerate(self.widths):
            for i in range(2):
                block = ResidualBlock(
                    width, self.kernel, self.num_groups, False, name=f"down{level}_block{i}"
                )
                x = block(x, features)
            if x.shape[1] > 1:
                x = Conv1D(width, 3, stride=2, name=f"down{level}_halve")(x)
        x = jnp.concatenate([x.reshape(x.shape[0], -1), embedded], axis=-1)
        x = mish(nn.Dense(self.widths[-1] // 2, name="hidden")(x))
        return nn.Dense(1, name="out")(x)[:, 0]


class ResidualBlock(nn.Module):
    """Two convolutions around FiLM, and a path past them; ``features`` have had their activation."""

    width: int
    kernel: int = 5
    num_groups: int = 8
    has_scale: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"], features: Float[Array, "B F"]) -> Array:
        h = ConvBlock(self.width, self.kernel, self.num_groups, name="block0")(x)
        film = nn.Dense((2 if self.has_scale else 1) * self.width, name="film")(features)[:, None]
        h = h * (1.0 + film[..., self.width :]) if self.has_scale else h
        h = h + film[..., : self.width]
        h = ConvBlock(self.width, self.kernel, self.num_groups, name="block1")(h)
        if x.shape[-1] != self.width:
            x = Conv1D(self.width, 1, name="shortcut")(x)
        return x + h


class ConvBlock(nn.Module):
    """Convolution, GroupNorm, Mish."""

    width: int
    kernel: int = 5
    num_groups: int = 8

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T D"]:
        if self.width % self.num_groups:
            raise ValueError(
                f"width {self.width} is not a multiple of num_groups={self.num_groups}; "
                f"try {-(-self.width // self.num_groups) * self.num_groups}."
            )
        x = Conv1D(self.width, self.kernel, name="conv")(x)
        return mish(nn.GroupNorm(self.num_groups, epsilon=1e-5, name="norm")(x))


class Conv1D(nn.Module):
    """``nn.Conv(width, (kernel,), (stride,), padding=kernel // 2)`` with its parameters."""

    width: int
    kernel: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T2 D"]:
        shape = (self.kernel, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        return convolve(x, kernel, self.stride) + bias.reshape(1, 1, -1)


class Doubling1D(nn.Module):
    """``nn.ConvTranspose(width, (4,), (2,))`` with its parameters: twice the length."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B 2*T D"]:
        shape = (4, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        return double(x, kernel) + bias.reshape(1, 1, -1)


def mish(x: Array) -> Array:
    """x tanh(softplus(x)) as x n / (n + 2), n = exp(x) (exp(x) + 2): three times faster on a CPU, and fewer operations
    to compile."""
    e = jnp.exp(jnp.minimum(x, 20.0))  # beyond, the fraction is 1 in float32
    n = e * (e + 2.0)
    return x * (n / (n + 2.0))


def check_horizon(horizon: int, num_levels: int) -> None:
    """Raises ValueError where a sequence cannot be halved between all levels."""
    step = 2 ** (num_levels - 1)
    if horizon % step:
        raise ValueError(
            f"horizon {horizon} is not a multiple of {step} (UNet1D halves it {num_levels - 1} "
            f"times); try {-(-horizon // step) * step}."
        )


def convolve(
    x: Float[Array, "B T C"], kernel: Float[Array, "k C D"], stride: int = 1
) -> Float[Array, "B T2 D"]:
    """A convolution padded by kernel // 2 on both sides, in the form that suits the platform."""
    if kernel.shape[0] == stride == 1:
        return x @ kernel[0]
    product, plain = partial(convolve_by_product, stride=stride), partial(plainly, stride=stride)
    batch, length = x.shape[:2]
    is_large = length >= TILE and batch * length >= WINOGRAD_ROWS.get(kernel.shape[0], math.inf)
    if stride == 1 and is_large and x.dtype == jnp.float32:  # shorter floats lose too many digits
        product = convolve_winograd
    return lax.platform_dependent(x, kernel, cpu=product, default=plain)


def plainly(x: Array, kernel: Array, stride: int = 1) -> Array:
    """XLA's own convolution."""
    padding = ((kernel.shape[0] // 2,) * 2,)
    return lax.conv_general_dilated(x, kernel, (stride,), padding, dimension_numbers=LAYOUT)


def convolve_by_product(x: Array, kernel: Array, stride: int = 1) -> Array:
    """The same as one matrix product of patches and weights: an image of one row."""
    padding = ((0, 0), (kernel.shape[0] // 2,) * 2)
    return convolve_gathered(x[:, None], kernel[None], (1, stride), padding)[:, 0]


def double(x: Float[Array, "B T C"], kernel: Float[Array, "4 C D"]) -> Float[Array, "B 2*T D"]:
    """A transposed convolution of stride 2, in the form that suits the platform."""
    return lax.platform_dependent(x, kernel, cpu=double_by_product, default=double_plainly)


def double_plainly(x: Array, kernel: Array) -> Array:
    """XLA's own transposed convolution."""
    return lax.conv_transpose(x, kernel, (2,), "SAME", dimension_numbers=LAYOUT)


def double_by_product(x: Array, kernel: Array) -> Array:
    """The same as one product with all taps: y[2i] = k0 x[i-1] + k2 x[i],  y[2i+1] = k1 x[i] + k3 x[i+1]."""
    k0, k1, k2, k3 = jnp.unstack(jnp.einsum("btc,kcd->btkd", x, kernel), axis=2)
    even = jnp.pad(k0, ((0, 0), (1, 0), (0, 0)))[:, :-1] + k2
    odd = k1 + jnp.pad(k3, ((0, 0), (0, 1), (0, 0)))[:, 1:]
    return jnp.stack([even, odd], axis=2).reshape(x.shape[0], 2 * x.shape[1], -1)

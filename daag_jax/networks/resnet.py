"""ResNet-18 (He et al. 2016, arXiv 1512.03385), conditioned by FiLM (Perez et al. 2018, arXiv 1709.07871).

    block:  y = norm2(conv2(relu(norm1(conv1(x)))));   y <- (1 + gamma(c)) y + beta(c);   relu(y + shortcut(x))

``pool="average"`` is the paper's.  ``"spatial_softmax"`` (Levine et al. 2016, arXiv 1504.00702) gives for each channel
the expected image coordinates of its activation, so that few samples teach a policy *where* a thing is.

Differs from the paper: GroupNorm in the place of BatchNorm (batches of online data are small and not identically
distributed); images under 128 px enter through one 3x3 convolution without max-pooling; ``gamma`` and ``beta`` start
at zero, so that an untrained instruction changes nothing.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

POOLS = ("average", "spatial_softmax", "both")
NORMS = ("group", "none")
LARGE_IMAGE = 128  # [px] from here on the 7x7 stem with max-pooling, as in the paper


class Norm(nn.Module):
    """GroupNorm over groups of 16 channels (fewer groups in narrow networks), or nothing."""

    kind: str

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        if self.kind == "none":
            return x
        return nn.GroupNorm(num_groups=max(1, x.shape[-1] // 16), epsilon=1e-5, name="group")(x)


class Block(nn.Module):
    """The basic residual block, with FiLM on its second half."""

    width: int
    stride: int
    norm: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], condition: Float[Array, "B E"] | None
    ) -> Float[Array, "B h w D"]:
        y = conv(self.width, 3, self.stride, "conv1")(x)
        y = jax.nn.relu(Norm(self.norm, name="norm1")(y))
        y = Norm(self.norm, name="norm2")(conv(self.width, 3, 1, "conv2")(y))
        if condition is not None:
            film = nn.Dense(2 * self.width, kernel_init=nn.initializers.zeros, name="film")
            gamma, beta = jnp.split(film(condition)[:, None, None], 2, axis=-1)
            y = y * (1.0 + gamma) + beta
        if x.shape != y.shape:
            x = conv(self.width, 1, self.stride, "shortcut")(x)
            x = Norm(self.norm, name="shortcut_norm")(x)
        return jax.nn.relu(x + y)


class ResNet18(nn.Module):
    """Images [B, H, W, 3] (uint8, or float in [0, 1]) and perhaps a condition [B, E] to features [B, F].

    F is 8 ``width`` for "average", 16 ``width`` for "spatial_softmax" (x, y of each channel), their sum for "both".
    """

    width: int = 64  # channels of the first stage; 64 is the standard
    strides: tuple[int, ...] = (1, 2, 2, 2)  # of the four stages
    stem_stride: int = 1  # of the 3x3 stem for small images
    norm: str = "group"
    pool: str = "average"

    def __post_init__(self):
        if self.pool not in POOLS:
            raise ValueError(f"pool {self.pool!r} is unknown; use one of {POOLS}.")
        if self.norm not in NORMS:
            raise ValueError(f"norm {self.norm!r} is unknown; use one of {NORMS}.")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: Array, condition: Float[Array, "B E"] | None = None
    ) -> Float[Array, "B F"]:
        x = images.astype(jnp.float32)
        if images.dtype == jnp.uint8:
            x = x / 255.0
        x = self.stem(2.0 * x - 1.0)
        for stage, stride in enumerate(self.strides):
            for i in range(2):
                name = f"stage{stage}_block{i}"
                block = Block(self.width * 2**stage, stride if i == 0 else 1, self.norm, name=name)
                x = block(x, condition)
        features = []
        if self.pool in ("average", "both"):
            features.append(jnp.mean(x, axis=(1, 2)))
        if self.pool in ("spatial_softmax", "both"):
            log_temperature = self.param("log_temperature", nn.initializers.zeros, ())
            features.append(spatial_softmax(x, jnp.exp(log_temperature)))
        return jnp.concatenate(features, axis=-1)

    def stem(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """The first layers: 7x7 stride 2 and max-pooling for large images, one 3x3 convolution for small ones."""
        is_large = min(x.shape[1:3]) >= LARGE_IMAGE
        kernel, stride = (7, 2) if is_large else (3, self.stem_stride)
        x = conv(self.width, kernel, stride, "stem")(x)
        x = jax.nn.relu(Norm(self.norm, name="stem_norm")(x))
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))) if is_large else x


def conv(width: int, kernel: int, stride: int, name: str) -> nn.Conv:
    """A convolution without bias, padded as in torch (symmetrically)."""
    side = (kernel - 1) // 2
    init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015
    return nn.Conv(
        width,
        (kernel, kernel),
        (stride, stride),
        padding=((side, side), (side, side)),
        use_bias=False,
        kernel_init=init,
        name=name,
    )


def spatial_softmax(
    x: Float[Array, "B H W C"], temperature: Float[Array, ""] | float = 1.0
) -> Float[Array, "B D"]:
    """Expected (x, y) in [-1, 1] of each channel under softmax over pixels: all x, then all y (D = 2 C)."""
    batch, height, width, channels = x.shape
    flat = x.reshape(batch, height * width, channels) / temperature
    weight = jax.nn.softmax(flat, axis=1).reshape(batch, height, width, channels)
    columns = jnp.einsum("bhwc,w->bc", weight, jnp.linspace(-1.0, 1.0, width))
    rows = jnp.einsum("bhwc,h->bc", weight, jnp.linspace(-1.0, 1.0, height))
    return jnp.concatenate([columns, rows], axis=-1)

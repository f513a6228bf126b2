"""The variational autoencoder of Stable Diffusion (AutoencoderKL; Rombach et al. 2022, section 3.1).

q(z | x) = N(mean(x), exp(logvar(x))) and x = decode(z).  Images are NHWC in [-1, 1].  Latents here are *unscaled*: a
diffusion model sees ``z * config.scaling_factor``.

Differs from Hugging Face: nowhere in the numbers; NHWC, and the Gaussian is two arrays.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.networks.stable_diffusion.attend import attend
from daag_jax.networks.stable_diffusion.blocks import (
    Downsample,
    Dtype,
    ResnetBlock,
    Upsample,
    conv,
    group_norm,
)
from daag_jax.networks.stable_diffusion.config import VaeConfig
from daag_jax.types import Key

NORM_EPS = 1e-6  # of every group normalisation in AutoencoderKL
LOGVAR_RANGE = (-30.0, 20.0)  # DiagonalGaussianDistribution of the reference


class AttentionBlock(nn.Module):
    """Self-attention with one head over the pixels of a feature map, added to it."""

    features: int
    groups: int
    dtype: Dtype = None

    def setup(self):
        self.group_norm = group_norm(self.groups, NORM_EPS, self.dtype)
        self.to_q, self.to_k, self.to_v = (
            nn.Dense(self.features, dtype=self.dtype) for _ in range(3)
        )
        self.to_out = [nn.Dense(self.features, dtype=self.dtype)]

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        tokens = self.group_norm(x).reshape(x.shape[0], -1, 1, x.shape[-1])
        seen = attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x + self.to_out[0](seen).reshape(x.shape)


class MidBlock(nn.Module):
    """Residual block, attention (where the configuration has it), residual block."""

    config: VaeConfig
    dtype: Dtype = None

    def setup(self):
        width, groups = self.config.block_out_channels[-1], self.config.norm_num_groups
        self.resnets = [
            ResnetBlock(width, width, groups, NORM_EPS, dtype=self.dtype) for _ in range(2)
        ]
        if self.config.mid_block_add_attention:
            self.attentions = [AttentionBlock(width, groups, self.dtype)]

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        x = self.resnets[0](x)
        if self.config.mid_block_add_attention:
            x = self.attentions[0](x)
        return self.resnets[1](x)


class Level(nn.Module):
    """The residual blocks of one resolution, then (but for the last level) a change of resolution."""

    in_features: int
    features: int
    layers: int
    groups: int
    resample: str = ""  # "down", "up" or "" for none
    dtype: Dtype = None

    def setup(self):
        widths = (self.in_features, *(self.features,) * (self.layers - 1))
        self.resnets = [
            ResnetBlock(width, self.features, self.groups, NORM_EPS, dtype=self.dtype)
            for width in widths
        ]
        if self.resample == "down":
            self.downsamplers = [Downsample(self.features, is_asymmetric=True, dtype=self.dtype)]
        if self.resample == "up":
            self.upsamplers = [Upsample(self.features, dtype=self.dtype)]

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 D"]:
        for resnet in self.resnets:
            x = resnet(x)
        if self.resample == "down":
            x = self.downsamplers[0](x)
        if self.resample == "up":
            x = self.upsamplers[0](x)
        return x


class Encoder(nn.Module):
    """Images to the moments of latents, before the last 1 x 1 convolution."""

    config: VaeConfig
    dtype: Dtype = None

    def setup(self):
        config, channels = self.config, self.config.block_out_channels
        self.conv_in = conv(channels[0], self.dtype)
        self.down_blocks = [
            Level(
                channels[max(i - 1, 0)],
                channels[i],
                config.layers_per_block,
                config.norm_num_groups,
                "down" if i + 1 < len(channels) else "",
                self.dtype,
            )
            for i in range(len(channels))
        ]
        self.mid_block = MidBlock(config, self.dtype)
        self.conv_norm_out = group_norm(config.norm_num_groups, NORM_EPS, self.dtype)
        self.conv_out = conv(2 * config.latent_channels, self.dtype)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(nn.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents to images, after the first 1 x 1 convolution."""

    config: VaeConfig
    dtype: Dtype = None

    def setup(self):
        config, channels = self.config, self.config.block_out_channels[::-1]
        self.conv_in = conv(channels[0], self.dtype)
        self.mid_block = MidBlock(config, self.dtype)
        self.up_blocks = [
            Level(
                channels[max(i - 1, 0)],
                channels[i],
                config.layers_per_block + 1,
                config.norm_num_groups,
                "up" if i + 1 < len(channels) else "",
                self.dtype,
            )
            for i in range(len(channels))
        ]
        self.conv_norm_out = group_norm(config.norm_num_groups, NORM_EPS, self.dtype)
        self.conv_out = conv(config.out_channels, self.dtype)

    def __call__(self, z: Float[Array, "B h w C"]) -> Float[Array, "B H W D"]:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(nn.silu(self.conv_norm_out(x)))


class Vae(nn.Module):
    """AutoencoderKL.  Call ``encode`` and ``decode`` through ``vae.apply({"params": params}, x, method="encode")``."""

    config: VaeConfig
    dtype: Dtype = None  # of the computation; parameters stay float32

    def setup(self):
        config = self.config
        self.encoder = Encoder(config, self.dtype)
        self.decoder = Decoder(config, self.dtype)
        self.quant_conv = conv(2 * config.latent_channels, self.dtype, size=1)
        self.post_quant_conv = conv(config.latent_channels, self.dtype, size=1)

    def encode(
        self, images: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B h w D"], Float[Array, "B h w D"]]:
        """Gives the mean and the logarithm of the variance of the latents of images in [-1, 1]."""
        factor = self.config.downsampling
        if images.shape[1] % factor or images.shape[2] % factor:
            raise ValueError(
                f"images of {images.shape[1]} x {images.shape[2]} pixels are not a multiple of {factor} (the VAE "
                f"halves them {len(self.config.block_out_channels) - 1} times); pad or resize them."
            )
        mean, logvar = jnp.split(self.quant_conv(self.encoder(images)), 2, axis=-1)
        return mean, jnp.clip(logvar, *LOGVAR_RANGE)

    def decode(self, latents: Float[Array, "B h w D"]) -> Float[Array, "B H W C"]:
        """Gives images, about in [-1, 1], of unscaled latents."""
        return self.decoder(self.post_quant_conv(latents))

    def __call__(
        self, images: Float[Array, "B H W C"], key: Key | None = None
    ) -> tuple[Float[Array, "B H W C"], Float[Array, "B h w D"], Float[Array, "B h w D"]]:
        """Reconstructs images from a sample of their latents (from the mean, without a key); also the moments."""
        mean, logvar = self.encode(images)
        return self.decode(mean if key is None else sample(mean, logvar, key)), mean, logvar


def sample(
    mean: Float[Array, "*B h w D"], logvar: Float[Array, "*B h w D"], key: Key
) -> Float[Array, "*B h w D"]:
    """Draws latents from N(mean, exp(logvar))."""
    return mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape, mean.dtype)


def kl(mean: Float[Array, "*B h w D"], logvar: Float[Array, "*B h w D"]) -> Float[Array, "*B"]:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of each image, summed over its latents [nats]."""
    return 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar, axis=(-3, -2, -1))

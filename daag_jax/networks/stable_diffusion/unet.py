"""The denoising UNet of Stable Diffusion (UNet2DConditionModel; Rombach et al. 2022), open to regions and frames.

It predicts the noise in latents, given integer timesteps and embeddings of text.  Beyond the published network it takes
several prompts with soft regions, self-attention across the frames of a clip (both in ``attention.py``), and the
residuals of any number of ControlNets.  ``encode`` is the half that a ControlNet copies.

Differs from Hugging Face: nowhere in the numbers with one prompt and ``attention="off"``; NHWC.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Num

from daag_jax.networks.stable_diffusion.attention import Scope, Transformer, check_scope
from daag_jax.networks.stable_diffusion.blocks import (
    Downsample,
    Dtype,
    ResnetBlock,
    TimestepEmbedding,
    Upsample,
    conv,
    group_norm,
    sinusoid,
)
from daag_jax.networks.stable_diffusion.config import (
    CROSS_DOWN,
    CROSS_UP,
    ControlNetConfig,
    UNetConfig,
)

TIME_WIDTH = 4  # the time embedding is so many times as wide as the first level


class Residuals(NamedTuple):
    """What a ControlNet adds: to each skip connection, in the order the encoder makes them, and to the middle."""

    down: tuple[Float[Array, "B _h _w _c"], ...]
    mid: Float[Array, "B h w C"]


class Level(nn.Module):
    """Residual blocks of one resolution, each with a transformer where the level attends, and a resampling."""

    in_features: tuple[int, ...]  # of each residual block
    features: int
    heads: int
    is_attending: bool
    config: UNetConfig | ControlNetConfig
    resample: str = ""  # "down", "up" or "" for none
    dtype: Dtype = None

    def setup(self):
        config = self.config
        self.resnets = [
            ResnetBlock(
                width, self.features, config.norm_num_groups, config.norm_eps, True, self.dtype
            )
            for width in self.in_features
        ]
        if self.is_attending:
            self.attentions = [
                transformer(config, self.features, self.heads, self.dtype) for _ in self.in_features
            ]
        if self.resample == "down":
            self.downsamplers = [Downsample(self.features, dtype=self.dtype)]
        if self.resample == "up":
            self.upsamplers = [Upsample(self.features, dtype=self.dtype)]

    def layer(
        self, index: int, x: Float[Array, "B H W C"], time: Float[Array, "B E"], scope: Scope
    ) -> Float[Array, "B H W D"]:
        """Applies the residual block, and the transformer, of one index."""
        x = self.resnets[index](x, time)
        x = self.attentions[index](x, scope) if self.is_attending else x
        return checkpoint_name(x, "block")  # where a backward pass may begin again

    def descend(
        self, x: Float[Array, "B H W C"], time: Float[Array, "B E"], scope: Scope
    ) -> tuple[Array, ...]:
        """Gives the feature map after every layer and after the downsampling; the last one goes on."""
        maps = []
        for index in range(len(self.in_features)):
            x = self.layer(index, x, time, scope)
            maps.append(x)
        if self.resample == "down":
            maps.append(self.downsamplers[0](x))
        return tuple(maps)

    def ascend(
        self,
        x: Float[Array, "B H W C"],
        skips: list[Array],
        time: Float[Array, "B E"],
        scope: Scope,
    ) -> Float[Array, "B H2 W2 D"]:
        """Joins each layer's input with the last of ``skips`` (which it takes from the list), then upsamples."""
        for index in range(len(self.in_features)):
            x = self.layer(index, jnp.concatenate((x, skips.pop()), axis=-1), time, scope)
        return self.upsamplers[0](x) if self.resample == "up" else x


class MidBlock(nn.Module):
    """Residual block, transformer, residual block, at the coarsest level."""

    config: UNetConfig | ControlNetConfig
    dtype: Dtype = None

    def setup(self):
        config, width = self.config, self.config.block_out_channels[-1]
        self.resnets = [
            ResnetBlock(width, width, config.norm_num_groups, config.norm_eps, True, self.dtype)
            for _ in range(2)
        ]
        self.attentions = [transformer(config, width, config.num_heads[-1], self.dtype)]

    def __call__(
        self, x: Float[Array, "B H W C"], time: Float[Array, "B E"], scope: Scope
    ) -> Float[Array, "B H W C"]:
        x = self.attentions[0](self.resnets[0](x, time), scope)
        return self.resnets[1](x, time)


def transformer(
    config: UNetConfig | ControlNetConfig, features: int, heads: int, dtype: Dtype
) -> Transformer:
    """Builds the transformer of one layer."""
    layers, groups = config.transformer_layers_per_block, config.norm_num_groups
    return Transformer(features, heads, layers, groups, dtype)


def down_levels(config: UNetConfig | ControlNetConfig, dtype: Dtype) -> list[Level]:
    """Builds the levels of the encoder, from fine to coarse."""
    channels = config.block_out_channels
    return [
        Level(
            (channels[max(i - 1, 0)], *(channels[i],) * (config.layers_per_block - 1)),
            channels[i],
            config.num_heads[i],
            config.down_block_types[i] == CROSS_DOWN,
            config,
            "down" if i + 1 < len(channels) else "",
            dtype,
        )
        for i in range(len(channels))
    ]


def up_levels(config: UNetConfig, dtype: Dtype) -> list[Level]:
    """Builds the levels of the decoder, from coarse to fine; their blocks take the encoder's maps beside x."""
    channels = config.block_out_channels[::-1]
    last, levels = len(channels) - 1, []
    for i, width in enumerate(channels):
        carried = (channels[max(i - 1, 0)], *(width,) * config.layers_per_block)
        joined = (*(width,) * config.layers_per_block, channels[min(i + 1, last)])
        levels.append(
            Level(
                tuple(a + b for a, b in zip(carried, joined, strict=True)),
                width,
                config.num_heads[last - i],
                config.up_block_types[i] == CROSS_UP,
                config,
                "up" if i < last else "",
                dtype,
            )
        )
    return levels


def encode(
    network: nn.Module, x: Float[Array, "B h w C"], timesteps: Num[Array, "B"], scope: Scope
) -> tuple[list[Array], Float[Array, "B h2 w2 D"], Float[Array, "B E"]]:
    """Runs the half that UNet and ControlNet share, from the first feature map to the middle block.

    Returns: the feature maps for skip connections, the middle, and the embedding of time.
    """
    config = network.config
    wave = sinusoid(
        timesteps.astype(jnp.float32),
        config.block_out_channels[0],
        config.flip_sin_to_cos,
        config.freq_shift,
    )
    time = network.time_embedding(wave.astype(x.dtype))
    skips = [x]
    for level in network.down_blocks:
        skips.extend(level.descend(skips[-1], time, scope))
    return skips, network.mid_block(skips[-1], time, scope), time


class UNet(nn.Module):
    """UNet2DConditionModel.  ``unet.apply({"params": params}, latents, timesteps, context)`` predicts the noise."""

    config: UNetConfig
    dtype: Dtype = None  # of the computation; parameters stay float32

    def setup(self):
        config, channels = self.config, self.config.block_out_channels
        self.conv_in = conv(channels[0], self.dtype)
        self.time_embedding = TimestepEmbedding(TIME_WIDTH * channels[0], self.dtype)
        self.down_blocks = down_levels(config, self.dtype)
        self.mid_block = MidBlock(config, self.dtype)
        self.up_blocks = up_levels(config, self.dtype)
        self.conv_norm_out = group_norm(config.norm_num_groups, config.norm_eps, self.dtype)
        self.conv_out = conv(config.out_channels, self.dtype)

    def __call__(
        self,
        latents: Float[Array, "B h w C"],
        timesteps: Num[Array, "B"],
        context: Float[Array, "B P L D"],
        regions: Float[Array, "B P h w"] | None = None,
        residuals: Residuals | None = None,
        frames: int = 1,
        attention: str = "off",
    ) -> Float[Array, "B h w E"]:
        """Predicts the noise in ``latents``.

        Args:
            latents: scaled latents; the batch is clips x frames, clip by clip.
            timesteps: 0..999 of the schedule, one for each image (fractions are fine).
            context: embeddings of the L tokens of P prompts of each image.
            regions: weight of each prompt at each latent pixel, summing to 1 over P; None where P = 1.
            residuals: of the ControlNets (``controlnet.combine_residuals``).
            frames: frames of a clip, static.
            attention: whose keys and values a frame attends to: off, first, previous_first or all; static.

        Raises:
            ValueError: where the inputs do not fit each other.
        """
        scope = Scope(context, regions, frames, attention)
        check_scope(latents, scope, len(self.config.block_out_channels))
        skips, x, time = encode(self, self.conv_in(latents), timesteps, scope)
        if residuals is not None:
            skips = [skip + extra for skip, extra in zip(skips, residuals.down, strict=True)]
            x = x + residuals.mid
        for level in self.up_blocks:
            x = level.ascend(x, skips, time, scope)
        return self.conv_out(nn.silu(self.conv_norm_out(x)))

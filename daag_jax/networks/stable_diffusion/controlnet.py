"""ControlNet (Zhang et al. 2023): images of conditions steer a UNet through zero-initialised convolutions.

A copy of the UNet's encoder reads latents plus an embedding of the condition (depth, normals, edges, ...), and gives
one residual for each skip connection and one for the middle.  At its start all residuals are zero, so training begins
at the unsteered UNet.  Several ControlNets are used together by a weighted sum of residuals.

Differs from Hugging Face: nowhere in the numbers (no guess mode); NHWC, any number of condition channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from daag_jax.networks.stable_diffusion.attention import Scope, check_scope
from daag_jax.networks.stable_diffusion.blocks import Dtype, TimestepEmbedding, conv
from daag_jax.networks.stable_diffusion.config import ControlNetConfig
from daag_jax.networks.stable_diffusion.unet import (
    TIME_WIDTH,
    MidBlock,
    Residuals,
    down_levels,
    encode,
)
from daag_jax.types import Params


def zero_conv(features: int, dtype: Dtype, size: int = 1) -> nn.Conv:
    """A convolution that begins as zero."""
    return conv(features, dtype, size=size, kernel_init=nn.initializers.zeros_init())


class ConditionEmbedding(nn.Module):
    """Convolutions that shrink a condition in pixels to the grid of the latents; the last begins as zero."""

    features: int
    widths: tuple[int, ...]
    dtype: Dtype = None

    def setup(self):
        self.conv_in = conv(self.widths[0], self.dtype)
        blocks = []
        for narrow, wide in zip(self.widths, self.widths[1:], strict=False):
            blocks += [conv(narrow, self.dtype), conv(wide, self.dtype, stride=2)]
        self.blocks = blocks
        self.conv_out = zero_conv(self.features, self.dtype, size=3)

    def __call__(self, conditions: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        x = nn.silu(self.conv_in(conditions))
        for block in self.blocks:
            x = nn.silu(block(x))
        return self.conv_out(x)


class ControlNet(nn.Module):
    """ControlNetModel.  Gives the residuals that a UNet of the same widths adds to its feature maps."""

    config: ControlNetConfig
    dtype: Dtype = None  # of the computation; parameters stay float32

    def setup(self):
        config, channels = self.config, self.config.block_out_channels
        self.conv_in = conv(channels[0], self.dtype)
        self.controlnet_cond_embedding = ConditionEmbedding(
            channels[0], config.conditioning_embedding_out_channels, self.dtype
        )
        self.time_embedding = TimestepEmbedding(TIME_WIDTH * channels[0], self.dtype)
        self.down_blocks = down_levels(config, self.dtype)
        self.mid_block = MidBlock(config, self.dtype)
        self.controlnet_down_blocks = [
            zero_conv(width, self.dtype) for width in skip_widths(config)
        ]
        self.controlnet_mid_block = zero_conv(channels[-1], self.dtype)

    def __call__(
        self,
        latents: Float[Array, "B h w C"],
        timesteps: Num[Array, "B"],
        context: Float[Array, "B P L D"],
        conditions: Float[Array, "B H W K"],
        regions: Float[Array, "B P h w"] | None = None,
        frames: int = 1,
        attention: str = "off",
    ) -> Residuals:
        """Gives the residuals of ``conditions``: images in [0, 1], ``config.downsampling`` times the latents' size.

        The other arguments are those of :class:`UNet`.

        Raises:
            ValueError: where the inputs do not fit each other.
        """
        scope = Scope(context, regions, frames, attention)
        check_scope(latents, scope, len(self.config.block_out_channels))
        expected = (
            latents.shape[0],
            *(side * self.config.downsampling for side in latents.shape[1:3]),
            self.config.conditioning_channels,
        )
        if conditions.shape != expected:
            raise ValueError(
                f"conditions has shape {conditions.shape}, not {expected} (batch, pixels, conditioning_channels) "
                f"for latents of {latents.shape[1]} x {latents.shape[2]}; resize the condition images."
            )
        x = self.conv_in(latents) + self.controlnet_cond_embedding(conditions)
        skips, mid, _ = encode(self, x, timesteps, scope)
        down = (zero(skip) for zero, skip in zip(self.controlnet_down_blocks, skips, strict=True))
        return Residuals(tuple(down), self.controlnet_mid_block(mid))


def skip_widths(config: ControlNetConfig) -> tuple[int, ...]:
    """Channels of each skip connection of the encoder, in the order it makes them."""
    channels = config.block_out_channels
    widths = [channels[0]]
    for index, width in enumerate(channels):
        resampled = int(index + 1 < len(channels))
        widths += [width] * (config.layers_per_block + resampled)
    return tuple(widths)


def combine_residuals(
    residuals: Sequence[Residuals], weights: Sequence[float | Float[Array, ""]]
) -> Residuals:
    """Sums the residuals of several ControlNets, each with its weight (``controlnet_conditioning_scale``)."""
    if not residuals or len(residuals) != len(weights):
        raise ValueError(
            f"weights has {len(weights)} entries for {len(residuals)} ControlNets; give one weight for each of at "
            "least one ControlNet."
        )

    def weighted(*maps: Array) -> Array:
        return sum((weight * x).astype(x.dtype) for weight, x in zip(weights, maps, strict=True))

    return jax.tree.map(weighted, *residuals)


def start_from_unet(controlnet: Params, unet: Params) -> Params:
    """Copies the UNet's encoder into a fresh ControlNet, as its training begins (section 3.1 of the paper)."""
    shared = ("conv_in", "time_embedding", "mid_block")
    names = [n for n in controlnet if n in shared or n.startswith("down_blocks_")]
    return {**controlnet, **{name: jax.tree.map(jnp.array, unet[name]) for name in names}}

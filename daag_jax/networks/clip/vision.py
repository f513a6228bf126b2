"""The vision tower of CLIP: ViT (Dosovitskiy et al. 2021) with a LayerNorm before the blocks.

    x = LN_pre([class; W patches] + positions),  then the blocks of text.py,  then LN_post(x[class])

Differs from the reference: images are NHWC, and pixels are normalised inside, so that no caller can forget it.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from daag_jax.networks.clip.config import ClipVisionConfig
from daag_jax.networks.clip.text import Encoder


class VisionEmbeddings(nn.Module):
    """Patches, after a class token, plus their positions."""

    config: ClipVisionConfig

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B L D"]:
        c = self.config
        init = nn.initializers.normal(0.02)
        size = (c.patch_size, c.patch_size)
        conv = nn.Conv(
            c.hidden_size, size, size, padding="VALID", use_bias=False, name="patch_embedding"
        )
        patches = conv(images).reshape(images.shape[0], -1, c.hidden_size)
        token = self.param("class_embedding", init, (c.hidden_size,))
        token = jnp.broadcast_to(token, (images.shape[0], 1, c.hidden_size))
        x = jnp.concatenate([token, patches], axis=1)
        places = nn.Embed(x.shape[1], c.hidden_size, embedding_init=init, name="position_embedding")
        return x + places(jnp.arange(x.shape[1]))[None]


class VisionTower(nn.Module):
    """CLIPVisionModel: the hidden states, and the class token after its LayerNorm."""

    config: ClipVisionConfig

    @nn.compact
    def __call__(
        self, images: UInt8[Array, "B H W C"] | Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B D"]]:
        c = self.config
        x = VisionEmbeddings(c, name="embeddings")(normalized_pixels(images, c))
        x = nn.LayerNorm(c.layer_norm_eps, use_fast_variance=False, name="pre_layrnorm")(
            x
        )  # the reference's spelling
        states = Encoder(c, name="encoder")(x)
        return states, nn.LayerNorm(
            c.layer_norm_eps, use_fast_variance=False, name="post_layernorm"
        )(states[:, 0])


def normalized_pixels(
    images: UInt8[Array, "B H W C"] | Float[Array, "B H W C"], config: ClipVisionConfig
) -> Float[Array, "B S S C"]:
    """Pixels (uint8, or float in [0, 1]) at the tower's size, minus the mean, over the deviation of each channel.

    Square images of another size are resized (cubic, antialiased), as CLIP's own preprocessing does.
    """
    size = config.image_size
    if images.shape[1] != images.shape[2] or images.shape[3] != config.num_channels:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; crop them to square [B, S, S, {config.num_channels}] "
            f"(the tower sees {size} x {size} px)."
        )
    pixels = images.astype(jnp.float32)
    if images.dtype == jnp.uint8:
        pixels = pixels / 255.0
    if images.shape[1] != size:
        shape = (images.shape[0], size, size, config.num_channels)
        pixels = jnp.clip(jax.image.resize(pixels, shape, "cubic"), 0.0, 1.0)
    mean = jnp.array(config.image_mean, jnp.float32)
    std = jnp.array(config.image_std, jnp.float32)
    return (pixels - mean[None, None, None]) / std[None, None, None]

"""CLIP as plain functions of parameters, and its two losses.

    u_i = image embedding, v_j = text embedding (unit vectors),  logits_ij = exp(logit_scale) u_i . v_j + logit_bias

``make_clip(COMPACT_CLIP)`` gives the functions; parameters come from ``init`` or from ``weights.load``.

Losses: :func:`contrastive_loss` is Radford et al. 2021 (symmetric InfoNCE over pairs); :func:`sigmoid_loss` is SigLIP
(Zhai et al. 2023, arXiv 2303.15343) with any number of true captions per image.  The second suits a *closed* set of
captions: duplicates in a batch are no false negatives, and its bias gives the cosine an absolute threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from daag_jax.networks.clip.config import ClipConfig, ClipTextConfig
from daag_jax.networks.clip.text import TextTower
from daag_jax.networks.clip.vision import VisionTower
from daag_jax.types import Key, Params

Images = UInt8[Array, "B H W C"] | Float[Array, "B H W C"]


class ClipModel(nn.Module):
    """CLIPModel: two towers, two projections without bias, logit_scale and perhaps logit_bias."""

    config: ClipConfig

    def setup(self):
        c = self.config
        self.text_model = TextTower(c.text_config)
        self.vision_model = VisionTower(c.vision_config)
        self.text_projection = nn.Dense(c.projection_dim, use_bias=False)
        self.visual_projection = nn.Dense(c.projection_dim, use_bias=False)
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(c.logit_scale_init_value), ()
        )
        if c.logit_bias_init_value is not None:
            self.logit_bias = self.param(
                "logit_bias", nn.initializers.constant(c.logit_bias_init_value), ()
            )

    def __call__(self, tokens: Int[Array, "B L"], images: Images):
        return self.encode_text(tokens), self.encode_image(images)

    def encode_text(self, tokens: Int[Array, "B L"]) -> Float[Array, "B D"]:
        return unit(self.text_projection(self.text_model(tokens)[1]))

    def encode_image(self, images: Images) -> Float[Array, "B D"]:
        return unit(self.visual_projection(self.vision_model(images)[1]))

    def hidden_states(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L E"]:
        return self.text_model(tokens)[0]


class Clip(NamedTuple):
    """The functions of one CLIP."""

    config: ClipConfig
    init: Callable[[Key], Params]
    encode_text: Callable[[Params, Array], Array]  # tokens int [B, L] -> [B, D], unit length
    encode_image: Callable[[Params, Array], Array]  # uint8 or [0, 1] [B, H, W, 3] -> [B, D], unit
    hidden_states: Callable[[Params, Array], Array]  # tokens -> [B, L, E], for cross-attention
    logits: Callable[[Params, Array, Array], Array]  # [N, D], [M, D] -> [N, M]


class TextEncoder(NamedTuple):
    """The functions of a text tower alone (Stable Diffusion's)."""

    config: ClipTextConfig
    init: Callable[[Key], Params]
    hidden_states: Callable[[Params, Array], Array]  # tokens int [B, L] -> [B, L, E]


def make_clip(config: ClipConfig) -> Clip:
    """The functions of CLIP at one size; all are pure, and parameters are ``{"params": ...}`` trees."""
    model = ClipModel(config)

    def init(key: Key) -> Params:
        vision = config.vision_config
        images = jnp.zeros((1, vision.image_size, vision.image_size, vision.num_channels))
        return model.init(key, jnp.zeros((1, 2), jnp.int32), images)

    def logits(params: Params, images: Array, texts: Array) -> Array:
        inner = params["params"]
        return scores(images, texts, inner["logit_scale"], inner.get("logit_bias"))

    return Clip(
        config,
        init,
        lambda params, tokens: model.apply(params, jnp.asarray(tokens), method="encode_text"),
        lambda params, images: model.apply(params, jnp.asarray(images), method="encode_image"),
        lambda params, tokens: model.apply(params, jnp.asarray(tokens), method="hidden_states"),
        logits,
    )


def make_text_encoder(config: ClipTextConfig) -> TextEncoder:
    """The functions of a text tower: ``make_text_encoder(SD15_TEXT)`` conditions Stable Diffusion 1.5."""
    tower = TextTower(config)
    return TextEncoder(
        config,
        lambda key: tower.init(key, jnp.zeros((1, 2), jnp.int32)),
        lambda params, tokens: tower.apply(params, jnp.asarray(tokens))[0],
    )


def unit(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Vectors of length one."""
    return x / jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)


def scores(
    images: Float[Array, "N D"],
    texts: Float[Array, "M D"],
    logit_scale: Float[Array, ""],
    logit_bias: Float[Array, ""] | None = None,
) -> Float[Array, "N M"]:
    """exp(logit_scale) u_i . v_j + logit_bias."""
    cosine = jnp.exp(logit_scale) * (images @ texts.T)
    return cosine if logit_bias is None else cosine + logit_bias


def contrastive_loss(logits: Float[Array, "B B"]) -> Float[Array, ""]:
    """Symmetric InfoNCE where caption i belongs to image i (Radford et al. 2021, figure 3)."""
    rows = jnp.diagonal(jax.nn.log_softmax(logits, axis=1))
    columns = jnp.diagonal(jax.nn.log_softmax(logits, axis=0))
    return -0.5 * (jnp.mean(rows) + jnp.mean(columns))


def sigmoid_loss(
    logits: Float[Array, "B M"],
    truth: Bool[Array, "B M"] | Float[Array, "B M"],
    positive_weight: float = 1.0,
    mask: Bool[Array, "B M"] | None = None,
) -> Float[Array, ""]:
    """-(1/B) sum_ij log sigmoid(z_ij logits_ij), z_ij = +1 where caption j is true of image i, else -1.

    Args:
        truth: Bool, or z itself as floats of +1 and -1.
        positive_weight: of the few true pairs; 1 is the paper's.
        mask: False leaves a pair out (its truth is not known).
    """
    sign = jnp.where(truth > 0, 1.0, -1.0)
    weight = jnp.where(truth > 0, positive_weight, 1.0)
    if mask is not None:
        weight = weight * mask
    return -jnp.sum(weight * jax.nn.log_sigmoid(sign * logits)) / logits.shape[0]

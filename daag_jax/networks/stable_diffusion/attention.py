"""Attention of Stable Diffusion, with the two things this library needs open: regional prompts and cross-frame sight.

Regional prompts.  An image carries P prompts and soft weights w_p(x) that sum to one at every pixel x:

    out(x) = sum_p w_p(x) softmax(q(x) K_p^T / sqrt(d)) V_p                                                    (1)

where the weights are area-averaged to each resolution of the UNet.  With P = 1 this is plain cross-attention.

Cross-frame sight.  The batch is clips x frames, and self-attention of frame t takes its keys and values from

    off              frame t                     (frames are independent)
    first            frame 0                     (Text2Video-Zero, Khachatryan et al. 2023, Eq. 10)
    previous_first   frames 0 and t - 1          (Tune-A-Video, Wu et al. 2023)
    all              every frame of the clip     (ControlVideo, Zhang et al. 2023)

Differs from the papers: with ``previous_first``, frame 0 sees itself twice (as in their code), which changes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.networks.stable_diffusion.attend import attend
from daag_jax.networks.stable_diffusion.blocks import Dtype, conv, group_norm

MODES = ("off", "first", "previous_first", "all")


class Scope(NamedTuple):
    """What every attention layer of one call may look at.  ``frames`` and ``mode`` are static."""

    context: Float[Array, "B P L D"]  # embeddings of the tokens of P prompts
    regions: Float[Array, "B P h w"] | None  # weight of each prompt at each latent pixel
    frames: int = 1
    mode: str = "off"


def check_scope(latents: Float[Array, "B h w C"], scope: Scope, levels: int) -> None:
    """Raises a ValueError where the inputs of a UNet or a ControlNet do not fit each other."""
    batch, height, width, _ = latents.shape
    factor = 2 ** (levels - 1)
    if height % factor or width % factor:
        raise ValueError(
            f"latents of {height} x {width} are not a multiple of {factor} ({levels} levels halve them {levels - 1} "
            "times); pad or resize the images."
        )
    if scope.mode not in MODES:
        raise ValueError(f"attention {scope.mode!r} is not one of {MODES}.")
    if scope.frames < 1 or batch % scope.frames:
        raise ValueError(
            f"frames {scope.frames} does not divide the batch of {batch}; the batch is clips x frames, clip by clip."
        )
    prompts = scope.context.shape[:2]
    if prompts[0] != batch:
        raise ValueError(
            f"context holds {prompts[0]} images, latents hold {batch}; repeat the context for every frame."
        )
    if scope.regions is None and prompts[1] != 1:
        raise ValueError(
            f"context has {prompts[1]} prompts an image but regions is None; give regions of shape "
            f"({batch}, {prompts[1]}, {height}, {width}) that sum to 1 over the prompts."
        )
    if scope.regions is not None and scope.regions.shape != (*prompts, height, width):
        raise ValueError(
            f"regions has shape {scope.regions.shape}, not {(*prompts, height, width)}: a weight for each prompt "
            "of the context at each latent pixel."
        )


def seen_tokens(
    tokens: Float[Array, "B T C"], frames: int, mode: str
) -> Float[Array, "clips_or_B S C"]:
    """Picks the tokens that give keys and values: one row for each clip, or for each frame where frames differ."""
    if mode == "off" or frames == 1:
        return tokens
    clips = tokens.reshape(-1, frames, *tokens.shape[1:])
    if mode == "first":
        return clips[:, 0]
    if mode == "all":
        return clips.reshape(clips.shape[0], -1, clips.shape[-1])
    first = clips[:, :1]
    previous = jnp.concatenate((first, clips[:, :-1]), axis=1)
    pair = jnp.concatenate((jnp.broadcast_to(first, clips.shape), previous), axis=2)
    return pair.reshape(tokens.shape[0], -1, tokens.shape[-1])


def area_average(
    regions: Float[Array, "B P h w"], height: int, width: int
) -> Float[Array, "B h2w2 P"]:
    """Averages the weights of prompts over the latent pixels that a coarser pixel covers; pixels become tokens."""
    batch, prompts, fine_height, fine_width = regions.shape
    cells = regions.reshape(
        batch, prompts, height, fine_height // height, width, fine_width // width
    )
    return cells.mean(axis=(3, 5)).reshape(batch, prompts, -1).swapaxes(1, 2)


class Attention(nn.Module):
    """Multi-head attention of tokens to other tokens, with the projections of Hugging Face's ``Attention``."""

    features: int
    heads: int
    dtype: Dtype = None

    def setup(self):
        self.to_q, self.to_k, self.to_v = (
            nn.Dense(self.features, use_bias=False, dtype=self.dtype) for _ in range(3)
        )
        self.to_out = [nn.Dense(self.features, dtype=self.dtype)]

    def __call__(
        self,
        tokens: Float[Array, "B T C"],
        seen: Float[Array, "B2 S D"],
        weights: Float[Array, "B T P"] | None = None,
    ) -> Float[Array, "B T C"]:
        """Attends from ``tokens`` to ``seen``; B2 = B, or the number of clips where frames share what they see."""
        split = (seen.shape[0], -1, self.heads, self.features // self.heads)
        queries = self.to_q(tokens).reshape(split)
        keys, values = self.to_k(seen).reshape(split), self.to_v(seen).reshape(split)
        out = attend(queries, keys, values, weights)
        return self.to_out[0](out.reshape(tokens.shape))


class GatedProjection(nn.Module):
    """GEGLU: a(x) * gelu(b(x)), with the exact GELU (Shazeer 2020, Eq. 6)."""

    features: int
    dtype: Dtype = None

    def setup(self):
        self.proj = nn.Dense(2 * self.features, dtype=self.dtype)

    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T D"]:
        hidden, gate = jnp.split(self.proj(x), 2, axis=-1)
        return hidden * nn.gelu(gate, approximate=False)


class FeedForward(nn.Module):
    """A gated projection to four times the width, and back.  (``net_1`` of Hugging Face is a dropout of 0.)"""

    features: int
    dtype: Dtype = None

    def setup(self):
        self.net_0 = GatedProjection(4 * self.features, self.dtype)
        self.net_2 = nn.Dense(self.features, dtype=self.dtype)

    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        return self.net_2(self.net_0(x))


class TransformerBlock(nn.Module):
    """Self-attention (cross-frame), cross-attention to the prompts (regional), feed-forward; each pre-normalised."""

    features: int
    heads: int
    dtype: Dtype = None

    def setup(self):
        self.norm1, self.norm2, self.norm3 = (
            nn.LayerNorm(epsilon=1e-5, dtype=self.dtype) for _ in range(3)
        )
        self.attn1 = Attention(self.features, self.heads, self.dtype)
        self.attn2 = Attention(self.features, self.heads, self.dtype)
        self.ff = FeedForward(self.features, self.dtype)

    def __call__(
        self, x: Float[Array, "B T C"], scope: Scope, weights: Float[Array, "B T P"] | None
    ) -> Float[Array, "B T C"]:
        tokens = self.norm1(x)
        seen = seen_tokens(tokens, scope.frames, scope.mode)
        x = x + self.attn1(tokens, seen)
        prompts = scope.context.reshape(x.shape[0], -1, scope.context.shape[-1])
        x = x + self.attn2(self.norm2(x), prompts, weights)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    """Transformer2DModel: normalises a feature map, runs transformer blocks over its pixels, adds the result."""

    features: int
    heads: int
    layers: int
    groups: int
    dtype: Dtype = None

    def setup(self):
        self.norm = group_norm(self.groups, 1e-6, self.dtype)  # 1e-6, unlike the residual blocks
        self.proj_in = conv(self.features, self.dtype, size=1)
        self.transformer_blocks = [
            TransformerBlock(self.features, self.heads, self.dtype) for _ in range(self.layers)
        ]
        self.proj_out = conv(self.features, self.dtype, size=1)

    def __call__(self, x: Float[Array, "B H W C"], scope: Scope) -> Float[Array, "B H W C"]:
        weights = None
        if scope.regions is not None:
            weights = area_average(scope.regions, *x.shape[1:3])
        hidden = self.proj_in(self.norm(x))
        tokens = hidden.reshape(x.shape[0], -1, self.features)
        for block in self.transformer_blocks:
            tokens = block(tokens, scope, weights)
        return x + self.proj_out(tokens.reshape(hidden.shape))

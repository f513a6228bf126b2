"""The text tower of CLIP, and the pre-LN transformer that both towers share.

    x <- x + MHA(LN(x)),  x <- x + W2 act(W1 LN(x)),   act(x) = x sigmoid(1.702 x)  (quick_gelu)

Modules and parameters bear Hugging Face's names, so that ``weights.py`` is one renaming rule.

Differs from the reference: nowhere; dropout is absent because OpenAI trained without it.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from daag_jax.networks.clip.config import ClipTextConfig, ClipVisionConfig

LEGACY_EOS = 2  # the `eos_token_id` of configurations written before transformers 4.30


class Attention(nn.Module):
    """Multi-head self-attention with biases: softmax(q k^T / sqrt(d)) v."""

    num_heads: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], mask: Bool[Array, "L L"] | None
    ) -> Float[Array, "B L D"]:
        batch, length, width = x.shape
        split = (batch, length, self.num_heads, width // self.num_heads)
        query, key, value = (
            nn.Dense(width, name=f"{name}_proj")(x).reshape(split) for name in "qkv"
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", query * split[-1] ** -0.5, key)
        if mask is not None:
            scores = jnp.where(mask[None, None], scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), value)
        return nn.Dense(width, name="out_proj")(mixed.reshape(batch, length, width))


class Mlp(nn.Module):
    """Two layers around the activation."""

    intermediate_size: int
    hidden_act: str

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        hidden = nn.Dense(self.intermediate_size, name="fc1")(x)
        if self.hidden_act == "quick_gelu":
            hidden = hidden * jax.nn.sigmoid(1.702 * hidden)
        else:
            hidden = jax.nn.gelu(hidden, approximate=False)
        return nn.Dense(x.shape[-1], name="fc2")(hidden)


class EncoderLayer(nn.Module):
    """One pre-LN block."""

    config: ClipTextConfig | ClipVisionConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], mask: Bool[Array, "L L"] | None
    ) -> Float[Array, "B L D"]:
        c = self.config
        normed = nn.LayerNorm(c.layer_norm_eps, use_fast_variance=False, name="layer_norm1")(x)
        x = x + Attention(c.num_attention_heads, name="self_attn")(normed, mask)
        normed = nn.LayerNorm(c.layer_norm_eps, use_fast_variance=False, name="layer_norm2")(x)
        return x + Mlp(c.intermediate_size, c.hidden_act, name="mlp")(normed)


class Encoder(nn.Module):
    """A stack of blocks."""

    config: ClipTextConfig | ClipVisionConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], mask: Bool[Array, "L L"] | None = None
    ) -> Float[Array, "B L D"]:
        for i in range(self.config.num_hidden_layers):
            x = EncoderLayer(self.config, name=f"layers_{i}")(x, mask)
        return x


class TextEmbeddings(nn.Module):
    """Tokens and their positions."""

    config: ClipTextConfig

    @nn.compact
    def __call__(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        c, length = self.config, tokens.shape[1]
        if length > c.max_position_embeddings:
            raise ValueError(
                f"tokens have length {length}, longer than max_position_embeddings "
                f"{c.max_position_embeddings}; build the tokenizer with that context_length."
            )
        init = nn.initializers.normal(0.02)
        words = nn.Embed(c.vocab_size, c.hidden_size, embedding_init=init, name="token_embedding")
        places = nn.Embed(
            c.max_position_embeddings, c.hidden_size, embedding_init=init, name="position_embedding"
        )
        return words(tokens) + places(jnp.arange(length))[None]


class TextTower(nn.Module):
    """CLIPTextModel: the hidden states after the final LayerNorm, and the one at the end of the text."""

    config: ClipTextConfig

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B L"]
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B D"]]:
        length = tokens.shape[1]
        causal = jnp.tril(jnp.ones((length, length), bool))
        x = TextEmbeddings(self.config, name="embeddings")(tokens)
        x = Encoder(self.config, name="encoder")(x, causal)
        states = nn.LayerNorm(
            self.config.layer_norm_eps, use_fast_variance=False, name="final_layer_norm"
        )(x)
        end = end_of_text(tokens, self.config.eos_token_id)
        return states, jnp.take_along_axis(states, end[:, None, None], axis=1)[:, 0]


def end_of_text(tokens: Int[Array, "B L"], eos_token_id: int) -> Int[Array, "B"]:
    """Where each text ends: its first EOS, or its largest token id under the legacy configuration."""
    if eos_token_id == LEGACY_EOS:
        return jnp.argmax(tokens, axis=1)
    return jnp.argmax((tokens == eos_token_id).astype(jnp.int32), axis=1)

"""Transformers: one that denoises sequences of actions, and one that reads a sequence as it comes.

DenoisingTransformer   the decoder of Diffusion Policy (Chi et al. 2023, section III-A)
CausalTransformer      GPT's, of Decision Transformer (Chen et al. 2021): no token reads a later one

In the first, actions are tokens; the embedded time and K observed steps are the memory that they attend to.  A block is

    x + attend(x, x);   x + attend(x, memory);   x + Dense(gelu(Dense(x)))      each behind a LayerNorm

Where it is causal, action i reads the actions 0 .. i, the time, and the observations 0 .. i: both sequences start at
the first observed step, so that the present action, i = K - 1, knows all that was observed.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from daag_jax.networks.embeddings import TimeEmbedding

PLACE = nn.initializers.normal(0.02)  # of the embeddings of places


class DenoisingTransformer(nn.Module):
    """A network(xt, time, condition) -> prediction; dropout is on where a call passes ``is_training`` and a key."""

    width: int = 256
    depth: int = 8
    num_heads: int = 4
    dropout: float = 0.3
    is_causal: bool = True

    @nn.compact
    def __call__(
        self,
        xt: Float[Array, "B T D"],
        time: Float[Array, "B"],
        condition: Float[Array, "B K C"],
        is_training: bool = False,
    ) -> Float[Array, "B T D"]:
        horizon, history = xt.shape[1], condition.shape[1]
        memory = self.remember(time, condition)
        x = nn.Dense(self.width, name="actions")(xt)
        x = x + self.param("places", PLACE, (1, horizon, self.width))
        masks = causal_masks(horizon, history) if self.is_causal else (None, None)
        for i in range(self.depth):
            block = DecoderBlock(self.width, self.num_heads, self.dropout, name=f"block{i}")
            x = block(x, memory, *masks, is_training)
        return nn.Dense(xt.shape[-1], name="out")(nn.LayerNorm(name="norm")(x))

    def remember(self, time: Array, condition: Array) -> Float[Array, "B K1 W"]:
        """The memory: a token of the time, and one of each observed step."""
        steps = nn.Dense(self.width, name="observations")(condition)
        embedded = TimeEmbedding(self.width, name="time")(time)[:, None]
        memory = jnp.concatenate([embedded, steps], axis=1)
        memory = memory + self.param("memory_places", PLACE, (1, memory.shape[1], self.width))
        hidden = jax.nn.mish(nn.Dense(4 * self.width, name="memory_in")(memory))
        return nn.Dense(self.width, name="memory_out")(hidden)


class DecoderBlock(nn.Module):
    """Attention among the tokens, attention to the memory, and a perceptron, each around an identity path."""

    width: int
    num_heads: int
    dropout: float

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T W"],
        memory: Float[Array, "B M W"],
        mask: Array | None,
        memory_mask: Array | None,
        is_training: bool,
    ) -> Float[Array, "B T W"]:
        drop = nn.Dropout(self.dropout, deterministic=not is_training)

        def attend(name: str) -> nn.Module:
            return nn.MultiHeadDotProductAttention(
                self.num_heads,
                dropout_rate=self.dropout,
                deterministic=not is_training,
                name=name,
            )

        y = nn.LayerNorm(name="norm0")(x)
        x = x + drop(attend("among")(y, y, mask=mask))
        y = nn.LayerNorm(name="norm1")(x)
        x = x + drop(attend("across")(y, memory, mask=memory_mask))
        y = nn.Dense(4 * self.width, name="widen")(nn.LayerNorm(name="norm2")(x))
        return x + drop(nn.Dense(self.width, name="narrow")(drop(jax.nn.gelu(y))))


def causal_masks(horizon: int, history: int) -> tuple[np.ndarray, np.ndarray]:
    """Who may read whom: [1, 1, T, T] among actions, and [1, 1, T, 1 + K] of the time and the observations."""
    action, step = np.arange(horizon)[:, None], np.arange(1 + history)[None]
    among, across = np.arange(horizon)[None] <= action, step - 1 <= action
    return among[None, None], across[None, None]


class CausalTransformer(nn.Module):
    """Tokens to tokens: each reads itself and what is real of those before it."""

    depth: int = 3
    num_heads: int = 1
    dropout: float = 0.1

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N W"], is_real: Bool[Array, "B N"], is_training: bool = False
    ) -> Float[Array, "B N W"]:
        num = x.shape[1]
        before = np.tril(np.ones((num, num), bool))[None, None]
        mask = before & (is_real[:, None, None, :] | np.eye(num, dtype=bool)[None, None])
        x = nn.Dropout(self.dropout, deterministic=not is_training)(x)
        for i in range(self.depth):
            block = CausalBlock(self.num_heads, self.dropout, name=f"block{i}")
            x = block(x, mask, is_training)
        return nn.LayerNorm(name="norm")(x)


class CausalBlock(nn.Module):
    """Attention among the tokens and a ReLU perceptron, each around an identity path."""

    num_heads: int
    dropout: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N W"], mask: Bool[Array, "B 1 N N"], is_training: bool
    ) -> Float[Array, "B N W"]:
        drop = nn.Dropout(self.dropout, deterministic=not is_training)
        attend = nn.MultiHeadDotProductAttention(
            self.num_heads,
            dropout_rate=self.dropout,
            deterministic=not is_training,
            name="among",
        )
        y = nn.LayerNorm(name="norm0")(x)
        x = x + drop(attend(y, y, mask=mask))
        y = nn.Dense(4 * x.shape[-1], name="widen")(nn.LayerNorm(name="norm1")(x))
        return x + drop(nn.Dense(x.shape[-1], name="narrow")(jax.nn.relu(y)))

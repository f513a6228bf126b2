"""Softmax attention in the form that suits the platform; the numbers are the same everywhere.

    CUDA, half precision    cuDNN's flash attention, where it takes the head and no weights of prompts are asked for
    TPU, GPU otherwise      one head and QUERIES queries at a time, all images together: sharded images stay sharded
    CPU                     one head of one image at a time, in pieces of CPU_SCORES scores, which stay in the caches

All scores at once where they are few.  On one two-core CPU (4,096 tokens, 8 heads of 40) all at once take 810 ms, in
pieces 180 ms, and ``scaled_dot_product_attention`` of PyTorch 130 ms.

The platform is the one a program is compiled for; cuDNN is asked for by the default backend, while tracing.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.backend import get_backend
from jaxtyping import Array, Float

QUERIES = 1024
CPU_SCORES = 2**22
# what cuDNN takes on every chip since Ampere, whose compute capability is 8.0
FLASH_DTYPES = (jnp.bfloat16, jnp.float16)
FLASH_WIDTH = 128
FLASH_CAPABILITY = 8.0


def attend(
    queries: Float[Array, "B T N D"],
    keys: Float[Array, "B S N D"],
    values: Float[Array, "B S N D"],
    weights: Float[Array, "B T P"] | None = None,
) -> Float[Array, "B T N D"]:
    """Softmax attention of N heads, softmax in float32; memory is bounded in the number of queries.

    With ``weights``, the S keys are P prompts of S / P tokens, each with a softmax of its own, summed with these
    weights (Eq. 1 of ``attention.py``).
    """
    if weights is None and has_flash(queries):
        return jax.nn.dot_product_attention(queries, keys, values, implementation="cudnn")
    return lax.platform_dependent(
        queries, keys, values, weights, cpu=attend_in_caches, default=attend_in_memory
    )


def has_flash(queries: Float[Array, "B T N D"]) -> bool:
    """Whether cuDNN's flash attention takes these queries here."""
    width = queries.shape[-1]
    is_taken = queries.dtype in FLASH_DTYPES and width % 8 == 0 and width <= FLASH_WIDTH
    backend = get_backend()
    if not is_taken or "cuda" not in backend.platform_version:
        return False
    return float(backend.local_devices()[0].compute_capability) >= FLASH_CAPABILITY


def attend_in_memory(
    queries: Float[Array, "B T N D"],
    keys: Float[Array, "B S N D"],
    values: Float[Array, "B S N D"],
    weights: Float[Array, "B T P"] | None,
) -> Float[Array, "B T N D"]:
    """Attention for accelerators: loops over heads, and over pieces of QUERIES queries."""
    heads = (
        jnp.moveaxis(queries, 2, 0),
        jnp.transpose(keys, (2, 0, 3, 1)),
        jnp.moveaxis(values, 2, 0),
    )
    if queries.shape[1] <= QUERIES:
        out = attend_at_once(*heads, None if weights is None else weights[None])
    else:
        out = lax.map(lambda head: attend_in_pieces(*head, weights, QUERIES), heads)
    return jnp.moveaxis(out, 0, 2)


def attend_in_caches(
    queries: Float[Array, "B T N D"],
    keys: Float[Array, "B S N D"],
    values: Float[Array, "B S N D"],
    weights: Float[Array, "B T P"] | None,
) -> Float[Array, "B T N D"]:
    """Attention for CPUs: loops over images, heads and pieces of queries, where an image has many scores."""
    (_, length, heads, _), seen = queries.shape, keys.shape[1]
    rows = (
        jnp.swapaxes(queries, 1, 2),
        jnp.transpose(keys, (0, 2, 3, 1)),
        jnp.swapaxes(values, 1, 2),
    )
    if weights is not None:
        weights = weights[:, None]
    if length * heads * seen <= CPU_SCORES:
        return jnp.swapaxes(attend_at_once(*rows, weights), 1, 2)
    size = max(CPU_SCORES // seen, 1)

    def image(parts: tuple) -> Array:
        *rows, weights = parts
        weights = None if weights is None else weights[0]
        return lax.map(lambda row: attend_in_pieces(*row, weights, size), tuple(rows))

    return jnp.swapaxes(lax.map(image, (*rows, weights)), 1, 2)


def attend_in_pieces(
    queries: Float[Array, "*B T D"],
    keys: Float[Array, "*B D S"],
    values: Float[Array, "*B S D"],
    weights: Float[Array, "*B T P"] | None,
    size: int,
) -> Float[Array, "*B T D"]:
    """Attention of one head, ``size`` queries at a time; a backward pass over several computes their scores again."""
    length = queries.shape[-2]
    if length <= size:
        return attend_at_once(queries, keys, values, weights)
    pieces = -(-length // size)
    size = -(-length // pieces)

    def split(x: Array) -> Array:
        x = jnp.pad(x, (*((0, 0),) * (x.ndim - 2), (0, pieces * size - length), (0, 0)))
        return jnp.moveaxis(x.reshape(*x.shape[:-2], pieces, size, x.shape[-1]), -3, 0)

    parts = (split(queries), None if weights is None else split(weights))
    step = jax.checkpoint(lambda part: attend_at_once(part[0], keys, values, part[1]))
    out = jnp.moveaxis(lax.map(step, parts), 0, -3)
    return out.reshape(*out.shape[:-3], -1, out.shape[-1])[..., :length, :]


def attend_at_once(
    queries: Float[Array, "*B T D"],
    keys: Float[Array, "*B D S"],
    values: Float[Array, "*B S D"],
    weights: Float[Array, "*#B T P"] | None,
) -> Float[Array, "*B T D"]:
    """Attention that holds all scores; one prompt divides by the sum at the end, where the array is small."""
    product = partial(jnp.matmul, preferred_element_type=jnp.float32)
    scores, scale = product(queries, keys), queries.shape[-1] ** -0.5
    if weights is None:
        shares = exponentials(scores, scale)
        out = product(shares.astype(values.dtype), values) / shares.sum(-1, keepdims=True)
        return out.astype(values.dtype)
    shares = exponentials(scores.reshape(*scores.shape[:-1], weights.shape[-1], -1), scale)
    shares *= (weights.astype(jnp.float32) / shares.sum(-1))[..., None]
    return product(shares.reshape(scores.shape).astype(values.dtype), values).astype(values.dtype)


def exponentials(scores: Float[Array, "*B S"], scale: float) -> Float[Array, "*B S"]:
    """exp(scale (x - max x)) along the last axis."""
    return jnp.exp((scores - lax.stop_gradient(scores.max(-1, keepdims=True))) * scale)

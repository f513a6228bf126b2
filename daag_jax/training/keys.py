"""Random keys as a function of (seed, stream, step), so that resuming is bit-exact.

The key of step n in a stream is ``fold_in(fold_in(root, stream), n)``: nothing is split along the way, so no key
has to be saved, and a run that stops at step n continues with the key it would have had.
"""

from __future__ import annotations

import zlib

import jax
from jaxtyping import Int

from daag_jax.types import Key


def stream(root: Key, name: str) -> Key:
    """The root key of a named stream: ``fold_in(root, crc32(name))``."""
    return jax.random.fold_in(root, zlib.crc32(name.encode()))


def key_at(root: Key, name: str, step: int | Int[jax.Array, ""]) -> Key:
    """The key of step ``step`` in the stream ``name``; ``step`` may be traced."""
    return jax.random.fold_in(stream(root, name), step)

"""Batches that come from the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from daag_jax.types import Batch


class Feed(NamedTuple):
    """Batches n, n + 1, ... from ``start(n)``: the rows of this process; ``example`` has the shapes of the whole."""

    example: Batch
    start: Callable[[int], Iterator[Batch]]

"""The eight named colours of the object worlds, in sRGB.

Captions, edits and metrics all speak of these names, so a colour is an index into one table.  The
values are far apart in CIELAB (the closest pair, blue and purple, by 29 units of CIE76), so that the
nearest entry of a shaded pixel is its name.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.10, 0.65, 0.15),
    "blue": (0.10, 0.20, 0.85),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.50, 0.15, 0.70),
    "orange": (0.95, 0.50, 0.05),
    "cyan": (0.10, 0.80, 0.85),
    "pink": (0.95, 0.45, 0.70),
}
PALETTE_NAMES: tuple[str, ...] = tuple(PALETTE)
PALETTE_RGB: np.ndarray = np.asarray(list(PALETTE.values()), np.float32)  # [8, 3], sRGB in [0, 1]


def color_indices(names: Sequence[str]) -> tuple[int, ...]:
    """Indices of colour names in the palette.

    Raises:
        ValueError: a name is not in the palette.
    """
    unknown = [name for name in names if name not in PALETTE]
    if unknown:
        raise ValueError(f"color {unknown[0]!r} is not in the palette; try {PALETTE_NAMES}.")
    return tuple(PALETTE_NAMES.index(name) for name in names)


def rgb_of(colors: Int[Array, "*N"]) -> Float[Array, "*N 3"]:
    """sRGB values in [0, 1] of palette indices."""
    return jnp.asarray(PALETTE_RGB)[colors]

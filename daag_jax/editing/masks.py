"""Which pixels an edit may touch: instances by the colour they show, their masks, and what diffusion makes of masks.

The agent is not told which instance is "the red object", nor where it is.  It looks: ``instances_by_color`` segments
a frame by the colours that it shows.  (This stands where a system on real video has a detector and a segmenter.)

A *swap* maps colours to colours.  Its mode says what becomes of an object that already has the new colour:

    replace    red -> green only: a scene with a green object then has two
    exchange   red <-> green; a chain of pairs (blue -> red -> green) closes into a cycle
    permute    the given pairs, closed to a permutation of the colours that are present
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from daag_jax.editing.colors import mode_of, name_pixels
from daag_jax.envs.palette import PALETTE_NAMES
from daag_jax.names import nearest

SWAP_MODES = ("replace", "exchange", "permute")


def instances_by_color(rgb: UInt8[Array, "*N 3"], colors: Int[Array, "J"]) -> Int[Array, "*N"]:
    """Instances as pixels alone tell them: j + 1 where a pixel shows ``colors[j]``, 0 where it shows none of them.

    A colour of -1 is of an object that is not seen.
    """
    colors = colors.reshape((1,) * (rgb.ndim - 1) + (-1,))
    is_named = (name_pixels(rgb)[..., None] == colors) & (colors >= 0)
    return jnp.where(is_named.any(-1), jnp.argmax(is_named, -1) + 1, 0)


def instance_colors(
    rgb: UInt8[Array, "T H W 3"], segmentation: Int[Array, "T H W"], num_objects: int = 3
) -> Int[Array, "J"]:
    """Palette index that each instance 1 .. J shows over a clip, -1 where it is not seen."""
    labels = name_pixels(rgb).reshape(-1)
    instances = segmentation.reshape(-1)
    votes = jax.nn.one_hot(labels, len(PALETTE_NAMES))
    members = jax.nn.one_hot(instances - 1, num_objects)
    counts = jnp.einsum("nj,nc->jc", members, votes)
    return jnp.where(counts.max(-1) > 0, jnp.argmax(counts, -1), -1)


def frame_colors(
    rgb: UInt8[Array, "T H W 3"], segmentation: Int[Array, "T H W"], num_objects: int = 3
) -> Int[Array, "T J"]:
    """The same, frame by frame."""
    labels = name_pixels(rgb).reshape(rgb.shape[0], -1)
    flat = segmentation.reshape(segmentation.shape[0], -1)
    columns = [mode_of(labels, flat == j + 1, len(PALETTE_NAMES)) for j in range(num_objects)]
    return jnp.stack(columns, axis=-1)


def swap_mapping(
    swaps: Sequence[tuple[str, str]] | Mapping[str, str], present: Sequence[str], mode: str
) -> dict[str, str]:
    """What every present colour becomes.

    Raises:
        ValueError: an unknown mode or colour (the nearest name is given), one colour that becomes two, or, where the
            mode is not "replace", two colours that become one.
    """
    if mode not in SWAP_MODES:
        raise ValueError(f"swap mode {mode!r} is unknown; use one of {SWAP_MODES}.")
    pairs = list(swaps.items()) if isinstance(swaps, Mapping) else [tuple(pair) for pair in swaps]
    for color in (c for pair in pairs for c in pair):
        if color not in PALETTE_NAMES:
            near = nearest(color, PALETTE_NAMES)
            raise ValueError(
                f"color {color!r} is not in the palette; the nearest name is {near!r}."
            )
    if len({source for source, _ in pairs}) != len(pairs):
        raise ValueError(f"swaps {pairs} give one colour two targets; give each colour once.")
    if mode != "replace" and len({target for _, target in pairs}) != len(pairs):
        raise ValueError(f"swaps {pairs} give two colours one target; use swap mode 'replace'.")
    mapping = {color: color for color in present}
    for source, target in pairs:
        if source in mapping:
            mapping[source] = target
    if mode == "exchange":
        return close_cycles(mapping, [source for source, _ in pairs])
    if mode == "permute":
        return close_permutation(mapping, [source for source, _ in pairs])
    return mapping


def close_cycles(mapping: dict[str, str], sources: Sequence[str]) -> dict[str, str]:
    """Gives each displaced colour to the object at the start of the chain that displaced it."""
    back = {mapping[color]: color for color in sources if color in mapping}
    closed = dict(mapping)
    for color in mapping:
        if color in back and color not in sources:
            start = color
            while start in back:
                start = back[start]
            closed[color] = start
    return closed


def close_permutation(mapping: dict[str, str], sources: Sequence[str]) -> dict[str, str]:
    """Gives the colours that were displaced to the objects that lost theirs, in order: a census that stays right."""
    moved = [color for color in sources if color in mapping]
    targets = [mapping[color] for color in moved]
    freed = [color for color in moved if color not in targets]
    displaced = [color for color in mapping if color in targets and color not in moved]
    return mapping | dict(zip(displaced, freed, strict=False))


def apply_mapping(colors: Int[Array, "*B J"], mapping: Mapping[str, str]) -> Int[Array, "*B J"]:
    """Palette indices after a mapping; -1 stays."""
    table = list(range(len(PALETTE_NAMES)))
    for source, target in mapping.items():
        table[PALETTE_NAMES.index(source)] = PALETTE_NAMES.index(target)
    return jnp.where(colors >= 0, jnp.asarray(table)[jnp.maximum(colors, 0)], -1)


def edit_mask(
    segmentation: Int[Array, "*B H W"], is_edited: Bool[Array, "*B2 J"]
) -> Bool[Array, "*B H W"]:
    """Pixels of the instances to edit (``is_edited`` broadcasts over frames)."""
    num = is_edited.shape[-1]
    hits = [
        (segmentation == j + 1) & is_edited[..., j].reshape(is_edited.shape[:-1] + (1,) * 2)
        for j in range(num)
    ]
    return jnp.any(jnp.stack(hits), axis=0)


def dilate(mask: Bool[Array, "*B H W"], radius: int) -> Bool[Array, "*B H W"]:
    """Grows a mask by a square of ``radius`` pixels; a negative radius erodes it."""
    if radius == 0:
        return mask
    size = 2 * abs(radius) + 1
    window = (1,) * (mask.ndim - 2) + (size, size)
    values = (mask if radius > 0 else ~mask).astype(jnp.float32)
    grown = jax.lax.reduce_window(values, 0.0, jax.lax.max, window, (1,) * mask.ndim, "SAME") > 0
    return grown if radius > 0 else ~grown


def latent_mask(mask: Bool[Array, "B H W"], factor: int) -> Float[Array, "B h w"]:
    """1 for every latent whose pixels include one of the mask."""
    batch, height, width = mask.shape
    cells = mask.reshape(batch, height // factor, factor, width // factor, factor)
    return jnp.any(cells, axis=(2, 4)).astype(jnp.float32)


def region_weights(
    segmentation: Int[Array, "B H W"], num_objects: int, factor: int
) -> Float[Array, "B P h w"]:
    """Soft weights of P = 1 + num_objects prompts at each latent, summing to one; background and robot come first."""
    masks = [(segmentation == j + 1).astype(jnp.float32) for j in range(num_objects)]
    stacked = jnp.stack([1.0 - sum(masks), *masks], axis=1)
    batch, regions, height, width = stacked.shape
    cells = stacked.reshape(batch, regions, height // factor, factor, width // factor, factor)
    return cells.mean(axis=(3, 5))

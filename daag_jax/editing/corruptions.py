"""Oracle edits, spoilt on purpose by one fault at a level 0 .. 5.

They calibrate metrics (each must rise with its own fault, and only with it) and measure what a fault costs a policy.
Level 0 is the oracle itself.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from daag_jax.editing.colors import TO_XYZ, WHITE, linear_to_srgb, srgb_to_lab
from daag_jax.editing.masks import dilate
from daag_jax.editing.truth import Truth, areas, object_masks, unit_range
from daag_jax.envs.palette import rgb_of
from daag_jax.types import Key

LEVELS = 6
SHIFT = (0, 1, 2, 4, 8, 16)  # [px] that the painted mask is off
HUE = (
    0.0,
    3.0,
    6.0,
    12.0,
    24.0,
    45.0,
)  # [deg], standard deviation of each frame's turn; hue is a circle
NOISE = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)  # standard deviation of each frame's own noise
SHARE = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # of frames or pixels that are wrong
GHOST = (0, 3, 5, 7, 9, 11)  # [px], side of a second object


def at(table: tuple, level: Int[Array, ""]) -> Array:
    """The entry of a level."""
    return jnp.asarray(table)[level]


def to_video(rgb: Float[Array, "T H W 3"]) -> UInt8[Array, "T H W 3"]:
    """8-bit frames."""
    return jnp.clip(rgb * 255.0 + 0.5, 0.0, 255.0).astype(jnp.uint8)


def lab_to_srgb(lab: Float[Array, "*N 3"]) -> Float[Array, "*N 3"]:
    """sRGB in [0, 1] of CIELAB (D65); colours outside the gamut are clipped."""
    fy = (lab[..., 0] + 16) / 116
    f = jnp.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], axis=-1)
    relative = jnp.where(f > 0.206893, f**3, (f - 16 / 116) / 7.787)
    xyz = relative * jnp.asarray(WHITE).reshape((1,) * (lab.ndim - 1) + (3,))
    inverse = jnp.linalg.inv(jnp.asarray(TO_XYZ))
    linear = jnp.clip(jnp.einsum("...j,ij->...i", xyz, inverse, precision="highest"), 0.0, 1.0)
    return linear_to_srgb(linear)


def mask_shift(truth: Truth, level: Int[Array, ""], key: Key) -> UInt8[Array, "T H W 3"]:
    """The edit is painted some pixels to the right of the object, which keeps its old colour."""
    del key
    step = at(SHIFT, level)
    columns = jnp.arange(truth.source.shape[2])
    from_where = jnp.maximum(columns - step, 0)
    mask = areas(truth).edited[:, :, from_where] & (columns >= step)[None, None, :]
    return jnp.where(mask[..., None], truth.oracle[:, :, from_where], truth.source)


def hue_jitter(truth: Truth, level: Int[Array, ""], key: Key) -> UInt8[Array, "T H W 3"]:
    """Each frame turns the hue of the edited objects by an angle of its own."""
    mask = areas(truth).edited[..., None]
    lab = srgb_to_lab(unit_range(truth.oracle))
    turn = jnp.deg2rad(at(HUE, level)) * jax.random.normal(key, (lab.shape[0], 1, 1))
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    a, b = lab[..., 1], lab[..., 2]
    turned = jnp.stack([lab[..., 0], cos * a - sin * b, sin * a + cos * b], axis=-1)
    is_clean = (level == 0) | ~mask
    return jnp.where(is_clean, truth.oracle, to_video(lab_to_srgb(turned)))


def redrawn_noise(truth: Truth, level: Int[Array, ""], key: Key) -> UInt8[Array, "T H W 3"]:
    """Each frame's object carries noise of its own."""
    noise = at(NOISE, level) * jax.random.normal(key, truth.oracle.shape)
    return jnp.where(
        areas(truth).edited[..., None], to_video(unit_range(truth.oracle) + noise), truth.oracle
    )


def frozen_frames(truth: Truth, level: Int[Array, ""], key: Key) -> UInt8[Array, "T H W 3"]:
    """A share of the frames, nested over levels, shows the first frame again."""
    frames = truth.oracle.shape[0]
    rank = jnp.concatenate([jnp.full(1, frames), jax.random.permutation(key, frames - 1)])
    is_frozen = rank < jnp.round(at(SHARE, level) * (frames - 1))
    return jnp.where(is_frozen[:, None, None, None], truth.oracle[:1], truth.oracle)


def bleed(truth: Truth, level: Int[Array, ""], key: Key) -> UInt8[Array, "T H W 3"]:
    """The target colour runs ``level`` + 1 pixels (but none at level 0) over the background beside the object."""
    del key
    video = truth.oracle
    for j, mask in enumerate(object_masks(truth)):
        grown = jnp.stack([mask, *(dilate(mask, r) for r in range(2, LEVELS + 1))])[level]
        spill = grown & (truth.segmentation == 0) & (truth.colors[j] != truth.targets[j])
        paint = to_video(rgb_of(truth.targets[j])[None, None, None])
        video = jnp.where(spill[..., None], paint, video)
    return video


def ghost(truth: Truth, level: Int[Array, ""], key: Key) -> UInt8[Array, "T H W 3"]:
    """A square of the first edited object's colour stands in the corner of the picture."""
    del key
    side = at(GHOST, level)
    rows = jnp.arange(truth.source.shape[1]) < side
    columns = jnp.arange(truth.source.shape[2]) < side
    patch = (rows[:, None] & columns[None, :])[None] & (truth.segmentation == 0)
    first = jnp.argmax(truth.colors != truth.targets)
    paint = to_video(rgb_of(truth.targets[first])[None, None, None])
    return jnp.where(patch[..., None], paint, truth.oracle)


def painted_robot(truth: Truth, level: Int[Array, ""], key: Key) -> UInt8[Array, "T H W 3"]:
    """The target colour covers a share of the robot's pixels, nested over levels."""
    draw = jax.random.uniform(key, truth.segmentation.shape)
    spoilt = areas(truth).robot & (draw < at(SHARE, level))
    first = jnp.argmax(truth.colors != truth.targets)
    paint = to_video(rgb_of(truth.targets[first])[None, None, None])
    return jnp.where(spoilt[..., None], paint, truth.oracle)


def forgotten_frames(truth: Truth, level: Int[Array, ""], key: Key) -> UInt8[Array, "T H W 3"]:
    """A share of the frames, nested over levels, is not edited at all: its label is wrong."""
    frames = truth.oracle.shape[0]
    lost = jax.random.permutation(key, frames) < jnp.round(at(SHARE, level) * frames)
    return jnp.where(lost[:, None, None, None], truth.source, truth.oracle)


CORRUPTIONS: dict[str, Callable[[Truth, Array, Key], Array]] = {
    "mask shift": mask_shift,
    "hue jitter": hue_jitter,
    "redrawn noise": redrawn_noise,
    "frozen frames": frozen_frames,
    "bleed": bleed,
    "ghost": ghost,
    "painted robot": painted_robot,
    "forgotten frames": forgotten_frames,
}


def corrupt_edit(
    name: str, truth: Truth, level: int | Int[Array, ""], key: Key
) -> UInt8[Array, "T H W 3"]:
    """The oracle with one fault; pure in (truth, level, key), to be jitted with ``name`` static.

    Raises:
        ValueError: the fault is unknown, or a level given as a number does not exist.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption {name!r} is unknown; use one of {tuple(CORRUPTIONS)}.")
    if isinstance(level, int) and not 0 <= level < LEVELS:
        raise ValueError(f"level={level} does not exist; use 0 (the oracle) .. {LEVELS - 1}.")
    return CORRUPTIONS[name](truth, jnp.asarray(level, jnp.int32), key)

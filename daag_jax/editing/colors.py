"""Colour science: sRGB to CIELAB, CIEDE2000, and which palette name a pixel shows.

A shaded cube of one colour covers a path of shades, so a name has several prototypes: its sRGB value times each of
``SHADES`` (what the renderer's light can do to it).  The nearest prototype names the pixel; beyond ``REJECT`` nothing
does.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from daag_jax.envs.palette import PALETTE_RGB

SHADES = (0.58, 0.7, 0.82, 0.94, 1.0)
REJECT = 25.0  # CIEDE2000 units
MIN_CHROMA = 18.0  # CIELAB; floor, gripper and shadows are greys, and a grey is near to some dark shade of everything
WHITE = (0.95047, 1.0, 1.08883)  # D65
TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)


def srgb_to_linear(rgb: Float[Array, "*N 3"]) -> Float[Array, "*N 3"]:
    """Light of sRGB values in [0, 1]."""
    curve = ((jnp.maximum(rgb, 0.04045) + 0.055) / 1.055) ** 2.4
    return jnp.where(rgb <= 0.04045, rgb / 12.92, curve)


def linear_to_srgb(light: Float[Array, "*N 3"]) -> Float[Array, "*N 3"]:
    """sRGB values of light in [0, 1]."""
    curve = 1.055 * jnp.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.where(light <= 0.0031308, 12.92 * light, curve)


def srgb_to_lab(rgb: Float[Array, "*N 3"]) -> Float[Array, "*N 3"]:
    """CIELAB (D65) of sRGB values in [0, 1]."""
    linear = srgb_to_linear(jnp.clip(rgb, 0.0, 1.0))
    white = jnp.asarray(WHITE).reshape((1,) * (rgb.ndim - 1) + (3,))
    xyz = jnp.einsum("...j,ij->...i", linear, jnp.asarray(TO_XYZ), precision="highest") / white
    cube_root = jnp.maximum(xyz, 0.008856) ** (1 / 3)
    f = jnp.where(xyz > 0.008856, cube_root, 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def safe_sqrt(x: Array) -> Array:
    """A square root whose gradient at 0 is 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def hue(a: Float[Array, "*N"], b: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """Angle in [0, 2 pi); 0 for grey, and with it a gradient of 0."""
    is_grey = (a == 0) & (b == 0)
    return jnp.arctan2(jnp.where(is_grey, 0.0, b), jnp.where(is_grey, 1.0, a)) % (2 * jnp.pi)


def delta_e2000(a: Float[Array, "*N 3"], b: Float[Array, "*N 3"]) -> Float[Array, "*N"]:
    """CIEDE2000 of two CIELAB colours (Sharma et al. 2005, Eqs. 2 to 22); shapes broadcast by the caller."""
    l1, a1, b1 = a[..., 0], a[..., 1], a[..., 2]
    l2, a2, b2 = b[..., 0], b[..., 1], b[..., 2]
    chroma = 0.5 * (safe_sqrt(a1**2 + b1**2) + safe_sqrt(a2**2 + b2**2))
    g = 0.5 * (1 - safe_sqrt(chroma**7 / (chroma**7 + 25.0**7)))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = safe_sqrt(a1**2 + b1**2), safe_sqrt(a2**2 + b2**2)
    h1, h2 = hue(a1, b1), hue(a2, b2)
    is_grey = c1 * c2 == 0
    dh = h2 - h1
    dh = jnp.where(dh > jnp.pi, dh - 2 * jnp.pi, jnp.where(dh < -jnp.pi, dh + 2 * jnp.pi, dh))
    dh = jnp.where(is_grey, 0.0, dh)
    dl, dc = l2 - l1, c2 - c1
    dh_chord = 2 * safe_sqrt(c1 * c2) * jnp.sin(dh / 2)
    l_mean, c_mean = 0.5 * (l1 + l2), 0.5 * (c1 + c2)
    total = h1 + h2
    h_mean = jnp.where(
        jnp.abs(h1 - h2) <= jnp.pi,
        0.5 * total,
        jnp.where(total < 2 * jnp.pi, 0.5 * total + jnp.pi, 0.5 * total - jnp.pi),
    )
    h_mean = jnp.where(is_grey, total, h_mean)
    degrees = jnp.rad2deg(h_mean)
    cos = lambda angle: jnp.cos(jnp.deg2rad(angle))
    t = (
        1
        - 0.17 * cos(degrees - 30)
        + 0.24 * cos(2 * degrees)
        + 0.32 * cos(3 * degrees + 6)
        - 0.20 * cos(4 * degrees - 63)
    )
    rotation = 30 * jnp.exp(-(((degrees - 275) / 25) ** 2))
    rc = 2 * safe_sqrt(c_mean**7 / (c_mean**7 + 25.0**7))
    sl = 1 + 0.015 * (l_mean - 50) ** 2 / jnp.sqrt(20 + (l_mean - 50) ** 2)
    sc, sh = 1 + 0.045 * c_mean, 1 + 0.015 * c_mean * t
    cross = -jnp.sin(jnp.deg2rad(2 * rotation)) * rc * (dc / sc) * (dh_chord / sh)
    return safe_sqrt((dl / sl) ** 2 + (dc / sc) ** 2 + (dh_chord / sh) ** 2 + cross)


def prototypes() -> Float[Array, "S P 3"]:
    """CIELAB of every shade of every palette colour."""
    shades = np.asarray(SHADES, np.float32)[:, None, None]
    return srgb_to_lab(jnp.asarray(shades * PALETTE_RGB[None]))


def name_pixels(rgb: UInt8[Array, "*N 3"]) -> Int[Array, "*N"]:
    """Index into the palette of each pixel's nearest prototype, or -1 where none is within REJECT."""
    flat = rgb.reshape(-1, 3)
    lab = srgb_to_lab(flat.astype(jnp.float32) / 255.0)
    table = prototypes()

    def nearest(shade: Array) -> Array:
        shape = (lab.shape[0], shade.shape[0], 3)
        return delta_e2000(
            jnp.broadcast_to(lab[:, None], shape), jnp.broadcast_to(shade[None], shape)
        )

    distance = jnp.min(jnp.stack([nearest(shade) for shade in table]), axis=0)
    best = jnp.argmin(distance, axis=-1)
    is_grey = jnp.sqrt(jnp.sum(jnp.square(lab[:, 1:]), axis=-1)) < MIN_CHROMA
    is_far = (jnp.min(distance, axis=-1) > REJECT) | is_grey
    return jnp.where(is_far, -1, best).reshape(rgb.shape[:-1])


def mode_of(labels: Int[Array, "*B N"], mask: Array, num: int) -> Int[Array, "*B"]:
    """The commonest label inside a mask (last axis), -1 where the mask is empty or shows no palette colour."""
    votes = jax.nn.one_hot(labels, num) * mask[..., None]  # -1 has no column
    counts = votes.sum(axis=-2)
    return jnp.where(counts.max(axis=-1) > 0, jnp.argmax(counts, axis=-1), -1)

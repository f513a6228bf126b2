"""The conditions of ControlNet, from what the simulator sees: depth, normals and Canny edges.

Depth is scaled over a *fixed* range of the scene, never per frame, so that it cannot flicker.  Edges are Canny's
(1986):
Gaussian, Sobel, non-maximum suppression, double threshold with hysteresis, all inside the graph.

``degrade`` makes the controls of an estimator out of the exact ones, to measure what an edit owes to the simulator.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped, UInt8

from daag_jax.types import Key


@dataclass(frozen=True)
class ControlConfig:
    """Ranges and thresholds; our choice, except Canny's structure."""

    near: float = 0.4  # [m], depth that maps to 1
    far: float = 1.2  # [m], depth that maps to 0
    low: float = 0.08  # of the gradient of luminance in [0, 1], weak edges
    high: float = 0.2  # strong edges
    reach: int = 8  # pixels that hysteresis may follow a weak edge


def depth_control(depth: Float[Array, "*B H W"], config: ControlConfig) -> Float[Array, "*B H W"]:
    """Inverse depth scaled to [0, 1]: near is bright (the convention of ControlNet's depth maps)."""
    inverse = 1.0 / jnp.clip(depth, config.near, config.far)
    low, high = 1.0 / config.far, 1.0 / config.near
    return (inverse - low) / (high - low)


def normal_control(normals: Float[Array, "*B H W 3"]) -> Float[Array, "*B H W 3"]:
    """Unit normals of the camera's frame, in [0, 1]."""
    return 0.5 * (normals + 1.0)


def shifted(
    image: Shaped[Array, "H W"], down: int, right: int, fill: int | None = None
) -> Shaped[Array, "H W"]:
    """The value one or no row ``down`` and column ``right`` of each pixel; beyond the border ``fill``, or its edge."""
    height, width = image.shape
    padded = (
        jnp.pad(image, 1, mode="edge") if fill is None else jnp.pad(image, 1, constant_values=fill)
    )
    return padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]


def canny(rgb: UInt8[Array, "H W 3"], config: ControlConfig) -> Float[Array, "H W"]:
    """Edges, 0 or 1, of the luminance of one frame (Canny 1986)."""
    luminance = (rgb.astype(jnp.float32) / 255.0) @ jnp.array([0.299, 0.587, 0.114])
    kernel = jnp.array([1.0, 2.0, 1.0]) / 4.0

    def smooth(image: Array) -> Array:
        image = sum(k * shifted(image, d, 0) for k, d in zip(kernel, (-1, 0, 1), strict=True))
        return sum(k * shifted(image, 0, d) for k, d in zip(kernel, (-1, 0, 1), strict=True))

    image = smooth(luminance)
    gx = smooth_difference(image, (0, 1), (1, 0))
    gy = smooth_difference(image, (1, 0), (0, 1))
    size = jnp.sqrt(gx**2 + gy**2)
    angle = jnp.mod(jnp.arctan2(gy, gx), jnp.pi)
    sector = jnp.mod(jnp.round(angle / (jnp.pi / 4)).astype(jnp.int32), 4)
    is_peak = jnp.zeros(size.shape, bool)
    for index, (down, right) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        # strict on one side, so that a plateau of two pixels keeps one of them
        above = (size >= shifted(size, down, right)) & (size > shifted(size, -down, -right))
        is_peak = is_peak | ((sector == index) & above)
    weak, strong = is_peak & (size > config.low), is_peak & (size > config.high)

    def grow(_: Array, edges: Array) -> Array:
        near = edges.astype(jnp.float32)
        near = sum(shifted(near, d, r) for d in (-1, 0, 1) for r in (-1, 0, 1)) > 0
        return edges | (near & weak)

    return jax.lax.fori_loop(0, config.reach, grow, strong).astype(jnp.float32)


def smooth_difference(
    image: Float[Array, "H W"], along: tuple[int, int], across: tuple[int, int]
) -> Float[Array, "H W"]:
    """Sobel's derivative in one direction, in units of luminance over two pixels."""

    def difference(offset: int) -> Array:
        down, right = offset * across[0], offset * across[1]
        ahead = shifted(image, along[0] + down, along[1] + right)
        return ahead - shifted(image, down - along[0], right - along[1])

    return (difference(-1) + 2.0 * difference(0) + difference(1)) / 4.0


def stack_controls(
    rgb: UInt8[Array, "T H W 3"],
    depth: Float[Array, "T H W"],
    normals: Float[Array, "T H W 3"],
    config: ControlConfig = ControlConfig(),
) -> Float[Array, "T H W 5"]:
    """Depth, normals and edges as the five channels of the compact ControlNet."""
    edges = jax.vmap(lambda frame: canny(frame, config))(rgb)
    parts = (depth_control(depth, config)[..., None], normal_control(normals), edges[..., None])
    return jnp.concatenate(parts, axis=-1)


def degrade(
    controls: Float[Array, "T H W C"], key: Key, noise: float = 0.1, dropout: float = 0.1
) -> Float[Array, "T H W C"]:
    """Adds Gaussian noise and blanks random 8 x 8 patches: controls as a poor estimator gives them."""
    noise_key, drop_key = jax.random.split(key)
    frames, height, width, _ = controls.shape
    cells = jax.random.uniform(drop_key, (frames, -(-height // 8), -(-width // 8), 1)) < dropout
    is_lost = jnp.repeat(jnp.repeat(cells, 8, axis=1), 8, axis=2)[:, :height, :width]
    noisy = controls + noise * jax.random.normal(noise_key, controls.shape)
    return jnp.where(is_lost, 0.0, jnp.clip(noisy, 0.0, 1.0))

"""Does an edit hold still on the surface that carries it?

    E_warp(Y; A) = mean_t  sum_{x in A} V |Y_{t+1}[x + F] - Y_t|^2 / (3 sum_{x in A} V)          Lai et al. 2018

F is the true flow and V the true visibility.  A source has E_warp > 0 (shading, resampling), so what counts is the
excess over the oracle I*; a ratio below 1 betrays smoothing, which ``sharpness`` shows.  Slow drift escapes
neighbouring frames: ``object_variance`` follows points of the object over the whole clip.

Videos here are sRGB in [0, 1], [T, H, W, 3].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from daag_jax.editing.averages import known_mean, masked_mean, ratio_of
from daag_jax.editing.colors import delta_e2000, safe_sqrt, srgb_to_lab

LUMA = (0.299, 0.587, 0.114)


def luminance(video: Float[Array, "*B 3"]) -> Float[Array, "*B"]:
    """Luma of sRGB values."""
    return jnp.einsum("...c,c->...", video, jnp.asarray(LUMA))


def chromaticity(video: Float[Array, "*B 3"]) -> Float[Array, "*B 3"]:
    """Colour without brightness: Y / (Y_r + Y_g + Y_b)."""
    return video / (video.sum(axis=-1, keepdims=True) + 1e-3)


def warp(image: Float[Array, "H W C"], flow: Float[Array, "H W 2"]) -> Float[Array, "H W C"]:
    """Bilinear samples of an image at x + F(x), kept inside the image."""
    height, width = image.shape[:2]
    columns = jnp.arange(width, dtype=jnp.float32)[None, :]
    rows = jnp.arange(height, dtype=jnp.float32)[:, None]
    u = jnp.clip(columns + flow[..., 0], 0.0, width - 1.0)
    v = jnp.clip(rows + flow[..., 1], 0.0, height - 1.0)
    left, top = jnp.floor(u).astype(jnp.int32), jnp.floor(v).astype(jnp.int32)
    right, bottom = jnp.minimum(left + 1, width - 1), jnp.minimum(top + 1, height - 1)
    across, down = (u - left)[..., None], (v - top)[..., None]
    upper = (1 - across) * image[top, left] + across * image[top, right]
    lower = (1 - across) * image[bottom, left] + across * image[bottom, right]
    return (1 - down) * upper + down * lower


def unoccluded(
    forward: Float[Array, "H W 2"], backward: Float[Array, "H W 2"]
) -> Bool[Array, "H W"]:
    """Visibility from two flows alone, for clips without a simulator.

    UnFlow's constants on *squared* magnitudes, as in Lai et al.'s code: |F + B[F]|^2 <= 0.01 (|F|^2 + |B|^2) + 0.5, and
    no boundary of motion, |grad B|^2 <= 0.01 |B|^2 + 0.002.
    """
    there = warp(backward, forward)
    square = lambda field: jnp.sum(field**2, axis=-1)
    is_consistent = square(forward + there) <= 0.01 * (square(forward) + square(there)) + 0.5
    slopes = sum(square(jnp.gradient(backward, axis=axis)) for axis in (0, 1))
    return is_consistent & (slopes <= 0.01 * square(backward) + 0.002)


def next_on_this(video: Float[Array, "T H W C"], flow: Float[Array, "T1 H W 2"]) -> Array:
    """Every frame's successor, brought to its pixels."""
    return jax.vmap(warp)(video[1:], flow)


def warp_error(
    video: Float[Array, "T H W C"], flow: Float[Array, "T1 H W 2"], mask: Bool[Array, "T1 H W"]
) -> Float[Array, ""]:
    """E_warp over a mask that includes visibility; frames without pixels do not count."""
    error = jnp.mean((next_on_this(video, flow) - video[:-1]) ** 2, axis=-1)
    return known_mean(masked_mean(error, mask))


def residual_transfer(
    video: Float[Array, "T H W C"],
    reference: Float[Array, "T H W C"],
    flow: Float[Array, "T1 H W 2"],
    mask: Bool[Array, "T1 H W"],
) -> Float[Array, ""]:
    """Flicker that the edit adds: the mean square difference of the two videos' warp residuals."""
    return warp_error(video - reference, flow, mask)  # warping is linear


def relit_warp_error(
    video: Float[Array, "T H W 3"], flow: Float[Array, "T1 H W 2"], masks: Bool[Array, "J T1 H W"]
) -> Float[Array, ""]:
    """E_warp of luminance after the best gain and offset of each object in each pair of frames."""
    light = luminance(video)[..., None]
    after, now = next_on_this(light, flow)[..., 0], light[:-1, ..., 0]

    def residual(mask: Array) -> Array:
        mean = lambda values: masked_mean(values, mask)
        centred_after = after - mean(after)[:, None, None]
        centred_now = now - mean(now)[:, None, None]
        covariance, variance = mean(centred_after * centred_now), mean(centred_after**2)
        gain = jnp.where(variance > 1e-8, covariance / jnp.maximum(variance, 1e-8), 0.0)
        return mean((gain[:, None, None] * centred_after - centred_now) ** 2)

    return known_mean(jax.vmap(residual)(masks))


def object_variance(
    video: Float[Array, "T H W 3"],
    local: Float[Array, "T H W 3"],
    mask: Bool[Array, "T H W"],
    voxel: float = 0.005,
    extent: float = 0.03,
) -> Float[Array, ""]:
    """Variance over time of the colour at points of one object, over voxels seen in 3 frames or more.

    Frames of several cameras, concatenated, give the same number across views.

    Args:
        voxel: side [m] of the cells that gather points; extent: half side [m] of the cube they fill.
    """
    frames, side = video.shape[0], round(2 * extent / voxel)
    index = jnp.clip(jnp.floor((local + extent) / voxel).astype(jnp.int32), 0, side - 1)
    flat = (index[..., 0] * side + index[..., 1]) * side + index[..., 2]
    flat = jnp.where(mask, flat, side**3).reshape(frames, -1)  # the last cell holds the others

    def gather(cells: Array, colors: Array) -> tuple[Array, Array]:
        count = jnp.zeros(side**3 + 1).at[cells].add(1.0)
        total = jnp.zeros((side**3 + 1, 3)).at[cells].add(colors)
        return count[:-1], total[:-1] / jnp.maximum(count[:-1], 1.0)[:, None]

    count, mean = jax.vmap(gather)(flat, video.reshape(frames, -1, 3))
    is_seen = (count > 0).astype(jnp.float32)
    times = is_seen.sum(axis=0)
    weight = is_seen[..., None] / jnp.maximum(times, 1.0)[None, :, None]
    centre = (weight * mean).sum(axis=0)
    variance = (weight * (mean - centre[None]) ** 2).sum(axis=0).mean(axis=-1)
    times = jnp.where(times >= 3, times, 0.0)
    return ratio_of((times * variance).sum(), times.sum())


def mean_colors(
    video: Float[Array, "T H W 3"], masks: Bool[Array, "J T H W"]
) -> Float[Array, "J T 3"]:
    """Mean sRGB of each object in each frame; NaN where it is not seen."""
    mean = lambda mask: masked_mean(
        video, jnp.broadcast_to(mask[..., None], video.shape), axes=(1, 2)
    )
    return jax.vmap(mean)(masks)


def drift_slope(video: Float[Array, "T H W 3"], masks: Bool[Array, "J T H W"]) -> Float[Array, ""]:
    """Least-squares slope over frames of CIEDE2000 between an object's mean colour and that of its first frame."""
    colors = mean_colors(video, masks)
    is_seen = ~jnp.isnan(colors[..., 0])
    lab = srgb_to_lab(jnp.where(is_seen[..., None], colors, 0.0))
    time = jnp.arange(video.shape[0], dtype=jnp.float32)

    def slope(lab: Array, is_seen: Array) -> Array:
        first = jnp.broadcast_to(lab[jnp.argmax(is_seen)][None], lab.shape)
        distance = delta_e2000(lab, first)
        offset = time - masked_mean(time, is_seen, 0)
        spread = jnp.where(is_seen, offset**2, 0.0).sum()
        return ratio_of(jnp.where(is_seen, offset * distance, 0.0).sum(), spread)

    return known_mean(jax.vmap(slope)(lab, is_seen))


def flip_rate(names: Int[Array, "T J"], is_seen: Bool[Array, "T J"], num_names: int) -> Array:
    """Share of frames in which an object's palette name differs from its commonest one."""
    votes = jax.nn.one_hot(names, num_names) * is_seen[..., None]
    common = jnp.argmax(votes.sum(axis=0), axis=-1)
    flips = (names != common[None]).astype(jnp.float32)
    return known_mean(masked_mean(flips, is_seen, 0))


def static_flicker(
    video: Float[Array, "T H W 3"],
    source: Float[Array, "T H W 3"],
    flow: Float[Array, "T1 H W 2"],
    segmentation: Int[Array, "T H W"],
) -> Float[Array, ""]:
    """Standard deviation over time of pixels at which nothing moves and the source is constant."""
    is_still = (jnp.abs(flow).max(axis=-1) < 0.01).all(axis=0)
    is_same = (segmentation == segmentation[:1]).all(axis=0)
    swing = (source.max(axis=0) - source.min(axis=0)).max(axis=-1)
    spread = safe_sqrt(jnp.var(video, axis=0)).mean(axis=-1)
    return masked_mean(spread, is_still & is_same & (swing < 2 / 255))


def sharpness(video: Float[Array, "T H W 3"], mask: Bool[Array, "T H W"]) -> Float[Array, ""]:
    """Variance of the Laplacian of luminance inside a mask."""
    light = jnp.pad(luminance(video), ((0, 0), (1, 1), (1, 1)), mode="edge")
    beside = light[:, :-2, 1:-1] + light[:, 2:, 1:-1] + light[:, 1:-1, :-2] + light[:, 1:-1, 2:]
    laplacian = beside - 4 * light[:, 1:-1, 1:-1]
    mean = masked_mean(laplacian, mask)
    return known_mean(masked_mean((laplacian - mean[:, None, None]) ** 2, mask))


def residual_flow(
    video: Float[Array, "T H W 3"],
    flow: Float[Array, "T1 H W 2"],
    mask: Bool[Array, "T1 H W"],
    radius: int = 2,
) -> Float[Array, ""]:
    """End-point error [px] that Lucas and Kanade find after the true flow is undone, where the texture allows it."""
    light = luminance(video)[..., None]
    after, now = next_on_this(light, flow)[..., 0], light[:-1, ..., 0]
    gy, gx = jnp.gradient(0.5 * (after + now), axis=(1, 2))
    step = after - now
    size = (1, 2 * radius + 1, 2 * radius + 1)

    def window(values: Array) -> Array:
        values = jnp.where(mask, values, 0.0)
        return jax.lax.reduce_window(values, 0.0, jax.lax.add, size, (1, 1, 1), "SAME")

    xx, xy, yy = window(gx * gx), window(gx * gy), window(gy * gy)
    xt, yt = window(gx * step), window(gy * step)
    determinant = xx * yy - xy * xy
    is_textured = mask & (determinant > 1e-5)
    safe = jnp.where(is_textured, determinant, 1.0)
    u, v = (xy * yt - yy * xt) / safe, (xy * xt - xx * yt) / safe
    return known_mean(masked_mean(safe_sqrt(u * u + v * v), is_textured))

"""Does an edit leave the rest alone, and does it reach what the oracle shows?

Videos are sRGB in [0, 1], [T, H, W, 3].  LPIPS and FVD need networks trained on photographs; their substitutes here
have fixed random features and say so in their names.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from daag_jax.editing.averages import known_mean, masked_mean
from daag_jax.editing.colors import delta_e2000, safe_sqrt, srgb_to_lab
from daag_jax.editing.temporal import luminance, mean_colors

LEAK = 8 / 255  # a change beyond this counts as a leak
PEAK_PSNR = 100.0  # [dB] of a perfect match


def difference(video: Float[Array, "T H W 3"], other: Float[Array, "T H W 3"]) -> Array:
    """The largest change of a channel."""
    return jnp.abs(video - other).max(axis=-1)


def l1(video: Array, other: Array, mask: Bool[Array, "T H W"]) -> Float[Array, ""]:
    """Mean absolute difference inside a mask, mean over frames."""
    return known_mean(masked_mean(jnp.abs(video - other).mean(axis=-1), mask))


def psnr(video: Array, other: Array, mask: Bool[Array, "T H W"]) -> Float[Array, ""]:
    """Peak signal-to-noise ratio [dB] inside a mask, at most PEAK_PSNR, mean over frames."""
    error = masked_mean(jnp.mean((video - other) ** 2, axis=-1), mask)
    return known_mean(jnp.minimum(-10 * jnp.log10(jnp.maximum(error, 1e-12)), PEAK_PSNR))


def changed(
    video: Array, other: Array, mask: Bool[Array, "T H W"], threshold: float = LEAK
) -> Float[Array, ""]:
    """Share of a mask's pixels that differ beyond a threshold: the leak rate, or the actor's damage."""
    is_changed = (difference(video, other) > threshold).astype(jnp.float32)
    return known_mean(masked_mean(is_changed, mask))


def blur_matrix(size: int, sigma: float = 1.5, radius: int = 3) -> Float[np.ndarray, "N N"]:
    """A Gaussian blur of a line whose ends are repeated, as a matrix."""
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = np.zeros((size, size), np.float32)
    for offset, weight in zip(offsets, kernel / kernel.sum(), strict=True):
        rows = np.arange(size)
        np.add.at(matrix, (rows, np.clip(rows + offset, 0, size - 1)), weight)
    return matrix


def blur(video: Float[Array, "T H W C"]) -> Float[Array, "T H W C"]:
    """A Gaussian blur of frames (7 x 7 window) as two products of matrices: quick to compile at these sizes."""
    down, across = (jnp.asarray(blur_matrix(size)) for size in video.shape[1:3])
    return jnp.einsum("ih,jw,thwc->tijc", down, across, video, precision="highest")


def ssim_maps(video: Array, other: Array) -> tuple[Float[Array, "T H W"], Float[Array, "T H W"]]:
    """Maps of SSIM and of its contrast-structure part, means of channels (Wang et al. 2004; 7 x 7 window)."""
    c1, c2 = 0.01**2, 0.03**2
    moments = jnp.concatenate([video, other, video**2, other**2, video * other], axis=-1)
    a, b, aa, bb, ab = jnp.split(blur(moments), 5, axis=-1)
    variances = jnp.maximum(aa - a**2, 0.0) + jnp.maximum(bb - b**2, 0.0)
    structure = (2 * (ab - a * b) + c2) / (variances + c2)
    return (structure * (2 * a * b + c1) / (a**2 + b**2 + c1)).mean(-1), structure.mean(-1)


def ssim(video: Array, other: Array, mask: Bool[Array, "T H W"]) -> Float[Array, ""]:
    """Structural similarity inside a mask."""
    return known_mean(masked_mean(ssim_maps(video, other)[0], mask))


def multiscale_ssim(
    video: Array, other: Array, mask: Bool[Array, "T H W"], scales: int = 3
) -> Float[Array, ""]:
    """MS-SSIM of a mask over 3 scales of equal weight (five, as published, need frames of 176 px)."""
    product = jnp.ones(())
    for scale in range(scales):
        whole, structure = ssim_maps(video, other)
        values = whole if scale == scales - 1 else structure
        mean = known_mean(masked_mean(values, mask))
        product = product * jnp.maximum(mean, 0.0) ** (1 / scales)
        video, other = halve(video), halve(other)
        mask = halve(mask[..., None].astype(jnp.float32))[..., 0] > 0
    return product


def halve(video: Float[Array, "T H W C"]) -> Array:
    """Means of 2 x 2 pixels; an odd last row or column is dropped."""
    frames, height, width, channels = video.shape
    cut = video[:, : height // 2 * 2, : width // 2 * 2]
    return cut.reshape(frames, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def gradient_deviation(video: Array, other: Array, mask: Bool[Array, "T H W"]) -> Float[Array, ""]:
    """GMSD inside a mask: the standard deviation of the similarity of gradients (Xue et al. 2014)."""

    def size(frames: Array) -> Array:
        gy, gx = jnp.gradient(luminance(frames), axis=(1, 2))
        return safe_sqrt(gx**2 + gy**2)

    a, b, c = size(video), size(other), 0.0026
    similarity = (2 * a * b + c) / (a**2 + b**2 + c)
    mean = masked_mean(similarity, mask)
    return known_mean(
        safe_sqrt(masked_mean((similarity - mean[:, None, None]) ** 2, mask))
        + 0 * mean  # NaN of an empty mask
    )


def color_errors(
    video: Array, oracle: Array, masks: Bool[Array, "J T H W"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """CIEDE2000 and error of hue [deg] between mean colours of objects, means over objects and frames."""
    ours, theirs = mean_colors(video, masks), mean_colors(oracle, masks)
    is_seen = ~jnp.isnan(ours[..., 0])
    lab = [srgb_to_lab(jnp.where(is_seen[..., None], x, 0.5)) for x in (ours, theirs)]
    hue = [jnp.arctan2(x[..., 2], x[..., 1]) for x in lab]
    turn = jnp.abs(jnp.mod(hue[0] - hue[1] + jnp.pi, 2 * jnp.pi) - jnp.pi)
    known = lambda values: known_mean(jnp.where(is_seen, values, jnp.nan))
    return known(delta_e2000(*lab)), known(jnp.rad2deg(turn))


def under_edit(
    video: Array, source: Array, oracle: Array, mask: Bool[Array, "T H W"]
) -> Float[Array, ""]:
    """Share of a mask's pixels that stayed nearer to the source than to the oracle."""
    distance = lambda other: jnp.sum((video - other) ** 2, axis=-1)
    is_under = (distance(source) < distance(oracle)).astype(jnp.float32)
    return known_mean(masked_mean(is_under, mask))


def random_features(
    video: Float[Array, "B H W 3"], width: int = 32, layers: int = 3
) -> list[Array]:
    """Activations of a fixed random convolutional network (seed 0), unit length at each pixel."""
    random = np.random.default_rng(0)  # drawn when the graph is built: constants of it
    x, out = 2 * video - 1, []
    for _ in range(layers):
        kernel = random.normal(size=(3, 3, x.shape[-1], width)) / np.sqrt(9 * x.shape[-1])
        kernel = jnp.asarray(kernel, jnp.float32)
        dimensions = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=dimensions)
        x = jax.nn.relu(x)
        out.append(x / jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-8))
    return out


def random_feature_distance(video: Array, other: Array) -> Float[Array, ""]:
    """Mean squared distance of random features (rLPIPS: no trained network, no claim about people's eyes)."""
    both = random_features(jnp.concatenate([video, other]))
    pairs = [jnp.split(features, 2) for features in both]
    return sum(jnp.mean(jnp.sum((a - b) ** 2, axis=-1)) for a, b in pairs) / len(pairs)


def frame_consistency(features: Float[Array, "T D"]) -> Float[Array, ""]:
    """Mean cosine of successive frames' embeddings; a still image scores 1, so do not rank by it."""
    unit = features / jnp.sqrt(jnp.sum(features**2, axis=-1, keepdims=True) + 1e-12)
    return jnp.mean(jnp.sum(unit[1:] * unit[:-1], axis=-1))


def frechet_distance(a: Float[Array, "N D"], b: Float[Array, "M D"]) -> Float[Array, ""]:
    """|mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)); biased in N and M, so compare equal sizes only."""
    mean = jnp.sum((a.mean(0) - b.mean(0)) ** 2)
    cov_a, cov_b = (jnp.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1]) for x in (a, b))
    values, vectors = jnp.linalg.eigh(cov_a)
    root = (vectors * safe_sqrt(values)[None]) @ vectors.T
    cross = safe_sqrt(jnp.linalg.eigvalsh(root @ cov_b @ root)).sum()
    return mean + jnp.trace(cov_a) + jnp.trace(cov_b) - 2 * cross


def kernel_distance(a: Float[Array, "N D"], b: Float[Array, "M D"]) -> Float[Array, ""]:
    """Unbiased squared MMD with KID's cubic kernel (Binkowski et al. 2018)."""
    kernel = lambda x, y: (x @ y.T / x.shape[1] + 1.0) ** 3
    off = lambda k: (k.sum() - jnp.trace(k)) / (k.shape[0] * (k.shape[0] - 1))
    return off(kernel(a, a)) + off(kernel(b, b)) - 2 * kernel(a, b).mean()

"""Does an edited object keep its shape, its edges and its shading?

Silhouettes come from pixels (``silhouettes``), truths from the simulator.  Shading is a least-squares fit of linear
light, (rgb)^2.2, in each object and frame:

    Y(x) = a max(0, N(x) . l) + b          known light          Y(x) = [1, N(x)] . beta        first-order harmonics

Estimates of depth and normals by a probe network, where somebody has one, are judged by ``depth_errors`` and
``normal_errors``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from daag_jax.editing.averages import known_mean, masked_mean, ratio_of
from daag_jax.editing.controls import ControlConfig, canny
from daag_jax.editing.masks import dilate
from daag_jax.editing.silhouettes import centroids
from daag_jax.editing.temporal import luminance
from daag_jax.envs.renderer import GAMMA

DEPTH_STEP = 0.015  # a jump of depth between neighbours beyond this is an edge [m]; our choice


def count(masks: Bool[Array, "*B H W"]) -> Float[Array, "*B"]:
    """Number of pixels of masks."""
    return masks.astype(jnp.float32).sum(axis=(-2, -1))


def iou(found: Bool[Array, "*B H W"], truth: Bool[Array, "*B H W"]) -> Float[Array, "*B"]:
    """Intersection over union; NaN where the truth is empty."""
    value = ratio_of(count(found & truth), count(found | truth))
    return jnp.where(count(truth) > 0, value, jnp.nan)


def contour(masks: Bool[Array, "*B H W"]) -> Bool[Array, "*B H W"]:
    """Pixels of masks that touch something else."""
    return masks & ~dilate(masks, -1)


def boundary_f(
    found: Bool[Array, "*B H W"], truth: Bool[Array, "*B H W"], tolerance: int = 1
) -> Float[Array, "*B"]:
    """F-measure 2 P R / (P + R) of contour pixels within ``tolerance`` px; NaN where the truth is empty."""
    seen, real = contour(found), contour(truth)
    precision = ratio_of(count(seen & dilate(real, tolerance)), count(seen))
    recall = ratio_of(count(real & dilate(seen, tolerance)), count(real))
    precision = jnp.where(count(seen) > 0, precision, 0.0)
    return jnp.where(
        count(real) > 0, 2 * precision * recall / jnp.maximum(precision + recall, 1e-9), jnp.nan
    )


def area_ratio(found: Bool[Array, "*B H W"], truth: Bool[Array, "*B H W"]) -> Float[Array, "*B"]:
    """Area of the silhouette over that of the object."""
    return ratio_of(count(found), count(truth))


def centroid_error(
    found: Bool[Array, "*B H W"], truth: Bool[Array, "*B H W"]
) -> Float[Array, "*B"]:
    """Distance of centroids [px]; NaN where either is empty."""
    return jnp.sqrt(jnp.sum((centroids(found) - centroids(truth)) ** 2, axis=-1))


def edges_of(video: UInt8[Array, "T H W 3"]) -> Bool[Array, "T H W"]:
    """Canny edges of frames."""
    return jax.vmap(lambda frame: canny(frame, ControlConfig()))(video) > 0


def geometric_edges(
    depth: Float[Array, "T H W"], segmentation: Array, step: float = DEPTH_STEP
) -> Bool[Array, "T H W"]:
    """Pixels at which depth or instance changes towards the right or the lower neighbour."""
    jump = lambda x, axis: jnp.abs(
        jnp.diff(x, axis=axis, append=jnp.take(x, jnp.array([-1]), axis))
    )
    is_edge = jnp.zeros(depth.shape, bool)
    for axis in (1, 2):
        is_edge = is_edge | (jump(depth, axis) > step) | (jump(segmentation, axis) > 0)
    return is_edge


def edge_recall(
    edges: Bool[Array, "T H W"], real: Bool[Array, "T H W"], mask: Bool[Array, "T H W"]
) -> Float[Array, ""]:
    """Share of the geometric edges in a mask that have an image edge within 1 px."""
    return known_mean(masked_mean(dilate(edges, 1).astype(jnp.float32), real & mask))


def edge_precision(
    edges: Bool[Array, "T H W"], reference: Bool[Array, "T H W"], mask: Bool[Array, "T H W"]
) -> Float[Array, ""]:
    """Share of the image edges in a mask that the reference shows within 1 px."""
    return known_mean(masked_mean(dilate(reference, 1).astype(jnp.float32), edges & mask))


def lambert_basis(
    normals: Float[Array, "T H W 3"], to_light: Float[Array, "3"]
) -> Float[Array, "T H W 2"]:
    """Features of a known light."""
    lit = jnp.maximum(jnp.einsum("thwi,i->thw", normals, to_light), 0.0)
    return jnp.stack([lit, jnp.ones_like(lit)], axis=-1)


def harmonic_basis(normals: Float[Array, "T H W 3"]) -> Float[Array, "T H W 4"]:
    """Features of an unknown light: first-order spherical harmonics."""
    return jnp.concatenate([jnp.ones_like(normals[..., :1]), normals], axis=-1)


def shading_fit(
    video: Float[Array, "T H W 3"],
    basis: Float[Array, "T H W K"],
    mask: Bool[Array, "T H W"],
    ridge: float = 1e-4,
) -> tuple[Float[Array, " T"], Float[Array, "T K"]]:
    """R^2 of the light of one object in each frame, and the coefficients; NaN where it is empty or evenly lit."""
    light = luminance(jnp.clip(video, 0.0, 1.0) ** GAMMA)
    total = jnp.maximum(count(mask), 1.0)
    phi = jnp.where(mask[..., None], basis, 0.0)
    target = jnp.where(mask, light, 0.0)
    gram = jnp.einsum("thwi,thwj->tij", phi, phi, precision="highest") / total[:, None, None]
    right = jnp.einsum("thwi,thw->ti", phi, target, precision="highest") / total[:, None]
    gram = gram + ridge * jnp.eye(basis.shape[-1])[None]
    beta = jnp.linalg.solve(gram, right[..., None])[..., 0]
    residual = masked_mean((light - jnp.einsum("thwi,ti->thw", basis, beta)) ** 2, mask)
    spread = masked_mean((light - masked_mean(light, mask)[:, None, None]) ** 2, mask)
    quality = jnp.where(spread > 1e-5, 1.0 - residual / jnp.maximum(spread, 1e-5), jnp.nan)
    return quality, beta


def light_angle(beta: Float[Array, "T 4"], reference: Float[Array, "T 4"]) -> Float[Array, " T"]:
    """Angle [deg] between the directions of light that two harmonic fits imply; NaN where there is none."""
    a, b = beta[:, 1:], reference[:, 1:]
    lengths = jnp.sqrt(jnp.sum(a**2, -1) * jnp.sum(b**2, -1))
    cosine = jnp.sum(a * b, -1) / jnp.maximum(lengths, 1e-12)
    return jnp.where(lengths > 1e-8, jnp.rad2deg(jnp.arccos(jnp.clip(cosine, -1.0, 1.0))), jnp.nan)


def depth_errors(
    estimate: Float[Array, "T H W"], depth: Float[Array, "T H W"], mask: Bool[Array, "T H W"]
) -> dict[str, Float[Array, ""]]:
    """AbsRel, RMSE [m], delta_1 and SILog of a probe's depth inside a mask, means of frames."""
    mean = lambda values: masked_mean(values, mask)
    log = jnp.log(jnp.maximum(estimate, 1e-6) / depth)
    silog = jnp.sqrt(jnp.maximum(mean(log**2) - 0.5 * mean(log) ** 2, 0.0)) * 100
    return {
        "abs_rel": known_mean(mean(jnp.abs(estimate - depth) / depth)),
        "rmse": known_mean(jnp.sqrt(mean((estimate - depth) ** 2))),
        "delta_1": known_mean(mean((jnp.exp(jnp.abs(log)) < 1.25).astype(jnp.float32))),
        "silog": known_mean(silog),
    }


def normal_errors(
    estimate: Float[Array, "T H W 3"], normals: Float[Array, "T H W 3"], mask: Bool[Array, "T H W"]
) -> dict[str, Float[Array, ""]]:
    """Mean and median angular error [deg] of a probe's unit normals, and shares within the usual bounds."""
    cosine = jnp.clip(jnp.sum(estimate * normals, axis=-1), -1.0, 1.0)
    angle = jnp.rad2deg(jnp.arccos(cosine))
    within = lambda limit: known_mean(masked_mean((angle < limit).astype(jnp.float32), mask))
    return {
        "mean_angle": known_mean(masked_mean(angle, mask)),
        "median_angle": jnp.nanmedian(jnp.where(mask, angle, jnp.nan)),
        **{f"within_{limit}": within(limit) for limit in (11.25, 22.5, 30.0)},
    }

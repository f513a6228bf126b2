"""The consistency metrics of an edited clip in one call (each has its own page of formulas).

    measure(video, truth)   the numbers of any video: the source, the oracle, an edit, a baseline
    compare(edit, truth)    those of the edit, and beside them their excess over the oracle's: 0 is perfect

One clip of one camera; ``jax.vmap`` adds views and episodes, and everything is to be jitted.  What cannot be measured
is NaN; ``averages.summarise`` counts it.  Not in the call: what needs a second network or a collection of clips
(``geometry.depth_errors``, ``preservation.frame_consistency``, ``frechet_distance``, V9's estimates).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from daag_jax.editing import geometry, preservation, temporal
from daag_jax.editing.averages import known_mean, ratio_of
from daag_jax.editing.masks import dilate
from daag_jax.editing.truth import Truth, areas, object_masks, unit_range
from daag_jax.editing.violations import (
    Names,
    ViolationConfig,
    read_names,
    violation_rates,
    violations,
)
from daag_jax.envs.palette import PALETTE_NAMES

# Metrics whose value for the oracle is not their best value: their excess is what an edit is answerable for.
EXCESS = (
    "temporal/warp",
    "temporal/warp_edited",
    "temporal/warp_rest",
    "temporal/warp_band",
    "temporal/warp_chromatic",
    "temporal/warp_relit",
    "temporal/object_variance",
    "temporal/drift_slope",
    "temporal/flip_rate",
    "temporal/static_flicker",
    "temporal/residual_flow",
    "temporal/sharpness",
    "geometry/iou",
    "geometry/boundary_f",
    "geometry/area_ratio",
    "geometry/centroid_error",
    "geometry/edge_recall",
    "geometry/shading_known_light",
    "geometry/shading_harmonics",
)
RATIOS = ("temporal/warp_edited", "temporal/sharpness", "geometry/iou")


@dataclass(frozen=True)
class ConsistencyConfig:
    """Sizes that metrics are measured with, and the thresholds of violations."""

    radius: int = 1  # [px] of dilation and erosion of M; 2 at 128 px
    voxel: float = 0.005  # [m], of object_variance
    extent: float = 0.03  # [m], half side of the cube that holds an object
    violations: ViolationConfig = ViolationConfig()


def measure(
    video: UInt8[Array, "T H W 3"], truth: Truth, config: ConsistencyConfig = ConsistencyConfig()
) -> dict[str, Float[Array, ""]]:
    """All metrics of one video of a clip."""
    both = jnp.stack([video, truth.oracle])
    names = jax.vmap(lambda frames: read_names(frames, truth))(both)
    return _measure(video, truth, config, *_split(names))


def compare(
    edit: UInt8[Array, "T H W 3"], truth: Truth, config: ConsistencyConfig = ConsistencyConfig()
) -> dict[str, Float[Array, ""]]:
    """``measure`` of an edit with ``excess/...`` (edit minus oracle) and ``ratio/...`` (edit over oracle)."""
    both = jnp.stack([edit, truth.oracle])
    names = jax.vmap(lambda frames: read_names(frames, truth))(both)
    _, oracle_names = _split(names)
    rows = jax.vmap(lambda video, own: _measure(video, truth, config, own, oracle_names))(
        both, names
    )
    ours, oracle = _split(rows)
    excess = {f"excess/{name}": ours[name] - oracle[name] for name in EXCESS}
    ratios = {f"ratio/{name}": ratio_of(ours[name], oracle[name]) for name in RATIOS}
    return ours | excess | ratios


def _split(pair):
    """The two halves of a tree whose leaves have a leading axis of 2."""
    return tuple(jax.tree.map(lambda x, i=i: x[i], pair) for i in (0, 1))


def _measure(
    video: Array, truth: Truth, config: ConsistencyConfig, names: Names, oracle_names: Names
) -> dict[str, Array]:
    found = violations(video, truth, names, oracle_names, config.violations)
    groups = {
        "temporal": temporal_metrics(video, truth, names, config),
        "geometry": geometry_metrics(video, truth, names, config),
        "preservation": preservation_metrics(video, truth, config),
        "violations": violation_rates(found),
    }
    return {f"{group}/{name}": x for group, rows in groups.items() for name, x in rows.items()}


def temporal_metrics(
    video: UInt8[Array, "T H W 3"], truth: Truth, names: Names, config: ConsistencyConfig
) -> dict[str, Float[Array, ""]]:
    """Section 5.2."""
    rgb, oracle, source = map(unit_range, (video, truth.oracle, truth.source))
    place, masks = areas(truth, config.radius), object_masks(truth)
    edited = masks & (truth.colors != truth.targets)[:, None, None, None]
    seen = lambda mask: mask[:-1] & truth.visible
    error = lambda frames, mask: temporal.warp_error(frames, truth.flow, seen(mask))
    variance = lambda mask: temporal.object_variance(
        rgb, truth.local, mask, config.voxel, config.extent
    )
    is_seen = (edited.any(axis=(2, 3))).T
    return {
        "warp": error(rgb, place.everywhere),
        "warp_edited": error(rgb, place.edited),
        "warp_rest": error(rgb, place.rest),
        "warp_band": error(rgb, place.band),
        "warp_chromatic": error(temporal.chromaticity(rgb), place.edited),
        "warp_relit": temporal.relit_warp_error(
            rgb, truth.flow, edited[:, :-1] & truth.visible[None]
        ),
        "residual_transfer": temporal.residual_transfer(
            rgb, oracle, truth.flow, seen(place.edited)
        ),
        "object_variance": known_mean(jnp.stack([variance(mask) for mask in edited])),
        "drift_slope": temporal.drift_slope(rgb, edited),
        "flip_rate": temporal.flip_rate(names.objects, is_seen, len(PALETTE_NAMES)),
        "static_flicker": temporal.static_flicker(rgb, source, truth.flow, truth.segmentation),
        "residual_flow": temporal.residual_flow(rgb, truth.flow, seen(place.edited)),
        "sharpness": temporal.sharpness(rgb, place.edited),
    }


def geometry_metrics(
    video: UInt8[Array, "T H W 3"], truth: Truth, names: Names, config: ConsistencyConfig
) -> dict[str, Float[Array, ""]]:
    """Section 5.3, of the objects that change."""
    place, masks = areas(truth, config.radius), object_masks(truth)
    masks = masks & (truth.colors != truth.targets)[:, None, None, None]
    found = names.silhouettes
    both = jnp.stack([video, truth.oracle])
    edges, reference = jax.vmap(geometry.edges_of)(both)
    real = geometry.geometric_edges(truth.depth, truth.segmentation)
    inside = dilate(masks, -config.radius)
    known = geometry.lambert_basis(truth.normals, truth.to_light)
    harmonic = geometry.harmonic_basis(truth.normals)
    fit = lambda frames, basis: jax.vmap(
        lambda mask: geometry.shading_fit(unit_range(frames), basis, mask)
    )(inside)
    (quality, _), (beta, oracle_beta) = jax.vmap(fit, (0, None))(both, harmonic)
    angle = jax.vmap(geometry.light_angle)(beta, oracle_beta)
    return {
        "iou": known_mean(geometry.iou(found, masks)),
        "boundary_f": known_mean(geometry.boundary_f(found, masks)),
        "area_ratio": known_mean(geometry.area_ratio(found, masks)),
        "centroid_error": known_mean(geometry.centroid_error(found, masks)),
        "edge_recall": geometry.edge_recall(edges, real, dilate(place.edited, config.radius)),
        "edge_precision": geometry.edge_precision(edges, reference, place.core),
        "shading_known_light": known_mean(fit(video, known)[0]),
        "shading_harmonics": known_mean(quality),
        "light_angle": known_mean(jnp.where(jnp.isnan(quality), jnp.nan, angle)),
    }


def preservation_metrics(
    video: UInt8[Array, "T H W 3"], truth: Truth, config: ConsistencyConfig
) -> dict[str, Float[Array, ""]]:
    """Section 5.4: of the background and the robot against the source, of the objects against the oracle."""
    rgb, oracle, source = map(unit_range, (video, truth.oracle, truth.source))
    place, masks = areas(truth, config.radius), object_masks(truth)
    edited = masks & (truth.colors != truth.targets)[:, None, None, None]
    delta_e, hue = preservation.color_errors(rgb, oracle, edited)
    return {
        "background_l1": preservation.l1(rgb, source, place.rest),
        "background_psnr": preservation.psnr(rgb, source, place.rest),
        "leak_rate": preservation.changed(rgb, source, place.rest),
        "robot_l1": preservation.l1(rgb, source, place.robot),
        "robot_changed": preservation.changed(rgb, source, place.robot),
        "psnr_edited": preservation.psnr(rgb, oracle, place.edited),
        "ssim_edited": preservation.ssim(rgb, oracle, place.edited),
        "ms_ssim_edited": preservation.multiscale_ssim(rgb, oracle, place.edited),
        "gmsd_edited": preservation.gradient_deviation(
            rgb, oracle, dilate(place.edited, config.radius)
        ),
        "delta_e": delta_e,
        "hue_error": hue,
        "under_edit": preservation.under_edit(rgb, source, oracle, place.edited),
        "random_features": preservation.random_feature_distance(rgb, oracle),
    }

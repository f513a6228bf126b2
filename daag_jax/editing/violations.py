"""Physical constraints that an edit may break, frame by frame.

    V1 vanish      V2 ghost     V3 silhouette   V4 occlusion order   V5 identity
    V6 census      V7 relation  V8 teleport     V9 depth             V10 actor

Each code has a flag and says whether it could be measured at all: an object that is hidden has no silhouette.

    GVR  share of frames with any violation          EVR  share of episodes with any

Differs from the specification: V7 compares relations that pixels show with those that the *oracle's* pixels show, since
centroids of visible surfaces are not those of bodies; V8 leaves out transitions at which the oracle jumps as well (the
gripper uncovers an object), because flow knows no occlusion; V9 needs a probe's depths and is not measured without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from daag_jax.editing.averages import masked_mean
from daag_jax.editing.colors import mode_of, name_pixels
from daag_jax.editing.geometry import count, iou
from daag_jax.editing.masks import dilate
from daag_jax.editing.preservation import LEAK, difference
from daag_jax.editing.silhouettes import census, centroids, ghosts, silhouettes
from daag_jax.editing.truth import Truth, areas, object_masks, unit_range
from daag_jax.envs.palette import PALETTE_NAMES

CODES = (
    "vanish",
    "ghost",
    "silhouette",
    "occlusion",
    "identity",
    "census",
    "relation",
    "teleport",
    "depth",
    "actor",
)


@dataclass(frozen=True)
class ViolationConfig:
    """Thresholds of section 5.5, to be swept."""

    radius: int = 1  # [px] of dilation of M; 2 at 128 px
    min_area: int = 20  # [px] of an object or piece that counts
    vanish: float = 0.5  # V1: of the object's area
    iou: float = 0.7  # V3
    occlusion_reach: int = 3  # V4 [px]
    occlusion_change: float = 16 / 255  # V4
    occlusion_share: float = 0.05  # V4
    on_top_distance: float = 0.05  # V7 [m], horizontal
    on_top_height: tuple[float, float] = (0.02, 0.09)  # V7 [m], of points that a camera sees
    teleport: float = 3.0  # V8 [px]
    abs_rel: float = 0.1  # V9, excess over the oracle
    actor_share: float = 0.01  # V10

    def __post_init__(self):
        for field in ("vanish", "iou", "occlusion_share", "actor_share"):
            value = getattr(self, field)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{field}={value} is a share and must be in [0, 1].")
        if self.min_area < 1:
            raise ValueError(f"min_area={self.min_area} must be at least 1 px; try 20.")


class Names(NamedTuple):
    """What pixels show: palette names and silhouettes."""

    pixels: Int[Array, "T H W"]
    silhouettes: Bool[Array, "J T H W"]
    objects: Int[Array, "T J"]  # commonest name inside each object's mask, -1 where there is none


class Violations(NamedTuple):
    """Flags by frame and code, and where they could be measured."""

    flags: Bool[Array, "T 10"]
    measured: Bool[Array, "T 10"]


def read_names(video: UInt8[Array, "T H W 3"], truth: Truth) -> Names:
    """Names what a video shows, for this and for the metrics of shape."""
    pixels = name_pixels(video)
    found = jax.vmap(lambda n, s: silhouettes(n, s, truth.targets))(pixels, truth.segmentation)
    masks = object_masks(truth)
    flat = (pixels.shape[0], -1)
    objects = [mode_of(pixels.reshape(flat), m.reshape(flat), len(PALETTE_NAMES)) for m in masks]
    return Names(pixels, jnp.moveaxis(found, 1, 0), jnp.stack(objects, axis=-1))


def violations(
    video: UInt8[Array, "T H W 3"],
    truth: Truth,
    names: Names,
    oracle_names: Names,
    config: ViolationConfig = ViolationConfig(),
    depth_estimates: tuple[Float[Array, "T H W"], Float[Array, "T H W"]] | None = None,
) -> Violations:
    """All codes of one edited clip.

    Args:
        depth_estimates: of a probe, on the edited and on the oracle's frames.
    """
    masks, edit = object_masks(truth), truth.colors != truth.targets
    frames = video.shape[0]
    has_area = count(masks) >= config.min_area
    judged = (has_area & edit[:, None]).T  # [T, J]
    anything, always = judged.any(axis=1), jnp.ones(frames, bool)
    area = (count(names.silhouettes) < config.vanish * count(masks)).T
    overlap = (iou(names.silhouettes, masks) < config.iou).T
    wrong = names.objects != truth.targets[None]
    ghost = jax.vmap(
        lambda n, o, s: ghosts(n, o, s, truth.targets, edit, config.radius) >= config.min_area
    )(names.pixels, oracle_names.pixels, truth.segmentation)
    number = jax.vmap(jax.vmap(lambda n: census(n, len(PALETTE_NAMES), config.min_area)))
    ours, theirs = number(jnp.stack([names.pixels, oracle_names.pixels]))
    miscounted = jnp.any(ours != theirs, axis=-1)
    occlusion, has_occluder = occlusion_order(video, truth, judged, config)
    shown = jnp.stack([names.silhouettes, oracle_names.silhouettes])
    relation, has_pair = relation_change(truth, shown, has_area, config)
    teleport, has_step = teleports(truth, shown, judged, config)
    deep, has_depth = depth_excess(truth, depth_estimates, config)
    robot = areas(truth).robot
    damage = difference(unit_range(video), unit_range(truth.source)) > LEAK
    actor = masked_mean(damage.astype(jnp.float32), robot) > config.actor_share
    columns = (
        ((area & judged).any(axis=1), anything),
        (ghost, always),
        ((overlap & judged).any(axis=1), anything),
        (occlusion, has_occluder),
        ((wrong & judged).any(axis=1), anything),
        (miscounted, always),
        (relation, has_pair),
        (teleport, has_step),
        (deep, has_depth),
        (actor, robot.any(axis=(1, 2))),
    )
    flags, measured = (jnp.stack(column, axis=-1) for column in zip(*columns, strict=True))
    return Violations(flags & measured, measured)


def occlusion_order(
    video: UInt8[Array, "T H W 3"],
    truth: Truth,
    judged: Bool[Array, "T J"],
    config: ViolationConfig,
) -> tuple[Bool[Array, " T"], Bool[Array, " T"]]:
    """V4: paint over another instance that is nearer than the object beside it."""
    edited = areas(truth).edited
    change = difference(unit_range(video), unit_range(truth.source)) > config.occlusion_change
    broken, known = [], []
    for j, mask in enumerate(object_masks(truth)):
        depth = jnp.nanmedian(jnp.where(mask, truth.depth, jnp.nan), axis=(1, 2))
        nearer = truth.depth < depth[:, None, None]  # False where the object is not seen
        occluder = (
            dilate(mask, config.occlusion_reach) & ~edited & nearer & (truth.segmentation > 0)
        )
        share = masked_mean(change.astype(jnp.float32), occluder)
        broken.append((share > config.occlusion_share) & judged[:, j])
        known.append(occluder.any(axis=(1, 2)) & judged[:, j])
    return jnp.stack(broken).any(axis=0), jnp.stack(known).any(axis=0)


def shown_relations(
    truth: Truth, found: Bool[Array, "J T H W"], config: ViolationConfig
) -> Bool[Array, "T J J"]:
    """[a, b]: a appears on top of b, by the mean points of the world under their silhouettes."""
    mean = lambda mask: masked_mean(
        truth.points, jnp.broadcast_to(mask[..., None], truth.points.shape), axes=(1, 2)
    )
    places = jnp.swapaxes(jax.vmap(mean)(found), 0, 1)
    offset = places[:, :, None] - places[:, None, :]
    distance = jnp.sqrt(jnp.sum(offset[..., :2] ** 2, axis=-1))
    height = offset[..., 2]
    low, high = config.on_top_height
    return (distance < config.on_top_distance) & (height > low) & (height < high)


def relation_change(
    truth: Truth,
    shown: Bool[Array, "2 J T H W"],
    has_area: Bool[Array, "J T"],
    config: ViolationConfig,
) -> tuple[Bool[Array, " T"], Bool[Array, " T"]]:
    """V7: a pair that touches an edited object is related otherwise than in the oracle (``shown[1]``)."""
    ours, theirs = jax.vmap(lambda found: shown_relations(truth, found, config))(shown)
    seen = (has_area & (count(shown) > 0).all(axis=0)).T
    edit = truth.colors != truth.targets
    pairs = seen[:, :, None] & seen[:, None, :] & (edit[:, None] | edit[None, :])[None]
    pairs = pairs & ~jnp.eye(edit.shape[0], dtype=bool)[None]
    return ((ours != theirs) & pairs).any(axis=(1, 2)), pairs.any(axis=(1, 2))


def teleports(
    truth: Truth,
    shown: Bool[Array, "2 J T H W"],
    judged: Bool[Array, "T J"],
    config: ViolationConfig,
) -> tuple[Bool[Array, " T"], Bool[Array, " T"]]:
    """V8: a silhouette's centroid leaves the path that the true flow gives it; charged to the later frame."""
    mean = lambda mask: masked_mean(
        truth.flow, jnp.broadcast_to(mask[:-1, ..., None], truth.flow.shape), axes=(1, 2)
    )
    step = jnp.diff(centroids(shown), axis=2) - jax.vmap(mean)(object_masks(truth))[None]
    ours, theirs = jnp.swapaxes(jnp.sqrt(jnp.sum(step**2, axis=-1)), 1, 2)
    known = judged[1:] & judged[:-1] & ~jnp.isnan(ours) & (theirs <= config.teleport)
    flags = ((ours > config.teleport) & known).any(axis=1)
    first = jnp.zeros(1, bool)
    return jnp.concatenate([first, flags]), jnp.concatenate([first, known.any(axis=1)])


def depth_excess(
    truth: Truth, estimates: tuple[Array, Array] | None, config: ViolationConfig
) -> tuple[Bool[Array, " T"], Bool[Array, " T"]]:
    """V9: a probe sees another depth than in the oracle."""
    edited = areas(truth).edited
    if estimates is None:
        nothing = jnp.zeros(edited.shape[0], bool)
        return nothing, nothing
    error = [masked_mean(jnp.abs(e - truth.depth) / truth.depth, edited) for e in estimates]
    return error[0] - error[1] > config.abs_rel, edited.any(axis=(1, 2))


def violation_rates(
    found: Violations, weights: Float[Array, "10"] | None = None
) -> dict[str, Float[Array, ""]]:
    """GVR, EVR, the weighted severity, and the rate of each code over the frames where it was measured."""
    weights = jnp.ones(len(CODES)) if weights is None else weights
    flags = found.flags.astype(jnp.float32)
    judged = found.measured.any(axis=-1)
    rates = masked_mean(flags, found.measured, axes=0)
    return {
        "GVR": masked_mean(found.flags.any(axis=-1).astype(jnp.float32), judged, axes=0),
        "EVR": found.flags.any().astype(jnp.float32),
        "severity": masked_mean(jnp.einsum("tk,k->t", flags, weights), judged, axes=0),
        **{f"V{k + 1}_{name}": rates[k] for k, name in enumerate(CODES)},
    }

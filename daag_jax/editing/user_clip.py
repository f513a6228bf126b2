"""Clips that come without a simulator: masks by colour, and controls only as far as they are given.

Depth [m], normals (unit, camera frame) and instances may lie beside a video; what is missing is left out of the
control, and instances are found by the palette colour that their pixels show.  Edges are always there.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from daag_jax.editing.colors import name_pixels
from daag_jax.editing.editor_config import Clip
from daag_jax.envs.palette import PALETTE_NAMES

MIN_SHARE = 0.002  # of a clip's pixels that an object's colour must cover; 8 of 64 x 64


def resized(frames: np.ndarray, size: int, smooth: bool) -> np.ndarray:
    """Frames [T, H, W] or [T, H, W, 3] as squares of ``size`` px: averaged, or by nearest neighbour."""
    if frames.shape[1:3] == (size, size):
        return frames
    rows = (np.arange(size) + 0.5) * frames.shape[1] / size
    columns = (np.arange(size) + 0.5) * frames.shape[2] / size
    if not smooth:
        return frames[:, rows.astype(int)][:, :, columns.astype(int)]
    scale = lambda frame: Image.fromarray(frame).resize((size, size), Image.Resampling.BOX)
    return np.stack([np.asarray(scale(frame)) for frame in frames])


def segment_by_color(rgb: np.ndarray, num_objects: int = 3) -> np.ndarray:
    """Instances 1 .. J of uint8 [T, H, W, 3]: the commonest palette colours, one object each; 0 elsewhere."""
    name = jax.jit(name_pixels)  # frame by frame, to bound memory
    names = np.stack([np.asarray(name(jnp.asarray(frame))) for frame in rgb])
    counts = np.bincount(names[names >= 0], minlength=len(PALETTE_NAMES))
    order = [c for c in np.argsort(-counts, kind="stable") if counts[c] >= MIN_SHARE * names.size]
    segmentation = np.zeros(names.shape, np.int32)
    for instance, color in enumerate(order[:num_objects]):
        segmentation[names == color] = instance + 1
    return segmentation


def clip_of_frames(
    rgb: np.ndarray,
    depth: np.ndarray | None = None,
    normals: np.ndarray | None = None,
    segmentation: np.ndarray | None = None,
    size: int = 64,
    num_objects: int = 3,
) -> Clip:
    """One clip (N = 1) of uint8 frames [T, H, W, 3], scaled to ``size`` px, with the geometry there is.

    Raises:
        ValueError: frames, depth, normals or segmentation do not belong together or hold NaN; the message names which.
    """
    if rgb.ndim != 4 or rgb.shape[-1] != 3 or rgb.dtype != np.uint8:
        raise ValueError(
            f"frames are {rgb.dtype}{list(rgb.shape)}; they must be uint8 [T, H, W, 3]."
        )
    beside = {"depth": depth, "normals": normals, "segmentation": segmentation}
    for name, value in beside.items():
        wanted = rgb.shape if name == "normals" else rgb.shape[:3]
        if value is not None and value.shape != wanted:
            raise ValueError(
                f"{name} has shape {list(value.shape)}, the frames want {list(wanted)}."
            )
        # infinitely far is a depth; NaN is none
        if value is not None and np.isnan(value).any():
            frame = int(np.argwhere(np.isnan(value))[0, 0])
            raise ValueError(
                f"{name} holds NaN, first in frame {frame}; use inf where the depth is unknown, and leave normals out."
            )
    small = resized(rgb, size, smooth=True)
    if segmentation is None:
        segmentation = segment_by_color(small, num_objects)
    shape = small.shape[:3]
    # infinitely far and -1 are control values of zero: nothing is said
    depth = np.full(shape, np.inf, np.float32) if depth is None else resized(depth, size, False)
    normals = (
        np.full((*shape, 3), -1.0, np.float32) if normals is None else resized(normals, size, False)
    )
    segmentation = resized(segmentation, size, False).astype(np.int32)
    parts = (small, depth.astype(np.float32), normals.astype(np.float32), segmentation)
    return Clip(*(jnp.asarray(part)[None] for part in parts))

"""Edits the clips of a hindsight plan, many at a time, by one of three means.

    diffusion   the video editor (``editing.editor``)
    recolour    hue and chroma replaced inside the mask (``editing.recolor``): the classical baseline
    oracle      the simulator renders the same states in the new colours: the upper bound

All take the same request and give frames of the same shape.  What an edit needs beside the frames is what an RGB-D
camera gives: depth and normals, rendered from the stored states; objects are found by the colours of their pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from daag_jax.agent.hindsight import Request
from daag_jax.editing.colors import name_pixels
from daag_jax.editing.compact import CompactEditor, color_prompts
from daag_jax.editing.editor import make_editor
from daag_jax.editing.editor_config import Clip, EditorConfig
from daag_jax.editing.masks import (
    apply_mapping,
    instance_colors,
    instances_by_color,
    swap_mapping,
)
from daag_jax.editing.recolor import recolor_clip
from daag_jax.envs.env import PixelEnv
from daag_jax.envs.palette import PALETTE_NAMES
from daag_jax.types import Episode, Key

MEANS = ("diffusion", "recolour", "oracle")


class Job(NamedTuple):
    """A batch of clips: stored frames, their states, and the colours that are seen and wanted."""

    images: UInt8[Array, "N T V H W 3"]
    qpos: Float[Array, "N T Q"]
    seen: Int[Array, "N J"]
    wanted: Int[Array, "N J"]


Augment = Callable[[Job, Array], Array]  # (job, key or keys [N]) -> frames [N, T, V, H, W, 3]


def make_augmenter(
    means: str, env: PixelEnv, editor: CompactEditor | None, config: EditorConfig = EditorConfig()
) -> Augment:
    """A jitted ``(job, key) -> frames``.

    Raises:
        ValueError: the means is unknown, or "diffusion" has no editor.
    """
    if means not in MEANS:
        raise ValueError(f"means {means!r} is unknown; use one of {MEANS}.")
    if means == "diffusion" and editor is None:
        raise ValueError(
            "means 'diffusion' needs an editor; load_compact_editor() reads the shipped one."
        )
    by_view = lambda x: jnp.moveaxis(x, 2, 1).reshape(-1, x.shape[1], *x.shape[3:])

    any_colors = jnp.zeros((3,), jnp.int32)  # depth and normals do not depend on them

    def sensed(images: Array, qpos: Array, seen: Array) -> Clip:
        """Clips of one view each, N V of them, whose objects show the colours ``seen`` [N V, J]."""
        frame = jax.vmap(jax.vmap(lambda q: env.render_qpos(q, any_colors)))(qpos)
        rgb = by_view(images)
        instances = jax.vmap(instances_by_color)(rgb, seen)
        return Clip(rgb, by_view(frame.depth), by_view(frame.normals), instances)

    def run(params, sentences, job: Job, key: Array) -> Array:
        num, frames, views = job.images.shape[:3]
        if means == "oracle":
            draw = jax.vmap(lambda q, c: jax.vmap(lambda one: env.render_qpos(one, c).rgb)(q))
            return draw(job.qpos, job.wanted)
        wanted, seen = (jnp.repeat(x, views, axis=0) for x in (job.wanted, job.seen))
        clip = sensed(job.images, job.qpos, seen)
        is_edited = (wanted != seen) & (seen >= 0)
        if means == "recolour":
            edited = jax.vmap(recolor_clip)(clip.rgb, clip.segmentation, is_edited, wanted)
        else:
            prompts = color_prompts(sentences, wanted)
            if key.ndim:  # one key per clip: one per clip and view
                key = jax.vmap(lambda k: jax.random.split(k, views))(key).reshape(-1)
            edited = make_editor(config)(params, clip, prompts, is_edited, key)
        return jnp.moveaxis(edited.reshape(num, views, frames, *edited.shape[2:]), 1, 2)

    compiled = jax.jit(run)
    params, sentences = (None, None) if editor is None else (editor.params, editor.sentences)
    return lambda job, key: compiled(params, sentences, job, key)


def make_looker(env: PixelEnv) -> Callable[[Array, Array], Array]:
    """``(images [N, T, V, H, W, 3], qpos [N, T, Q]) -> colours [N, J]`` that each instance *shows*; jitted.

    It knows from the simulator where the instances are: a judge of edits, not a part of the agent.
    """

    def look(images: Array, qpos: Array) -> Array:
        draw = jax.vmap(lambda q: env.render_qpos(q, jnp.zeros((3,), jnp.int32)).segmentation)
        segmentation = jax.vmap(draw)(qpos)
        fold = lambda x: x.reshape(x.shape[0], -1, *x.shape[3:])
        return jax.vmap(instance_colors)(fold(images), fold(segmentation))

    return jax.jit(look)


@jax.jit
def seen_colors(images: UInt8[Array, "N T V H W 3"], colors: Int[Array, "J"]) -> Int[Array, "N J"]:
    """Those of a world's colours that a clip shows, -1 in the place of one that it does not."""
    names = name_pixels(images).reshape(images.shape[0], -1, 1)
    is_seen = jnp.any(names == colors[None, None], axis=1)
    return jnp.where(is_seen, colors[None], -1)


def run_requests(
    episodes: Episode,
    requests: Sequence[Request],
    augment: Augment,
    colors: Int[Array, "J"],
    swap_mode: str,
    key: Key,
    batch: int = 8,
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Edited frames of every request [T + 1, V, H, W, 3] (valid up to its end), colours seen and wanted [R, J].

    ``colors`` [J] are those of the world's objects, palette indices.
    Clips are padded to whole episodes and requests to whole batches, so that nothing is compiled twice.  The noise of
    an edit is that of its episode and swap, whatever else is edited with it.
    """
    frames, seen_all, wanted_all = [], [], []
    for start in range(0, len(requests), batch):
        part = list(requests[start : start + batch])
        padded = part + [part[-1]] * (batch - len(part))
        index = np.array([request.episode for request in padded])
        images, qpos = (
            jnp.asarray(episodes.images[index]),
            jnp.asarray(episodes.extras["qpos"][index]),
        )
        seen = np.asarray(seen_colors(images, colors))
        wanted = np.stack(
            [
                wanted_colors(row, request, swap_mode)
                for row, request in zip(seen, padded, strict=True)
            ]
        )
        job = Job(images, qpos, jnp.asarray(seen), jnp.asarray(wanted))
        edited = np.asarray(augment(job, request_keys(key, padded)))
        frames += list(edited[: len(part)])
        seen_all.append(seen[: len(part)])
        wanted_all.append(wanted[: len(part)])
    empty = np.zeros((0, 3), np.int32)
    return frames, np.concatenate([empty, *seen_all]), np.concatenate([empty, *wanted_all])


def request_keys(key: Key, requests: Sequence[Request]) -> Key:
    """The keys [R] of edits within their block: of the episode and the swap."""
    episodes = np.array([request.episode for request in requests], np.uint32)
    swaps = [zlib.crc32(repr(request.swaps).encode()) for request in requests]
    fold = lambda episode, swap: jax.random.fold_in(jax.random.fold_in(key, episode), swap)
    return jax.vmap(fold)(episodes, np.array(swaps, np.uint32))


def wanted_colors(seen: Int[np.ndarray, "J"], request: Request, mode: str) -> Int[np.ndarray, "J"]:
    """The colour that each instance should have after the request's swaps."""
    present = [PALETTE_NAMES[c] for c in seen if c >= 0]
    mapping = swap_mapping(request.swaps, present, mode)
    return np.asarray(apply_mapping(jnp.asarray(seen), mapping), np.int32)

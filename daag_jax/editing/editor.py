"""The diffusion video editor: frames, geometry and prompts in, frames out (DAAG section on its diffusion pipeline).

    z   = E(x) s                                       source latents, s the scaling factor
    zT  = alpha z + sigma n                            n is one noise map for all frames ("shared"); n alone at
                                                       strength 1: nothing of the source's colour may shine through
    z_t = m z_t + (1 - m) (alpha z + sigma n)          after every step: only the mask m is painted
    x'  = paste( D(z_0 / s), x )                       outside the mask the source's pixels return exactly
    x'' = hold(x')                                     optional: an object keeps its chromaticity over the clip

Geometry enters through ControlNet (depth, normals, edges), time through self-attention across frames, objects through
regional prompts: each instance has a sentence and a soft mask, so several are swapped in one pass.

An :class:`EditorSpec` names the sizes of the networks and what each ControlNet looks at (``steering.py``): one with
five channels (compact), or up to three with an image each (Stable Diffusion 1.5).  Everything is one jitted function of
arrays with fixed shapes; which objects change, and into what, is data.

Differs from the paper, which does not give these: steps, guidance, strength, mask source.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from daag_jax.diffusion.guidance import classifier_free_fused
from daag_jax.diffusion.process import GaussianProcess
from daag_jax.diffusion.projections import replace_known
from daag_jax.diffusion.samplers import sample, start
from daag_jax.diffusion.schedules import scaled_linear, spaced_times, step_of
from daag_jax.editing.crops import boxes_around, crop, paste
from daag_jax.editing.editor_config import (
    Clip,
    EditorConfig,
    EditorParams,
    EditorSpec,
    Prompts,
)
from daag_jax.editing.hold import hold_colors
from daag_jax.editing.masks import dilate, edit_mask, latent_mask, region_weights
from daag_jax.editing.noise import frame_noise
from daag_jax.editing.steering import (
    condition,
    control_weights,
    make_steering,
)
from daag_jax.networks.stable_diffusion.controlnet import ControlNet
from daag_jax.networks.stable_diffusion.unet import UNet
from daag_jax.networks.stable_diffusion.vae import Vae
from daag_jax.types import Key

Edit = Callable[[EditorParams, Clip, Prompts, Array, Key], Array]


def make_editor(config: EditorConfig = EditorConfig(), spec: EditorSpec = EditorSpec()) -> Edit:
    """The function ``edit(params, clip, prompts, is_edited, key) -> uint8 [N, T, H, W, 3]``, pure, to be jitted.

    ``is_edited`` [N, J] says which instances may change; with none, the source comes back bit for bit (without a mask
    it has no meaning: the whole frame is painted).
    """

    def edit(
        params: EditorParams, clip: Clip, prompts: Prompts, is_edited: Bool[Array, "N J"], key: Key
    ) -> UInt8[Array, "N T H W 3"]:
        clips, frames, height, width, _ = clip.rgb.shape
        factor = spec.vae.downsampling
        shape = (height // factor, width // factor, spec.vae.latent_channels)
        noise = frame_noise(config.noise, clip.segmentation, shape, key, spec.num_objects)
        noise = noise.reshape(clips, frames, *shape)
        run = edit_whole if config.crop is None else edit_crops
        edited = run(config, spec, params, clip, prompts, is_edited, noise)
        if config.hold is None:
            return edited
        held = jax.vmap(partial(hold_colors, share=config.hold))
        return held(edited, clip.segmentation, is_edited)

    return edit


def edit_whole(
    config: EditorConfig,
    spec: EditorSpec,
    params: EditorParams,
    clip: Clip,
    prompts: Prompts,
    is_edited: Bool[Array, "N J"],
    noise: Float[Array, "N T h w D"],
) -> UInt8[Array, "N T H W 3"]:
    """Whole frames, in chunks where there are many."""
    run = edit_at_once if clip.rgb.shape[1] <= config.chunk else edit_in_chunks
    return run(config, spec, params, clip, prompts, is_edited, noise)


def edit_crops(
    config: EditorConfig,
    spec: EditorSpec,
    params: EditorParams,
    clip: Clip,
    prompts: Prompts,
    is_edited: Bool[Array, "N J"],
    noise: Float[Array, "N T h w D"],
) -> UInt8[Array, "N T H W 3"]:
    """One object after another, each in square boxes around it that are enlarged to whole frames (GenAug).

    Raises:
        ValueError: frames are not square.
    """
    height, width = clip.rgb.shape[2:4]
    if height != width:
        raise ValueError(
            f"rgb has frames of {height} x {width} px and crop={config.crop} needs square ones; pad them, or use "
            "crop=None."
        )

    def one(number: Array, rgb: Array) -> Array:
        is_own = jnp.arange(spec.num_objects) == number
        mask = (clip.segmentation == number + 1) & is_edited[:, number, None, None, None]
        boxes = boxes_around(mask, config.crop)
        geometry = (crop(x, boxes) for x in (clip.depth, clip.normals, clip.segmentation))
        near = Clip(crop(rgb, boxes, is_smooth=True), *geometry)
        edited = edit_whole(config, spec, params, near, prompts, is_edited & is_own[None], noise)
        return jnp.where(mask[..., None], paste(edited, boxes), rgb)

    return jax.lax.fori_loop(0, spec.num_objects, one, clip.rgb)


def edit_in_chunks(
    config: EditorConfig,
    spec: EditorSpec,
    params: EditorParams,
    clip: Clip,
    prompts: Prompts,
    is_edited: Bool[Array, "N J"],
    noise: Float[Array, "N T h w D"],
) -> UInt8[Array, "N T H W 3"]:
    """Frames 1 .. T-1 in groups, each behind frame 0, which all of them may attend to: memory is that of one group.

    Attention stays inside a group: with "previous_first" its first frame has frame 0 for its previous one, and "all"
    means all of the group.  The last group reaches back, so that it is as long as the others.
    """
    frames = clip.rgb.shape[1]
    groups = -(-(frames - 1) // (config.chunk - 1))
    size = -(-(frames - 1) // groups)

    def run(group: Array, out: Array) -> Array:
        begin = jnp.minimum(1 + group * size, frames - size)
        rest = lambda x: jax.lax.dynamic_slice_in_dim(x, begin, size, axis=1)
        taken = lambda x: jnp.concatenate([x[:, :1], rest(x)], axis=1)
        part, own_noise = jax.tree.map(taken, (clip, noise))
        edited = edit_at_once(config, spec, params, part, prompts, is_edited, own_noise)
        out = jax.lax.dynamic_update_slice_in_dim(out, edited[:, 1:], begin, axis=1)
        first = jnp.where(group == 0, edited[:, :1], out[:, :1])
        return jax.lax.dynamic_update_slice_in_dim(out, first, 0, axis=1)

    return jax.lax.fori_loop(0, groups, run, jnp.zeros_like(clip.rgb))


def edit_at_once(
    config: EditorConfig,
    spec: EditorSpec,
    params: EditorParams,
    clip: Clip,
    prompts: Prompts,
    is_edited: Bool[Array, "N J"],
    noise: Float[Array, "N T h w D"],
) -> UInt8[Array, "N T H W 3"]:
    """All frames in one batch of the networks."""
    frames, factor = clip.rgb.shape[1], spec.vae.downsampling
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), clip)
    mask = edit_mask(flat.segmentation, jnp.repeat(is_edited, frames, axis=0))
    source = encode(spec, params, flat.rgb, config.dtype)
    noise = noise.reshape(source.shape)
    process = GaussianProcess(scaled_linear(), spec.parameterisation)
    times = spaced_times(process.schedule, config.steps, config.spacing, config.strength)
    denoise = make_denoiser(config, spec, params, process, times, flat, prompts, frames)
    project = None
    if config.is_masked:
        painted = latent_mask(dilate(mask, config.dilation), factor)[..., None]
        project = replace_known(process.schedule, source, painted, noise)
    begin = start(process.schedule, source, noise, times[0])
    if config.strength == 1.0:
        begin = noise
    latents = sample(denoise, process.schedule, begin, times, method=config.method, project=project)
    painted_rgb = decode(spec, params, latents, config.dtype)
    if config.is_masked:
        painted_rgb = jnp.where(mask[..., None], painted_rgb, flat.rgb)
    return painted_rgb.reshape(clip.rgb.shape)


def make_denoiser(
    config: EditorConfig,
    spec: EditorSpec,
    params: EditorParams,
    process: GaussianProcess,
    times: Float[Array, "N1"],
    flat: Clip,
    prompts: Prompts,
    frames: int,
) -> Callable[[Array, Array], Array]:
    """UNet and ControlNets with everything but (xt, time) bound; guided where ``config.guidance`` is not 1.

    Args:
        times: of the sampling, of which ``config.control_span`` is a part.
    """
    dtype = jnp.dtype(config.dtype)
    unet = UNet(spec.unet, dtype)
    is_guided = config.guidance != 1.0
    twice = lambda x: jnp.concatenate([x, x]) if is_guided else x
    context = jnp.repeat(prompts.contexts, frames, axis=0)
    if is_guided:
        empty = jnp.broadcast_to(prompts.no_prompt[None, None], context.shape)
        context = jnp.concatenate([context, empty])
    regions = region_weights(flat.segmentation, spec.num_objects, spec.vae.downsampling)
    regions = twice(regions)
    attend = {"frames": frames, "attention": config.attention}
    geometry = (flat.rgb, flat.depth, flat.normals, config.controls)
    weights = control_weights(config.control, len(spec.controlnets))
    branches = [
        (
            partial(ControlNet(size, dtype).apply, {"params": own}, **attend),
            weight,
            twice(condition(kind, *geometry)) if weight else None,
        )
        for (kind, size), own, weight in zip(
            spec.controlnets, params.controlnets, weights, strict=True
        )
    ]
    num = times.shape[0] - 1
    when = (config.control_span, num, config.guess, is_guided)
    steer = make_steering(branches, context, regions, *when)

    def network(xt: Array, time: Array) -> Array:
        step = step_of(process.schedule, time)
        steps_done = (times[None, :-1] > time[:, None] + 0.1 / process.schedule.num_steps).sum(
            axis=1
        )
        residuals = steer(xt, step, steps_done / num)
        out = unet.apply({"params": params.unet}, xt, step, context, regions, residuals, **attend)
        return out.astype(jnp.float32)

    denoise = process.denoiser(network)
    return classifier_free_fused(denoise, config.guidance) if is_guided else denoise


def encode(
    spec: EditorSpec, params: EditorParams, rgb: UInt8[Array, "B H W 3"], dtype: str = "float32"
) -> Float[Array, "B h w D"]:
    """Scaled latents of frames (their mean)."""
    images = rgb.astype(jnp.float32) / 127.5 - 1.0
    vae = Vae(spec.vae, jnp.dtype(dtype))
    mean, _ = vae.apply({"params": params.vae}, images, method="encode")
    return mean.astype(jnp.float32) * spec.vae.scaling_factor


def decode(
    spec: EditorSpec,
    params: EditorParams,
    latents: Float[Array, "B h w D"],
    dtype: str = "float32",
) -> UInt8[Array, "B H W 3"]:
    """Frames of scaled latents."""
    latents = latents / spec.vae.scaling_factor
    vae = Vae(spec.vae, jnp.dtype(dtype))
    images = vae.apply({"params": params.vae}, latents, method="decode").astype(jnp.float32)
    return jnp.clip((images + 1.0) * 127.5 + 0.5, 0.0, 255.0).astype(jnp.uint8)

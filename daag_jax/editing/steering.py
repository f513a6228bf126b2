"""How geometry steers a denoiser: one ControlNet or several, each with its own image of conditions.

    r = sum_i w_i ControlNet_i(xt, t, text, condition_i)          added to the UNet's skip connections and middle

Conditions are images in [0, 1] (``CHANNELS``).  "stack" is the five channels of the compact ControlNet; the others are
those of the ControlNets for Stable Diffusion 1.5, three channels each: "depth" is bright where it is near, "normals"
are red to the left, green upwards and blue towards the camera, "edges" are white on black.

As in diffusers: ``span`` is ``control_guidance_start`` and ``_end``; ``guess`` is guess mode (no residuals without a
prompt, and scales from 0.1 at the finest connection to 1 in the middle).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from daag_jax.editing.controls import (
    ControlConfig,
    canny,
    depth_control,
    normal_control,
    stack_controls,
)
from daag_jax.networks.stable_diffusion.controlnet import combine_residuals
from daag_jax.networks.stable_diffusion.unet import Residuals

CHANNELS = {"stack": 5, "depth": 3, "normals": 3, "edges": 3}  # of each condition
CONDITIONS = tuple(CHANNELS)
Branch = Callable[..., Residuals]  # (xt, step, context, conditions, regions) -> residuals
Steer = Callable[[Array, Array, Array], Residuals | None]  # (xt, step, progress in [0, 1))


def condition(
    kind: str,
    rgb: UInt8[Array, "B H W 3"],
    depth: Float[Array, "B H W"],
    normals: Float[Array, "B H W 3"],
    config: ControlConfig,
) -> Float[Array, "B H W K"]:
    """The image that a ControlNet of some kind looks at."""
    grey = lambda x: jnp.repeat(x[..., None], 3, axis=-1)
    if kind == "stack":
        return stack_controls(rgb, depth, normals, config)
    if kind == "depth":
        return grey(depth_control(depth, config))
    if kind == "normals":
        return normal_control(normals * jnp.array([-1.0, 1.0, 1.0])[None, None, None])
    return grey(jax.vmap(lambda frame: canny(frame, config))(rgb))


def make_steering(
    branches: Sequence[tuple[Branch, float, Float[Array, "B H W K"]]],
    context: Float[Array, "B P L E"],
    regions: Float[Array, "B P h w"],
    span: tuple[float, float] = (0.0, 1.0),
    steps: int = 1,
    guess: bool = False,
    is_guided: bool = False,
) -> Steer:
    """``steer(xt, step, progress)``: the weighted residuals of all branches, None where no branch has a weight.

    Args:
        branches: a network, its weight, and its conditions; rows are those of ``context``.
        span: shares of the sampling between which geometry steers.
        steps: of the sampling, for which a step counts that ends within the span.
        is_guided: the second half of the rows has no prompt (classifier-free guidance).
    """
    branches = [branch for branch in branches if branch[1]]
    rows = slice(0, context.shape[0] // 2) if guess and is_guided else slice(None)

    def steer(xt: Array, step: Array, progress: Array) -> Residuals | None:
        if not branches:
            return None
        found = [
            run(xt[rows], step[rows], context[rows], images[rows], regions[rows])
            for run, _, images in branches
        ]
        residuals = combine_residuals(found, [weight for _, weight, _ in branches])
        if guess:
            residuals = guessed(residuals)
        if rows != slice(None):
            residuals = jax.tree.map(lambda r: jnp.concatenate([r, jnp.zeros_like(r)]), residuals)
        if span == (0.0, 1.0):
            return residuals
        slack = 1e-4  # of rounding; a step is never that short
        is_within = (progress >= span[0] - slack) & (progress + 1 / steps <= span[1] + slack)
        return jax.tree.map(lambda r: jnp.where(is_within[:, None, None, None], r, 0), residuals)

    return steer


def guessed(residuals: Residuals) -> Residuals:
    """Residuals of guess mode: from a tenth at the finest connection to all in the middle."""
    scales = jnp.logspace(-1.0, 0.0, len(residuals.down) + 1)
    down = tuple(scale * r for scale, r in zip(scales[:-1], residuals.down, strict=True))
    return Residuals(down, scales[-1] * residuals.mid)


def control_weights(control: float | Sequence[float], count: int) -> tuple[float, ...]:
    """A weight for each of ``count`` ControlNets; one number stands for all.

    Raises:
        ValueError: there are more or fewer weights than ControlNets.
    """
    if isinstance(control, int | float):
        return (float(control),) * count
    if len(control) != count:
        raise ValueError(
            f"control={tuple(control)} has {len(control)} weights for {count} ControlNets; give one for each, or one "
            "number for all."
        )
    return tuple(float(weight) for weight in control)


def check_conditions(kinds: Sequence[str], channels: Sequence[int]) -> None:
    """Raises a ValueError where a kind is unknown, or a ControlNet expects another number of channels."""
    for kind, found in zip(kinds, channels, strict=True):
        if kind not in CHANNELS:
            raise ValueError(f"condition {kind!r} is unknown; use one of {CONDITIONS}.")
        if found != CHANNELS[kind]:
            raise ValueError(
                f"condition {kind!r} has {CHANNELS[kind]} channels and its ControlNet's conditioning_channels is "
                f"{found}; use the ControlNet that was trained on it."
            )

"""Projections: ``(x_before, x_after, time, context) -> x_after``, applied by a sampler after each of its steps."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.diffusion.process import like
from daag_jax.diffusion.samplers import Project
from daag_jax.diffusion.schedules import Schedule


def replace_known(
    schedule: Schedule,
    known: Float[Array, "B *D"],
    mask: Float[Array, "B *D"],
    noise: Float[Array, "B *D"],
) -> Project:
    """Masked blending: outside the mask the state is the known sample at its noise level (Lugmayr et al. 2022, Eq. 8).

    x_after = m x_after + (1 - m) (alpha known + sigma noise), with m = ``mask`` where the sampler may paint.  One
    ``noise`` for all steps keeps the known part on one ODE path; shared over frames, it does not flicker.
    """

    def project(before: Array, after: Array, time: Array, context: Any) -> Array:
        del before, context
        there = (
            like(schedule.alpha(time), known) * known + like(schedule.sigma(time), known) * noise
        )
        return mask * after + (1.0 - mask) * there

    return project


def clamp(low: float | Array, high: float | Array) -> Project:
    """Keeps the state inside a box."""
    return lambda before, after, time, context: jnp.clip(after, low, high)


def chain(*projects: Project) -> Project:
    """Applies projections one after the other."""

    def project(before: Array, after: Array, time: Array, context: Any) -> Array:
        for one in projects:
            after = one(before, after, time, context)
        return after

    return project

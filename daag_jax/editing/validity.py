"""Is an episode stored as a success truly one, and whose fault is it if not?

    LV = P( the desired caption g* is true of the states with swapped colours | stored )

A stored edit can be wrong for one first reason, in the order in which the loop makes its decisions:

    detector       the achieved caption g was not true
    orchestrator   g was true, but the swap does not imply g*
    diffusion      g* is true of the swapped states, but the frames do not show these colours

All three are exact in simulation: captions are columns of a table of truth (``RgbStacking.labels_qpos``).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from daag_jax.editing.averages import masked_mean


class Truths(NamedTuple):
    """Truth of M captions for N stored edits, at the frame of the achieved sub-goal."""

    source: Bool[Array, "N M"]  # with the colours that the episode had
    swapped: Bool[Array, "N M"]  # with the colours that the swap gives
    shown: Bool[Array, "N M"]  # with the colours that the edited frames show


class Verdicts(NamedTuple):
    """One row per stored edit; the three faults exclude each other."""

    is_valid: Bool[Array, " N"]
    detector: Bool[Array, " N"]
    orchestrator: Bool[Array, " N"]
    diffusion: Bool[Array, " N"]


def judge_labels(truths: Truths, achieved: Int[Array, " N"], desired: Int[Array, " N"]) -> Verdicts:
    """Judges stored edits, whose captions are columns of the tables.

    A swap that makes g* true although g was not is valid by luck: what the policy learns from it is right.
    """
    pick = lambda table, column: jnp.take_along_axis(table, column[:, None], axis=1)[:, 0]
    had = pick(truths.source, achieved)
    is_valid, is_shown = pick(truths.swapped, desired), pick(truths.shown, desired)
    return Verdicts(is_valid, ~is_valid & ~had, ~is_valid & had, is_valid & ~is_shown)


def validity_rates(
    verdicts: Verdicts, stored: Bool[Array, " N"] | None = None
) -> dict[str, Float[Array, ""]]:
    """LV and the shares of the faults over stored edits; NaN where none was stored."""
    stored = jnp.ones_like(verdicts.is_valid) if stored is None else stored
    share = lambda flags: masked_mean(flags.astype(jnp.float32), stored, axes=0)
    return {
        "LV": share(verdicts.is_valid),
        "LV_shown": share(verdicts.is_valid & ~verdicts.diffusion),
        "E_vlm": share(verdicts.detector),
        "E_llm": share(verdicts.orchestrator),
        "E_dm": share(verdicts.diffusion),
    }

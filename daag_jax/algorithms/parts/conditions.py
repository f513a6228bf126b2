"""What a plan may be asked for: named conditions, each a vector, of which some may be left out.

A condition is one of a batch's extras; "returns" are those from the window's first step on, divided by a scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array

from daag_jax.names import check_name
from daag_jax.types import Batch, Context

Conditions = Mapping[str, Array]  # name -> [B, C]


def conditions_of(
    names: tuple[str, ...], dims: tuple[int, ...], batch: Batch, returns_scale: float
) -> Conditions:
    """What is known of the windows of a batch.

    Raises:
        ValueError: the batch holds no such condition, or one of another length.
    """
    found = {}
    for name, dim in zip(names, dims, strict=True):
        if name not in batch.extras:
            raise ValueError(
                f"condition {name!r} is none of the batch's extras {tuple(batch.extras)}."
            )
        values = batch.extras[name]
        found[name] = values[:, :1] / returns_scale if name == "returns" else values
        if found[name].shape[-1] != dim:
            raise ValueError(
                f"condition {name!r} has {found[name].shape[-1]} numbers and condition_dims says {dim}."
            )
    return found


def named(
    names: tuple[str, ...], context: Context, returns_scale: float, target_return: float
) -> Conditions:
    """The conditions that a context names, and the target return (of the scale) where it names none."""
    found = {name: context.extras[name] for name in names if name in context.extras}
    if "returns" in found:
        found["returns"] = found["returns"].reshape(-1, 1) / returns_scale
    elif "returns" in names:
        found["returns"] = jnp.full((context.observations.shape[0], 1), target_return)
    return found


def filled(
    names: tuple[str, ...], dims: tuple[int, ...], parts: Sequence[Conditions], num: int
) -> tuple[Conditions, Conditions]:
    """Conditions of all parts one below the other, zeros where a part names none; and which are named.

    Raises:
        ValueError: a part names a condition that is not learnt, or gives it another length.
    """
    given, is_given = {}, {}
    for part in parts:
        for name, value in part.items():
            check_name("condition", name, names)
            dim = dims[names.index(name)]
            if value.shape[-1] != dim:
                raise ValueError(
                    f"condition {name!r} is given {value.shape[-1]} numbers and condition_dims says {dim}."
                )
    for name, dim in zip(names, dims, strict=True):
        values = [part.get(name, jnp.zeros((num, dim))) for part in parts]
        given[name] = jnp.concatenate([jnp.broadcast_to(value, (num, dim)) for value in values])
        is_given[name] = jnp.concatenate([jnp.full(num, float(name in part)) for part in parts])
    return given, is_given

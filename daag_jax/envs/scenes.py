"""Scenes of posed primitives, written by hand or read from a MuJoCo model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float, Int

from daag_jax.envs import raycast


class Scene(NamedTuple):
    """G posed geoms; their kinds are static and travel beside it as names (``raycast.KINDS``)."""

    positions: Float[Array, "G 3"]  # [m]
    rotations: Float[Array, "G 3 3"]  # geom to world
    sizes: Float[Array, "G 3"]  # MuJoCo's size of each kind [m]
    colors: Float[Array, "G 3"]  # sRGB in [0, 1]
    instances: Int[Array, " G"]  # 0 is background


def validate(kinds: tuple[str, ...], scene: Scene, height: int, width: int) -> None:
    """Checks what a rendering function was given.

    Raises:
        ValueError: a kind is unknown, kinds and scene disagree in length, or there are no pixels.
    """
    for kind in kinds:
        if kind not in raycast.KINDS:
            raise ValueError(f"kinds holds {kind!r}; try one of {raycast.KINDS}.")
    if len(kinds) != scene.positions.shape[0]:
        raise ValueError(
            f"kinds has {len(kinds)} names but scene has {scene.positions.shape[0]} geoms; "
            "pass one kind per geom, e.g. kinds_of(model) for scene_of(model, ...)."
        )
    if height < 1 or width < 1:
        raise ValueError(f"height {height} and width {width} must be at least 1; try 64.")


def _visible(model: mujoco.MjModel) -> np.ndarray:
    return np.flatnonzero(model.geom_rgba[:, 3] > 0)


def kinds_of(model: mujoco.MjModel) -> tuple[str, ...]:
    """The kinds of the model's visible geoms (alpha > 0), in the order of ``scene_of``.

    Raises:
        ValueError: a visible geom is not a primitive.
    """
    kinds = []
    for g in _visible(model):
        kind = mujoco.mjtGeom(int(model.geom_type[g])).name.removeprefix("mjGEOM_").lower()
        if kind not in raycast.KINDS:
            raise ValueError(
                f"geom {model.geom(int(g)).name!r} is a {kind}, which the renderer cannot draw; "
                f"make it one of {raycast.KINDS}, or give it rgba alpha 0."
            )
        kinds.append(kind)
    return tuple(kinds)


def scene_of(
    model: mujoco.MjModel,
    geom_xpos: Float[Array | np.ndarray, "N 3"],
    geom_xmat: Float[Array | np.ndarray, "N *M"],
    instances: Mapping[str, int] | None = None,
) -> Scene:
    """The visible geoms of a model at the poses ``geom_xpos, geom_xmat`` of its mjx or C data.

    Args:
        instances: instance of each geom by its name, 0 where absent; None takes the geom's body.

    Raises:
        ValueError: ``instances`` names a geom that the model lacks or hides.
    """
    visible = _visible(model)
    names = [model.geom(int(g)).name for g in visible]
    unknown = sorted(set(instances or ()) - set(names))
    if unknown:
        raise ValueError(f"instances names {unknown[0]!r}, not a visible geom; try {names}.")
    numbers = model.geom_bodyid[visible]
    if instances is not None:
        numbers = np.array([instances.get(name, 0) for name in names])
    return Scene(
        positions=jnp.asarray(geom_xpos, jnp.float32)[visible],
        rotations=jnp.asarray(geom_xmat, jnp.float32).reshape(-1, 3, 3)[visible],
        sizes=jnp.asarray(model.geom_size[visible], jnp.float32),
        colors=jnp.asarray(model.geom_rgba[visible, :3], jnp.float32),
        instances=jnp.asarray(numbers, jnp.int32),
    )


def recolor(scene: Scene, instance: int | Int[Array, ""], rgb: Float[Array, " 3"]) -> Scene:
    """The same scene with every geom of an instance painted in one sRGB colour."""
    is_painted = jnp.broadcast_to((scene.instances == instance)[:, None], scene.colors.shape)
    paint = jnp.broadcast_to(rgb, scene.colors.shape)
    return scene._replace(colors=jnp.where(is_painted, paint, scene.colors))

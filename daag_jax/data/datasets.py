"""Offline data sets: read in whatever form, checked before training, cut, flattened and summed up.

    episodes, info = read_dataset("runs/demos/daag/maze2d-medium/demos-v0")     # or .hdf5, .npz, .safetensors
    episodes = check_dataset(episodes, env.spec, "maze2d-medium", info)

Nothing is unpickled, whatever the form.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from daag_jax.data.blocks import DatasetInfo, action_bounds, happened, has_pixels
from daag_jax.data.disk import read_episodes
from daag_jax.data.flat_files import read_d4rl, read_npz
from daag_jax.data.minari_files import find_minari, read_minari
from daag_jax.types import Episode, Spec

ACTION_TOLERANCE = 1e-3  # of the range of an action; covers rounding to float16 and back


def read_dataset(path: str | Path) -> tuple[Episode, DatasetInfo]:
    """Episodes [B, ...] of a Minari data set (a name or a folder), D4RL HDF5, ``.npz``, or our own ``.safetensors``.

    Our own file without pixels is of the world that its task names.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ValueError: it is damaged or of another kind; the message names it and the cure.
    """
    path = Path(path)
    readers = {".npz": read_npz, ".hdf5": read_d4rl, ".h5": read_d4rl}
    if path.is_file() and path.suffix in readers:
        return readers[path.suffix](path)
    if path.suffix == ".safetensors":
        episodes, task = read_episodes(path)
        world = "" if has_pixels(episodes) else task
        return episodes, DatasetInfo(str(path), "safetensors", world, None, task)
    if not path.is_file() and (folder := find_minari(path)):
        return read_minari(folder)
    if path.exists():
        raise ValueError(
            f"{path} is no data set; give a Minari data set, .hdf5 of D4RL, .npz or .safetensors "
            "(a folder of these: --stream)."
        )
    raise FileNotFoundError(
        f"{path} does not exist, neither as a file nor as a Minari data set; `daag collect WORLD` writes one."
    )


def fingerprint(path: str | Path) -> str:
    """The SHA-256 of a data set, over all of its files."""
    path = Path(path)
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    folder, digest = find_minari(path), hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def check_dataset(
    episodes: Episode,
    spec: Spec,
    world_name: str = "",
    info: DatasetInfo | None = None,
    clip_actions: bool = False,
    any_actions: bool = False,
) -> Episode:
    """The episodes, fit to train on: of this world, not empty, of its dimensions, finite, within its bounds.

    Args:
        clip_actions: moves actions to the bounds.
        any_actions: leaves actions beyond the bounds, as in demonstrations that were stored before their world clipped
            them (Cheetah and Walker of Diffusion-BC).

    Raises:
        ValueError: they are not; the message names the field, the value and the cure.
    """
    source = info.path if info else "the data set"
    told = info.world if info else ""
    if told and world_name and told != world_name:
        raise ValueError(
            f"{source} holds episodes of world {told!r}, not of {world_name!r}; name another data set, "
            f"or collect one: daag collect {world_name}."
        )
    length = np.asarray(episodes.length)
    if length.size == 0:
        raise ValueError(f"{source} is empty: it has no episode; collect again.")
    if length.sum() == 0:
        raise ValueError(f"{source}: none of its {length.size} episodes has a step; collect again.")
    longest = episodes.actions.shape[1]
    if length.min() < 0 or length.max() > longest:
        wrong = length.min() if length.min() < 0 else length.max()
        raise ValueError(f"{source}: a length is {wrong} of {longest} steps; collect again.")
    of_world = f"world {world_name!r}" if world_name else "the spec"
    for field, dim in (("observation", spec.observation_dim), ("action", spec.action_dim)):
        found = getattr(episodes, f"{field}s").shape[-1]
        if found != dim:
            raise ValueError(
                f"{source}: {field}s have {found} numbers and {of_world} has {field}_dim={dim}; "
                "use a data set of this world."
            )
    _check_finite(episodes, source)
    if clip_actions:
        low, high = action_bounds(spec)
        actions = np.clip(np.asarray(episodes.actions), low, high).astype(np.float32)
        return episodes._replace(actions=actions)
    if not any_actions:
        _check_bounds(episodes, spec, source)
    return episodes


def _check_finite(episodes: Episode, source: str) -> None:
    length = np.asarray(episodes.length)
    for field, extra in (("observations", 1), ("actions", 0), ("rewards", 0)):
        values = np.asarray(getattr(episodes, field))
        is_there = np.arange(values.shape[1])[None] < length[:, None] + extra
        is_bad = ~np.isfinite(values.reshape(*values.shape[:2], -1)).all(axis=-1) & is_there
        if is_bad.any():
            episode, step = np.argwhere(is_bad)[0]
            raise ValueError(
                f"{source}: {field} hold NaN or infinity at {is_bad.sum()} steps, first in episode {episode}, "
                f"step {step}: {values[episode, step]}; collect again, or leave that episode out."
            )


def _check_bounds(episodes: Episode, spec: Spec, source: str) -> None:
    low, high = action_bounds(spec)
    actions = np.asarray(episodes.actions)
    excess = np.maximum(low - actions, actions - high) * happened(episodes)[..., None]
    is_out = excess > ACTION_TOLERANCE * (high - low)
    if is_out.any():
        episode, step, dim = np.unravel_index(np.argmax(excess), excess.shape)
        total = int(np.sum(episodes.length)) * spec.action_dim
        raise ValueError(
            f"{source}: {is_out.sum()} of {total} action values lie outside the bounds, the worst is "
            f"{actions[episode, step, dim]:.4g} in dimension {dim} ({low[dim]:g}..{high[dim]:g}; episode {episode}, "
            f"step {step}); clip them with clip_actions=True (--clip-actions), or learn them as they are with "
            "any_actions=True (--any-actions)."
        )


def widened(spec: Spec, episodes: Episode) -> Spec:
    """``spec`` with bounds that hold all finite actions of the episodes, so that a learner can give them again."""
    low, high = action_bounds(spec)
    actions = np.asarray(episodes.actions)[happened(episodes)]
    actions = actions[np.isfinite(actions).all(axis=-1)]
    low = np.minimum(low, actions.min(axis=0, initial=np.inf))
    high = np.maximum(high, actions.max(axis=0, initial=-np.inf))
    return spec._replace(action_low=tuple(low.tolist()), action_high=tuple(high.tolist()))


def transitions(
    episodes: Episode,
) -> tuple[Float[np.ndarray, "N O"], Float[np.ndarray, "N A"]]:
    """Observations and the actions taken on them, of all steps that happened."""
    rows = happened(episodes)
    return np.asarray(episodes.observations)[:, :-1][rows], np.asarray(episodes.actions)[rows]


def subset(episodes: Episode, num: int) -> Episode:
    """The first ``num`` episodes.

    Raises:
        ValueError: there are not so many.
    """
    if not 0 < num <= len(episodes.length):
        raise ValueError(
            f"num={num} episodes of {len(episodes.length)} cannot be taken; collect more."
        )
    return jax.tree.map(lambda x: x[:num], episodes)


def summary(episodes: Episode, spec: Spec) -> str:
    """One line: how much there is, how long and successful, how the actions spread."""
    _, actions = transitions(episodes)
    low, high = action_bounds(spec)
    edge = ACTION_TOLERANCE * (high - low)
    saturated = np.mean((actions <= low + edge) | (actions >= high - edge))
    std = " ".join(f"{x:.3g}" for x in actions.std(axis=0))
    parts = [f"{len(episodes.length)} episodes", f"{len(actions)} transitions"]
    parts.append(f"mean length {np.mean(episodes.length):.1f}")
    if "success" in episodes.extras:
        parts.append(f"success {np.mean(episodes.extras['success']):.1%}")
    return ", ".join([*parts, f"action std {std}", f"saturated {saturated:.1%}"])

"""Data sets of Minari (Farama Foundation), by their name in the local root or by their folder.

A folder ``NAME/data`` holds ``metadata.json`` and an HDF5 file with a group per episode.  The root is that of Minari:
``MINARI_DATASETS_PATH``, else ``~/.minari/datasets``.  What we add lies in fields of our own, which Minari passes over:
``world``, ``seed`` and ``success_rate`` of a data set, and ``success`` and ``extras/...`` of an episode.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from daag_jax.data.blocks import (
    DatasetInfo,
    Trajectory,
    padded,
    refuse_existing,
    refuse_pixels,
    trajectories,
)
from daag_jax.types import Episode, Spec

METADATA = "metadata.json"
MAX_EXTRA = 32768  # [bytes] of one extra of one episode; HDF5 keeps attributes below 64 kB


def minari_root() -> Path:
    """Where Minari keeps data sets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def dataset_name(world: str, kind: str = "demos") -> str:
    """The name under which demonstrations of a world, or data of another kind, are written."""
    return f"daag/{world}/{kind}-v0"


def find_minari(path: str | Path) -> Path | None:
    """The folder with ``metadata.json`` of a data set: named, or the only one in a folder; None where there is none.

    Raises:
        ValueError: the folder holds several.
    """
    for folder in (Path(path), minari_root() / path):
        if (folder / METADATA).is_file():
            return folder
        found = sorted(folder.rglob(f"data/{METADATA}")) if folder.is_dir() else []
        names = [f.parent.parent.relative_to(folder).as_posix() for f in found]
        names = [n for n in names if n == "." or "/." not in f"/{n}"]  # not what is half written
        if len(names) > 1:
            raise ValueError(f"{folder} holds several data sets; name one of {', '.join(names)}.")
        if names:
            return folder / names[0] / "data"
    return None


def read_minari(folder: str | Path) -> tuple[Episode, DatasetInfo]:
    """Reads a data set; of an observation that is a dict the parts are joined, in the order of their names.

    Nothing is unpickled, downloaded or built: a data set that does not say its spaces is refused, as Minari would build
    its environment to find out.

    Raises:
        ValueError: it is damaged, or its observations or actions are no vectors.
    """
    from gymnasium.spaces import Box
    from minari import MinariDataset

    folder = Path(folder)
    metadata = _metadata(folder)
    try:
        dataset = MinariDataset(folder)
        _, action_space = dataset.observation_space, dataset.action_space
        if not isinstance(action_space, Box):
            raise ValueError(f"its actions are {action_space}, not a Box of numbers")
        found = list(dataset.iterate_episodes())
        notes = list(dataset.storage.get_episode_metadata([episode.id for episode in found]))
    except (OSError, KeyError, AssertionError, NotImplementedError, ValueError) as error:
        raise ValueError(
            f"{folder} cannot be read ({error}); fetch or collect it again."
        ) from error
    paths = [
        Trajectory(_vectors(e.observations, folder), _vectors(e.actions, folder), e.rewards)
        for e in found
    ]
    for episode, path in zip(found, paths, strict=True):
        if len(path.observations) != len(path.actions) + 1:
            raise ValueError(
                f"{folder}: episode {episode.id} has {len(path.observations)} observations of "
                f"{len(path.actions)} actions, not one more; collect it again."
            )
    dims = [x.shape[-1] for x in paths[0][:2]] if paths else [0, 0]
    extras = {"terminated": np.array([bool(np.any(e.terminations)) for e in found], bool)}
    if notes and all("success" in note for note in notes):
        extras["success"] = np.array([note["success"] for note in notes], bool)
    for name in notes[0].get("extras", {}) if notes else ():
        extras[name] = np.stack([note["extras"][name] for note in notes])
    world, seed = str(metadata.get("world", "")), metadata.get("seed")
    return padded(paths, *dims, extras), DatasetInfo(str(folder), "minari", world, seed)


def write_minari(
    root: str | Path | None,
    episodes: Episode,
    world: str,
    spec: Spec,
    name: str = "",
    seed: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes episodes [B] as the data set ``root/name`` and returns its folder; whole, or not at all.

    Args:
        root: None is Minari's own, where ``minari.load_dataset(name)`` finds it.
        name: by default :func:`dataset_name`.
        spec: of the world; its bounds are those of the action space, whether the actions keep them or not.

    Raises:
        FileExistsError: there is one of that name, and ``overwrite`` is False; or something else stands there.
        ValueError: the name is none of Minari's (NAMESPACE/NAME-v0), or the episodes have pixels.
        OSError: it cannot be written; nothing is left behind.
    """
    from minari.dataset.minari_dataset import parse_dataset_id

    refuse_pixels(episodes, "minari")
    name = name or dataset_name(world)
    parse_dataset_id(name)
    folder = (minari_root() if root is None else Path(root)) / name
    refuse_existing(folder, overwrite and (folder / "data" / METADATA).is_file())
    scratch, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("partial", "old"))
    for left in (scratch, old):
        shutil.rmtree(left, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        _write(scratch / "data", episodes, spec, {"dataset_id": name, "world": world}, seed)
        if folder.exists():
            folder.replace(old)
        scratch.replace(folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.replace(folder)
        raise OSError(
            f"{folder} cannot be written ({error}); make room, or name another."
        ) from error
    finally:
        for left in (scratch, old):
            shutil.rmtree(left, ignore_errors=True)
    return folder


def _write(
    data: Path, episodes: Episode, spec: Spec, metadata: dict[str, Any], seed: int | None
) -> None:
    import minari
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    low, high = spec.action_low or -1.0, spec.action_high or 1.0
    bound = lambda value: np.broadcast_to(np.float32(value), (spec.action_dim,))
    storage = MinariStorage.new(
        data,
        observation_space=Box(-np.inf, np.inf, (spec.observation_dim,), np.float32),
        action_space=Box(bound(low), bound(high), dtype=np.float32),
    )
    paths, extras = trajectories(episodes), episodes.extras
    terminated = np.asarray(extras.get("terminated", np.zeros(len(paths))), bool)
    if "success" in extras:
        metadata["success_rate"] = float(np.mean(extras["success"]))
    if seed is not None:
        metadata["seed"] = seed
    storage.update_metadata(
        metadata
        | {
            "minari_version": minari.__version__,
            "algorithm_name": "the expert of the world",
            "description": f"{len(paths)} episodes of {metadata['world']}, by daag collect",
        }
    )
    ends = [np.arange(len(path.actions)) == len(path.actions) - 1 for path in paths]
    storage.update_episodes(
        EpisodeBuffer(
            observations=path.observations,
            actions=path.actions,
            rewards=path.rewards,
            terminations=end & is_terminal,
            truncations=end & ~is_terminal,
        )
        for path, end, is_terminal in zip(paths, ends, terminated, strict=True)
    )
    storage.update_episode_metadata(_note(extras, i) for i in range(len(paths)))


def _note(extras: Any, index: int) -> dict[str, Any]:
    """What is kept of the extras of one episode: its success, and what is small."""
    rows = {
        k: np.asarray(v)[index] for k, v in extras.items() if k not in ("accepted", "terminated")
    }
    note = {"success": bool(rows.pop("success"))} if "success" in rows else {}
    return note | {f"extras/{k}": row for k, row in rows.items() if row.nbytes <= MAX_EXTRA}


def _metadata(folder: Path) -> dict[str, Any]:
    try:
        metadata = json.loads((folder / METADATA).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / METADATA} is no JSON ({error}); fetch it again.") from error
    missing = [k for k in ("observation_space", "action_space") if k not in metadata]
    if missing:
        raise ValueError(
            f"{folder / METADATA} does not say its {' and '.join(missing)}; write it with a newer Minari."
        )
    return metadata


def _vectors(value: Any, folder: Path) -> np.ndarray:
    """Numbers [T, D] of an array or of a dict of arrays."""
    if isinstance(value, dict):
        return np.concatenate([_vectors(value[name], folder) for name in sorted(value)], axis=-1)
    if not isinstance(value, np.ndarray) or value.ndim != 2:
        kind = list(value.shape) if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(f"{folder}: {kind} are no vectors [T, D]; only such spaces are read.")
    return value.astype(np.float32)

"""What ``daag train`` learns from: a data set, checked against its world, and what ``policy.json`` says of it."""

from __future__ import annotations

from typing import Any


def prepared(options: Any) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Episodes fit to train on, the spec, statistics (or None), and the world as ``policy.json`` keeps it."""
    from daag_jax.data.datasets import check_dataset, has_pixels, read_dataset, widened
    from daag_jax.data.normalize import stats_of
    from daag_jax.envs.worlds import WORLDS, make_world

    episodes, info = read_dataset(options.episodes)
    if options.only_successes:
        episodes = _successes(episodes, info.path)
    check = {"clip_actions": options.clip_actions, "any_actions": options.any_actions}
    if has_pixels(episodes):
        spec, world = _of_pixels(episodes, info, options.episodes)
        info = info._replace(world="rgb_stacking")
        return check_dataset(episodes, spec, options.world, info, **check), spec, None, world
    world = options.world or info.world
    spec = make_world(world).spec if options.world or world in WORLDS else None
    if spec is None:  # nobody knows: bounds are -1 and +1, or what the data need
        spec = widened(_spec_of(episodes), episodes)
    episodes = check_dataset(episodes, spec, world, info, **check)
    if options.any_actions:
        spec = widened(spec, episodes)
    stats = stats_of(episodes) if options.normalize else None
    return episodes, spec, stats, {"name": world}


def _of_pixels(episodes: Any, info: Any, path: Any) -> tuple[Any, dict[str, Any]]:
    """The spec of a file of rgb_stacking, and its world."""
    from daag_jax.data.disk import cameras_of_file

    spec = _spec_of(episodes)._replace(image_shape=tuple(episodes.images.shape[2:]))
    world = {
        "mode": "primitive" if spec.action_dim == 3 else "cartesian",
        "task": info.task,
        "resolution": spec.image_shape[1],
    }
    if cameras := cameras_of_file(path):
        world["cameras"] = cameras
    return spec, world


def _spec_of(episodes: Any) -> Any:
    from daag_jax.types import Spec

    return Spec(episodes.observations.shape[-1], episodes.actions.shape[-1])


def _successes(episodes: Any, source: str) -> Any:
    """The episodes that reached their goal.

    Raises:
        ValueError: the data set does not say which did, or none did.
    """
    import jax
    import numpy as np

    if "success" not in episodes.extras:
        raise ValueError(f"{source} does not say which episodes succeeded; --no-only-successes.")
    rows = np.flatnonzero(episodes.extras["success"])
    if rows.size == 0:
        raise ValueError(f"{source}: none of its episodes succeeded; --no-only-successes.")
    return jax.tree.map(lambda x: x[rows], episodes)


def data_card(options: Any) -> dict[str, Any]:
    """What must be the same for a run to continue."""
    from daag_jax.data.datasets import fingerprint

    names = ("only_successes", "batch", "discount", "clip_actions", "any_actions")
    return {
        "sha256": fingerprint(options.episodes),
        **{name: getattr(options, name) for name in names},
    }

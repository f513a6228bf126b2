"""What ``daag train`` learns from: a data set, checked against its world, and what ``policy.json`` says of it."""

from __future__ import annotations

from typing import Any


def prepared(options: Any) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Episodes fit to train on, the spec, statistics (or None), and the world as ``policy.json`` keeps it."""
    import numpy as np

    from daag_jax.algorithms.parts.trajectories import check_episodes
    from daag_jax.data.datasets import check_dataset, has_pixels, read_dataset, widened
    from daag_jax.data.normalize import moments_of

    episodes, info = read_dataset(options.episodes)
    if options.only_successes:
        episodes = _successes(episodes, info.path)
    check = {"clip_actions": options.clip_actions, "any_actions": options.any_actions}
    if has_pixels(episodes):
        spec = _spec_of(episodes)._replace(image_shape=tuple(episodes.images.shape[2:]))
        world = _stacking_world(spec, info.task, options.episodes)
        info = info._replace(world="rgb_stacking")
        return check_dataset(episodes, spec, options.world, info, **check), spec, None, world
    world = options.world or info.world
    spec = _known_spec(options, world)
    if spec is None:  # nobody knows: bounds are -1 and +1, or what the data need
        spec = widened(_spec_of(episodes), episodes)
    episodes = check_dataset(episodes, spec, world, info, **check)
    if options.any_actions:
        spec = widened(spec, episodes)
    form = _form(options)
    if form is None and "task" not in episodes.extras:
        spec = spec._replace(task_dim=0)  # nobody says what an episode was to reach
    if form is not None:
        check_episodes(form, int(np.max(episodes.length, initial=0)))
    stats = _stats(form, moments_of(episodes)) if options.normalize else None
    return episodes, spec, stats, {"name": world}


def prepared_blocks(options: Any) -> tuple[Any, Any, dict[str, Any]]:
    """What :func:`prepared` finds, but for the episodes: block files are read one at a time, without their images."""
    from daag_jax.algorithms.parts.trajectories import check_episodes
    from daag_jax.data.block_files import find_blocks, read_blocks
    from daag_jax.data.datasets import DatasetInfo, check_dataset, read_episodes, widened
    from daag_jax.data.normalize import merged, moments_of

    _refuse_whole(options)
    files = find_blocks(options.episodes)
    spec, world, is_pixels, is_open = _of_block(options, read_blocks(files)[0])
    moments, longest = None, 0
    for file in files:
        episodes, task = read_episodes(file, with_images=False)
        told = "rgb_stacking" if is_pixels else task
        if is_open:
            spec = widened(spec, episodes)
        info = DatasetInfo(str(file), "safetensors", told, None, task)
        name = world.get("name", options.world)
        check_dataset(episodes, spec, name, info, any_actions=options.any_actions)
        own = moments_of(episodes)
        moments = own if moments is None else merged(moments, own)
        longest = max(longest, int(episodes.length.max(initial=0)))
    if (form := _form(options)) is not None:
        check_episodes(form, longest)
    has_stats = options.normalize and not is_pixels
    return spec, _stats(form, moments) if has_stats else None, world


def _form(options: Any) -> Any:
    """Of a planner's trajectories; None for what plans none."""
    return getattr(options.config, "trajectory", None)


def _stats(form: Any, moments: Any) -> Any:
    """Means and deviations; for a planner's trajectories the limits, within which its data must lie."""
    from daag_jax.data.normalize import limits_of_moments, stats_of_moments

    return stats_of_moments(moments) if form is None else limits_of_moments(moments, form.goal_dims)


def _of_block(options: Any, block: Any) -> tuple[Any, dict[str, Any], bool, bool]:
    """The spec and the world of a block file, whether it has pixels, and whether its actions say the bounds."""
    from daag_jax.types import Spec

    shape = lambda name: block.fields[name].shape[2:]
    spec = Spec(*shape("observations"), *shape("actions"))
    if 0 not in shape("images"):
        spec = spec._replace(image_shape=shape("images"))
        return spec, _stacking_world(spec, block.task, block.path), True, False
    world = options.world or block.task
    known = _known_spec(options, world)
    return known or spec, {"name": world}, False, known is None or options.any_actions


def _known_spec(options: Any, world: str) -> Any:
    """Of a world that the options or the data name; None where nobody knows it."""
    from daag_jax.envs.worlds import WORLDS, make_world

    return make_world(world).spec if options.world or world in WORLDS else None


def _refuse_whole(options: Any) -> None:
    """Raises ValueError where an option changes episodes, which files that are read in part do not allow."""
    for name in ("only_successes", "clip_actions"):
        if getattr(options, name):
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} needs the episodes in memory; leave it out, or --stream.")


def _stacking_world(spec: Any, task: str, path: Any) -> dict[str, Any]:
    """The world of a file of rgb_stacking."""
    from daag_jax.data.disk import cameras_of_file

    world = {
        "mode": "primitive" if spec.action_dim == 3 else "cartesian",
        "task": task,
        "resolution": spec.image_shape[1],
    }
    if cameras := cameras_of_file(path):
        world["cameras"] = cameras
    return world


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
    from daag_jax.data.block_files import fingerprint_blocks
    from daag_jax.data.datasets import fingerprint

    names = ("only_successes", "batch", "discount", "clip_actions", "any_actions")
    card = {name: getattr(options, name) for name in names}
    if options.stream:  # other batches than from memory
        return {"sha256": fingerprint_blocks(options.episodes), **card, "stream": True}
    return {"sha256": fingerprint(options.episodes), **card}

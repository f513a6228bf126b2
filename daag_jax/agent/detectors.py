"""Builds reward detectors: labelled frames of the tasks that are known, edited frames for those that are not.

The annotator is the simulator (as in the predecessor), but only for *known* captions: those of a novel task are
masked in every real frame.  An edit that exchanges colours carries truths along: if "red on blue" is true of a frame,
then "green on red" is true of the frame in which red became green and blue became red.  So edited frames teach novel
captions with zero real examples of them, positives and negatives alike (DAAG, reward detector).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from daag_jax.agent.augmenter import Augment, Job, wanted_colors
from daag_jax.agent.calibration import calibrate, detector_metrics, strictest
from daag_jax.agent.hindsight import Request
from daag_jax.agent.orchestrator import Orchestrator, RuleOrchestrator
from daag_jax.agent.reward import (
    Detector,
    DetectorConfig,
    Labelled,
    finetune,
    make_detector,
    score_all,
)
from daag_jax.envs.experts.stacking import expert
from daag_jax.envs.palette import PALETTE_NAMES
from daag_jax.envs.tasks.rgb_stacking import RgbStacking, Task, parse_task, task_sentences
from daag_jax.envs.tasks.rgb_stacking_scenes import random_scene
from daag_jax.envs.wrappers import sharded
from daag_jax.evaluation.demonstrate import demonstrate
from daag_jax.training.devices import mesh_for_batch
from daag_jax.types import Episode, Key, Params

AIM_ERROR = 0.15  # standard deviation, in half sides of the workspace


def still_frames(
    env: RgbStacking, key: Key, num: int, batch: int = 64
) -> tuple[Labelled, np.ndarray]:
    """Rendered random scenes in the world's own colours with the truth of all captions, and their states [N, Q]."""

    @jax.jit
    def some(key):
        qpos, _ = jax.vmap(random_scene)(jax.random.split(key, batch))
        colors = env.default_colors
        images = jax.vmap(lambda q: env.render_qpos(q, colors).rgb)(qpos)
        return images, jax.vmap(lambda q: env.labels_qpos(q, colors))(qpos), qpos

    parts = [jax.device_get(some(jax.random.fold_in(key, i))) for i in range(-(-num // batch))]
    images, truth, qpos = (np.concatenate(x)[:num] for x in zip(*parts, strict=True))
    return Labelled(images, truth, np.ones_like(truth)), qpos


@functools.cache
def clumsy_experts(env: RgbStacking, batch: int):
    """``(keys [B], tasks [B]) -> Episode``: one of each task, over all devices; compiled once for a world."""

    def one(key: Key, task: Task) -> Episode:
        return demonstrate(
            env, expert(env), key, 1, task, env.default_colors, AIM_ERROR, epsilon=0.5
        )

    def run(keys: Key, tasks: Task) -> Episode:
        return jax.tree.map(lambda x: x[:, 0], jax.vmap(one)(keys, tasks))

    return sharded(run, mesh_for_batch(batch))


def episode_frames(
    env: RgbStacking, key: Key, num: int, tasks: Sequence[str], batch: int = 64
) -> tuple[Labelled, np.ndarray]:
    """Frames of episodes at some tasks: what a detector will be asked about, most of it nothing at all.

    Half of the actions are random; the others are a scripted expert's whose aim is off, for near misses are what
    detectors take for successes.  Tasks take turns from one episode to the next.
    """
    known = [parse_task(task, env.config.colors) for task in tasks]
    known = jax.tree.map(lambda *x: jnp.stack(x), *known)

    run = clumsy_experts(env, batch)
    images, truth, qpos, found = [], [], [], 0
    while found < num:
        runs = len(images)
        turn = (runs * batch + np.arange(batch)) % len(tasks)
        keys = jax.random.split(jax.random.fold_in(key, runs), batch)
        episodes = jax.device_get(run(keys, jax.tree.map(lambda x, turn=turn: x[turn], known)))
        # an episode that has ended stands still: its later frames are copies
        is_new = np.arange(1, env.horizon + 1)[None] <= episodes.length[:, None]
        images.append(episodes.images[:, 1:][is_new])
        truth.append(episodes.extras["labels"][:, 1:][is_new])
        qpos.append(episodes.extras["qpos"][:, 1:][is_new])
        found += int(is_new.sum())
    images, truth, qpos = (np.concatenate(x)[:num] for x in (images, truth, qpos))
    return Labelled(images, truth, np.ones_like(truth)), qpos


def mixed_frames(
    env: RgbStacking, key: Key, num: int, tasks: Sequence[str]
) -> tuple[Labelled, np.ndarray]:
    """Half still scenes, which show every relation, and half episodes, which have the true rates of them; shuffled."""
    still_key, episode_key, order_key = jax.random.split(key, 3)
    still, still_qpos = still_frames(env, still_key, num - num // 2)
    moving, moving_qpos = episode_frames(env, episode_key, num // 2, tasks)
    order = np.asarray(jax.random.permutation(order_key, num))
    join = lambda a, b: np.concatenate([a, b])[order]
    return Labelled(*map(join, still, moving)), join(still_qpos, moving_qpos)


def known_tasks(env: RgbStacking, novel: Sequence[str]) -> list[str]:
    """Grasps and stacks of two that lead to no novel sub-goal."""
    decompose = RuleOrchestrator().decompose
    tasks = task_sentences(env.config.colors)[:-1]
    return [task for task in tasks if not set(decompose(task)) & set(novel)]


def known_columns(env: RgbStacking, novel: Sequence[str]) -> Bool[np.ndarray, "M"]:
    """Captions about the world's own colours, but for the novel ones."""
    mine = [PALETTE_NAMES[c] for c in np.asarray(env.default_colors)]
    others = [c for c in PALETTE_NAMES if c not in mine]
    return np.array(
        [g not in novel and not any(c in g.split() for c in others) for g in env.captions]
    )


def permuted_truth(
    truth: Bool[np.ndarray, "M"], mapping: dict[str, str], captions: Sequence[str]
) -> Bool[np.ndarray, "M"]:
    """Truths of a frame after its colours were exchanged: each caption's truth moves to the caption it becomes."""
    out = np.zeros_like(truth)
    index = {caption: i for i, caption in enumerate(captions)}
    for caption, i in index.items():
        renamed = " ".join(mapping.get(word, word) for word in caption.split())
        if renamed in index:
            out[index[renamed]] = truth[i]
    return out


def choose_swaps(
    truth: Bool[np.ndarray, "N M"],
    known: Bool[np.ndarray, "M"],
    captions: Sequence[str],
    novel: Sequence[str],
    orchestrator: Orchestrator,
    seed: int,
) -> list[Request]:
    """For every frame, colours that turn a known caption, a true one where there is one, into a novel one."""
    rng = np.random.default_rng(seed)
    usable = {
        (i, goal): orchestrator.can_swap(captions[i], goal)
        for i in np.flatnonzero(known)
        for goal in novel
    }
    requests = []
    for frame in range(truth.shape[0]):
        options = [k for k, v in usable.items() if v.possible and truth[frame, k[0]]]
        options = options or [k for k, v in usable.items() if v.possible]
        i, goal = options[rng.integers(len(options))]
        requests.append(Request(frame, 0, captions[i], goal, usable[i, goal].swaps))
    return requests


def edited_frames(
    env: RgbStacking,
    labelled: Labelled,
    qpos: Float[np.ndarray, "N Q"],
    requests: Sequence[Request],
    augment: Augment,
    key: Key,
    batch: int = 32,
) -> Labelled:
    """The frames of the requests in their new colours, with the truths and the knowledge that follow."""
    colors = np.asarray(env.default_colors)
    seen = np.tile(colors[None], (len(requests), 1))
    wanted = np.stack(
        [wanted_colors(row, r, "permute") for row, r in zip(seen, requests, strict=True)]
    )
    images, truth, known = [], [], []
    for start in range(0, len(requests), batch):
        part = np.arange(start, start + batch) % len(requests)
        frames = [requests[i].episode for i in part]
        job = Job(
            jnp.asarray(labelled.images[frames][:, None]),
            jnp.asarray(qpos[frames][:, None]),
            jnp.asarray(seen[part]),
            jnp.asarray(wanted[part]),
        )
        images.append(np.asarray(augment(job, jax.random.fold_in(key, start)))[:, 0])
    for request, row in zip(requests, wanted, strict=True):
        names = zip(colors, row, strict=True)
        mapping = {PALETTE_NAMES[a]: PALETTE_NAMES[b] for a, b in names}
        frame = request.episode
        truth.append(permuted_truth(labelled.truth[frame], mapping, env.captions))
        known.append(permuted_truth(labelled.known[frame], mapping, env.captions))
    return Labelled(np.concatenate(images)[: len(requests)], np.stack(truth), np.stack(known))


def train_detector(
    clip_params: Params,
    env: RgbStacking,
    parts: Sequence[Labelled],
    validation: Labelled,
    known: Bool[np.ndarray, "M"],
    scores,
    config: DetectorConfig,
    seed: int,
    capacity: int = 0,
) -> Detector:
    """Finetunes CLIP on labelled frames and calibrates it on real frames of episodes, for known captions."""
    data = Labelled(*(np.concatenate(x) for x in zip(*parts, strict=True)))
    params = finetune(clip_params, env.captions, data, config, seed, capacity)
    detector = make_detector(params, env.captions, config)
    seen = score_all(scores, detector, validation.images)[:, known]
    own = calibrate(seen, validation.truth[:, known], config)
    thresholds = np.full(known.shape, strictest(own, config), np.float32)
    thresholds[known] = own
    return detector._replace(thresholds=jnp.asarray(thresholds))


def novel_metrics(
    scores, detector: Detector, test: Labelled, captions: Sequence[str], novel: Sequence[str]
) -> dict[str, float]:
    """How well a detector sees the novel captions on real frames."""
    columns: Int[np.ndarray, "K"] = np.array([captions.index(g) for g in novel])
    seen = score_all(scores, detector, test.images)[:, columns]
    return detector_metrics(seen, test.truth[:, columns], np.asarray(detector.thresholds)[columns])

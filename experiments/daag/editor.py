"""The video editor against the simulator's own re-render, and each of its parts left out (DAAG's editing claims).

    python -m experiments.daag.editor                   # about 25 min on two CPU cores
    python -m experiments.daag.editor --preset smoke    # 3 min

Held-out expert episodes (seeds that no training saw), seen by two cameras; every clip swaps the colours of all three
cubes by a random permutation.  Rows: the full editor, its ablations, per-frame in-painting (ROSIE-like), masked
recolour, and the unedited source as the floor.  Intervals are bootstraps over episodes; "of sums" is the warp error of
all episodes over the oracle's, as the ratio of one episode hangs on an oracle that may hardly change.

Expect of the full editor: label validity >= 0.90, colour right >= 0.98 of frames, warp ratio <= 1.3, silhouette IoU
>= 0.9 of the oracle's, no robot pixel changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from daag_jax.editing.averages import Summary, masked_mean, summarise
from daag_jax.editing.compact import COMPACT_EDIT, color_prompts, load_compact_editor
from daag_jax.editing.consistency import compare
from daag_jax.editing.editor import make_editor
from daag_jax.editing.editor_config import ABLATIONS, Clip, EditorConfig
from daag_jax.editing.masks import frame_colors
from daag_jax.editing.recolor import recolor_clip
from daag_jax.editing.truth import Truth, stacking_truth
from daag_jax.envs.experts.stacking import cartesian_expert
from daag_jax.envs.tasks.rgb_stacking import RgbStacking, RgbStackingConfig
from daag_jax.envs.tasks.rgb_stacking_model import cameras_of
from daag_jax.envs.tasks.rgb_stacking_scenes import caption_truth, relations_of
from daag_jax.evaluation import html, video
from experiments.records import provenance, write_json

VISIBLE = 20  # [px] from which an object's colour counts
PERMUTATIONS = np.array([(1, 0, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0), (2, 0, 1)])
COLUMNS = {  # what RESULTS.md shows of some 60 metrics
    "label_validity": "label validity",
    "color_right": "colour right",
    "ratio/temporal/warp_edited": "warp ratio",
    "pooled/temporal/warp_edited": "of sums",
    "ratio/geometry/iou": "IoU / oracle's",
    "preservation/delta_e": "colour error [dE2000]",
    "preservation/robot_changed": "robot changed",
    "preservation/leak_rate": "leak rate",
    "violations/GVR": "frames violated",
}


@dataclass(frozen=True)
class Config:
    """How many episodes, how long, and how they are edited."""

    preset: Literal["full", "smoke"] = "full"
    episodes: int = 16
    frames: int = 16
    stride: int = 12  # control periods between frames
    seed: int = 2000  # of the held-out episodes; the editor's numbers were chosen on those of 1000
    editor: EditorConfig = COMPACT_EDIT
    directory: str = "runs/experiments/daag/editor"


def held_out_states(config: Config) -> np.ndarray:
    """States [E, T, Q] of expert episodes in the cartesian mode."""
    env = RgbStacking(RgbStackingConfig(mode="cartesian"))

    def one(key):
        def step(state, _):
            state = env.step(state, cartesian_expert(state))
            return state, state.pipeline_state.qpos

        return jax.lax.scan(step, env.reset(key), None, config.frames * config.stride)[1]

    keys = jax.random.split(jax.random.key(config.seed), config.episodes)
    return np.asarray(jax.jit(jax.vmap(one))(keys))[:, :: config.stride]


def truths(config: Config, qpos: np.ndarray) -> Truth:
    """The truth of every episode from two cameras, leading axis N = 2 E."""
    rng = np.random.default_rng(config.seed)
    order = PERMUTATIONS[rng.integers(len(PERMUTATIONS), size=qpos.shape[0])]
    cameras = cameras_of(("front_left", "front_right"))
    colors = jnp.arange(3)
    one = lambda q, targets, camera: stacking_truth(q, colors, targets, camera)
    both = jax.vmap(jax.vmap(one, (None, None, 0)), (0, 0, None))
    found = jax.jit(both)(jnp.asarray(qpos), jnp.asarray(order), cameras)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


def edit_all(config: EditorConfig, truth: Truth, seed: int) -> jax.Array:
    """The editor's answer to every clip, one clip at a time to bound memory."""
    editor = load_compact_editor()
    edit = jax.jit(make_editor(config))
    out = []
    for i in range(truth.source.shape[0]):
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], truth)
        clip = Clip(one.source, one.depth, one.normals, one.segmentation)
        prompts = color_prompts(editor.sentences, one.targets)
        changed = one.targets != one.colors
        out.append(edit(editor.params, clip, prompts, changed, jax.random.key(seed + i))[0])
    return jnp.stack(out)


def shown_colors(frames: jax.Array, truth: Truth) -> jax.Array:
    """Palette colour that each object shows in each frame [N, T, 3]; one that is hardly seen counts as right."""
    shown = jax.vmap(frame_colors)(frames, truth.segmentation)
    pixels = jnp.stack([(truth.segmentation == j + 1).sum((2, 3)) for j in range(3)], -1)
    return jnp.where(pixels >= VISIBLE, shown, truth.targets[:, None])


def color_right(frames: jax.Array, truth: Truth) -> jax.Array:
    """Share of frames in which every visible changed object shows its target colour [N]."""
    is_changed = (truth.targets != truth.colors)[:, None]
    is_right = (shown_colors(frames, truth) == truth.targets[:, None]) | ~is_changed
    return jnp.mean(jnp.all(is_right, axis=-1).astype(jnp.float32), axis=1)


def label_validity(frames: jax.Array, truth: Truth, qpos: jax.Array) -> jax.Array:
    """Share of frames in which the sub-goals that the swap makes true are true of the colours shown [N].

    LV_shown (``editing/validity.py``) where detector and orchestrator are always right.  Frames without such a
    sub-goal do not count; a clip of such frames alone gives NaN.
    """
    table = jax.vmap(jax.vmap(lambda q, colors: caption_truth(relations_of(q), colors)))
    same = lambda colors: jnp.broadcast_to(colors[:, None], (*qpos.shape[:2], 3))
    wanted = table(qpos, same(truth.targets)) & ~table(qpos, same(truth.colors))
    found = table(qpos, shown_colors(frames, truth))
    is_valid = jnp.all(~wanted | found, axis=-1).astype(jnp.float32)
    return masked_mean(is_valid, wanted.any(axis=-1), axes=1)


def pooled_ratio(by_episode: dict[str, np.ndarray], metric: str, draws: int = 1000) -> Summary:
    """Sum over episodes of a metric over the oracle's sum, where single ratios hang on an oracle near zero."""
    ours, excess = by_episode[metric], by_episode[f"excess/{metric}"]
    is_known = np.isfinite(ours + excess)
    empty, ours = int((~is_known).sum()), ours[is_known]
    exact = ours - excess[is_known]
    picks = np.random.default_rng(0).integers(0, ours.size, (draws, ours.size))
    drawn = ours[picks].sum(axis=1) / exact[picks].sum(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Summary(float(ours.sum() / exact.sum()), float(low), float(high), ours.size, empty)


def main(config: Config) -> None:
    if config.preset == "smoke":
        config = replace(config, episodes=3, directory=f"{config.directory}/smoke")
    states = held_out_states(config)
    truth = truths(config, states)
    qpos = jnp.repeat(jnp.asarray(states), 2, axis=0)  # two cameras
    rows = {
        name: lambda name=name: edit_all(
            EditorConfig(**{**config.editor.__dict__, **ABLATIONS[name]}), truth, 7
        )
        for name in ABLATIONS
    }
    rows["masked recolour"] = lambda: jax.vmap(recolor_clip)(
        truth.source, truth.segmentation, truth.targets != truth.colors, truth.targets
    )
    rows["source, not edited"] = lambda: truth.source
    measured = jax.jit(jax.vmap(compare))
    results, films = {}, []
    for name, make in rows.items():
        frames = make()
        metrics = dict(measured(frames, truth)) | {
            "color_right": color_right(frames, truth),
            "label_validity": label_validity(frames, truth, qpos),
        }
        # both cameras of an episode are one sample
        by_episode = {
            k: np.nanmean(np.asarray(v).reshape(-1, 2), axis=1) for k, v in metrics.items()
        }
        found = summarise(by_episode, jax.random.key(0))
        found["pooled/temporal/warp_edited"] = pooled_ratio(by_episode, "temporal/warp_edited")
        results[name] = {k: summary._asdict() for k, summary in found.items()}
        shown = {k: round(results[name][k]["mean"], 4) for k in COLUMNS if k in results[name]}
        print(f"{name:36s} {shown}", flush=True)
        if name in ("full", "per-frame in-painting (ROSIE-like)"):
            for i in (0, 5):
                panels = [np.asarray(x[i]) for x in (truth.source, frames, truth.oracle)]
                films.append(html.comparison(*panels, caption=name))
                if name == "full" and i == 0:
                    sheet = {"before": panels[0], "after": panels[1], "oracle": panels[2]}
                    video.write(Path(config.directory) / "edit.gif", video.grid(sheet, panel=192))
    write(config, results, films)


def write(config: Config, results: dict, films: list) -> None:
    """results.json, report.html, and the table on the terminal."""
    directory = Path(config.directory)
    clean = jax.tree.map(lambda x: None if isinstance(x, float) and np.isnan(x) else x, results)
    clean = {"config": repr(config), "editors": clean, "made": provenance()}
    write_json(directory / "results.json", clean)
    table, lines = Table("editor", *COLUMNS.values()), []
    for name, metrics in results.items():
        cells = [
            "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**metrics[k]) if k in metrics else "-"
            for k in COLUMNS
        ]
        table.add_row(name, *cells)
        lines.append((name, *cells))
    Console(width=220).print(table)
    sections = [
        html.Section("Against the oracle", [html.table(("editor", *COLUMNS.values()), lines)]),
        html.Section("Clips", films, "Source, edit, and the simulator's own re-render."),
    ]
    html.write(html.Page("The video editor", sections), directory / "report.html")


if __name__ == "__main__":
    main(tyro.cli(Config))

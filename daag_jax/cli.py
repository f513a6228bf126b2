"""The command line: ``daag COMMAND``, every command a frozen dataclass that tyro reads.

    daag demo                                        edit failures into successes and learn from them, end to end
    daag collect --policy expert --out runs/expert   episodes of a world, as a file
    daag train bc runs/expert/episodes.safetensors   an algorithm on such a file
    daag evaluate runs/bc                            success rate with its interval, and videos
    daag edit FRAMES red=green                       colours of objects in a video, by diffusion
    daag report RUN                                  report.html of a run folder
    daag list                                        algorithms, worlds, tasks, shipped weights

An unknown name is answered with the nearest one.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import json
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

ENVS = ("rgb_stacking",)
POLICIES = ("expert", "random")
TRAINABLE = ("bc", "self_imitation")
MEANS = ("diffusion", "recolour")
Positional = tyro.conf.Positional


def nearest(kind: str, name: str, known: Sequence[str]) -> str:
    """``name`` where it is known.

    Raises:
        ValueError: it is not; the message gives the nearest one.
    """
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    raise ValueError(
        f"there is no {kind} {name!r}; the nearest is {near!r}, all are {', '.join(known)}."
    )


@dataclasses.dataclass(frozen=True)
class Collect:
    """Writes episodes of an expert, or of random actions, to a file."""

    out: Path = Path("runs/episodes")
    env: str = "rgb_stacking"
    policy: str = "expert"
    task: str = "Stack the red object on top of the blue object"
    mode: str = "primitive"
    episodes: int = 64
    noise: float = 0.0  # Gaussian, on the expert's actions
    resolution: int = 64
    seed: int = 0
    videos: int = 0  # episodes also written as mp4


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Success rate of a trained policy, with Wilson's interval, and videos of some episodes."""

    run: Positional[Path]
    episodes: int = 64
    seed: int = 1
    task: str = ""  # another than it was trained for
    videos: int = 4


@dataclasses.dataclass(frozen=True)
class Edit:
    """Swaps colours of objects in a video: ``daag edit FRAMES red=green``.

    FRAMES is an mp4 or a folder of png frames.  ``depth`` [m], ``normals`` (unit, camera frame) and ``segmentation``
    (0 background, 1.. objects) are .npy or .npz files beside it, arrays [T, H, W(, 3)]; what is not given is left out
    of the control, and objects are found by the palette colour they show.  Frames are scaled to 64 px squares, the
    size of the shipped weights.
    """

    frames: Positional[Path]
    swaps: Positional[tuple[str, ...]]
    out: Path = Path("runs/edit")
    swap_mode: str = "exchange"  # replace, exchange, permute
    means: str = "diffusion"  # or recolour: hue and chroma, no network
    depth: Path | None = None
    normals: Path | None = None
    segmentation: Path | None = None
    steps: int = 10
    attention: str = "first"
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Report:
    """Makes report.html of a run folder from its metrics, results and videos."""

    run: Positional[Path]


@dataclasses.dataclass(frozen=True)
class List:
    """Algorithms, worlds, tasks and shipped weights with their cards."""


def _world(mode: str, task: str, resolution: int = 64) -> Any:
    from daag_jax.envs.tasks.rgb_stacking import RgbStacking, RgbStackingConfig

    return RgbStacking(RgbStackingConfig(mode=mode, task=task, resolution=resolution))


def collect(options: Collect) -> None:
    """Runs :class:`Collect`."""
    import jax

    from daag_jax.data.disk import write_episodes
    from daag_jax.envs.experts.stacking import expert
    from daag_jax.evaluation.demonstrate import demonstrate
    from daag_jax.evaluation.rollout import random_actions, rollout

    nearest("world", options.env, ENVS)
    nearest("policy", options.policy, POLICIES)
    env = _world(options.mode, options.task, options.resolution)
    if options.policy == "expert":
        run = lambda key: demonstrate(env, expert(env), key, options.episodes, noise=options.noise)
    else:
        run = lambda key: rollout(env, random_actions(env.spec), (), key, options.episodes)
    episodes = jax.device_get(jax.jit(run)(jax.random.key(options.seed)))
    path = options.out / "episodes.safetensors"
    write_episodes(path, episodes, options.task)
    _write_videos(options.out, episodes, options.videos)
    succeeded = int(episodes.extras["success"].sum())
    print(f"{path}: {options.episodes} episodes, {succeeded} reached the goal")


def train(arguments: Sequence[str]) -> None:
    """``daag train ALGORITHM EPISODES [options]``: the options depend on the algorithm."""
    from daag_jax.algorithms import config_class

    if not arguments or arguments[0].startswith("-"):
        raise ValueError(
            f"train needs an algorithm and a file: daag train {TRAINABLE[0]} EPISODES."
        )
    name = arguments[0]
    kind = config_class(name)
    if name not in TRAINABLE:
        raise ValueError(
            f"{name!r} learns from frames, not from episodes; use `python -m experiments.pretrain` "
            f"(autoencoder, clip or denoiser), or train one of {', '.join(TRAINABLE)}."
        )
    from daag_jax.training.fit import FitConfig

    fields = [
        ("episodes", Positional[Path]),
        ("config", kind, dataclasses.field(default_factory=kind)),
        ("fit", FitConfig, FitConfig(directory=f"runs/{name}")),
        ("batch", int, 64),
        ("discount", float, 1.0),  # of the returns, for algorithms that read them
        ("only_successes", bool, False),
    ]
    options_class = dataclasses.make_dataclass("Train", fields, frozen=True)
    options_class.__doc__ = f"Trains {name} on a file of episodes."
    _train(name, tyro.cli(options_class, args=list(arguments[1:]), prog=f"daag train {name}"))


def _train(name: str, options: Any) -> None:
    import jax
    import numpy as np

    from daag_jax.algorithms import make
    from daag_jax.data.disk import read_episodes
    from daag_jax.data.windows import draw_windows, episode_data
    from daag_jax.training.fit import Sampler, fit
    from daag_jax.types import Spec

    episodes, task = read_episodes(options.episodes)
    if options.only_successes:
        rows = np.flatnonzero(episodes.extras["success"])
        episodes = jax.tree.map(lambda x: x[rows], episodes)
    spec = Spec(
        episodes.observations.shape[-1],
        episodes.actions.shape[-1],
        image_shape=tuple(episodes.images.shape[2:]),
    )
    algorithm = make(name, options.config, spec)
    window, batch = algorithm.window, options.batch
    data = episode_data(episodes, window, options.discount)
    draw = lambda data, key, n: draw_windows(data, window, batch, key)
    card = {
        "algorithm": name,
        "config": dataclasses.asdict(options.config),
        "spec": spec._asdict(),
        "world": {
            "mode": "primitive" if spec.action_dim == 3 else "cartesian",
            "task": task,
            "resolution": spec.image_shape[1],
        },
    }
    folder = Path(options.fit.directory)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.json").write_text(json.dumps(card, indent=1))
    result = fit(algorithm, Sampler(data, draw), options.fit, name=name)
    losses = "  ".join(f"{k} {v:.4g}" for k, v in result.metrics.items())
    print(f"{folder}: {result.step} steps, {losses}")


def config_of(kind: type, values: dict[str, Any]) -> Any:
    """A configuration from its JSON: nested dataclasses and tuples come back as such."""
    hints, made = typing.get_type_hints(kind), {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = config_of(hints[name], value)
        made[name] = tuple(value) if isinstance(value, list) else value
    return kind(**made)


def evaluate(options: Evaluate) -> None:
    """Runs :class:`Evaluate`."""
    import jax
    import jax.numpy as jnp

    from daag_jax.algorithms import config_class, make
    from daag_jax.evaluation.html import report_of_run
    from daag_jax.evaluation.rollout import rollout
    from daag_jax.evaluation.scores import success_rate
    from daag_jax.training import checkpoint
    from daag_jax.types import Spec

    card_path = options.run / "policy.json"
    if not card_path.is_file():
        raise FileNotFoundError(f"{card_path} does not exist; `daag train` makes such a folder.")
    card = json.loads(card_path.read_text())
    spec = Spec(**{k: tuple(v) if isinstance(v, list) else v for k, v in card["spec"].items()})
    config = config_of(config_class(card["algorithm"]), card["config"])
    algorithm = make(card["algorithm"], config, spec)
    if algorithm.window.history > 1:
        raise ValueError(f"history={algorithm.window.history} is not evaluated; train with 1.")
    like = {"state": jax.jit(algorithm.init)(jax.random.key(0))}
    policy = _policy_of(checkpoint.restore(options.run / "checkpoints"), like)
    world = card["world"] | ({"task": options.task} if options.task else {})
    env = _world(**world)
    run = jax.jit(
        lambda policy, key: rollout(
            env, algorithm.act, policy, key, options.episodes, explore=jnp.float32(0.0)
        )
    )
    episodes = jax.device_get(run(policy, jax.random.key(options.seed)))
    rate = success_rate(int(episodes.extras["success"].sum()), options.episodes)
    results = {"task": world["task"], "episodes": options.episodes, "seed": options.seed}
    results |= {"success": rate.value, "success low": rate.low, "success high": rate.high}
    (options.run / "results.json").write_text(json.dumps(results, indent=1))
    _write_videos(options.run, episodes, options.videos)
    print(f"success {rate} over {options.episodes} episodes; {report_of_run(options.run)}")


def _policy_of(restored: Any, like: dict[str, Any]) -> Any:
    """The learner's state out of a checkpoint of ``fit``, which holds more."""
    import jax

    from daag_jax.training.devices import path_name

    def pick(path: tuple[Any, ...], leaf: Any) -> Any:
        name = path_name(path)
        if name not in restored.state or restored.state[name].shape != leaf.shape:
            raise ValueError(
                f"the checkpoint has no {name} of shape {leaf.shape}; was policy.json edited?"
            )
        return jax.numpy.asarray(restored.state[name])

    return jax.tree_util.tree_map_with_path(pick, like)["state"]


def _write_videos(folder: Path, episodes: Any, count: int) -> None:
    from daag_jax.evaluation import video

    for i in range(min(count, len(episodes.length))):
        frames = video.side_by_side(episodes.images[i, : int(episodes.length[i]) + 1])
        outcome = "success" if episodes.extras["success"][i] else "failure"
        path = folder / "videos" / f"episode_{i}_{outcome}.mp4"
        video.write(path, video.enlarge(frames, 4), fps=10 if len(frames) > 20 else 2)


def edit(options: Edit) -> None:
    """Runs :class:`Edit`."""
    import jax
    import numpy as np

    from daag_jax.editing.compact import color_prompts, load_compact_editor
    from daag_jax.editing.editor import EditorConfig, make_editor
    from daag_jax.editing.masks import apply_mapping, instance_colors, swap_mapping
    from daag_jax.editing.recolor import recolor_clip
    from daag_jax.editing.user_clip import clip_of_frames
    from daag_jax.envs.palette import PALETTE_NAMES
    from daag_jax.evaluation import video

    nearest("means", options.means, MEANS)
    pairs = [tuple(swap.split("=")) for swap in options.swaps]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"swaps {options.swaps} are not of the form red=green.")
    beside = [_array(path) for path in (options.depth, options.normals, options.segmentation)]
    clip = clip_of_frames(video.read(options.frames), *beside)
    seen = instance_colors(clip.rgb[0], clip.segmentation[0])
    present = [PALETTE_NAMES[c] for c in np.asarray(seen) if c >= 0]
    if missing := [source for source, _ in pairs if source not in present]:
        raise ValueError(
            f"no {missing[0]} object is seen, only {present or 'none'}; check the swap."
        )
    wanted = apply_mapping(seen, swap_mapping(pairs, present, options.swap_mode))[None]
    is_edited = (wanted != seen[None]) & (seen[None] >= 0)
    if options.means == "recolour":
        edited = jax.jit(recolor_clip)(clip.rgb[0], clip.segmentation[0], is_edited[0], wanted[0])
    else:
        editor = load_compact_editor()
        run = jax.jit(make_editor(EditorConfig(steps=options.steps, attention=options.attention)))
        prompts = color_prompts(editor.sentences, wanted)
        edited = run(editor.params, clip, prompts, is_edited, jax.random.key(options.seed))[0]
    before, after = np.asarray(clip.rgb[0]), np.asarray(edited)
    video.write(options.out / "edited.mp4", video.enlarge(after, 4))
    video.write(options.out / "compare.mp4", video.grid({"before": before, "after": after}))
    print(f"{options.out}: edited.mp4 and compare.mp4, {len(after)} frames")


def _array(path: Path | None) -> Any:
    """A .npy file, or the only array of an .npz; nothing is unpickled."""
    import numpy as np

    if path is None:
        return None
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; give a .npy or .npz file.")
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    if len(loaded.files) != 1:
        raise ValueError(f"{path} holds {loaded.files}; keep one array in it.")
    return loaded[loaded.files[0]]


def report(options: Report) -> None:
    """Runs :class:`Report`."""
    from daag_jax.evaluation.html import report_of_run

    if not options.run.is_dir():
        raise FileNotFoundError(f"there is no folder {options.run}; give the folder of a run.")
    print(report_of_run(options.run))


def list_all(options: List) -> None:
    """Runs :class:`List`."""
    del options
    from daag_jax.algorithms import ALGORITHMS
    from daag_jax.assets import ASSETS
    from daag_jax.envs.tasks.rgb_stacking import task_sentences

    print("algorithms")
    for name, entry in ALGORITHMS.items():
        module = importlib.import_module(f"daag_jax.algorithms.{name}")
        first = (module.__doc__ or "").strip().splitlines()[0]
        print(f"  {name:<18}{first}  [{entry.config}]")
    print("worlds\n  " + "\n  ".join(ENVS))
    print("tasks\n  " + "\n  ".join(task_sentences()))
    print("shipped weights")
    for card in sorted(ASSETS.glob("*.md")):
        lines = [line for line in card.read_text().splitlines() if line.strip()]
        print(f"  {card.stem:<18}{lines[1] if len(lines) > 1 else ''}")


def demo(arguments: Sequence[str]) -> None:
    """``daag demo``: the whole system, small; its options are those of ``agent.demo.DemoConfig``."""
    if importlib.util.find_spec("daag_jax.agent.demo") is None:
        raise ValueError(
            "daag_jax.agent.demo is not part of this installation; reinstall daag-jax."
        )
    module = importlib.import_module("daag_jax.agent.demo")
    module.run(tyro.cli(module.DemoConfig, args=list(arguments), prog="daag demo"))


def _command(kind: type, run: Any) -> Any:
    return lambda arguments: run(
        tyro.cli(kind, args=list(arguments), prog=f"daag {kind.__name__.lower()}")
    )


COMMANDS: dict[str, Any] = {
    "demo": demo,
    "train": train,
    "evaluate": _command(Evaluate, evaluate),
    "collect": _command(Collect, collect),
    "edit": _command(Edit, edit),
    "report": _command(Report, report),
    "list": _command(List, list_all),
}


def main(arguments: Annotated[Sequence[str] | None, "sys.argv[1:] by default"] = None) -> None:
    """Runs one command; what is wrong with its input is said in one line, with exit code 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    try:
        COMMANDS[nearest("command", arguments[0], tuple(COMMANDS))](arguments[1:])
    except (ValueError, OSError) as error:
        print(f"daag: {error}", file=sys.stderr)
        raise SystemExit(2) from error

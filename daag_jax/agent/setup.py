"""What an agent needs before its first episode: world, editor, orchestrator, and reward detectors.

The detectors know the novel task's captions by name only: no real frame is labelled for them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from daag_jax.agent import detectors
from daag_jax.agent.augmenter import MEANS, make_augmenter, make_looker
from daag_jax.agent.calibration import detector_metrics
from daag_jax.agent.daag_config import DaagConfig
from daag_jax.agent.llm import EndpointConfig, LanguageModelOrchestrator, ReplayOrchestrator
from daag_jax.agent.memory import World
from daag_jax.agent.orchestrator import NoisyOrchestrator, Orchestrator, RuleOrchestrator
from daag_jax.agent.reward import (
    Detector,
    DetectorConfig,
    Labelled,
    load_clip,
    make_detector,
    make_scorer,
    sized,
    stamp,
    tokens_of,
)
from daag_jax.agent.zero_shot import zero_shot_scores
from daag_jax.assets import shipped_checksum
from daag_jax.editing.compact import COMPACT_EDIT, load_compact_editor
from daag_jax.editing.editor_config import EditorConfig
from daag_jax.envs.tasks.rgb_stacking import (
    RgbStacking,
    RgbStackingConfig,
    parse_task,
    task_sentences,
)
from daag_jax.names import check_name
from daag_jax.networks.clip.model import make_clip
from daag_jax.training.checkpoint import Checkpoints
from daag_jax.training.keys import key_at

ORCHESTRATORS = ("rules", "noisy", "endpoint", "replay")
PICTURES = ("before", "edited", "oracle")
DETECTORS = ("no edits", "edits", "oracle")  # what they are finetuned on beside real frames


@dataclass(frozen=True)
class OrchestratorConfig:
    """Who decomposes tasks and judges swaps.

    "rules" answers exactly; "noisy" errs with probability ``p_err``; "endpoint" asks a language model and records it in
    ``endpoint.transcript``; "replay" repeats such a transcript.
    """

    kind: Literal["rules", "noisy", "endpoint", "replay"] = "rules"
    p_err: float = 0.1
    endpoint: EndpointConfig = EndpointConfig()

    def __post_init__(self):
        check_name("orchestrator", self.kind, ORCHESTRATORS)
        if self.kind == "endpoint" and not self.endpoint.model:
            raise ValueError("endpoint.model is empty; name the model that the endpoint serves.")
        if self.kind == "replay" and not self.endpoint.transcript:
            raise ValueError("endpoint.transcript is empty; name the JSONL file to replay.")


@dataclass(frozen=True)
class SetupConfig:
    """Sizes that fit two CPU cores and a few minutes."""

    tasks: tuple[str, ...] = DaagConfig.tasks
    cameras: tuple[str, ...] = ("front_left",)
    labelled: int = 1024  # frames with known captions (the predecessor: about 10^3)
    validated: int = 1024  # frames of episodes, for the thresholds
    edited: int = 384  # of the labelled ones that are also edited
    tested: int = 512  # real frames on which detectors are compared
    detector: DetectorConfig = DetectorConfig()
    detectors: tuple[str, ...] = ("no edits", "edits")  # "oracle": on re-renders
    means: Literal["diffusion", "recolour", "oracle"] = "diffusion"  # of the agent's own edits
    editor: EditorConfig = COMPACT_EDIT
    orchestrator: OrchestratorConfig = OrchestratorConfig()
    instructed: bool = False  # the policy is told its task; a constant where each task has its own
    seed: int = 0

    def __post_init__(self):
        for name in self.detectors:
            check_name("detector", name, DETECTORS)
        check_name("means", self.means, MEANS)
        for field in ("labelled", "validated", "edited", "tested"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} is not positive; try 256.")
        for task in self.tasks:
            parse_task(task, RgbStackingConfig.colors)


class Setup(NamedTuple):
    """What the arms need, and what building it showed."""

    world: World
    detectors: dict[str, Detector]  # by what they were finetuned on, beside real frames
    precisions: dict[str, float]  # average precision on the novel captions
    pictures: dict[str, np.ndarray]  # before, edited, oracle


def make_orchestrator(config: OrchestratorConfig, seed: int = 0) -> Orchestrator:
    """The orchestrator that a configuration names.

    Raises:
        ValueError: a language model is to be asked by several processes.
    """
    if config.kind == "endpoint":
        if jax.process_count() > 1:  # its answers would differ between them
            raise ValueError(
                f"a language model cannot be asked by {jax.process_count()} processes; run it in one, which writes a "
                "transcript, and then kind='replay'."
            )
        return LanguageModelOrchestrator(config.endpoint)
    if config.kind == "replay":
        return ReplayOrchestrator(config.endpoint.transcript)
    if config.kind == "noisy":
        return NoisyOrchestrator(p_err=config.p_err, seed=seed)
    return RuleOrchestrator()


def identity_of(config: OrchestratorConfig, seed: int) -> tuple:
    """What an orchestrator's answers depend on."""
    endpoint = config.endpoint
    return {
        "rules": ("rules",),
        "noisy": ("noisy", config.p_err, seed),
        "endpoint": ("endpoint", endpoint.model, endpoint.temperature),
        "replay": ("replay", endpoint.transcript),
    }[config.kind]


def make_world(config: SetupConfig) -> World:
    """The stacking world with the shipped editor and a detector's scorer."""
    config = replace(config, detector=sized(config.detector))
    env = RgbStacking(RgbStackingConfig(cameras=config.cameras, task=config.tasks[0]))
    editor = load_compact_editor() if config.means == "diffusion" else None
    return World(
        env,
        jax.jit(make_scorer(config.detector)),
        make_looker(env),
        make_augmenter(config.means, env, editor, config.editor),
        make_orchestrator(config.orchestrator, config.seed),
        repr((config.cameras, identity_of(config.orchestrator, config.seed), config.instructed)),
        repr((config.means, config.editor)),
        make_instruct(config.detector) if config.instructed else None,
    )


def make_instruct(config: DetectorConfig) -> Callable[[str], np.ndarray]:
    """``task -> embedding [D]`` by the text tower of CLIP before finetuning; each task is read once."""
    encode = jax.jit(make_clip(config.clip).encode_text)
    params = load_clip(config)
    return functools.cache(lambda task: np.asarray(encode(params, tokens_of(config, [task])))[0])


def novel_captions(tasks: Sequence[str]) -> tuple[str, ...]:
    """Sub-goals of the last task that no earlier task has.

    Raises:
        ValueError: there is none.
    """
    rules = RuleOrchestrator()
    before = {goal for task in tasks[:-1] for goal in rules.decompose(task)}
    novel = tuple(goal for goal in rules.decompose(tasks[-1]) if goal not in before)
    if not novel:
        raise ValueError(f"the last of the tasks {tasks} has no sub-goal of its own; name another.")
    return novel


class Frames(NamedTuple):
    """Frames that detectors learn from, are calibrated on, and are compared on."""

    real: Labelled
    validation: Labelled
    test: Labelled
    edited: Labelled  # some of the real ones, by diffusion
    exact: Labelled  # the same, by the simulator


def build(config: SetupConfig, say: Callable[[str], None] = print) -> Setup:
    """The world, the shipped models, and detectors with and without edits of the novel task."""
    config = replace(config, detector=sized(config.detector))
    novel = novel_captions(config.tasks)
    world = make_world(config)
    env, scores = world.env, world.scores
    known = detectors.known_columns(env, novel)
    frames = make_frames(config, env, novel, known, say)
    say("finetuning CLIP on labelled frames, without and with edits")
    parts = {
        "no edits": [frames.real],
        "edits": [frames.real, frames.edited],
        "oracle": [frames.real, frames.exact],
    }
    clip_params = load_clip(config.detector)
    capacity = config.labelled + len(frames.edited.images)  # one shape, one program
    common = (frames.validation, known, scores, config.detector, config.seed, capacity)
    found = {
        name: detectors.train_detector(clip_params, env, parts[name], *common)
        for name in config.detectors
    }
    metrics = lambda one: detectors.novel_metrics(scores, one, frames.test, env.captions, novel)
    precisions = {name: metrics(one)["average_precision"] for name, one in found.items()}
    columns = [env.captions.index(goal) for goal in novel]
    untrained = zero_shot_scores(config.detector, clip_params, env.captions, frames.test.images)
    for name, seen in untrained.items():  # neither ever saw a label
        shown = seen[:, columns], frames.test.truth[:, columns], np.ones(len(columns))
        precisions[f"{name}, not finetuned"] = detector_metrics(*shown)["average_precision"]
    say(f"average precision on the novel task: { {k: round(v, 3) for k, v in precisions.items()} }")
    pictures = {
        "before": frames.real.images[: len(frames.edited.images)][:, 0],
        "edited": frames.edited.images[:, 0],
        "oracle": frames.exact.images[:, 0],
    }
    return Setup(world, found, precisions, pictures)


def make_frames(
    config: SetupConfig,
    env: RgbStacking,
    novel: Sequence[str],
    known: Bool[np.ndarray, "M"],
    say: Callable[[str], None],
) -> Frames:
    """Labelled frames, of which no real one shows a novel caption labelled, and edits of some to show them."""
    tasks = detectors.known_tasks(env, novel)
    root = jax.random.key(config.seed)
    real, qpos = detectors.mixed_frames(env, key_at(root, "labelled", 0), config.labelled, tasks)
    real = real._replace(known=np.broadcast_to(known[None], real.truth.shape).copy())
    validation, _ = detectors.episode_frames(
        env, key_at(root, "validation", 0), config.validated, tasks
    )
    test, _ = detectors.mixed_frames(
        env, key_at(root, "test", 0), config.tested, task_sentences(env.config.colors)[:-1]
    )
    requests = detectors.choose_swaps(
        real.truth[: config.edited], known, env.captions, novel, RuleOrchestrator(), config.seed
    )
    say(f"editing {len(requests)} frames to show the novel sub-goals {novel}")
    diffusion = make_augmenter("diffusion", env, load_compact_editor(), config.editor)
    oracle = make_augmenter("oracle", env, None)
    key = key_at(root, "edit-frames", 0)
    edited, exact = (
        detectors.edited_frames(env, real, qpos, requests, augment, key)
        for augment in (diffusion, oracle)
    )
    return Frames(real, validation, test, edited, exact)


def prepare(
    config: SetupConfig, directory: str | Path, say: Callable[[str], None] = print
) -> Setup:
    """What :func:`build` made in ``directory`` before, or makes now.

    Raises:
        ValueError: the directory holds a setup of another configuration or of other shipped weights.
    """
    config = replace(config, detector=sized(config.detector))
    store = Checkpoints(Path(directory) / "setup", keep=1)
    # neither the agent's own edits, its orchestrator nor its policy have a part in the detectors
    same = replace(config, means="diffusion", orchestrator=OrchestratorConfig(), instructed=False)
    weights = [shipped_checksum(), *stamp(config.detector)]
    if not store.steps():
        setup = build(config, say)
        stored = {"detectors": setup.detectors, "pictures": setup.pictures}
        identity = {"setup": repr(same), "weights": weights}
        store.save(0, stored, identity | {"precisions": setup.precisions})
        store.wait()
        return setup
    found = store.restore()
    is_same = {
        "configuration": found.metadata["setup"] == repr(same),
        "set of weights": found.metadata["weights"] == weights,
    }
    for name, holds in is_same.items():
        if not holds:
            raise ValueError(
                f"{store.directory} is of another {name}; remove {directory}, or name another directory."
            )
    say(f"detectors: those of {store.directory}")
    world = make_world(config)
    clip_params = load_clip(config.detector)
    blank = make_detector(clip_params, world.env.captions, config.detector)
    pictures = {name: found.state[f"pictures/{name}"] for name in PICTURES}
    like = {"detectors": dict.fromkeys(config.detectors, blank), "pictures": pictures}
    trained = jax.tree.map(jnp.asarray, store.restore(like).state["detectors"])
    return Setup(world, trained, found.metadata["precisions"], pictures)

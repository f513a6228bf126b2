"""The command line: what it does on small files, and what it says about mistakes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from daag_jax.algorithms import ALGORITHMS
from daag_jax.algorithms.bc import BcConfig
from daag_jax.algorithms.self_imitation import SelfImitationConfig
from daag_jax.cli import COMMANDS, main
from daag_jax.commands.episodes import make_world
from daag_jax.commands.policies import config_of
from daag_jax.commands.videos import Edit, edit_config
from daag_jax.data.disk import write_episodes
from daag_jax.editing.compact import COMPACT_EDIT
from daag_jax.editing.pretrained import SD15_EDIT
from daag_jax.envs.palette import PALETTE_RGB
from daag_jax.evaluation import video
from daag_jax.training.report import read_metrics
from daag_jax.types import Episode


def squares(colors, steps=3, side=64):
    """A grey floor with one square per palette colour, moving right."""
    frames = np.full((steps, side, side, 3), 128, np.uint8)
    for i, color in enumerate(colors):
        for t in range(steps):
            value = (PALETTE_RGB[color] * 255).astype(np.uint8)
            frames[t, 6 + 20 * i : 18 + 20 * i, 10 + 4 * t : 22 + 4 * t] = value
    return frames


def small_episodes(num=6, steps=4) -> Episode:
    random = np.random.default_rng(0)
    return Episode(
        random.normal(size=(num, steps + 1, 5)).astype(np.float32),
        np.zeros((num, steps + 1, 1, 8, 8, 3), np.uint8),
        random.uniform(-1, 1, size=(num, steps, 3)).astype(np.float32),
        np.zeros((num, steps), np.float32),
        np.full(num, steps, np.int32),
        {"success": np.ones(num, bool)},
    )


def error_of(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("daag: ") and "Traceback" not in said
    return said


@pytest.mark.parametrize(
    "arguments, answer",
    [
        (["trian"], "the nearest is 'train'"),
        (["train", "self_imitatoin", "x"], "the nearest is 'self_imitation'"),
        (["train", "latent_diffusion", "x"], "learns from frames"),
        (["train", "bc", "missing.safetensors"], "missing.safetensors does not exist"),
        (["train", "dbc", "x", "--fit.steps", "9"], "ends before dbc's policy learns"),
        (["collect", "--policy", "exprt"], "the nearest is 'expert'"),
        (["evaluate", "missing"], "policy.json does not exist"),
        (["report", "missing"], "there is no folder missing"),
        (["edit", "missing", "red=green"], "there is no missing"),
    ],
)
def test_a_mistake_is_answered_in_one_line(capsys, arguments, answer):
    assert answer in error_of(capsys, *arguments)


def test_help_names_every_command(capsys):
    main([])
    said = capsys.readouterr().out
    assert all(f"daag {name}" in said for name in COMMANDS)


def test_list_shows_algorithms_tasks_and_weights(capsys):
    main(["list"])
    said = capsys.readouterr().out
    assert "Behaviour cloning" in said and "Grasp the red object" in said and "vae" in said


def test_train_writes_a_policy_a_checkpoint_and_a_report(capsys, tmp_path):
    path, views = tmp_path / "e.safetensors", ("front_left",)
    write_episodes(path, small_episodes(), "Grasp the red object", views)
    run = tmp_path / "run"
    options = f"--fit.steps 5 --fit.directory {run} --batch 4 --fit.no-tensorboard"
    main(["train", "bc", str(tmp_path / "e.safetensors"), *options.split()])
    card = json.loads((run / "policy.json").read_text())
    assert card["world"]["task"] == "Grasp the red object"
    assert make_world(**card["world"]).spec.image_shape[0] == len(views)
    assert (run / "checkpoints" / "step_00000005").is_dir()
    capsys.readouterr()
    main(["report", str(run)])
    assert "loss" in (run / "report.html").read_text()
    (run / "report.html").write_text("the run's own")
    main(["report", str(run)])
    assert (run / "report.html").read_text() == "the run's own"
    said = error_of(
        capsys, "train", "bc", tmp_path / "e.safetensors", *options.split(), "--discount", 0.5
    )
    assert "another data" in said
    assert json.loads((run / "policy.json").read_text()) == card


def test_returns_are_discounted_as_the_algorithm_was_published(capsys, tmp_path):
    assert ALGORITHMS["decision_diffuser"].discount == 0.99
    said = error_of(
        capsys, "train", "decision_transformer", tmp_path / "e.safetensors", "--discount", 0.9
    )
    assert "learns from undiscounted returns; leave --discount out" in said


def test_a_policy_is_tried_as_it_learns_and_the_best_is_kept(capsys, tmp_path):
    random = np.random.default_rng(0)
    normal = lambda *shape: random.normal(size=shape).astype(np.float32)
    none, rewards = np.zeros((2, 5, 0, 0, 0, 3), np.uint8), np.zeros((2, 4), np.float32)
    length = np.full(2, 4, np.int32)
    episodes = Episode(normal(2, 5, 6), none, 0.1 * normal(2, 4, 2), rewards, length)
    write_episodes(tmp_path / "e.safetensors", episodes)
    run = tmp_path / "run"
    options = (
        f"--fit.steps 4 --fit.directory {run} --batch 4 --fit.no-tensorboard --config.hidden-dims 8"
    )
    words = ["train", "bc", str(tmp_path / "e.safetensors"), *options.split()]
    tried = ["--evaluate-episodes", "4", "--fit.evaluate-every", "2", "--fit.best", "return"]
    main([*words, *tried, "--world", "maze2d-medium"])
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "return" in row]
    assert [row["step"] for row in rows] == [2, 4] and all(row["length"] > 0 for row in rows)
    assert list((run / "best").glob("step_*"))
    capsys.readouterr()
    said = error_of(capsys, *words, *tried, "--fit.no-resume")
    assert "evaluate_episodes=4 needs a world" in said


def test_a_planner_is_told_goals_and_a_cloner_is_not(tmp_path):
    random = np.random.default_rng(0)
    shape = lambda *sizes: random.uniform(-1, 1, sizes).astype(np.float32)
    none, length = np.zeros((2, 17, 0, 0, 0, 3), np.uint8), np.full(2, 16, np.int32)
    episodes = Episode(3 + 2 * shape(2, 17, 4), none, shape(2, 16, 2), shape(2, 16), length)
    write_episodes(tmp_path / "e.safetensors", episodes, "maze2d-umaze-v1")
    form = "--config.trajectory.horizon 8 --config.trajectory.goal-dims 0 1 --config.widths 8"
    cards = {}
    for name, options in (("diffuser", form), ("bc", "--config.hidden-dims 8")):
        words = f"--fit.steps 1 --fit.directory {tmp_path / name} --batch 2 --fit.no-tensorboard"
        main(["train", name, str(tmp_path / "e.safetensors"), *options.split(), *words.split()])
        cards[name] = json.loads((tmp_path / name / "policy.json").read_text())
    assert cards["diffuser"]["spec"]["task_dim"] == 2 and cards["bc"]["spec"]["task_dim"] == 0
    stats = cards["diffuser"]["stats"]
    assert stats["task_mean"] == stats["observation_mean"][:2]
    low = (episodes.observations[:, :-1] - stats["observation_mean"]) / stats["observation_std"]
    np.testing.assert_allclose(
        [low.min(axis=(0, 1)), low.max(axis=(0, 1))], [[-1] * 4, [1] * 4], rtol=1e-5
    )


def test_the_shipped_planner_reaches_its_goals_and_draws_its_plans(capsys, tmp_path):
    out = tmp_path / "plan"
    main(["plan", "maze2d-umaze-v1", "--episodes", "8", "--shown", "2", "--out", str(out)])
    results = json.loads((out / "results.json").read_text())
    assert results["success"] == 1.0 and results["normalized score"] > 100.0
    assert (out / "plans.png").stat().st_size > 5000
    assert "normalized score" in capsys.readouterr().out
    assert "nearest is" in error_of(capsys, "plan", "maze2d-humaze-v1")


def test_a_configuration_survives_its_card():
    for config in (BcConfig(hidden_dims=(7,)), SelfImitationConfig(binary_dims=(2,))):
        card = json.loads(json.dumps(dataclasses.asdict(config)))
        assert config_of(type(config), card) == config


def test_recolouring_changes_the_named_object_and_nothing_else(capsys, tmp_path):
    frames = squares([0, 2])  # red and blue
    folder = tmp_path / "frames"
    folder.mkdir()
    from PIL import Image

    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{t:03d}.png")
    out = tmp_path / "out"
    main(["edit", str(folder), "red=green", "--means", "recolour", "--out", str(out)])
    edited = video.read(out / "edited.mp4")[:, 2::4, 2::4].astype(int)
    green, square = PALETTE_RGB[1] * 255, (slice(8, 16), slice(12, 20))
    assert np.abs(edited[0][square].mean(axis=(0, 1)) - green).max() < 12
    frames[:, 6:18, :] = edited[:, 6:18, :]  # the row of the red square
    assert np.abs(edited - frames).mean() < 3


def test_an_edit_uses_what_suits_the_shipped_weights():
    options = Edit(Path("frames"), ("red=green",))
    assert edit_config(options) == COMPACT_EDIT
    full = dataclasses.replace(options, weights=Path("sd15"), steps=4)
    assert edit_config(full) == dataclasses.replace(SD15_EDIT, steps=4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 512}, "name those of Stable Diffusion 1.5 with --weights"),
        ({"weights": Path("sd"), "controlnets": ("sd",)}, "not of the form depth=FOLDER"),
        ({"weights": Path("sd"), "controlnets": ("depth=d",)}, "needs --depth FILE"),
    ],
)
def test_weights_that_do_not_suit_an_edit_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        Edit(Path("video.mp4"), ("red=green",), **options)


def test_an_edited_video_plays_as_fast_as_its_source(tmp_path):
    source = video.write(tmp_path / "v.mp4", video.enlarge(squares([0, 2]), 4), fps=10)
    main(["edit", str(source), "red=green", "--means", "recolour", "--out", str(tmp_path)])
    assert video.frame_rate(tmp_path / "edited.mp4") == 10.0


def test_a_colour_that_is_not_there_is_named(capsys, tmp_path):
    video.write(tmp_path / "v.mp4", video.enlarge(squares([0, 2]), 4))
    said = error_of(capsys, "edit", tmp_path / "v.mp4", "pink=red", "--means", "recolour")
    assert "no pink object is seen" in said
    said = error_of(capsys, "edit", tmp_path / "v.mp4", "red", "--means", "recolour")
    assert "not of the form red=green" in said

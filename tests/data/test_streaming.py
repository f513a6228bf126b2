"""``daag train --stream``: policies from folders of blocks that are never in memory together."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from daag_jax.cli import main
from daag_jax.data.blocks import padded, trajectories
from daag_jax.data.disk import read_episodes, write_episodes
from daag_jax.data.normalize import limits_of, stats_of
from daag_jax.training.checkpoint import restore
from daag_jax.types import Episode

OPTIONS = "--batch 8 --config.hidden-dims 16 --fit.no-tensorboard --fit.no-progress --fit.steps"


def block(num: int, steps: int, seed: int, image_shape: tuple[int, ...] = (0, 0, 0, 3)) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        rng.normal(seed, 1.0, size=(num, steps + 1, 5)).astype(np.float32),
        np.zeros((num, steps + 1, *image_shape), np.uint8),
        rng.uniform(-1, 1, size=(num, steps, 3)).astype(np.float32),
        np.zeros((num, steps), np.float32),
        rng.integers(1, steps + 1, num).astype(np.int32),
        {"success": np.ones(num, bool)},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, (num, steps) in enumerate(((6, 4), (3, 7))):
        write_episodes(tmp_path / "data" / f"{i}.safetensors", block(num, steps, i))
    return tmp_path / "data"


def train(folder: Path, run: Path, steps: int, *more: str) -> None:
    words = ["bc", str(folder), "--fit.directory", str(run), *OPTIONS.split(), str(steps)]
    main(["train", *words, "--stream", *more])


def said_by(capsys, *arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        train(*arguments)
    return capsys.readouterr().err


def test_a_run_over_blocks_is_resumed_bit_for_bit(folder, tmp_path):
    train(folder, tmp_path / "whole", 6)
    for steps in (2, 6):
        train(folder, tmp_path / "parts", steps)
    whole, parts = (restore(tmp_path / name / "checkpoints").state for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_its_statistics_are_those_of_all_blocks(folder, tmp_path):
    train(folder, tmp_path / "run", 1)
    stats = json.loads((tmp_path / "run" / "policy.json").read_text())["stats"]
    parts = [read_episodes(folder / f"{i}.safetensors")[0] for i in (0, 1)]
    whole = stats_of(padded([path for part in parts for path in trajectories(part)], 5, 3))
    for name in ("observation_mean", "observation_std", "action_mean", "action_std"):
        np.testing.assert_allclose(stats[name], getattr(whole, name), rtol=1e-5)


def test_a_planner_learns_from_blocks_within_their_limits(folder, tmp_path):
    run, small = tmp_path / "run", "--config.widths 8 --config.drawing.num-inference-steps 2"
    options = f"--batch 4 --fit.no-tensorboard --fit.no-progress --fit.steps 1 {small}"
    plan = ["--config.num-steps", "2", "--config.trajectory.horizon", "4"]
    words = ["train", "diffuser", str(folder), "--fit.directory", str(run), *options.split(), *plan]
    main([*words, "--stream"])
    stats = json.loads((run / "policy.json").read_text())["stats"]
    parts = [read_episodes(folder / f"{i}.safetensors")[0] for i in (0, 1)]
    whole = limits_of(padded([path for part in parts for path in trajectories(part)], 5, 3))
    for name in ("observation_mean", "observation_std", "action_mean", "action_std"):
        np.testing.assert_array_equal(stats[name], np.asarray(getattr(whole, name)))


def test_blocks_with_pixels_keep_their_world(tmp_path):
    for i in (0, 1):
        path = tmp_path / "data" / f"{i}.safetensors"
        write_episodes(path, block(3, 4, i, (1, 8, 8, 3)), "Grasp the red object", ("front_left",))
    train(tmp_path / "data", tmp_path / "run", 2)
    card = json.loads((tmp_path / "run" / "policy.json").read_text())
    assert card["world"]["task"] == "Grasp the red object" and card["stats"] is None
    assert card["spec"]["image_shape"] == [1, 8, 8, 3] and card["data"]["stream"]


def test_other_data_are_refused(capsys, folder, tmp_path):
    run = tmp_path / "run"
    train(folder, run, 1)
    write_episodes(folder / "2.safetensors", block(2, 3, 2))
    assert "another stats and data" in said_by(capsys, folder, run, 2)
    (folder / "2.safetensors").write_bytes(b"12345678")
    assert "2.safetensors cannot be read" in said_by(capsys, folder, run, 2)
    write_episodes(folder / "2.safetensors", block(2, 3, 2)._replace(actions=np.zeros((2, 3, 9))))
    assert "actions of a step have shape (9,)" in said_by(capsys, folder, run, 2)


def test_what_needs_the_episodes_in_memory_is_said(capsys, folder, tmp_path):
    run = tmp_path / "run"
    for flag in ("--only-successes", "--clip-actions"):
        assert f"{flag} needs the episodes in memory" in said_by(capsys, folder, run, 1, flag)
    (tmp_path / "none").mkdir()
    assert "none holds no .safetensors" in said_by(capsys, tmp_path / "none", run, 1)
    with pytest.raises(SystemExit):
        main(["train", "bc", str(folder)])
    assert "--stream" in capsys.readouterr().err

"""The task buffer is a ring, the lifelong buffer refuses what is broken, files are read back or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import SafetensorError

from daag_jax.data.buffer import (
    LifelongBuffer,
    Steps,
    add_steps,
    balanced,
    empty_task_buffer,
    episode_steps,
    sample_steps,
)
from daag_jax.data.disk import cameras_of_file, read_episodes, write_episodes
from daag_jax.types import Episode, Spec

SPEC = Spec(2, 1, image_shape=(1, 4, 4, 3))


def steps_of(values, is_edited=False, goal=0):
    num = len(values)
    return Steps(
        np.zeros((num, *SPEC.image_shape), np.uint8),
        np.zeros((num, 2), np.float32),
        np.asarray(values, np.float32)[:, None],
        np.ones(num, np.float32),
        np.full(num, is_edited),
        np.full(num, goal, np.int32),
    )


def episodes(num=3, length=4):
    rng = np.random.default_rng(0)
    return Episode(
        rng.normal(size=(num, length + 1, 2)).astype(np.float32),
        rng.integers(0, 255, (num, length + 1, *SPEC.image_shape)).astype(np.uint8),
        rng.normal(size=(num, length, 1)).astype(np.float32),
        np.zeros((num, length), np.float32),
        np.full(num, length, np.int32),
        {"qpos": rng.normal(size=(num, length + 1, 3)).astype(np.float32)},
    )


def test_the_oldest_steps_are_overwritten():
    buffer = empty_task_buffer(SPEC, 4)
    for start in range(0, 6, 2):
        buffer = add_steps(buffer, steps_of([start, start + 1]))
    assert int(buffer.size) == 4 and int(buffer.added) == 6
    assert sorted(buffer.steps.actions[:, 0]) == [2, 3, 4, 5]
    many = add_steps(empty_task_buffer(SPEC, 4), steps_of(range(10)))
    assert sorted(many.steps.actions[:, 0]) == [6, 7, 8, 9]


def test_adding_leaves_the_old_buffer_alone():
    old = empty_task_buffer(SPEC, 4)
    add_steps(old, steps_of([7]))
    assert int(old.size) == 0 and not old.steps.actions.any()


def test_only_what_was_added_is_sampled(key):
    buffer = add_steps(empty_task_buffer(SPEC, 64), steps_of([5, 6]))
    batch = sample_steps(buffer.steps, buffer.size, key, 100, None, -1.0)
    assert set(np.asarray(batch.actions).ravel()) == {5.0, 6.0}


def weights_of(buffer, edited_share):
    steps = jax.tree.map(jnp.asarray, buffer.steps)
    return np.asarray(balanced(steps, jnp.arange(64) < buffer.size, edited_share))


def test_every_sub_goal_weighs_alike_and_edited_steps_get_their_share():
    buffer = add_steps(empty_task_buffer(SPEC, 64), steps_of(range(10)))
    buffer = add_steps(buffer, steps_of([1, 2], is_edited=True))
    buffer = add_steps(buffer, steps_of([3], goal=1))
    as_they_come, shared = weights_of(buffer, -1.0), weights_of(buffer, 0.25)
    for weights in (as_they_come, shared):
        assert weights[:12].sum() == pytest.approx(1.0) and weights[12] == pytest.approx(1.0)
        assert not weights[13:].any()
    assert as_they_come[10:12].sum() == pytest.approx(2 / 12)
    assert shared[10:12].sum() == pytest.approx(0.25)


def test_the_rare_sub_goal_is_drawn_as_often_as_the_common_one(key):
    buffer = add_steps(empty_task_buffer(SPEC, 64), steps_of([0] * 30))
    buffer = add_steps(buffer, steps_of([1], goal=1))
    steps = jax.tree.map(jnp.asarray, buffer.steps)
    drawn = np.asarray(sample_steps(steps, buffer.size, key, 1000, None, -1.0).actions)
    assert drawn.mean() == pytest.approx(0.5, abs=0.06)


def test_a_piece_ends_at_its_sub_goal_and_weighs_its_end_most():
    piece = episode_steps(episodes(), 1, 3, 0.5)
    assert piece.actions.shape == (3, 1)
    np.testing.assert_allclose(piece.weights, [0.25, 0.5, 1.0])


def test_broken_episodes_are_not_stored():
    broken = episodes()
    broken.actions[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="actions"):
        LifelongBuffer().add(broken, "task")
    broken = episodes()
    broken.extras["qpos"] = np.full((3, 2), np.inf)
    with pytest.raises(ValueError, match="qpos"):
        LifelongBuffer().add(broken, "task")
    assert LifelongBuffer().add(episodes(), "task").num_episodes == 3


def test_episodes_on_disk_are_read_back_exactly(tmp_path):
    path, block = tmp_path / "block.safetensors", episodes()
    write_episodes(path, block, "Stack things")
    again, task = read_episodes(path)
    assert task == "Stack things"
    jax.tree.map(np.testing.assert_array_equal, again, block)


def test_a_file_names_its_views(tmp_path):
    path = tmp_path / "block.safetensors"
    write_episodes(path, episodes(), "x", ("left", "right"))
    assert cameras_of_file(path) == ("left", "right")
    write_episodes(path, episodes(), "x")
    assert cameras_of_file(path) == ()


def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_, **__):
        (tmp_path / "block.safetensors.partial").write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("daag_jax.data.disk.save_file", full)
    with pytest.raises(OSError, match="block.safetensors cannot be written.*No space left"):
        write_episodes(tmp_path / "block.safetensors", episodes())
    assert not list(tmp_path.iterdir())


def test_bad_files_are_refused_by_name(tmp_path):
    path = tmp_path / "block.safetensors"
    with pytest.raises(FileNotFoundError, match="block"):
        read_episodes(path)
    write_episodes(path, episodes(), "x")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut short"):
        read_episodes(path)
    broken = episodes()
    broken.observations[0, 0, 0] = np.inf
    write_episodes(path, broken, "x")
    with pytest.raises(ValueError, match="observations"):
        read_episodes(path)

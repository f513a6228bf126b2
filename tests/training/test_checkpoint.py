"""Checkpoints: whole, verified, and refused by name when they are not."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from safetensors.numpy import load_file

from daag_jax.training import checkpoint, one_file
from daag_jax.training.checkpoint import CheckpointError, Checkpoints, WrongStructure
from daag_jax.training.devices import born_sharded, make_mesh


@pytest.fixture(autouse=True, params=["one file", "orbax"])
def files(request, monkeypatch):
    """Every check, with what writes small states and with what writes the others."""
    if request.param == "orbax":
        monkeypatch.setattr(one_file, "LARGEST", 0)
    return request.param


class Mixed(NamedTuple):
    params: dict[str, Any]
    keys: Any
    table: np.ndarray
    turned: np.ndarray  # not in C's order
    empty: np.ndarray
    count: int
    nothing: None = None


def mixed_state(value: float = 1.0) -> Mixed:
    params = {"kernel": jnp.full((64, 3), value), "half": jnp.ones(5, jnp.bfloat16)}
    keys = jax.random.split(jax.random.key(1), 3)
    table, empty = np.arange(7, dtype=np.int64), np.zeros((0, 4), np.float32)
    return Mixed(params, keys, table, np.arange(6.0).reshape(2, 3).T, empty, 3)


def comparable(tree):
    is_key = lambda x: jax.dtypes.issubdtype(getattr(x, "dtype", None), jax.dtypes.prng_key)
    raw = lambda x: jax.random.key_data(x) if is_key(x) else x
    return [np.asarray(raw(leaf)) for leaf in jax.tree.leaves(tree)]


def test_a_mixed_state_returns_as_it_was(tmp_path):
    state = mixed_state()
    checkpoint.save(tmp_path, 7, state, metadata={"task": "stack"})
    back, step, metadata = checkpoint.restore(tmp_path, mixed_state(0.0))
    assert (step, metadata, back.count) == (7, {"task": "stack"}, 3)
    assert isinstance(back.table, np.ndarray) and back.empty.shape == (0, 4)
    for one, two in zip(comparable(state), comparable(back), strict=True):
        np.testing.assert_array_equal(one, two)
    jax.random.normal(back.keys[0])  # a key again, not numbers


def test_small_states_are_files_that_safetensors_reads(tmp_path, files):
    checkpoint.save(tmp_path, 0, {"a": jnp.arange(3), "b": jnp.ones(2, jnp.int32)})
    path = tmp_path / "step_00000000" / "state.safetensors"
    assert path.is_file() == (files == "one file")
    if path.is_file():  # the two as one vector
        (vector,) = load_file(path).values()
        np.testing.assert_array_equal(vector, [0, 1, 2, 1, 1])


def test_what_an_accelerator_holds_may_be_given_away_once_it_is_saved(tmp_path, monkeypatch, files):
    if files == "orbax":
        pytest.skip("on a CPU Orbax reads the buffers itself, later")
    monkeypatch.setattr(checkpoint, "own_copy", lambda leaf: leaf)  # as off a CPU
    state = {"alone": jnp.arange(1000)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, state)
    state["alone"].delete()
    np.testing.assert_array_equal(checkpoints.restore().state["alone"], np.arange(1000))


def test_metadata_that_change_after_the_save_are_saved_as_they_were(tmp_path):
    checkpoints, rows = Checkpoints(tmp_path), [1]
    checkpoints.save(0, {"x": jnp.ones(2)}, {"rows": rows})
    rows.append(2)
    assert checkpoints.restore().metadata == {"rows": [1]}


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    for name in (".unfinished-step_00000003", "step_00000004.orbax-checkpoint-tmp", ".trash-1"):
        (tmp_path / name).mkdir()
    checkpoint.save(tmp_path, 5, {"x": jnp.ones(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005"]


def test_only_the_last_k_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(5):
        checkpoints.save(step, {"x": jnp.float32(step)})
    checkpoints.wait()
    assert checkpoint.steps_in(tmp_path) == [3, 4] and checkpoint.latest(tmp_path) == 4


def test_without_a_structure_the_leaves_come_back_by_name(tmp_path):
    checkpoint.save(tmp_path, 0, {"a": {"b": np.arange(3)}})
    np.testing.assert_array_equal(checkpoint.restore(tmp_path).state["a/b"], np.arange(3))


def test_later_changes_of_a_numpy_array_do_not_reach_the_checkpoint(tmp_path):
    table = np.zeros(100_000)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, {"table": table})
    table[:] = 1
    assert checkpoints.restore({"table": table}).state["table"].sum() == 0


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
    noise = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"noise": noise * step})
    files = [p for p in (tmp_path / "step_00000002").rglob("*") if p.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    if damage == "delete":
        largest.unlink()
    else:
        largest.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    with pytest.warns(UserWarning, match="step_00000002.*falling back"):
        restored = checkpoint.restore(tmp_path, {"noise": noise})
    assert restored.step == 1
    np.testing.assert_array_equal(restored.state["noise"], noise)
    with pytest.raises(CheckpointError, match="no sound checkpoint"):
        checkpoint.restore(tmp_path, {"noise": noise}, step=2)


def test_another_architecture_is_refused_by_the_name_of_the_leaf(tmp_path):
    checkpoint.save(tmp_path, 0, {"kernel": jnp.ones((2, 3))})
    with pytest.raises(
        WrongStructure, match=r"kernel is float32\[2, 3\], expected float32\[2, 4\]"
    ):
        checkpoint.restore(tmp_path, {"kernel": jnp.ones((2, 4))})
    with pytest.raises(WrongStructure, match="has no bias"):
        checkpoint.restore(tmp_path, {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})


def test_a_state_saved_on_one_mesh_is_restored_on_another(tmp_path):
    rules = (("kernel", PartitionSpec("fsdp")),)
    init = lambda key: {"kernel": jax.random.normal(key, (8, 6))}
    four = born_sharded(init, make_mesh(1, 4), jax.random.key(0), rules=rules)
    checkpoint.save(tmp_path, 0, four)
    two = born_sharded(init, make_mesh(2, 2), jax.random.key(1), rules=rules)
    back = checkpoint.restore(tmp_path, two).state["kernel"]
    assert back.sharding == two["kernel"].sharding
    np.testing.assert_array_equal(back, four["kernel"])


def test_text_in_a_state_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="task is a str"):
        checkpoint.save(tmp_path, 0, {"task": "stack"})


def test_a_missing_checkpoint_says_where_it_looked(tmp_path):
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        checkpoint.restore(tmp_path)

"""Offline data sets: every form gives back what was written, and what is wrong with one is said before training."""

import json
import sys
import types
from dataclasses import dataclass

import chex
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.algorithms.bc import BcConfig
from daag_jax.algorithms.parts.combinators import restore, standardize
from daag_jax.cli import main
from daag_jax.commands.policies import learner, load_policy
from daag_jax.data.blocks import trajectories
from daag_jax.data.datasets import (
    check_dataset,
    fingerprint,
    read_dataset,
    subset,
    summary,
    transitions,
    widened,
)
from daag_jax.data.disk import write_episodes
from daag_jax.data.flat_files import write_d4rl, write_npz
from daag_jax.data.minari_files import find_minari, write_minari
from daag_jax.data.normalize import normalized_spec, stats_of
from daag_jax.envs.env import State
from daag_jax.envs.experts.expert import Expert, until_done
from daag_jax.envs.physics import PhysicsState
from daag_jax.envs.worlds import WORLDS, World
from daag_jax.types import Context, Episode, Spec

SPEC = Spec(3, 2)
FORMS = ("minari", "npz", "d4rl", "safetensors")


def some_episodes() -> Episode:
    """Three episodes of 4, 1 and 2 steps; the second failed and was cut."""
    random = np.random.default_rng(0)
    return Episode(
        random.normal(size=(3, 5, 3)).astype(np.float32),
        np.zeros((3, 5, 0, 0, 0, 3), np.uint8),
        random.uniform(-1, 1, size=(3, 4, 2)).astype(np.float32),
        random.normal(size=(3, 4)).astype(np.float32),
        np.array([4, 1, 2], np.int32),
        {"success": np.array([True, False, True]), "terminated": np.array([True, False, True])},
    )


def written(folder, form, episodes=None, world="point", seed=5, overwrite=False):
    """The path of a data set of that form."""
    episodes = some_episodes() if episodes is None else episodes
    if form == "minari":
        return write_minari(folder, episodes, world, SPEC, name="", seed=seed, overwrite=overwrite)
    if form == "safetensors":
        write_episodes(folder / "e.safetensors", episodes, world)
        return folder / "e.safetensors"
    write, suffix = (write_npz, "npz") if form == "npz" else (write_d4rl, "hdf5")
    return write(folder / f"e.{suffix}", episodes, world, seed, overwrite)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_back_what_was_written(tmp_path, form):
    episodes = some_episodes()
    read, info = read_dataset(written(tmp_path, form))
    assert (info.form, info.world) == (form, "point")
    assert info.seed == (None if form == "safetensors" else 5)
    assert read.images.shape[2:] == (0, 0, 0, 3)
    for ours, theirs in zip(trajectories(read), trajectories(episodes), strict=True):
        chex.assert_trees_all_equal(ours, theirs)
    for name in ("success", "terminated"):
        np.testing.assert_array_equal(read.extras[name], episodes.extras[name])


@pytest.mark.parametrize("form", ("minari", "npz", "d4rl"))
def test_the_same_episodes_are_the_same_bytes(tmp_path, form):
    first, second = (written(tmp_path / name, form) for name in "ab")
    assert fingerprint(first) == fingerprint(second)
    changed = some_episodes()
    changed.actions[0, 0, 0] += 0.1
    assert fingerprint(written(tmp_path / "c", form, changed)) != fingerprint(first)


@pytest.mark.parametrize("form", ("minari", "npz", "d4rl"))
def test_what_exists_is_kept_unless_asked(tmp_path, form):
    path = written(tmp_path, form)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        written(tmp_path, form)
    written(tmp_path, form, subset(some_episodes(), 1), overwrite=True)
    assert len(read_dataset(path)[0].length) == 1
    left = [p.name for p in tmp_path.rglob("*") if "partial" in p.name or p.name.endswith(".old")]
    assert not left


def test_minari_itself_loads_what_we_write(tmp_path, monkeypatch):
    import minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    write_minari(None, some_episodes(), "point", SPEC, seed=5)
    assert "daag/point/demos-v0" in minari.list_local_datasets()
    dataset = minari.load_dataset("daag/point/demos-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 7)
    assert dataset.action_space.shape == (2,) and dataset.action_space.high[0] == 1.0
    np.testing.assert_array_equal(dataset[1].observations, some_episodes().observations[1, :2])
    assert dataset[0].terminations[-1] and dataset[1].truncations[-1]
    by_name, info = read_dataset("daag/point/demos-v0")
    assert by_name.length.sum() == 7 and info.world == "point"
    metadata = json.loads((find_minari("daag/point") / "metadata.json").read_text())
    assert metadata["success_rate"] == pytest.approx(2 / 3)


def test_small_extras_of_an_episode_survive_in_minari(tmp_path):
    episodes = some_episodes()
    qpos = np.arange(6.0).reshape(3, 2)
    episodes.extras["qpos"] = qpos
    np.testing.assert_array_equal(
        read_dataset(written(tmp_path, "minari", episodes))[0].extras["qpos"], qpos
    )


def test_a_dict_of_observations_is_joined_in_the_order_of_names(tmp_path, monkeypatch):
    import minari
    from gymnasium.spaces import Box, Dict
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    box = lambda dim: Box(-1, 1, (dim,), np.float32)
    buffer = EpisodeBuffer(
        observations={"seen": np.ones((3, 2), np.float32), "goal": np.zeros((3, 1), np.float32)},
        actions=np.zeros((2, 1), np.float32),
        rewards=np.zeros(2),
        terminations=np.zeros(2, bool),
        truncations=np.array([False, True]),
    )
    minari.create_dataset_from_buffers(
        "other/test-v0",
        [buffer],
        observation_space=Dict({"seen": box(2), "goal": box(1)}),
        action_space=box(1),
    )
    episodes, info = read_dataset("other/test-v0")
    np.testing.assert_array_equal(episodes.observations[0], [[0, 1, 1]] * 3)
    assert info.world == "" and "success" not in episodes.extras


def test_a_file_without_next_observations_repeats_the_last(tmp_path):
    seen = np.arange(5.0)[:, None]
    terminals = np.array([0, 1, 0, 0, 0])
    np.savez(tmp_path / "plain.npz", observations=seen, actions=-seen, terminals=terminals)
    episodes, info = read_dataset(tmp_path / "plain.npz")
    assert info.world == "" and episodes.length.tolist() == [2, 3]  # the second was cut
    assert episodes.observations[..., 0].tolist() == [[0, 1, 1, 1], [2, 3, 4, 4]]
    assert episodes.actions[0, :, 0].tolist() == [0, -1, 0]
    assert episodes.extras["terminated"].tolist() == [True, False]


def test_d4rl_episodes_end_at_terminals_or_timeouts(tmp_path):
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        file["observations"], file["actions"] = np.zeros((6, 3)), np.zeros((6, 2))
        file["rewards"] = np.arange(6.0)
        file["terminals"] = np.array([0, 1, 0, 0, 0, 0], bool)
        file["timeouts"] = np.array([0, 0, 0, 0, 1, 0], bool)
        file["infos/qpos"] = np.zeros((6, 9))
    episodes, _ = read_dataset(tmp_path / "d.hdf5")
    assert episodes.length.tolist() == [2, 3, 1]
    assert episodes.rewards.tolist() == [[0, 1, 0], [2, 3, 4], [5, 0, 0]]


def test_nothing_is_unpickled(tmp_path):
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "o.npz", observations=objects, actions=objects, terminals=np.ones(1))
    with pytest.raises(ValueError, match="save plain arrays"):
        read_dataset(tmp_path / "o.npz")


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_is_cut_short_is_named(tmp_path, form):
    path = written(tmp_path, form)
    file = path / "data" / "main_data.hdf5" if form == "minari" else path
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read"):
        read_dataset(path)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"actions": np.zeros((2, 1))}, "has no observations and no terminals"),
        (
            {"observations": np.zeros((2, 1)), "actions": np.zeros(2), "terminals": np.ones(2)},
            r"actions is float64\[2\]",
        ),
        (
            {"observations": np.zeros((2, 1)), "actions": np.zeros((3, 1)), "terminals": [1, 1]},
            r"actions is float64\[3, 1\]",
        ),
    ],
)
def test_wrong_columns_are_named(tmp_path, columns, said):
    np.savez(tmp_path / "bad.npz", **columns)
    with pytest.raises(ValueError, match=said):
        read_dataset(tmp_path / "bad.npz")


def test_a_path_that_is_no_data_set_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="is no data set"):
        read_dataset(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match="neither as a file nor as a Minari data set"):
        read_dataset(tmp_path / "missing")
    for world in ("one", "two"):
        write_minari(tmp_path / "many", some_episodes(), world, SPEC)
    with pytest.raises(ValueError, match="several data sets; name one of daag/one/demos-v0"):
        read_dataset(tmp_path / "many")


def with_value(field, index, value) -> Episode:
    episodes = some_episodes()
    getattr(episodes, field)[index] = value
    return episodes


@pytest.mark.parametrize(
    ("episodes", "said"),
    [
        (jax.tree.map(lambda x: x[:0], some_episodes()), "is empty"),
        (some_episodes()._replace(length=np.zeros(3, np.int32)), "none of its 3 episodes has a"),
        (some_episodes()._replace(length=np.array([2, 9, 1])), "a length is 9 of 4 steps"),
        (some_episodes()._replace(length=np.array([2, -1, 1])), "a length is -1 of 4 steps"),
        (with_value("observations", (2, 2, 1), np.nan), "NaN or infinity at 1 steps, .* episode 2"),
        (with_value("actions", (0, 3, 1), np.inf), "actions hold NaN .* episode 0, step 3"),
        (
            with_value("actions", (2, 1, 0), -1.5),
            "1 of 14 action values .* the worst is -1.5 in dimension 0 .*--clip-actions",
        ),
    ],
)
def test_bad_data_are_refused_before_training(episodes, said):
    with pytest.raises(ValueError, match=said):
        check_dataset(episodes, SPEC)


def test_padding_may_hold_anything():
    check_dataset(with_value("actions", (1, 3, 0), np.nan), SPEC)
    check_dataset(with_value("observations", (1, 2, 0), np.nan), SPEC)


def test_data_of_another_world_are_refused(tmp_path):
    episodes, info = read_dataset(written(tmp_path, "npz"))
    with pytest.raises(ValueError, match="of world 'point', not of 'maze2d-medium'.*daag collect"):
        check_dataset(episodes, SPEC, "maze2d-medium", info)
    with pytest.raises(ValueError, match="observations have 3 numbers and .*observation_dim=4"):
        check_dataset(episodes, Spec(4, 2), "point", info)
    with pytest.raises(ValueError, match="actions have 2 numbers and the spec has action_dim=1"):
        check_dataset(episodes, Spec(3, 1))


def test_actions_beyond_the_bounds_are_clipped_or_kept_when_asked():
    episodes = with_value("actions", (2, 1, 0), -1.5)
    assert check_dataset(episodes, SPEC, clip_actions=True).actions.min() == -1.0
    assert check_dataset(episodes, SPEC, any_actions=True).actions.min() == -1.5
    assert widened(SPEC, episodes).action_low == (-1.5, -1.0)
    wide = Spec(3, 2, (-2.0, -1.0), (1.0, 1.0))
    assert check_dataset(episodes, wide) is episodes


def test_statistics_are_those_of_the_steps_that_happened():
    episodes = some_episodes()
    seen, actions = transitions(episodes)
    assert seen.shape == (7, 3) and actions.shape == (7, 2)
    np.testing.assert_array_equal(seen[4], episodes.observations[1, 0])
    episodes.actions[1, 1:] = 100.0  # padding
    episodes.observations[..., 2] = 7.0
    stats = stats_of(episodes)
    np.testing.assert_allclose(stats.action_mean, actions.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(stats.observation_std[:2], seen[:, :2].std(axis=0), rtol=1e-5)
    assert stats.observation_std[2] == 1.0
    unit = normalized_spec(SPEC, stats)
    back = restore(jnp.array([unit.action_low]), stats.action_mean, stats.action_std)
    np.testing.assert_allclose(back, -jnp.ones((1, 2)), rtol=1e-5)
    assert jnp.abs(standardize(jnp.array(actions), *stats[2:4]).mean()) < 1e-6
    said = summary(episodes, SPEC)
    assert "3 episodes, 7 transitions, mean length 2.3, success 66.7%" in said


def test_no_more_episodes_than_there_are_can_be_taken():
    assert subset(some_episodes(), 2).extras["success"].tolist() == [True, False]
    with pytest.raises(ValueError, match="num=4 episodes of 3"):
        subset(some_episodes(), 4)


@dataclass(frozen=True)
class PointConfig:
    """A point on a line."""

    horizon: int = 12


class Point:
    """Observes its place and its goal, moves by 0.2 times the action; there, it is done."""

    spec = Spec(2, 1)

    def __init__(self, config):
        self.horizon = config.horizon

    def reset(self, key):
        obs = jax.random.uniform(key, (2,), minval=-1.0)
        zero = jnp.zeros(())
        info = {"steps": jnp.zeros((), jnp.int32)}
        return State(
            PhysicsState(obs, *jnp.zeros((3, 1))), obs, zero, zero, {"success": zero}, info
        )

    def step(self, state, action):
        moved = state.obs[0] + 0.2 * jnp.clip(action[0], -1.0, 1.0)
        obs, steps = jnp.stack([moved, state.obs[1]]), state.info["steps"] + 1
        success = (jnp.abs(moved - obs[1]) < 0.1).astype(jnp.float32)
        done = jnp.maximum(success, (steps >= self.horizon).astype(jnp.float32))
        physics = state.pipeline_state._replace(qpos=obs)
        return State(physics, obs, success, done, {"success": success}, {"steps": steps})


def walk(env):
    """Walks to the goal, faster than allowed."""

    def act(memory, state, key):
        noise = 0.1 * jax.random.normal(key, (1,))
        return 5.0 * (state.obs[1:] - state.obs[:1]) + noise, memory

    return Expert(lambda state, key: (), act, **until_done(env.horizon))


@pytest.fixture
def point(monkeypatch):
    """A stand-in world of that name, in the table of worlds."""
    world = types.ModuleType("daag_jax.envs.tasks.point")
    world.Point, world.PointConfig = Point, PointConfig
    expert = types.ModuleType("daag_jax.envs.experts.point")
    expert.walk = walk
    monkeypatch.setitem(sys.modules, world.__name__, world)
    monkeypatch.setitem(sys.modules, expert.__name__, expert)
    monkeypatch.setitem(WORLDS, "point", World("point", "Point", "PointConfig", "point.walk"))


def said_by(capsys, *arguments) -> str:
    with pytest.raises(SystemExit):
        main([str(argument) for argument in arguments])
    return capsys.readouterr().err


def test_collect_writes_every_form_and_seeds_are_bit_identical(capsys, tmp_path, point):
    read = {}
    for form in FORMS:
        options = f"collect point --episodes 5 --format {form} --out {tmp_path / form}".split()
        main(options)
        said = capsys.readouterr().out
        assert "5 episodes" in said and "success 100.0%" in said and "saturated" in said
        assert "exists; name another --out" in said_by(capsys, *options)
        read[form] = read_dataset(said.split(":")[0])
    for episodes, info in read.values():
        assert info.world == "point"
        for ours, theirs in zip(trajectories(episodes), trajectories(read["npz"][0]), strict=True):
            chex.assert_trees_all_equal(ours, theirs)
    first = next((tmp_path / "npz").glob("*.npz"))
    for seed, is_same in ((0, True), (1, False)):
        out = tmp_path / f"again{seed}"
        main(f"collect point --episodes 5 --format npz --seed {seed} --out {out}".split())
        assert (fingerprint(out / first.name) == fingerprint(first)) is is_same


def test_a_policy_is_trained_from_a_data_set_and_evaluated_in_its_world(capsys, tmp_path, point):
    demos, run = tmp_path / "demos", tmp_path / "run"
    main(f"collect point --episodes 30 --out {demos}".split())
    train = f"train bc {demos} --fit.steps 200 --fit.directory {run} --batch 64".split()
    small = {"--config.learning-rate": "3e-3", "--config.hidden-dims": "32"}
    train += ["--fit.no-tensorboard", *(word for option in small.items() for word in option)]
    capsys.readouterr()
    assert "action values lie outside" in said_by(capsys, *train)
    main([*train, "--clip-actions"])
    card, algorithm, policy = load_policy(run)
    assert card["world"] == {"name": "point"} and len(card["stats"]["action_std"]) == 1
    context = Context(jnp.array([[[0.0, 0.9]], [[0.0, -0.9]]]))
    actions = jax.jit(algorithm.act)(policy, context, jax.random.key(0))
    assert actions[0, 0, 0] > 0.5 and actions[1, 0, 0] < -0.5
    capsys.readouterr()
    main(["evaluate", str(run), "--episodes", "32"])
    assert "return" in capsys.readouterr().out
    results = json.loads((run / "results.json").read_text())
    assert results["success"] > 0.9 and results["world"] == "point"
    assert "means nothing" in said_by(capsys, "collect", "point", "--videos", 2)
    assert "not of 'maze2d-medium'" in said_by(capsys, *train, "--world", "maze2d-medium")


def test_a_normalised_learner_keeps_the_bounds_of_the_world(key):
    episodes = some_episodes()
    stats = stats_of(episodes)
    algorithm = learner("bc", BcConfig(hidden_dims=(8,)), SPEC, stats)
    context = Context(100.0 * jnp.array(episodes.observations[:, :1]))
    actions = jax.jit(lambda key: algorithm.act(algorithm.init(key), context, jax.random.key(1)))(
        key
    )
    assert jnp.abs(actions).max() <= 1.0 + 1e-5

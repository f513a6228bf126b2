"""Data sets by D4RL's recipe: exact numbers of steps, episodes cut where they ended, policies in their order."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.assets import ASSETS
from daag_jax.commands.episodes import Collect, collect
from daag_jax.data.blocks import trajectories
from daag_jax.data.datasets import check_dataset, read_dataset
from daag_jax.envs.worlds import make_world
from daag_jax.evaluation import offline_data
from daag_jax.evaluation.offline_data import (
    RUNNERS,
    Runs,
    collected,
    episodes_of,
    mean_return,
    replayed,
    runs,
)
from daag_jax.evaluation.rollout import random_actions
from daag_jax.types import Context

LEARNT = [name for name in RUNNERS if (ASSETS / f"learning_{name}.safetensors").is_file()]


def test_random_data_are_the_asked_number_of_steps_and_the_same_again():
    first, again = (collected("hopper-random-ours", seed=3, steps=301) for _ in range(2))
    other = collected("hopper-random-ours", seed=4, steps=301)
    chex.assert_trees_all_equal(first, again)
    assert first.length.sum() == other.length.sum() == 301
    assert not np.array_equal(first.actions[0, :5], other.actions[0, :5])
    assert first.extras["terminated"][:-1].all()
    height = np.stack([path.observations[0, 0] for path in trajectories(first)])
    np.testing.assert_allclose(height, 1.25, atol=0.006)  # every episode begins where Gym's does
    assert 5 < first.length[:-1].mean() < 60


def test_a_run_steps_as_the_world_does_and_begins_anew(key):
    env = make_world("hopper")
    made = jax.jit(lambda key: runs(env, random_actions(env.spec), (), key, 2, 200))(key)
    assert made.done.any(axis=1).all()
    following = made.observations[:, 1:]
    is_going = ~np.asarray(made.done[:, :-1])
    np.testing.assert_array_equal(following[is_going], made.reached[:, :-1][is_going])
    assert not np.array_equal(following[~is_going], made.reached[:, :-1][~is_going])


def test_runs_are_cut_at_ends_and_at_the_last_step():
    numbers = np.arange(10, dtype=np.float32).reshape(2, 5)
    flags = lambda *places: np.isin(numbers, places)
    seen = numbers[..., None]
    made = Runs(seen, -seen, numbers, seen + 0.5, flags(1, 6), flags(6))
    paths, terminated = episodes_of(made, 8)
    assert [p.rewards.tolist() for p in paths] == [[0, 1], [2, 3, 4], [5, 6], [7]]
    assert [p.observations[-1, 0] for p in paths] == [1.5, 4.5, 6.5, 7.5]
    assert terminated == [False, False, True, False]


def test_a_replay_explores_and_then_takes_its_policies_in_turn(key):
    constant = lambda value: jnp.full((1, 4), jnp.array([value, value, -50.0, -50.0]))
    policies = {
        "observation/mean": jnp.zeros((2, 3)),
        "observation/std": jnp.ones((2, 3)),
        "layer_0/kernel": jnp.zeros((2, 3, 4)),
        "layer_0/bias": jnp.concatenate([constant(-5.0), constant(5.0)]),
    }
    act = replayed(lambda policy, context, key: jnp.zeros((len(context.observations), 1, 2)))
    progress = jnp.array([0.0, 0.49, 0.5, 0.99])
    context = Context(jnp.zeros((4, 1, 3)), {"progress": progress})
    found = np.round(act(policies, context, key)[:, 0, 0], 1)
    assert found.tolist() == [0.0, 0.0, -1.0, -1.0]


def test_the_mean_return_is_that_of_whole_episodes():
    episodes = collected("hopper-random-ours", seed=0, steps=100)
    whole = np.sum(episodes.rewards, axis=1)[:-1]
    assert mean_return(episodes, 1000) == pytest.approx(whole.mean())
    assert np.isnan(
        mean_return(episodes._replace(extras={"terminated": np.zeros(len(whole) + 1, bool)}), 1000)
    )


def test_collect_writes_a_data_set_that_trains_its_world(tmp_path, capsys):
    options = Collect("walker2d-random-ours", tmp_path, steps=200)
    collect(options)
    assert "D4RL's score" in capsys.readouterr().out
    episodes, info = read_dataset(tmp_path / "daag" / "walker2d" / "random-ours-v0")
    check_dataset(episodes, make_world("walker2d").spec, "walker2d", info)
    assert info.world == "walker2d" and episodes.length.sum() == 200
    with pytest.raises(FileExistsError, match="--overwrite"):
        collect(options)


@pytest.mark.parametrize(
    "options, words",
    [
        (Collect("hopper-medium-our"), "the nearest is 'hopper-medium-ours'"),
        (Collect("hopper-random-ours", episodes=3), "--episodes 3 means nothing"),
        (Collect("halfcheetah", steps=10), "--steps 10 means nothing"),
    ],
)
def test_options_that_do_not_fit_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        collect(options)


def test_a_number_of_steps_is_positive():
    with pytest.raises(ValueError, match="steps=0 is not a number of steps; try 100000"):
        collected("hopper-random-ours", 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNT)
def test_medium_lies_between_random_and_expert(name):
    horizon = make_world(name).horizon
    returns = {
        quality: mean_return(collected(f"{name}-{quality}-ours", 0, 20_000), horizon)
        for quality in offline_data.QUALITIES
    }
    assert returns["random"] < returns["medium-replay"] < returns["medium"] < returns["expert"]
    assert returns["medium"] < returns["medium-expert"] < returns["expert"]

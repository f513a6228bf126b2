"""Windows of episodes equal the naive loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.data.windows import draw_windows, episode_data, returns
from daag_jax.types import Episode, Window

LENGTHS = np.array([3, 5, 0])


def numbered_episodes() -> Episode:
    """Observation t of episode e is 10 e + t; action t is its negative."""
    number = 10 * np.arange(3)[:, None] + np.arange(6)[None]
    images = np.broadcast_to(number[..., None, None, None, None], (3, 6, 1, 2, 2, 3)).astype(
        np.uint8
    )
    actions = -number[:, :5, None].astype(np.float32)
    rewards = np.ones((3, 5), np.float32)
    return Episode(number[..., None].astype(np.float32), images, actions, rewards, LENGTHS)


@pytest.mark.parametrize("history, execute", [(1, 1), (3, 1), (2, 3)])
def test_windows_equal_the_naive_loop(key, history, execute):
    window = Window(history, history + execute - 1, execute, ("image",))
    data = jax.tree.map(jnp.asarray, episode_data(numbered_episodes(), window))
    batch = jax.jit(lambda k: draw_windows(data, window, 64, k))(key)
    seen = set()
    for row in range(64):
        now = int(batch.observations[row, history - 1, 0])
        episode, time = divmod(now, 10)
        seen.add(now)
        for j in range(window.horizon):
            step = time - history + 1 + j
            clipped = min(max(step, 0), LENGTHS[episode] - 1)
            assert batch.observations[row, j, 0] == 10 * episode + clipped
            assert batch.actions[row, j, 0] == -(10 * episode + clipped)
            assert bool(batch.mask[row, j]) == (step < LENGTHS[episode])
            assert batch.extras["image"][row, j, 0, 0, 0, 0] == 10 * episode + clipped
    assert seen == {0, 1, 2, 10, 11, 12, 13, 14}


def test_returns_end_with_their_episode():
    found = episode_data(numbered_episodes(), Window(fields=("returns",)))["returns"]
    np.testing.assert_array_equal(found[:, 0], LENGTHS)


def test_returns_are_discounted_sums():
    rewards = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]], np.float32)
    np.testing.assert_allclose(returns(rewards, 0.5), [[0.25, 0.5, 1.0], [1.75, 1.5, 1.0]])


def test_a_field_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="asks for 'task'"):
        episode_data(numbered_episodes(), Window(fields=("task",)))
    blind = numbered_episodes()._replace(images=np.zeros((3, 6, 0, 0, 0, 3), np.uint8))
    with pytest.raises(ValueError, match="asks for 'image'"):
        episode_data(blind, Window(fields=("image",)))


def test_episodes_without_a_step_are_refused():
    empty = numbered_episodes()._replace(length=np.zeros(3, int))
    with pytest.raises(ValueError, match="none of the 3 episodes has a step"):
        episode_data(empty, Window())

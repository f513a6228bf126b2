"""Experts recorded as policies are."""

import jax.numpy as jnp
import numpy as np
from test_rollout import Counter

from daag_jax.evaluation.demonstrate import demonstrate


def test_the_record_holds_the_experts_actions_and_the_agents_observations(key):
    expert = lambda state: jnp.where(state.pipeline_state.qpos < 2, 1.0, 0.25)
    episodes = demonstrate(Counter(), expert, key, 4)
    assert episodes.observations.shape == (4, 8, 1)
    assert episodes.extras["success"].all()
    seen, done = np.asarray(episodes.observations[:, :-1]), np.asarray(episodes.actions)
    np.testing.assert_array_equal(done, np.where(seen < 2, 1.0, 0.25))


def test_noise_disturbs_the_actions_that_are_recorded(key):
    expert = lambda state: jnp.full((1,), 0.5)
    episodes = demonstrate(Counter(), expert, key, 8, noise=0.1)
    steps = np.diff(np.asarray(episodes.observations), axis=1)[:, 0]
    np.testing.assert_allclose(steps, episodes.actions[:, 0], atol=1e-6)
    assert 0.02 < np.std(episodes.actions[:, 0]) < 0.3


def test_a_share_of_the_actions_is_random(key):
    expert = lambda state: jnp.full((1,), 0.5)
    episodes = demonstrate(Counter(), expert, key, 64, epsilon=0.3)
    actions = np.asarray(episodes.actions)
    assert 0.6 < np.mean(actions == 0.5) < 0.8
    assert actions.min() < -0.5 and actions.max() > 0.9

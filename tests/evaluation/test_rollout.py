"""Rollouts in a world small enough to count by hand: a number to be pushed to three."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import State

from daag_jax.envs.physics import PhysicsState
from daag_jax.envs.renderer import Frame
from daag_jax.evaluation.rollout import grouped_rollout, random_actions, rollout
from daag_jax.training.devices import make_mesh
from daag_jax.types import Spec


class Counter:
    """Done with reward 1 when the position reaches 3; actions are added to it."""

    spec = Spec(1, 1, image_shape=(1, 2, 2, 3))
    horizon = 7
    captions = ("it is three",)

    def reset(self, key, task=None, colors=None):
        qpos = jax.random.randint(key, (1,), 0, 2).astype(jnp.float32)
        physics = PhysicsState(qpos, jnp.zeros(1), jnp.zeros(1), jnp.zeros(()))
        info = {"colors": jnp.arange(3), "steps": jnp.int32(0)}
        return State(physics, qpos, jnp.zeros(()), jnp.zeros(()), {}, info)

    def step(self, state, action):
        qpos = state.pipeline_state.qpos + action
        steps = state.info["steps"] + 1
        reward = (qpos[0] >= 3).astype(jnp.float32)
        done = jnp.maximum(reward, (steps >= self.horizon).astype(jnp.float32))
        physics = state.pipeline_state._replace(qpos=qpos)
        info = state.info | {"steps": steps}
        return state.replace(pipeline_state=physics, obs=qpos, reward=reward, done=done, info=info)

    def render(self, state):
        image = jnp.broadcast_to(state.obs.astype(jnp.uint8), (1, 2, 2, 3))
        zeros = jnp.zeros((1, 2, 2))
        return Frame(image, zeros, jnp.zeros((1, 2, 2, 3)), zeros.astype(jnp.int32))

    def labels(self, state):
        return state.pipeline_state.qpos >= 3


def ones(policy, context, key):
    return jnp.ones((context.observations.shape[0], 1, 1)) * policy


def test_a_world_that_is_done_stands_still_and_its_length_counts_to_the_goal(key):
    episodes = rollout(Counter(), ones, jnp.float32(1), key, 6)
    begin = np.asarray(episodes.observations[:, 0, 0])
    np.testing.assert_array_equal(episodes.length, 3 - begin)
    np.testing.assert_array_equal(episodes.observations[:, -1, 0], np.full(6, 3))
    np.testing.assert_array_equal(episodes.rewards.sum(axis=1), np.ones(6))
    assert episodes.actions.shape == (6, 7, 1) and episodes.images.shape == (6, 8, 1, 2, 2, 3)
    np.testing.assert_array_equal(episodes.images[..., 0, 0, 0, 0], episodes.observations[..., 0])
    assert episodes.extras["success"].all() and episodes.extras["labels"][:, -1].all()


def test_an_episode_that_never_succeeds_lasts_to_the_horizon(key):
    episodes = rollout(Counter(), ones, jnp.float32(0), key, 2)
    assert not episodes.extras["success"].any()
    np.testing.assert_array_equal(episodes.length, [7, 7])


def test_a_policy_sees_pixels_instruction_and_how_much_to_explore(key):
    def act(policy, context, key):
        extras = context.extras
        seen = extras["image"][:, 0, 0, 0, 0, 0] == context.observations[:, 0, 0].astype(jnp.uint8)
        told = extras["task"].sum(axis=-1) * extras["explore"]
        return jnp.where(seen, told, 100.0)[:, None, None]

    episodes = rollout(
        Counter(), act, (), key, 2, instruction=jnp.full(2, 0.25), explore=jnp.float32(0.5)
    )
    np.testing.assert_allclose(episodes.actions, np.full((2, 7, 1), 0.25))


def test_each_world_and_decision_can_explore_by_its_own_scale(key):
    def act(policy, context, key):
        return context.extras["explore"][:, None, None]

    scales = jnp.arange(14.0).reshape(2, 7) / 20
    episodes = rollout(Counter(), act, (), key, 2, explore=scales)
    np.testing.assert_allclose(episodes.actions[..., 0], scales)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2)])
def test_groups_of_worlds_are_those_of_their_keys_on_any_devices(key, shape):
    def act(policy, context, key):
        return policy * context.extras["explore"][:, None, None]

    run = lambda policy, key, scales: rollout(Counter(), act, policy, key, 3, explore=scales)
    keys = jax.random.split(key, 4)
    scales = jnp.arange(84.0).reshape(4, 3, 7) / 84
    mesh = make_mesh(*shape, devices=jax.devices()[: math.prod(shape)])
    grouped = grouped_rollout(run, mesh)(jnp.float32(1), keys, scales)
    assert grouped.length.shape == (12,)
    np.testing.assert_allclose(grouped.actions[..., 0], scales.reshape(12, 7))
    alone = run(jnp.float32(1), jax.random.clone(keys)[2], scales[2])
    np.testing.assert_array_equal(grouped.observations[6:9], alone.observations)


def test_random_actions_cover_the_range_and_depend_on_the_key(key):
    episodes = rollout(Counter(), random_actions(Counter.spec), (), key, 32)
    actions = np.asarray(episodes.actions)
    assert actions.min() < -0.9 and actions.max() > 0.9 and len(np.unique(actions)) > 200

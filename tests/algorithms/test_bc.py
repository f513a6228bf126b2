"""Behaviour cloning: recovers a linear expert in each likelihood, chunks, and instructions."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.algorithms.bc import BcConfig, bc
from daag_jax.algorithms.parts.action_head import Exploration
from daag_jax.types import Batch, Context, Spec

EXPERT = np.array([[0.5, -0.3], [0.2, 0.4], [-0.4, 0.1]], np.float32)


@pytest.mark.parametrize("likelihood", ["squared", "absolute", "gaussian"])
def test_recovers_a_linear_expert(key, likelihood):
    data_key, init_key, train_key, act_key = jax.random.split(key, 4)
    observations = jax.random.uniform(data_key, (128, 1, 3), minval=-1.0)
    actions = observations @ EXPERT
    batch = Batch(observations, actions, jnp.zeros((128, 1)), jnp.ones((128, 1), bool))
    config = BcConfig((32,), likelihood=likelihood, learning_rate=1e-2, ema_decay=0.9)
    algorithm = bc(config, Spec(3, 2))
    state, update = jax.jit(algorithm.init)(init_key), jax.jit(algorithm.update)
    for step in range(300):
        state, metrics = update(state, batch, jax.random.fold_in(train_key, step))
    decided = jax.jit(algorithm.act)(state, Context(observations), act_key)
    assert jnp.mean(jnp.abs(decided - actions)) < 0.03
    assert metrics["error"] < 0.05


def test_a_chunk_follows_the_last_observation(key):
    algorithm = bc(BcConfig((8,), history=2, execute=3), Spec(3, 2, task_dim=4))
    assert algorithm.window.horizon == 4 and algorithm.window.fields == ("task",)
    init_key, act_key, update_key = jax.random.split(key, 3)
    state, task = jax.jit(algorithm.init)(init_key), {"task": jnp.zeros((5, 4))}
    assert jax.jit(algorithm.act)(state, Context(jnp.zeros((5, 2, 3)), task), act_key).shape == (
        5,
        3,
        2,
    )
    zeros = jnp.zeros((5, 4))
    actions = jnp.zeros((5, 4, 2)).at[:, 0].set(9.0)  # before the decision: must not count
    batch = Batch(jnp.zeros((5, 4, 3)), actions, zeros, jnp.ones((5, 4), bool), task)
    assert jax.jit(algorithm.update)(state, batch, update_key)[1]["loss/policy"] < 1e-3


def test_what_lies_before_the_history_of_a_context_changes_nothing(key):
    algorithm = bc(BcConfig((8,), history=2), Spec(3, 2))
    init_key, seen_key = jax.random.split(key)
    state, seen = jax.jit(algorithm.init)(init_key), jax.random.normal(seen_key, (5, 4, 3))
    act = lambda observations: algorithm.act(state, Context(observations), jax.random.key(0))
    np.testing.assert_array_equal(act(seen), act(seen[:, -2:]))
    assert not np.allclose(act(seen), act(seen[:, :2]))


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_observation_noise_is_of_learning_alone(scale):
    """Where the action is the sum of what is seen, a fit to noisy inputs shrinks by 1 / (1 + scale^2)."""
    config = BcConfig((), activation="relu", head="linear", layer_norm=False, weight_decay=0.0)
    config = replace(config, observation_noise=scale, learning_rate=3e-2, decay_steps=600)
    algorithm = bc(config, Spec(1, 1))
    seen = jax.random.normal(jax.random.key(5), (512, 1, 1))
    batch = Batch(seen, seen, jnp.zeros((512, 1)), jnp.ones((512, 1), bool))
    state, update = jax.jit(algorithm.init)(jax.random.key(0)), jax.jit(algorithm.update)
    for n in range(600):
        state, _ = update(state, batch, jax.random.key(n))
    one = lambda n: algorithm.act(state, Context(jnp.ones((1, 1, 1))), jax.random.key(n))
    np.testing.assert_allclose(one(0), 1 / (1 + scale**2), atol=0.06)
    np.testing.assert_array_equal(one(0), one(1))


def test_an_average_that_would_never_move_is_refused():
    with pytest.raises(ValueError, match="ema_decay=1.0 is outside"):
        BcConfig(ema_decay=1.0)
    with pytest.raises(ValueError, match="learning_rate=0.0 is not positive"):
        BcConfig(learning_rate=0.0)


def test_a_linear_head_has_no_bounds_to_explore_in():
    with pytest.raises(ValueError, match="head 'linear' has no bounds to explore in"):
        BcConfig(head="linear", exploration=Exploration(epsilon=0.1))

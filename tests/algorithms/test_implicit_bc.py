"""Implicit cloning: a linear expert, one of two modes, the box, the search, Langevin, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.algorithms.implicit_bc import (
    ImplicitBcConfig,
    action_box,
    implicit_bc,
    langevin,
    resampled,
    slope,
)
from daag_jax.types import Batch, Context, Spec

EXPERT = np.array([[0.5], [0.2]], np.float32)
SIZE = 64


def trained(config: ImplicitBcConfig, actions, observations, spec: Spec, steps: int, key):
    """The algorithm, its state after ``steps`` updates on one batch, and the last metrics."""
    algorithm, batch = implicit_bc(config, spec), batch_of(observations, actions)

    def update(index, carry):
        return algorithm.update(carry[0], batch, jax.random.fold_in(key, index))

    state = algorithm.init(jax.random.key(1))
    first = jax.jit(algorithm.update)(state, batch, jax.random.fold_in(key, steps))
    return algorithm, *jax.jit(lambda carry: jax.lax.fori_loop(0, steps, update, carry))(first)


def batch_of(observations, actions) -> Batch:
    blank = jnp.zeros(observations.shape[:2])
    return Batch(observations, actions, blank, blank == 0)


@pytest.mark.parametrize("inference", ["derivative_free", "langevin"])
def test_recovers_a_linear_expert(key, inference):
    data_key, train_key = jax.random.split(key)
    observations = jax.random.uniform(data_key, (SIZE, 1, 2), minval=-1.0)
    actions = 3.0 * observations @ EXPERT  # beyond [-1, 1], as standardised actions are
    low, high = action_box(actions)
    config = ImplicitBcConfig(
        (64, 64), low, high, 32, inference, 128, learning_rate=3e-3, langevin_iterations=10
    )
    algorithm, state, metrics = trained(config, actions, observations, Spec(2, 1), 300, train_key)
    decided = jax.jit(algorithm.act)(state, Context(observations), jax.random.key(2))
    assert jnp.mean(jnp.abs(decided - actions)) < 0.15 * jnp.std(actions)
    # a guess costs log(1 + N); uniform negatives are soon told apart, those of Langevin stay hard, as they should
    margin = 1.0 if inference == "derivative_free" else 0.2
    assert metrics["loss/contrast"] < np.log(1 + config.num_negatives) - margin
    assert ("loss/penalty" in metrics) == (inference == "langevin")


def test_picks_one_of_two_modes_where_the_mean_is_none(key):
    actions = jnp.where(jnp.arange(SIZE) % 2 == 0, 0.8, -0.8)[:, None, None]
    config = ImplicitBcConfig((64,), num_negatives=16, num_samples=64, learning_rate=1e-2)
    observations = jnp.zeros((SIZE, 1, 1))
    algorithm, state, _ = trained(config, actions, observations, Spec(1, 1), 200, key)
    decided = jax.jit(algorithm.act)(state, Context(observations), jax.random.key(2))
    assert jnp.all(jnp.abs(jnp.abs(decided) - 0.8) < 0.25)


def test_nothing_outside_the_box_is_ever_chosen():
    spec, low, high = Spec(2, 2), (-4.0, 0.5), (-3.0, 0.6)
    context = Context(jnp.ones((5, 1, 2)))
    for inference in ("derivative_free", "langevin"):
        config = ImplicitBcConfig((8,), low, high, inference=inference, num_samples=16)
        algorithm = implicit_bc(config, spec)
        state = jax.jit(algorithm.init)(jax.random.key(0))
        actions = jax.jit(algorithm.act)(state, context, jax.random.key(1))
        assert actions.shape == (5, 1, 2)
        assert jnp.all((actions >= jnp.array([[low]])) & (actions <= jnp.array([[high]])))


def test_the_box_of_demonstrations_has_room_on_both_sides():
    actions = np.array([[[0.0, 7.0], [10.0, 7.0]]])
    low, high = action_box(actions, margin=0.1)
    np.testing.assert_allclose((low, high), ((-1.0, 6.999), (11.0, 7.001)))


def test_rows_of_a_batch_are_searched_with_noise_of_their_own():
    algorithm = implicit_bc(ImplicitBcConfig((8,), num_samples=4), Spec(1, 1))
    state = jax.jit(algorithm.init)(jax.random.key(0))
    actions = jax.jit(algorithm.act)(state, Context(jnp.ones((6, 1, 1))), jax.random.key(1))
    assert len(set(np.asarray(actions).ravel().tolist())) > 3


def test_searches_move_towards_low_energy():
    energy = lambda actions: 50.0 * jnp.sum(jnp.square(actions - 0.3), axis=-1)
    actions = jax.random.uniform(jax.random.key(0), (256, 2), minval=-1.0)
    np.testing.assert_allclose(slope(energy, actions), 100.0 * (actions - 0.3), rtol=1e-4)
    config = ImplicitBcConfig(iterations=4, noise=0.05, langevin_iterations=100)
    for search in (resampled, langevin):
        found = search(config, energy, actions, jax.random.key(1))
        assert jnp.abs(jnp.mean(found) - 0.3) < 0.03
        assert jnp.mean(energy(found)) < 0.2 * jnp.mean(energy(actions))


def test_padded_decisions_do_not_count():
    algorithm = implicit_bc(ImplicitBcConfig((8,), num_negatives=4), Spec(1, 1))
    state = jax.jit(algorithm.init)(jax.random.key(0))
    batch = batch_of(jnp.ones((4, 1, 1)), jnp.zeros((4, 1, 1)))
    batch = batch._replace(mask=jnp.zeros((4, 1), bool))
    _, metrics = jax.jit(algorithm.update)(state, batch, jax.random.key(1))
    assert metrics["loss/contrast"] == 0.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inference": "newton"}, "inference 'newton' is unknown"),
        ({"hidden_dims": ()}, "hidden_dims is empty"),
        ({"action_low": (0.0,)}, "give both, or none"),
        ({"num_negatives": 0}, "num_negatives=0 is not positive"),
        ({"langevin_iterations": 1}, "langevin_iterations=1"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        ImplicitBcConfig(**fields)


def test_bounds_of_another_size_are_named():
    with pytest.raises(ValueError, match="action_low has 1 numbers and action_dim is 2"):
        implicit_bc(ImplicitBcConfig(action_low=(0.0,), action_high=(1.0,)), Spec(1, 2))

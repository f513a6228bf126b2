"""Perceptrons and embeddings of time: shapes, known values, and what each is for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from daag_jax.networks.embeddings import FourierEmbedding, TimeEmbedding, sinusoidal
from daag_jax.networks.mlp import DenoisingMlp, Mlp, ResidualMlp, StepMlp


def test_sinusoids_are_those_of_the_formula():
    values = jnp.array([0.0, 1.0, 7.0])
    frequencies = 10000.0 ** (-np.arange(4) / 3)
    angles = np.asarray(values)[:, None] * frequencies
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    np.testing.assert_allclose(sinusoidal(values, 8), expected, atol=1e-5)


def test_embeddings_take_any_batch_and_tell_neighbouring_steps_apart(key):
    time = (jnp.arange(1000.0) + 1) / 1000
    for module in (TimeEmbedding(16), FourierEmbedding(16), FourierEmbedding(16, is_learnt=True)):
        params = module.init(jax.random.key(1), time)
        embedded = module.apply(params, time)
        assert embedded.shape == (1000, 16)
        assert module.apply(params, time.reshape(10, 100)).shape == (10, 100, 16)
        assert module.apply(params, time[0]).shape == (16,)
        assert float(jnp.abs(jnp.diff(embedded, axis=0)).max(axis=-1).min()) > 1e-4


def test_fixed_frequencies_are_no_parameters():
    time = jnp.ones((2,))
    assert not FourierEmbedding(8).init(jax.random.key(0), time)
    learnt = FourierEmbedding(8, is_learnt=True).init(jax.random.key(0), time)
    assert learnt["params"]["frequencies"].shape == (4,)


@pytest.mark.parametrize("dim", [3, 2])
def test_odd_or_tiny_widths_are_named(dim):
    with pytest.raises(ValueError, match=f"dim={dim}"):
        sinusoidal(jnp.ones((2,)), dim)


def test_a_small_out_scale_starts_near_zero(key):
    net = Mlp((32,), 3, out_scale=1e-4)
    x = jax.random.normal(key, (8, 5))
    out = net.apply(net.init(jax.random.key(1), x), x)
    assert out.shape == (8, 3)
    assert float(jnp.abs(out).max()) < 0.1


def test_dropout_acts_in_training_alone(key):
    net = ResidualMlp(16, 2, dropout=0.5)
    x = jax.random.normal(key, (4, 3))
    params = net.init(jax.random.key(1), x)
    calm = net.apply(params, x)
    np.testing.assert_array_equal(calm, net.apply(params, x))
    noisy = net.apply(params, x, is_training=True, rngs={"dropout": jax.random.key(2)})
    assert calm.shape == (4, 2) and not np.allclose(calm, noisy)


def test_the_denoiser_hears_time_and_condition(key):
    net = DenoisingMlp((16, 16), time_dim=8)
    x_key, condition_key, init_key = jax.random.split(key, 3)
    x, condition = jax.random.normal(x_key, (4, 3)), jax.random.normal(condition_key, (4, 2))
    time = jnp.full((4,), 0.3)
    params = net.init(init_key, x, time, condition)
    out = net.apply(params, x, time, condition)
    assert out.shape == x.shape
    assert not np.allclose(out, net.apply(params, x, time + 0.2, condition), atol=1e-4)
    assert not np.allclose(out, net.apply(params, x, time, 0.0 * condition), atol=1e-4)


def test_a_network_of_steps_learns_one_answer_per_step():
    net, steps = StepMlp(32, num_steps=4), jnp.arange(4.0)
    x, wanted = jnp.ones((4, 2)), jnp.array([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.5], [0.3, -1.0]])
    params = net.init(jax.random.key(0), x, steps)
    optimizer = optax.adam(1e-2)

    def update(carry, _):
        params, state = carry
        loss = lambda p: jnp.mean(jnp.square(net.apply(p, x, steps) - wanted))
        gradients = jax.grad(loss)(params)
        change, state = optimizer.update(gradients, state)
        return (optax.apply_updates(params, change), state), None

    carry = (params, optimizer.init(params))
    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(update, carry, length=200))(carry)
    np.testing.assert_allclose(net.apply(params, x, steps), wanted, atol=0.05)

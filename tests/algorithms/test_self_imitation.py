"""Self-imitation: finds what the instruction names, respects masks and weights, and Oh et al.'s loss is as written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.algorithms.parts.action_head import (
    Exploration,
    action_head,
    decide,
    from_unit,
    negative_log_likelihood,
    to_unit,
)
from daag_jax.algorithms.self_imitation import (
    SelfImitationConfig,
    loss,
    self_imitation,
    shifted,
)
from daag_jax.types import Batch, Context, Spec

COLORS = np.array([[220, 30, 30], [30, 40, 220]], np.uint8)


def squares(count: int, seed: int, side: int = 32) -> Batch:
    """A red and a blue 5 px square on grey; the instruction names one; the action is its place, and which it is."""
    random = np.random.default_rng(seed)
    images = np.full((count, 1, 1, side, side, 3), 128, np.uint8)
    actions = np.zeros((count, 1, 3), np.float32)
    asked = random.integers(0, 2, count)
    for i in range(count):
        rows = [random.integers(0, side // 2 - 5), random.integers(side // 2, side - 5)]
        for color, row in enumerate(random.permutation(rows)):
            column = random.integers(0, side - 5)
            images[i, 0, 0, row : row + 5, column : column + 5] = COLORS[color]
            if color == asked[i]:
                actions[i, 0] = [column + 2, row + 2, 2 * color - 1]
    task = np.eye(2, dtype=np.float32)[asked]
    extras = {"image": jnp.asarray(images), "task": jnp.asarray(task)}
    zeros = jnp.zeros((count, 1))
    return Batch(zeros[..., None], jnp.asarray(actions), zeros, jnp.ones((count, 1), bool), extras)


SPEC = Spec(1, 3, (0.0, 0.0, -1.0), (31.0, 31.0, 1.0), (1, 32, 32, 3), 2)


TINY = SelfImitationConfig(width=4, hidden_dims=(16,), strides=(2, 2, 2, 1))


@pytest.mark.slow
def test_finds_the_square_that_the_instruction_names(key):
    config = SelfImitationConfig(
        width=8, hidden_dims=(64,), shift=1, binary_dims=(2,), learning_rate=3e-3, stem_stride=1
    )
    algorithm = self_imitation(config, SPEC)
    init_key, train_key, act_key, test_key = jax.random.split(key, 4)
    batch, update = squares(64, seed=0), jax.jit(algorithm.update, donate_argnums=0)
    state = jax.jit(algorithm.init)(init_key)
    for step in range(120):
        state, _ = update(state, batch, jax.random.fold_in(train_key, step))
    act = jax.jit(algorithm.act)
    actions = act(state, Context(batch.observations, batch.extras), act_key)
    error = jnp.abs(actions - batch.actions)
    assert jnp.mean(error[..., :2]) < 1.5  # pixels
    assert jnp.max(error[..., 2]) == 0.0
    fresh = squares(64, seed=1)  # never seen: random shifts make 64 images enough
    actions = act(state, Context(fresh.observations, fresh.extras), test_key)
    assert jnp.mean(jnp.abs(actions - fresh.actions)[..., :2]) < 2.0


def test_padding_teaches_nothing(key):
    head, batch = action_head(SPEC), squares(4, seed=0)
    raw, value = jax.random.normal(key, (4, 1, 3)), jnp.zeros(4)
    wrong = batch._replace(actions=batch.actions.at[2:].set(0.0))
    first = jnp.arange(4) < 2
    expected = jnp.mean(negative_log_likelihood(head, raw, batch.actions)[:2])
    masked, _ = loss(TINY, head, raw, value, wrong._replace(mask=first[:, None]))
    np.testing.assert_allclose(masked, expected, rtol=1e-5)
    nothing, _ = loss(TINY, head, raw, value, wrong._replace(mask=first[:, None] & False))
    assert nothing == 0.0


def test_actions_keep_within_their_bounds_and_explore_can_be_switched_off(key):
    config = SelfImitationConfig(
        width=4, hidden_dims=(16,), binary_dims=(2,), exploration=Exploration(0.5, 3.0, 0.5)
    )
    algorithm = self_imitation(config, SPEC._replace(image_shape=(), task_dim=0))
    init_key, one, two, three, four = jax.random.split(key, 5)
    state, seen = jax.jit(algorithm.init)(init_key), jnp.zeros((64, 1, 1))
    act = jax.jit(algorithm.act)
    actions = act(state, Context(seen), one)
    assert actions.shape == (64, 1, 3)
    assert jnp.all((actions >= 0.0) | (actions == -1.0)) and jnp.all(actions <= 31.0)
    assert set(np.unique(actions[..., 2])) == {-1.0, 1.0}
    assert jnp.any(actions != act(state, Context(seen), two))
    calm = Context(seen, {"explore": jnp.zeros(64)})
    np.testing.assert_array_equal(act(state, calm, three), act(state, calm, four))


def test_advantage_loss_is_that_of_oh_et_al():
    config = SelfImitationConfig(
        objective="advantage", likelihood="gaussian", sigma=0.5, value_weight=0.3
    )
    spec = Spec(1, 2)
    head = action_head(spec, "gaussian", sigma=0.5)
    raw = jnp.array([[[0.1, -0.2]], [[0.3, 0.4]]])
    actions = jnp.array([[[0.5, 0.0]], [[0.0, 0.1]]])
    returns, value = jnp.array([[1.0], [0.2]]), jnp.array([0.4, 0.6])
    zeros = jnp.zeros((2, 1))
    batch = Batch(zeros[..., None], actions, zeros, jnp.ones((2, 1), bool), {"returns": returns})
    total, metrics = loss(config, head, raw, value, batch)
    log_density = -0.5 * np.square((actions[0, 0] - np.tanh(raw[0, 0])) / 0.5) - np.log(0.5)
    policy = -log_density.sum() * 0.6 / 2  # the second example is no better than V: (R - V)_+ = 0
    critic = 0.5 * 0.6**2 / 2
    np.testing.assert_allclose(total, policy + 0.3 * critic, rtol=1e-5)
    slope = jax.grad(lambda v: loss(config, head, raw, v, batch)[0])(value)
    np.testing.assert_allclose(slope, [-0.3 * 0.6 / 2, 0.0], atol=1e-6)  # by the critic alone


def test_returns_are_wanted_only_by_the_advantage_loss():
    assert self_imitation(TINY, SPEC).window.fields == ("image", "task")
    config = SelfImitationConfig(objective="advantage", likelihood="gaussian", history=2, execute=3)
    window = self_imitation(config, SPEC._replace(image_shape=())).window
    assert (window.history, window.horizon, window.execute) == (2, 4, 3)
    assert window.fields == ("task", "returns")


def test_bounds_invert_and_a_binary_dimension_is_logistic():
    head = action_head(Spec(1, 2, (0.0, -1.0), (4.0, 1.0)), binary_dims=(1,))
    actions = jnp.array([[[1.0, 1.0]], [[4.0, -1.0]]])
    np.testing.assert_allclose(from_unit(head, to_unit(head, actions)), actions, atol=1e-6)
    raw = jnp.array([[[0.0, 2.0]], [[0.0, 2.0]]])
    cost = negative_log_likelihood(head, raw, actions)
    np.testing.assert_allclose(cost[0, 0], [0.125, np.log1p(np.exp(-2.0))], rtol=1e-5)
    np.testing.assert_allclose(cost[1, 0], [0.5, np.log1p(np.exp(2.0))], rtol=1e-5)


def test_a_learnt_sigma_is_best_at_the_error(key):
    head = action_head(Spec(1, 1), "gaussian")
    actions = jnp.full((1, 1, 1), 0.3)
    cost = lambda s: negative_log_likelihood(head, jnp.array([[[0.0, s]]]), actions)[0, 0, 0]
    assert abs(jax.grad(cost)(jnp.log(0.3))) < 1e-5
    assert decide(head, jnp.zeros((2, 1, 2)), key, Exploration()).shape == (2, 1, 1)


def test_shifts_move_all_frames_of_a_camera_alike_and_repeat_the_border(key):
    ramp = jnp.broadcast_to(jnp.arange(8, dtype=jnp.uint8)[:, None, None], (8, 8, 3))
    images = jnp.broadcast_to(ramp[None, None, None], (16, 2, 1, 8, 8, 3))
    moved = shifted(images, key, 2)
    assert moved.dtype == jnp.uint8
    np.testing.assert_array_equal(moved[:, 0], moved[:, 1])
    steps = np.asarray(moved[:, 0, 0, 4, 0, 0]).astype(int) - 4
    assert set(steps.tolist()) <= {-2, -1, 0, 1, 2} and len(set(steps.tolist())) > 2


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"objective": "best"}, "objective 'best' is unknown"),
        ({"objective": "advantage"}, "use likelihood='gaussian'"),
        ({"history": 0}, "history=0 is not positive"),
        ({"shift": -1}, "shift=-1 is negative"),
    ],
)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SelfImitationConfig(**fields)


def test_impossible_actions_are_refused():
    with pytest.raises(ValueError, match="action_low has 1 numbers and action_dim is 2"):
        action_head(Spec(1, 2, (0.0,)))
    with pytest.raises(ValueError, match="binary_dims has 2, outside 0..1"):
        action_head(Spec(1, 2), binary_dims=(2,))
    with pytest.raises(ValueError, match="epsilon=2.0 is no probability"):
        Exploration(epsilon=2.0)

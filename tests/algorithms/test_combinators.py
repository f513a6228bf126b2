"""Combinators: normalisation is undone on the way out, members differ, imagined rows replace real ones."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.algorithms.bc import BcConfig, bc
from daag_jax.algorithms.parts.combinators import Stats, augmented, ensemble, mix, normalized
from daag_jax.algorithms.parts.trainable import apply_gradients, averaged, create, make_optimizer
from daag_jax.data.normalize import normalized_spec
from daag_jax.types import Algorithm, Batch, Context, Spec, Window

STATS = Stats(*(jnp.array(x) for x in ([1.0, 2.0], [2.0, 0.0], [0.5], [0.1])))


def echo(window=Window()) -> Algorithm:
    """Acts and imagines what it was shown last."""
    return Algorithm(
        window,
        init=lambda key: jnp.zeros(()),
        update=lambda state, batch, key: (jnp.sum(batch.observations), {"mean": state}),
        act=lambda state, context, key: context.observations[:, -1:, :1],
        augment=lambda state, batch, key: batch._replace(actions=batch.actions + 1.0),
    )


def batch(size: int = 4) -> Batch:
    ones = jnp.ones((size, 1))
    observations = jnp.broadcast_to(jnp.array([3.0, 5.0])[None, None], (size, 1, 2))
    return Batch(observations, ones[..., None], ones, ones > 0, {"index": jnp.arange(size)})


def test_normalized_shows_deviations_and_returns_units(key):
    algorithm = normalized(echo(), STATS)
    act_key, update_key, augment_key = jax.random.split(key, 3)
    state, _ = algorithm.update(jnp.zeros(()), batch(), update_key)
    np.testing.assert_allclose(state, 4 * (1.0 + 3.0))  # (3 - 1) / 2; (5 - 2) / 1, as its std is 0
    actions = algorithm.act(state, Context(batch().observations), act_key)
    np.testing.assert_allclose(actions, 0.5 + 0.1 * 1.0)
    imagined = algorithm.augment(state, batch(), augment_key)
    np.testing.assert_allclose(imagined.observations, batch().observations, rtol=1e-6)
    np.testing.assert_allclose(imagined.actions, 1.0 + 0.1, rtol=1e-6)


def test_a_bounded_learner_of_normalised_actions_reaches_the_bounds_of_the_world(key):
    stats = Stats(jnp.zeros(1), jnp.ones(1), jnp.array([0.1]), jnp.array([0.2]))
    spec = Spec(1, 1)
    algorithm = normalized(
        bc(BcConfig((16,), learning_rate=1e-2), normalized_spec(spec, stats)), stats
    )
    actions = jnp.where(jnp.arange(64) % 2 == 0, 0.9, -0.9)[:, None, None]
    seen = Batch(jnp.sign(actions), actions, jnp.zeros((64, 1)), jnp.ones((64, 1), bool))
    state, update = jax.jit(algorithm.init)(key), jax.jit(algorithm.update)
    for n in range(100):
        state, _ = update(state, seen, jax.random.key(n))
    decided = algorithm.act(state, Context(seen.observations), jax.random.key(0))
    np.testing.assert_allclose(decided, actions, atol=0.05)
    assert normalized_spec(spec, stats._replace(action_mean=None, action_std=None)) == spec


def test_observations_far_from_the_data_are_cut(key):
    algorithm = normalized(echo(), STATS, observation_limit=0.5)
    act_key, update_key = jax.random.split(key)
    state, _ = algorithm.update(jnp.zeros(()), batch(), update_key)
    np.testing.assert_allclose(state, 4 * (0.5 + 0.5))
    actions = algorithm.act(state, Context(-batch().observations), act_key)
    np.testing.assert_allclose(actions, 0.5 - 0.1 * 0.5)
    imagined = algorithm.augment(state, batch(), update_key)
    np.testing.assert_allclose(imagined.observations, batch().observations, rtol=1e-6)
    with pytest.raises(ValueError, match="observation_limit=-1.0 is negative"):
        normalized(echo(), STATS, observation_limit=-1.0)


def test_an_imagined_task_is_in_the_units_of_the_world(key):
    stats = STATS._replace(task_mean=jnp.array([5.0]), task_std=jnp.array([2.0]))
    told = batch()._replace(extras={"task": jnp.full((4, 1), 9.0)})
    imagined = normalized(echo(), stats).augment(jnp.zeros(()), told, key)
    np.testing.assert_allclose(imagined.extras["task"], 9.0)


def test_ensemble_members_differ_and_act_by_their_mean(key):
    spec = Spec(2, 1)
    one, many = bc(BcConfig((8,)), spec), ensemble(bc(BcConfig((8,)), spec), 3)
    init_key, update_key, act_key, member_key = jax.random.split(key, 4)
    state, metrics = jax.jit(many.update)(jax.jit(many.init)(init_key), batch(), update_key)
    kernel = state.params["params"]["Dense_0"]["kernel"]
    assert kernel.shape == (3, 2, 8) and jnp.any(kernel[0] != kernel[1])
    assert metrics["loss/policy"].shape == ()
    context, act = Context(batch().observations), jax.jit(one.act)
    members = [
        act(jax.tree.map(lambda leaf, i=i: leaf[i], state), context, jax.random.clone(member_key))
        for i in range(3)
    ]
    np.testing.assert_allclose(
        jax.jit(many.act)(state, context, act_key), sum(members) / 3, atol=1e-6
    )


@pytest.mark.parametrize("ratio, imagined", [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_the_ratio_is_the_share_of_imagined_rows(key, ratio, imagined):
    other = batch()._replace(actions=jnp.full((4, 1, 1), 9.0))
    mixed = mix(batch(), other, ratio)
    assert int(jnp.sum(mixed.actions == 9.0)) == imagined
    student = echo()._replace(
        update=lambda state, batch, key: (jnp.sum(batch.actions), {"loss/student": state})
    )
    algorithm = augmented(student, echo(), ratio)
    init_key, update_key = jax.random.split(key)
    state, metrics = algorithm.update(algorithm.init(init_key), batch(), update_key)
    assert state.student == 4 + imagined
    assert set(metrics) == {"loss/student", "dreamer/mean"}
    assert state.dreamer == 32.0  # it learnt from the real rows


def test_augmented_unites_the_fields_and_refuses_what_cannot_be(key):
    del key
    image, task = Window(fields=("image", "task")), Window(fields=("task", "index"))
    assert augmented(echo(image), echo(task), 0.5).window.fields == ("image", "task", "index")
    with pytest.raises(ValueError, match="ratio=1.5 is no share"):
        augmented(echo(), echo(), 1.5)
    with pytest.raises(ValueError, match="no verb `augment`"):
        augmented(echo(), echo()._replace(augment=None), 0.5)
    with pytest.raises(ValueError, match="horizon 1 differs from the dreamer's 8"):
        augmented(echo(), echo(Window(horizon=8)), 0.5)
    with pytest.raises(ValueError, match="num_members=0"):
        ensemble(echo(), 0)


def test_the_average_follows_the_parameters_and_the_clip_is_global():
    optimizer = make_optimizer(0.1, max_grad_norm=1.0)
    trainable = create({"a": jnp.ones(2), "b": jnp.ones(())}, optimizer, ema=True)
    gradients = {"a": jnp.array([1e3, 0.0]), "b": jnp.zeros(())}
    after = apply_gradients(trainable, gradients, optimizer, ema_decay=0.75)
    np.testing.assert_allclose(after.params["a"], [0.9, 1.0], atol=1e-5)
    np.testing.assert_allclose(averaged(after)["a"], [0.975, 1.0], atol=1e-5)
    plain = create(trainable.params, optimizer)
    assert plain.ema is None and averaged(plain) is plain.params


def test_accumulated_gradients_make_one_update_of_the_whole_batch():
    whole, parts = make_optimizer(0.1), make_optimizer(0.1, accumulate=2)
    start, gradients = (
        {"a": jnp.ones(2)},
        [{"a": jnp.array([1.0, 3.0])}, {"a": jnp.array([2.0, -7.0])}],
    )
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *gradients)
    expected = apply_gradients(create(start, whole, ema=True), mean, whole, ema_decay=0.5)
    half = apply_gradients(create(start, parts, ema=True), gradients[0], parts, ema_decay=0.5)
    jax.tree.map(np.testing.assert_array_equal, (half.params, half.ema), (start, start))
    after = apply_gradients(half, gradients[1], parts, ema_decay=0.5)
    same = partial(np.testing.assert_allclose, rtol=1e-6)
    jax.tree.map(same, (after.params, after.ema), (expected.params, expected.ema))
    with pytest.raises(ValueError, match="accumulate=0 is not positive"):
        make_optimizer(0.1, accumulate=0)

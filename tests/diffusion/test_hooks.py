"""Guides and projections: identities, closed forms, and Diffuser's own order of operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.diffusion import guidance, projections, schedules
from daag_jax.diffusion.process import posterior_variance
from daag_jax.diffusion.samplers import ddim_step, sample, start

SCHEDULE = schedules.cosine(20)
BASE = lambda x, time: 0.3 * x + time.reshape((-1, 1))
OTHER = lambda x, time: jnp.sin(x)
X, TIME = jnp.linspace(-1, 1, 8).reshape(4, 2), jnp.full((4,), 0.5)


def test_classifier_free_is_exact_at_weights_zero_and_one():
    base, other = BASE(X, TIME), OTHER(X, TIME)
    for weight, expected in ((0.0, base), (1.0, other)):
        guided = guidance.classifier_free(OTHER, BASE, weight)(X, TIME)
        np.testing.assert_array_equal(guided, expected)


def test_fused_guidance_is_guidance_in_one_call():
    condition = jnp.concatenate([jnp.ones((4, 1)), jnp.zeros((4, 1))])
    pair = lambda x, time: 0.3 * x + condition * time.reshape((-1, 1))
    fused = guidance.classifier_free_fused(pair, 7.5)
    apart = guidance.classifier_free(BASE, lambda x, time: 0.3 * x, 7.5)
    np.testing.assert_allclose(fused(X, TIME), apart(X, TIME), rtol=1e-5)
    np.testing.assert_allclose(fused(X, jnp.float32(0.5)), apart(X, TIME), rtol=1e-5)


def test_a_negative_weight_moves_the_other_way():
    toward = guidance.compose(BASE, [(OTHER, 0.5)])(X, TIME) - BASE(X, TIME)
    away = guidance.compose(BASE, [(OTHER, -0.5)])(X, TIME) - BASE(X, TIME)
    np.testing.assert_allclose(toward, -away, atol=1e-6)
    both = guidance.compose(BASE, [(OTHER, 0.5), (OTHER, -0.5)])(X, TIME)
    np.testing.assert_allclose(both, BASE(X, TIME), atol=1e-6)


def test_clipped_and_inpainted_estimates():
    clipped = guidance.clip(lambda x, time: 5.0 * x)(X, TIME)
    assert float(clipped.min()) == -1.0 and float(clipped.max()) == 1.0
    known, mask = jnp.full_like(X, 0.25), jnp.zeros_like(X).at[:, 0].set(1.0)
    painted = guidance.inpaint(BASE, known, mask)
    np.testing.assert_array_equal(painted(X, TIME)[:, 0], known[:, 0])
    np.testing.assert_array_equal(painted(X, TIME)[:, 1], BASE(X, TIME)[:, 1])
    out = sample(painted, SCHEDULE, X, schedules.uniform_times(5))
    np.testing.assert_array_equal(out[:, 0], known[:, 0])


def test_classifier_guidance_is_finite_where_there_is_no_signal():
    flow = schedules.rectified_flow()
    guided = guidance.classifier(OTHER, flow, lambda x, t: jnp.sum(x, axis=-1), 1.0)
    assert np.all(np.isfinite(guided(X, jnp.ones((4,)))))


def test_climb_is_the_guided_step_of_diffuser(key):
    """x += scale var grad, twice, conditioned each time; then the posterior's step from there."""
    value = lambda x, time: -jnp.sum(jnp.square(x - 0.5), axis=-1)
    condition = lambda x: x.at[:, 0].set(0.1)
    stop = schedules.time_of(SCHEDULE, 2)
    times = schedules.uniform_times(20)
    denoise = lambda x, time: 0.9 * jnp.tanh(x)
    project = projections.climb(SCHEDULE, value, 3.0, 2, stop, condition=condition)
    ours = sample(
        denoise, SCHEDULE, project(X, X, times[0], None), times, key, "ddpm", project=project
    )
    x = X
    for index, (time, after) in enumerate(zip(times[:-1], times[1:], strict=True)):
        for _ in range(2):
            gradient = jax.grad(lambda x: jnp.sum(value(x, None)))(x)
            variance = posterior_variance(SCHEDULE, time, after)
            climbs = 19 - index >= 2  # the released code's t, and its t_stopgrad
            x = condition(x + 3.0 * variance * gradient * climbs)
        z = jax.random.normal(jax.random.fold_in(jax.random.key(0), index), x.shape)
        x = ddim_step(SCHEDULE, x, denoise(x, None), time, after, z, 1.0)
    np.testing.assert_allclose(ours, condition(x), atol=1e-5)


def test_climb_of_scale_zero_is_the_identity_and_a_continuous_schedule_needs_an_interval():
    value = lambda x, time: jnp.sum(x, axis=-1)
    project = projections.climb(SCHEDULE, value, 0.0)
    np.testing.assert_array_equal(project(X, X, jnp.float32(0.5), None), X)
    with pytest.raises(ValueError, match="interval=None"):
        projections.climb(schedules.vp_sde(), value, 1.0)


def test_barrier_keeps_a_safe_state_safe_and_leaves_safe_steps_alone():
    normal = jnp.array([[0.6, 0.8]])
    safety = lambda x: 1.0 + jnp.sum(normal * x, axis=-1)
    project = projections.barrier(safety, rate=0.5)
    after = X + jnp.array([[-3.0, -3.0]])
    kept = project(X, after, jnp.float32(0.5), None)
    assert np.all(safety(kept) >= 0.5 * safety(X) - 1e-5)
    np.testing.assert_allclose(safety(kept), 0.5 * safety(X), atol=1e-5)  # and no further
    np.testing.assert_array_equal(project(X, X + 0.1, jnp.float32(0.5), None), X + 0.1)


def test_a_fresh_noise_differs_by_time_and_is_the_same_again(key):
    known = jnp.zeros((2, 500))
    project = projections.replace_known(SCHEDULE, known, jnp.zeros_like(known), key)
    run = lambda time: project(known, known, jnp.float32(time), None)
    early, late = run(0.3), run(0.6)
    np.testing.assert_array_equal(early, run(0.3))
    np.testing.assert_array_equal(run(0.0), known)
    assert float(early.std()) == pytest.approx(float(SCHEDULE.sigma(jnp.float32(0.3))), rel=0.1)
    assert abs(float(jnp.corrcoef(early.ravel(), late.ravel())[0, 1])) < 0.15


def test_one_noise_for_all_frames_and_a_soft_mask_blends(key):
    known, noise = jnp.ones((3, 4)), jax.random.normal(key, (1, 4))
    hard = projections.replace_known(SCHEDULE, known, jnp.zeros((3, 4)), noise)
    state = hard(known, known, jnp.float32(0.5), None)
    np.testing.assert_array_equal(state[0], state[2])
    soft = projections.replace_known(SCHEDULE, known, jnp.full((3, 4), 0.25), noise)
    mixed = soft(known, 0.0 * known, jnp.float32(0.5), None)
    np.testing.assert_allclose(mixed, 0.75 * state, rtol=1e-6)


@pytest.mark.parametrize("method", ["ddim", "ddpm", "dpm_solver_2m", "heun"])
def test_what_is_known_comes_out_exactly(method, key):
    known, noise_key, sample_key = X, *jax.random.split(key)
    mask = jnp.zeros_like(X).at[:, 0].set(1.0)
    noise = jax.random.normal(noise_key, X.shape)
    blend = projections.replace_known(SCHEDULE, known, mask, noise)
    out = sample(
        OTHER, SCHEDULE, start(SCHEDULE, known, noise), schedules.uniform_times(6), sample_key,
        method, project=blend,
    )  # fmt: skip
    np.testing.assert_array_equal(out[:, 1], known[:, 1])
    assert not np.allclose(out[:, 0], known[:, 0], atol=1e-3)


def test_chains_apply_in_order_and_hold_and_clamp_do_as_they_say():
    held = projections.hold(jnp.full_like(X, 3.0), jnp.ones_like(X, bool).at[:, 1].set(False))
    chained = projections.chain(held, projections.clamp(-0.5, 2.0))
    out = np.asarray(chained(X, X, jnp.float32(0.5), None))
    assert np.all(out[:, 0] == 2.0) and out.min() == -0.5
    assert np.all(np.asarray(held(X, X, jnp.float32(0.5), None))[:, 0] == 3.0)

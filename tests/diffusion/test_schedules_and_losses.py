"""Tables, ends of time, parameterisations and weights: what holds for every schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daag_jax.diffusion import schedules
from daag_jax.diffusion.losses import (
    WEIGHTINGS,
    diffusion_loss,
    draw_lognormal_times,
    draw_times,
    weight_of,
)
from daag_jax.diffusion.process import (
    PARAMETERISATIONS,
    GaussianProcess,
    edm_denoiser,
    posterior_variance,
)

SCHEDULES = {
    "linear": schedules.linear(),
    "cosine": schedules.cosine(),
    "sigmoid": schedules.sigmoid(),
    "sigmoid_betas": schedules.sigmoid_betas(),
    "scaled_linear": schedules.scaled_linear(),
    "vp": schedules.vp(5),
    "vp_sde": schedules.vp_sde(),
    "ve": schedules.ve(),
    "rectified_flow": schedules.rectified_flow(),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_zero_is_clean_and_noise_only_grows(name):
    schedule = SCHEDULES[name]
    times = jnp.linspace(0.0, 1.0, 51)
    alpha, sigma = np.asarray(schedule.alpha(times)), np.asarray(schedule.sigma(times))
    assert alpha[0] == 1.0 and sigma[0] == 0.0
    assert np.all(np.isfinite(alpha)) and np.all(np.diff(sigma / np.maximum(alpha, 1e-9)) > 0)
    if name not in ("ve", "rectified_flow"):
        np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)
    slopes = schedules.derivatives(schedule, times)
    assert np.all(np.isfinite(np.asarray(slopes)))


def test_tables_are_exact_at_every_step():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    schedule = SCHEDULES["scaled_linear"]
    times = schedules.time_of(schedule, jnp.arange(1000))
    np.testing.assert_allclose(schedule.alpha(times) ** 2, np.cumprod(1 - betas), rtol=1e-6)
    np.testing.assert_array_equal(schedules.step_of(schedule, times), np.arange(1000.0))


def test_the_betas_of_diffusion_bc_are_the_released_ones():
    schedule = SCHEDULES["sigmoid_betas"]
    steps = jnp.array([0, 100, 200, 300, 400, 500, 600, 700, 800, 999])
    released = [0.9999, 0.9805, 0.9408, 0.8426, 0.6207, 0.2989, 0.0814, 0.0145, 0.0021, 4e-5]
    alpha2 = schedule.alpha(schedules.time_of(schedule, steps)) ** 2
    np.testing.assert_allclose(alpha2, released, atol=6e-5)


def test_vp_is_the_table_of_the_continuous_process():
    table, limit = schedules.vp(5, 0.1, 10.0), schedules.vp_sde(0.1, 10.0)
    times = schedules.time_of(table, jnp.arange(5))
    np.testing.assert_allclose(table.alpha(times), limit.alpha(times), rtol=1e-6)


def test_ve_has_the_levels_of_karras():
    schedule, num, rho = schedules.ve(0.002, 80.0, 7.0), 18, 7.0
    ramp = np.arange(num) / (num - 1)
    levels = (80.0 ** (1 / rho) + ramp * (0.002 ** (1 / rho) - 80.0 ** (1 / rho))) ** rho
    ours = schedule.sigma(schedules.ending_times(schedule, num))
    np.testing.assert_allclose(ours[:-1], levels, rtol=2e-5)
    assert ours.shape == (num + 1,) and ours[-1] == 0.0


@pytest.mark.parametrize("name", ["cosine", "vp_sde", "ve", "rectified_flow"])
def test_time_at_inverts_log_snr(name):
    schedule = SCHEDULES[name]
    times = jnp.linspace(max(0.05, schedule.min_time), 0.95, 9)
    recovered = schedules.time_at(schedule, schedules.log_snr(schedule, times))
    np.testing.assert_allclose(recovered, times, atol=2e-5)
    even = np.diff(schedules.log_snr(schedule, schedules.log_snr_times(schedule, 8)[:-1]))
    np.testing.assert_allclose(even, even.mean(), rtol=2e-2)


def test_leading_times_end_on_the_first_step_or_on_clean_data():
    schedule = SCHEDULES["scaled_linear"]
    times = schedules.leading_times(schedule, 50)
    steps = np.asarray(schedules.step_of(schedule, times))
    np.testing.assert_array_equal(steps, np.append(np.arange(981, 0, -20), 0))
    assert float(schedules.leading_times(schedule, 50, is_end_clean=True)[-1]) == 0.0
    with pytest.raises(ValueError, match="num=1000"):
        schedules.leading_times(schedule, 1000)


def test_an_edit_of_strength_s_takes_the_last_int_of_n_s_steps():
    times = schedules.leading_times(SCHEDULES["scaled_linear"], 50)
    part = schedules.last_part(times, 0.75)
    assert part.shape == (38,)  # int(37.5) steps
    np.testing.assert_array_equal(part, times[13:])
    with pytest.raises(ValueError, match="strength=0.001"):
        schedules.last_part(times, 0.001)


def test_a_continuous_schedule_has_no_steps():
    with pytest.raises(ValueError, match="num_steps=0"):
        schedules.step_of(schedules.vp_sde(), jnp.float32(0.5))


@settings(max_examples=30, deadline=None)
@given(
    x0=st.floats(-3, 3),
    noise=st.floats(-3, 3),
    time=st.floats(0.05, 0.95),
    kind=st.sampled_from(PARAMETERISATIONS),
    name=st.sampled_from(["cosine", "vp_sde", "rectified_flow", "ve"]),
)
def test_from_x0_inverts_to_x0(x0, noise, time, kind, name):
    process = GaussianProcess(SCHEDULES[name], kind)
    time = jnp.maximum(jnp.full((1,), time), process.schedule.min_time)
    x0, noise = jnp.full((1, 1), x0), jnp.full((1, 1), noise)
    xt = process.corrupt(x0, noise, time)
    prediction = process.target(x0, noise, time)
    back = process.from_x0(process.to_x0(prediction, xt, time), xt, time)
    alpha, sigma = process.schedule.alpha(time)[0], process.schedule.sigma(time)[0]
    # float32 xt carries alpha x0 and sigma noise to 1e-7 of the larger: what the smaller loses, nobody recovers
    condition = float(jnp.maximum(alpha, sigma) ** 2 / jnp.minimum(alpha, sigma) ** 2)
    size = float(jnp.abs(prediction).max()) + float(1 / sigma if kind == "score" else 1 + sigma)
    np.testing.assert_allclose(back, prediction, atol=2e-6 * size * (20 + condition))


@pytest.mark.parametrize("kind", PARAMETERISATIONS)
@pytest.mark.parametrize("name", ["cosine", "scaled_linear", "ve", "rectified_flow"])
def test_both_ends_of_time_are_finite_in_value_and_gradient(kind, name):
    process = GaussianProcess(SCHEDULES[name], kind)
    x0, noise = jnp.ones((2, 3)), jnp.full((2, 3), 0.5)
    ends = jnp.array([0.0, 1.0])

    @jax.jit
    def recover(x0, time):
        xt = process.corrupt(x0, noise, time)
        return process.to_x0(process.target(x0, noise, time), xt, time)

    recovered = np.asarray(recover(x0, ends))
    np.testing.assert_allclose(recovered[0], 1.0, atol=1e-6)
    is_lost = name == "rectified_flow" and kind in ("noise", "score")  # alpha = 0: x0 is not in it
    np.testing.assert_allclose(recovered[1], 0.0 if is_lost else 1.0, atol=1e-3)
    assert np.all(np.isfinite(jax.grad(lambda x: jnp.sum(recover(x, ends)))(x0)))


def test_a_scalar_time_is_the_time_of_all():
    process = GaussianProcess(SCHEDULES["cosine"], "v")
    x0, noise = jnp.ones((2, 3)), jnp.full((2, 3), 0.5)
    one = process.corrupt(x0, noise, jnp.float32(0.3))
    np.testing.assert_array_equal(one, process.corrupt(x0, noise, jnp.full((2,), 0.3)))


def test_posterior_variance_is_that_of_ho():
    betas = np.linspace(1e-4, 0.02, 1000)
    alphas = np.cumprod(1 - betas)
    step = np.array([1, 10, 500, 999])
    expected = (1 - alphas[step - 1]) / (1 - alphas[step]) * betas[step]
    at = lambda i: schedules.time_of(SCHEDULES["linear"], jnp.asarray(i))
    ours = posterior_variance(SCHEDULES["linear"], at(step), at(step - 1))
    np.testing.assert_allclose(ours, expected, rtol=2e-2)


@pytest.mark.parametrize("name", ["ve", "vp_sde"])
def test_a_silent_edm_network_is_optimal_for_a_centred_gaussian(name):
    """c_skip x is E[x0 | xt] where x0 ~ N(0, sigma_data^2)."""
    schedule = SCHEDULES[name]
    denoise = edm_denoiser(lambda x, level: jnp.zeros_like(x), schedule, sigma_data=0.5)
    x, time = jnp.ones((4, 1)), jnp.array([0.0, 0.3, 0.6, 1.0])
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    expected = alpha * 0.25 / (alpha**2 * 0.25 + sigma**2)
    np.testing.assert_allclose(denoise(x, time)[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["cosine", "ve", "rectified_flow"])
def test_weights_are_finite_everywhere(name):
    time = jnp.linspace(0.0, 1.0, 7)
    for kind in PARAMETERISATIONS:
        process = GaussianProcess(SCHEDULES[name], kind)
        for weighting in WEIGHTINGS:
            weights = weight_of(process, time, weighting)
            assert np.all(np.isfinite(weights)), (kind, weighting, weights)


@pytest.mark.parametrize("weighting", ["uniform", "min_snr", "x0", "edm"])
def test_a_weighting_means_the_same_for_every_target(weighting):
    """The same wrong x0 costs the same, whatever the network says it in."""
    schedule, x0, noise = SCHEDULES["vp_sde"], jnp.ones((5, 2)), jnp.full((5, 2), -0.3)
    time = jnp.linspace(0.2, 0.8, 5)

    def cost(kind):
        process = GaussianProcess(schedule, kind)
        network = lambda xt, t: process.from_x0(0.7 * x0, xt, t)
        return diffusion_loss(process, network, x0, time, None, weighting, noise=noise)

    expected = cost("x0")
    for kind in PARAMETERISATIONS[0:1] + PARAMETERISATIONS[2:]:
        np.testing.assert_allclose(cost(kind), expected, rtol=2e-4)


def test_masks_of_fewer_axes_belong_to_the_first_axes():
    process = GaussianProcess(SCHEDULES["cosine"], "x0")
    x0, time = jnp.zeros((2, 2, 2)), jnp.full((2,), 0.5)
    wrong = jnp.array([[[1.0, 1.0], [3.0, 3.0]], [[2.0, 2.0], [5.0, 5.0]]])
    mask = jnp.array([[True, False], [True, True]])  # [B, T], here as large as [T, D]
    loss = diffusion_loss(
        process, lambda x, t: wrong, x0, time, None, "x0", mask=mask, noise=jnp.ones_like(x0)
    )
    np.testing.assert_allclose(loss, [1.0, (4.0 + 25.0) / 2], rtol=1e-6)


def test_loss_wants_a_key_or_a_noise():
    process, x0 = GaussianProcess(SCHEDULES["cosine"]), jnp.zeros((1, 1))
    with pytest.raises(ValueError, match="exactly one of key and noise"):
        diffusion_loss(process, lambda x, t: x, x0, jnp.ones((1,)))


def test_times_cover_every_step_and_mirror_when_antithetic(key):
    keys = jax.random.split(key, 4)
    schedule = schedules.vp(5)
    steps = np.asarray(schedules.step_of(schedule, draw_times(keys[0], 200, schedule)))
    assert set(steps) == {0.0, 1.0, 2.0, 3.0, 4.0}
    pairs = np.asarray(schedules.step_of(schedule, draw_times(keys[1], 10, schedule, True)))
    np.testing.assert_allclose(pairs[:5] + pairs[5:], 4.0, atol=1e-5)
    free = np.asarray(draw_times(keys[2], 7, SCHEDULES["ve"], True))
    assert free.shape == (7,) and free.min() >= SCHEDULES["ve"].min_time and free.max() <= 1.0
    level = np.log(SCHEDULES["ve"].sigma(draw_lognormal_times(keys[3], 4000, SCHEDULES["ve"])))
    assert level.mean() == pytest.approx(-1.2, abs=0.08)
    assert level.std() == pytest.approx(1.2, abs=0.08)


def test_spacings_are_those_of_diffusers():
    """Steps 999, 749, ...; 751, 501, ...; 999, 749.25 rounded, ...: as the three schedulers list them for N = 4."""
    schedule = schedules.scaled_linear()
    steps = lambda spacing: np.asarray(
        schedules.step_of(schedule, schedules.spaced_times(schedule, 4, spacing))
    )
    np.testing.assert_allclose(steps("trailing"), [999, 749, 499, 249, -1])
    np.testing.assert_allclose(steps("leading"), [751, 501, 251, 1, 0])
    np.testing.assert_allclose(steps("linspace"), [999, 749, 500, 250, -1])
    half = schedules.spaced_times(schedule, 4, "leading", 0.5)
    np.testing.assert_allclose(schedules.step_of(schedule, half), [251, 1, 0])
    with pytest.raises(ValueError, match="spacing 'even'"):
        schedules.spaced_times(schedule, 4, "even")

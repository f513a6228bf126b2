"""Samplers against closed forms and against plain transcriptions of their papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.diffusion import schedules
from daag_jax.diffusion.process import GaussianProcess
from daag_jax.diffusion.samplers import METHODS, Churn, invert, prior, sample, start

MEAN, SPREAD = 0.7, 0.4


def gaussian_denoiser(schedule, mean=MEAN, spread=SPREAD):
    """E[x0 | xt] for x0 ~ N(mean, spread^2)."""

    def denoise(x, time):
        alpha, sigma = schedule.alpha(time)[:, None], schedule.sigma(time)[:, None]
        gain = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
        return mean + gain * (x - alpha * mean)

    return denoise


def flow_end(schedule, x, begin, end):
    """Where the probability-flow ODE carries x: standardised coordinates stay what they are."""
    std = lambda t: jnp.sqrt(schedule.alpha(t) ** 2 * SPREAD**2 + schedule.sigma(t) ** 2)
    return schedule.alpha(end) * MEAN + std(end) / std(begin) * (x - schedule.alpha(begin) * MEAN)


@pytest.mark.parametrize(
    ("method", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpm_solver_2m", 2)]
)
@pytest.mark.parametrize("name", ["vp_sde", "ve", "rectified_flow"])
def test_ode_samplers_converge_at_their_order_in_float64(method, order, name):
    schedule = getattr(schedules, name)()
    first, last = (
        0.7,
        0.35,
    )  # on 0.8 .. 0.2 the leading error of 2M happens to cancel on rectified_flow
    with jax.enable_x64(True):
        begin, end = jnp.float64(first), jnp.float64(last)
        x = schedule.alpha(begin) * MEAN + schedule.sigma(begin) * jnp.array([[1.5], [-0.7]])
        exact = flow_end(schedule, x, begin, end)
        errors = []
        for num in (32, 64, 128):
            times = jnp.linspace(begin, end, num + 1)
            out = sample(gaussian_denoiser(schedule), schedule, x, times, method=method)
            assert out.dtype == jnp.float64
            errors.append(float(jnp.abs(out - exact).max()))
    slopes = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert slopes[-1] == pytest.approx(order, abs=0.15), (errors, slopes)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["ve", "vp_sde"])
def test_every_sampler_reaches_the_gaussian_from_pure_noise(method, name, key):
    schedule = getattr(schedules, name)()
    noise_key, sample_key = jax.random.split(key)
    x = prior(schedule, noise_key, (4000, 1))
    times = schedules.ending_times(schedule, 200)
    out = sample(gaussian_denoiser(schedule), schedule, x, times, sample_key, method)
    assert float(out.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(out.std()) == pytest.approx(SPREAD, abs=0.04)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["rectified_flow", "cosine"])
def test_walks_from_end_to_end_hold_no_nan_forward_or_backward(method, name, key):
    schedule = getattr(schedules, name)()
    times = schedules.uniform_times(4)  # from exactly 1 to exactly 0
    run = jax.jit(
        lambda x: sample(gaussian_denoiser(schedule), schedule, x, times, key, method).sum()
    )
    value, gradient = jax.value_and_grad(run)(jnp.ones((2, 1)))
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_euler_is_ddim():
    schedule, x = schedules.scaled_linear(), jnp.array([[1.0], [-2.0]])
    times = schedules.uniform_times(7)
    runs = [
        sample(gaussian_denoiser(schedule), schedule, x, times, method=m) for m in ("ddim", "euler")
    ]
    np.testing.assert_allclose(runs[0], runs[1], atol=2e-6)


def test_ddim_is_that_of_stable_diffusion():
    """Leading spacing, offset 1, final alpha of step 0, eta 0: transcribed from the paper's Eq. 12 in float64."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    predict = lambda x, step, lib: lib.sin(x) + 0.1 * step / 1000
    x = np.array([[1.3, -0.4]])
    steps = np.arange(20)[::-1] * 50 + 1
    for step in steps:
        noise = predict(x, step, np)
        x0 = (x - (1 - alphas[step]) ** 0.5 * noise) / alphas[step] ** 0.5
        final = alphas[step - 50] if step >= 50 else alphas[0]
        x = final**0.5 * x0 + (1 - final) ** 0.5 * noise
    schedule = schedules.scaled_linear()
    process = GaussianProcess(schedule, "noise")
    network = lambda xt, time: predict(xt, schedules.step_of(schedule, time)[:, None], jnp)
    times = schedules.leading_times(schedule, 20)
    ours = sample(process.denoiser(network), schedule, jnp.array([[1.3, -0.4]]), times)
    np.testing.assert_allclose(ours, x, rtol=2e-5)


def test_heun_on_ve_is_algorithm_1_of_karras():
    schedule = schedules.ve(0.01, 10.0)
    times = schedules.ending_times(schedule, 6)
    levels = np.asarray(schedule.sigma(times), np.float64)
    gain = lambda level: SPREAD**2 / (SPREAD**2 + level**2)
    slope = lambda x, level: (x - (MEAN + gain(level) * (x - MEAN))) / level
    x = np.array([[4.0], [-9.0]])
    for level, after in zip(levels[:-1], levels[1:], strict=True):
        first = slope(x, level)
        moved = x + (after - level) * first
        x = moved if after == 0 else x + (after - level) * 0.5 * (first + slope(moved, after))
    begin = jnp.array([[4.0], [-9.0]])
    ours = sample(gaussian_denoiser(schedule), schedule, begin, times, method="heun")
    np.testing.assert_allclose(ours, x, rtol=1e-5)


def test_churn_keeps_the_gaussian_and_none_is_none(key):
    schedule = schedules.ve(0.01, 20.0)
    noise_key, churn_key, other_key = jax.random.split(key, 3)
    x = prior(schedule, noise_key, (4000, 1))
    times = schedules.ending_times(schedule, 40)
    run = lambda churn, key: sample(
        gaussian_denoiser(schedule), schedule, x, times, key, "heun", churn=churn
    )
    plain, churned = run(None, None), run(Churn(20.0, 0.02, 10.0), churn_key)
    assert float(churned.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(churned.std()) == pytest.approx(SPREAD, abs=0.03)
    assert float(jnp.corrcoef(plain[:, 0], churned[:, 0])[0, 1]) < 0.9  # noise was really replaced
    np.testing.assert_allclose(run(Churn(0.0), other_key), plain, atol=1e-3)
    with pytest.raises(ValueError, match="cannot churn"):
        sample(lambda x, t: x, schedule, x, times, noise_key, "ddim", churn=Churn(1.0))


def test_low_temperature_narrows_the_samples(key):
    schedule = schedules.cosine()
    times = schedules.uniform_times(30)
    spreads = []
    for temperature, pair in zip((1.0, 0.5), jax.random.split(key, (2, 2)), strict=True):
        x = prior(schedule, pair[0], (2000, 1), temperature)
        out = sample(
            gaussian_denoiser(schedule), schedule, x, times, pair[1], "ddpm", 0.0, temperature
        )
        spreads.append(float(out.std()))
        assert float(out.mean()) == pytest.approx(MEAN, abs=0.03)
    assert spreads[1] == pytest.approx(0.5 * spreads[0], rel=0.06)  # linear denoiser: all halves


def test_inversion_comes_back_to_the_data():
    schedule = schedules.scaled_linear()
    denoise, times = gaussian_denoiser(schedule), schedules.leading_times(schedule, 500)
    x0 = jnp.array([[0.2], [1.1]])
    noise = invert(denoise, schedule, x0, times)
    back = sample(denoise, schedule, noise, times)
    np.testing.assert_allclose(back, x0, atol=0.02)
    # and the noise is the one that the flow joins with x0
    exact = flow_end(schedule, x0, times[-1], times[0])
    np.testing.assert_allclose(noise, exact, atol=0.02)


def test_a_warm_start_stays_near_and_a_cold_one_forgets(key):
    schedule = schedules.cosine()
    times = schedules.uniform_times(20)
    x0, noise = jnp.linspace(-0.5, 2.0, 500)[:, None], jax.random.normal(key, (500, 1))
    kept = []
    for strength in (0.2, 0.95):
        part = schedules.last_part(times, strength)
        begin = start(schedule, x0, noise, part[0])
        out = sample(gaussian_denoiser(schedule), schedule, begin, part)
        kept.append(float(jnp.corrcoef(out[:, 0], x0[:, 0])[0, 1]))
    assert kept[0] > 0.85 and kept[1] < 0.3, kept


def test_half_precision_states_are_carried_in_float32():
    schedule = schedules.cosine()
    x = jnp.ones((2, 3), jnp.bfloat16)
    out = sample(lambda x, t: 0.5 * x, schedule, x, schedules.uniform_times(3, 0.9))
    assert out.dtype == jnp.float32


def test_seeds_vmap(key):
    schedule = schedules.cosine()
    times, x = schedules.uniform_times(5), jnp.ones((3, 2, 1))
    run = lambda x, key: sample(gaussian_denoiser(schedule), schedule, x, times, key, "ddpm")
    keys = jax.random.split(key, 3)
    together = jax.vmap(run)(x, keys)
    alone = run(x[0], jax.random.split(jax.random.key(0), 3)[0])
    np.testing.assert_allclose(together[0], alone, atol=1e-6)
    assert not np.allclose(together[0], together[1])

"""The Gaussian law: where x0 ~ N(m, s^2), denoiser and flow are closed-form, and samplers must reach them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daag_jax.diffusion import guidance, schedules
from daag_jax.diffusion.losses import diffusion_loss, weight_of
from daag_jax.diffusion.process import PARAMETERISATIONS, GaussianProcess
from daag_jax.diffusion.projections import replace_known
from daag_jax.diffusion.samplers import METHODS, sample, start

MEAN, SPREAD = 0.7, 0.4
SCHEDULES = {
    "linear": schedules.linear(),
    "cosine": schedules.cosine(),
    "sigmoid": schedules.sigmoid(),
    "scaled_linear": schedules.scaled_linear(),
    "vp": schedules.vp(100),
    "ve": schedules.ve(0.002, 20.0),
    "rectified_flow": schedules.rectified_flow(),
}


def gaussian_denoiser(schedule, mean=MEAN, spread=SPREAD):
    """E[x0 | xt] for x0 ~ N(mean, spread^2)."""

    def denoise(x, time):
        alpha, sigma = schedule.alpha(time)[:, None], schedule.sigma(time)[:, None]
        gain = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
        return mean + gain * (x - alpha * mean)

    return denoise


def flow_end(schedule, x, begin, end, mean=MEAN, spread=SPREAD):
    """Where the probability-flow ODE carries x: standardised coordinates stay what they are."""
    std = lambda t: jnp.sqrt(schedule.alpha(t) ** 2 * spread**2 + schedule.sigma(t) ** 2)
    return schedule.alpha(end) * mean + std(end) / std(begin) * (x - schedule.alpha(begin) * mean)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_go_from_clean_to_noise(name):
    schedule = SCHEDULES[name]
    times = jnp.linspace(0.0, 1.0, 101)
    snr = schedules.log_snr(schedule, times[1:-1])
    assert np.all(np.diff(snr) < 0)
    assert schedule.alpha(times[0]) == pytest.approx(1.0)
    assert float(schedule.sigma(times[0])) <= 0.002 + 1e-6


def test_scaled_linear_is_the_table_of_stable_diffusion():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    alphas = np.cumprod(1 - betas)
    schedule = schedules.scaled_linear()
    times = schedules.time_of(schedule, jnp.arange(1000))
    np.testing.assert_allclose(schedule.alpha(times) ** 2, alphas, rtol=2e-5)
    np.testing.assert_allclose(schedules.step_of(schedule, times), np.arange(1000), atol=1e-4)


def test_leading_times_are_those_of_the_reference_pipeline():
    schedule = schedules.scaled_linear()
    steps = schedules.step_of(schedule, schedules.leading_times(schedule, 20))
    np.testing.assert_allclose(steps[:3], [951, 901, 851], atol=1e-3)
    np.testing.assert_allclose(steps[-2:], [1, 0], atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    x0=st.floats(-3, 3),
    noise=st.floats(-3, 3),
    time=st.floats(0.02, 0.98),
    kind=st.sampled_from(PARAMETERISATIONS),
    name=st.sampled_from(["cosine", "scaled_linear", "rectified_flow", "ve"]),
)
def test_parameterisations_invert_each_other(x0, noise, time, kind, name):
    process = GaussianProcess(SCHEDULES[name], kind)
    x0, noise, time = jnp.full((1, 1), x0), jnp.full((1, 1), noise), jnp.full((1,), time)
    xt = process.corrupt(x0, noise, time)
    recovered = process.to_x0(process.target(x0, noise, time), xt, time)
    snr = float(process.schedule.alpha(time)[0] / process.schedule.sigma(time)[0])
    np.testing.assert_allclose(recovered, x0, atol=1e-4 * (1 + 1 / snr) + 1e-3 * (name == "cosine"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["cosine", "rectified_flow"])
def test_every_sampler_reaches_the_gaussian(method, name, key):
    schedule = SCHEDULES[name]
    times = schedules.uniform_times(60, 0.99, 0.0)
    noise_key, sample_key = jax.random.split(key)
    x = schedule.sigma(times[0]) * jax.random.normal(noise_key, (4000, 1))
    x = x + schedule.alpha(times[0]) * MEAN
    out = sample(gaussian_denoiser(schedule), schedule, x, times, sample_key, method)
    assert float(out.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(out.std()) == pytest.approx(SPREAD, abs=0.03)


@pytest.mark.parametrize(
    ("method", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpm_solver_2m", 2)]
)
def test_ode_samplers_converge_at_their_order(method, order):
    schedule = schedules.rectified_flow()
    begin, end = jnp.float32(0.8), jnp.float32(0.3)
    x = jnp.array([[1.5], [-0.7]])
    exact = flow_end(schedule, x, begin, end)
    errors = []
    for num in (8, 16, 32):
        times = schedules.uniform_times(num, 0.8, 0.3)
        out = sample(gaussian_denoiser(schedule), schedule, x, times, method=method)
        errors.append(float(jnp.abs(out - exact).max()))
    slopes = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert slopes[-1] > order - 0.3, (errors, slopes)
    assert slopes[-1] < order + 0.3, (errors, slopes)


def test_ddim_is_exact_for_a_point_mass(key):
    schedule = schedules.cosine()
    x = jax.random.normal(key, (5, 2))
    denoise = lambda x, time: jnp.full_like(x, MEAN)
    out = sample(denoise, schedule, x, schedules.uniform_times(3, 0.99, 0.0))
    np.testing.assert_allclose(out, MEAN, atol=1e-5)


def test_ddpm_is_ddim_with_unit_eta(key):
    schedule = schedules.cosine()
    x = jnp.ones((3, 1))
    times = schedules.uniform_times(5, 0.9, 0.0)
    a = sample(gaussian_denoiser(schedule), schedule, x, times, key, "ddpm")
    b = sample(gaussian_denoiser(schedule), schedule, x, times, jax.random.key(0), "ddim", eta=1.0)
    np.testing.assert_array_equal(a, b)


def test_sampling_traces_once(key):
    schedule, traces = schedules.cosine(), []

    def denoise(x, time):
        traces.append(1)
        return gaussian_denoiser(schedule)(x, time)

    run = jax.jit(lambda x: sample(denoise, schedule, x, schedules.uniform_times(7)))
    first_key, second_key = jax.random.split(key)
    run(jax.random.normal(first_key, (2, 1)))
    count = len(traces)
    run(jax.random.normal(second_key, (2, 1)))
    assert len(traces) == count


def test_guides_of_weight_zero_are_the_identity():
    schedule = schedules.cosine()
    base = gaussian_denoiser(schedule)
    other = lambda x, time: x * 0.0
    x, time = jnp.ones((4, 1)), jnp.full((4,), 0.5)
    score = lambda x, time: -jnp.sum(x**2, axis=-1)
    for guided in (
        guidance.classifier(base, schedule, score, 0.0),
        guidance.ascend(base, schedule, score, 0.0),
        guidance.classifier_free(other, base, 0.0),
        guidance.classifier_free(base, other, 1.0),
        guidance.compose(base, [(other, 0.0)]),
        guidance.inpaint(base, x, jnp.zeros_like(x)),
    ):
        np.testing.assert_allclose(guided(x, time), base(x, time), rtol=1e-6)


def test_classifier_guidance_is_bayes_rule_for_gaussians():
    """N(m, s^2) guided by the exact p(y | xt) of y = x0 + N(0, r^2) is the posterior's denoiser."""
    schedule, observed, r = schedules.cosine(), -0.5, 0.3

    def log_prob(x, time):
        alpha, sigma = schedule.alpha(time)[:, None], schedule.sigma(time)[:, None]
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        mean = MEAN + gain * (x - alpha * MEAN)
        variance = SPREAD**2 - gain * alpha * SPREAD**2 + r**2
        return jnp.sum(-0.5 * (observed - mean) ** 2 / variance, axis=-1)

    precision = 1 / SPREAD**2 + 1 / r**2
    posterior = gaussian_denoiser(
        schedule, (MEAN / SPREAD**2 + observed / r**2) / precision, precision**-0.5
    )
    x, time = jnp.linspace(-1, 1, 5)[:, None], jnp.full((5,), 0.5)
    guided = guidance.classifier(gaussian_denoiser(schedule), schedule, log_prob, 1.0)
    np.testing.assert_allclose(guided(x, time), posterior(x, time), rtol=1e-4, atol=1e-5)


def test_composition_of_two_gaussians_is_their_product():
    """At every time, the composed score is that of the product of the noisy marginals over the shared one."""
    schedule = schedules.cosine()
    base = gaussian_denoiser(schedule, 0.0, 1.0)
    one, two = gaussian_denoiser(schedule, 1.0, 0.5), gaussian_denoiser(schedule, -0.4, 0.6)
    composed = guidance.compose(base, [(one, 1.0), (two, 1.0)])
    x, time = jnp.linspace(-1, 1, 5)[:, None], jnp.full((5,), 0.4)
    np.testing.assert_allclose(
        composed(x, time), one(x, time) + two(x, time) - base(x, time), atol=1e-5
    )


def test_known_part_is_kept_exactly(key):
    schedule = schedules.cosine()
    noise = jax.random.normal(key, (2, 6))
    known = jnp.linspace(-1, 1, 12).reshape(2, 6)
    mask = (jnp.arange(6) < 3).astype(jnp.float32)[None].repeat(2, 0)
    project = replace_known(schedule, known, mask, noise)
    out = sample(
        gaussian_denoiser(schedule),
        schedule,
        start(schedule, known, noise, 0.99),
        schedules.uniform_times(8, 0.99, 0.0),
        project=project,
    )
    np.testing.assert_allclose(out[:, 3:], known[:, 3:], atol=1e-6)
    assert not np.allclose(out[:, :3], known[:, :3], atol=1e-2)


@pytest.mark.parametrize("kind", ["noise", "x0", "v", "score"])
def test_weights_mean_the_same_for_every_target(kind, key):
    """The uniform loss on noise equals the translated loss of any other target."""
    process = GaussianProcess(schedules.cosine(), kind)
    reference = GaussianProcess(schedules.cosine(), "noise")
    x0, time = jnp.ones((64, 2)), jnp.linspace(0.1, 0.9, 64)
    wrong = lambda process: lambda x, t: process.target(x * 0.3, process.to_noise(x * 0.3, x, t), t)
    ours = diffusion_loss(process, wrong(process), x0, time, key)
    same_key = jax.random.key(0)
    theirs = diffusion_loss(reference, wrong(reference), x0, time, same_key)
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)
    assert weight_of(process, time, "min_snr").shape == (64,)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="method 'magic'"):
        sample(lambda x, t: x, schedules.cosine(), jnp.ones((1, 1)), jnp.ones(2), method="magic")
    with pytest.raises(ValueError, match="parameterisation 'epsilon'"):
        GaussianProcess(schedules.cosine(), "epsilon")
    with pytest.raises(ValueError, match="draws noise"):
        sample(lambda x, t: x, schedules.cosine(), jnp.ones((1, 1)), jnp.ones(2), method="ddpm")
    with pytest.raises(ValueError, match="betas"):
        schedules.from_betas(np.array([0.0, 1.2]))

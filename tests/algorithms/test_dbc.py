"""Diffusion-BC: its loss by hand, its limits, its gate, and what guides it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.algorithms.bc import BcConfig, bc, paper_policy
from daag_jax.algorithms.dbc import DbcConfig, dbc, density, guidance, model_of
from daag_jax.algorithms.parts.density import (
    KINDS,
    DensityConfig,
    distilled,
    make_density,
)
from daag_jax.diffusion import schedules
from daag_jax.diffusion.losses import draw_times
from daag_jax.diffusion.process import GaussianProcess
from daag_jax.types import Batch, Context, Spec

SPEC = Spec(3, 2)
POLICY = replace(paper_policy((16,), 1e-2, 0), max_grad_norm=0.0)
MODEL = DensityConfig(width=16, depth=2, num_steps=20, learning_rate=1e-2)


def batch_of(num: int = 64, seed: int = 0) -> Batch:
    """An expert that acts by the sine of what it sees."""
    random = np.random.default_rng(seed)
    states = jnp.asarray(random.normal(size=(num, 1, 3)), jnp.float32)
    return Batch(states, jnp.sin(states[..., :2]), jnp.zeros((num, 1)), jnp.ones((num, 1), bool))


def trained_density(config: DbcConfig, steps: int = 200):
    """A model of the expert's pairs."""
    algorithm = density(config, SPEC)
    state, update = jax.jit(algorithm.init)(jax.random.key(0)), jax.jit(algorithm.update)
    for n in range(steps):
        state, metrics = update(state, batch_of(seed=n), jax.random.key(n))
    return state, float(metrics["loss/density"])


def test_without_weight_it_is_behaviour_cloning():
    config = DbcConfig(POLICY, MODEL, weight=0.0, pretrain_steps=0)
    guided, alone = dbc(config, SPEC), bc(POLICY, SPEC)
    state, plain = jax.jit(guided.init)(jax.random.key(1)), None
    plain = jax.jit(alone.init)(jax.random.key(2))._replace(params=state.policy.params)
    for n in range(3):
        state, _ = jax.jit(guided.update)(state, batch_of(seed=n), jax.random.key(n))
        plain, _ = jax.jit(alone.update)(plain, batch_of(seed=n), jax.random.key(n))
    for a, b in zip(
        jax.tree.leaves(state.policy.params), jax.tree.leaves(plain.params), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_its_losses_are_those_of_the_equation():
    """The mean over all entries of [s; a] of squared errors of the noise, by hand."""
    model = make_density(MODEL, 3, 2)
    params, data = model.init(jax.random.key(0)).params, batch_of()
    states, actions = data.observations[:, 0], data.actions[:, 0]
    key = jax.random.key(5)
    agent, expert = jax.jit(model.losses)(params, states, 0.0 * actions, actions, key)
    again, same = jax.jit(model.losses)(params, states, actions, actions, jax.random.key(5))
    np.testing.assert_array_equal(expert, same)  # one (t, noise) for both pairs
    np.testing.assert_array_equal(again, same)
    time_key, noise_key = jax.random.split(jax.random.key(5))
    schedule = schedules.BY_NAME["sigmoid_betas"](20)
    times = draw_times(time_key, 64, schedule, is_antithetic=True)
    steps = np.rint(schedules.step_of(schedule, times)).astype(int)
    noise = jax.random.normal(noise_key, (64, 5))
    betas = 5e-3 + (0.999 - 5e-3) / (1 + np.exp(-np.linspace(-6, 6, 20)))  # 1e-4 .. 0.02, x 50
    alphas = np.cumprod(1 - betas)[np.asarray(steps)][:, None]
    x0 = np.concatenate([states, actions], axis=1)
    x = np.sqrt(alphas) * x0 + np.sqrt(1 - alphas) * np.asarray(noise)
    weights = jax.tree.map(np.asarray, params["params"])
    for i in range(2):
        layer = weights[f"Dense_{i}"]
        x = x @ layer["kernel"] + layer["bias"] + weights[f"Embed_{i}"]["embedding"][steps]
        x = np.maximum(x, 0)
    found = x @ weights["out"]["kernel"] + weights["out"]["bias"]
    np.testing.assert_allclose(expert, np.mean((found - noise) ** 2, axis=1), rtol=1e-4)
    assert not np.allclose(agent, expert)


def test_times_are_antithetic_and_inside_their_range():
    schedule = schedules.cosine(20)
    times = draw_times(jax.random.key(0), 101, schedule, True, (0.25, 0.75))
    steps = np.rint(schedules.step_of(schedule, times)).astype(int)
    assert steps.min() >= 5 and steps.max() < 15 and steps.shape == (101,)
    np.testing.assert_array_equal(steps[51:], 19 - steps[:50])


def test_the_clips_differ_as_they_are_defined():
    agent, expert = jnp.array([1.0, 0.0, 9.0]), jnp.array([0.0, 2.0, 0.0])
    counted = jnp.array([True, True, False])  # the third row is padding
    value = lambda clip: float(guidance(clip, agent, expert, counted)[0])
    assert value("batch") == 0.0 and value("sample") == 0.5 and value("none") == 0.5
    assert guidance("batch", agent, expert, counted)[1]["guidance/closed"] == 1.0


def test_distillation_has_the_value_of_the_loss_and_another_gradient():
    data = batch_of()
    states, actions = data.observations[:, 0], data.actions[:, 0]
    full, distilled = (
        make_density(replace(MODEL, gradient=g), 3, 2) for g in ("full", "distillation")
    )
    params = full.init(jax.random.key(0)).params
    total = lambda model: (
        lambda a: jnp.sum(model.losses(params, states, a, actions, jax.random.key(5))[0])
    )
    for model in (full, distilled):
        np.testing.assert_allclose(
            total(model)(0.5 * actions), total(full)(0.5 * actions), rtol=1e-5
        )
    one, two = (jax.grad(total(model))(0.5 * actions) for model in (full, distilled))
    assert float(jnp.max(jnp.abs(one - two))) > 1e-3


def test_distillation_pulls_by_the_residual_of_the_noise():
    """2 alpha (prediction - noise) / D, for a network that predicts twice its input."""
    process = GaussianProcess(schedules.cosine(20))
    x0, noise = jax.random.normal(jax.random.key(0), (2, 4, 3))
    time = jnp.array([0.1, 0.3, 0.5, 0.9])
    pull = jax.grad(
        lambda x: jnp.sum(distilled(process, lambda x, t: 2.0 * x, x, noise, time, "target"))
    )(x0)
    alpha, sigma = process.coefficients(time, x0)
    expected = 2.0 * alpha * (2.0 * (alpha * x0 + sigma * noise) - noise) / 3
    np.testing.assert_allclose(pull, expected, rtol=1e-5)


def test_a_model_prefers_what_the_expert_does():
    state, loss = trained_density(DbcConfig(POLICY, MODEL))
    data = batch_of(256, seed=999)
    states, actions = data.observations[:, 0], data.actions[:, 0]
    model = model_of(DbcConfig(POLICY, MODEL), SPEC)
    agent, expert = jax.jit(model.losses)(
        state.params, states, -actions, actions, jax.random.key(1)
    )
    assert loss < 1.0 and float(jnp.mean(agent)) > 1.05 * float(jnp.mean(expert))


def test_the_model_alone_teaches_the_policy():
    config = DbcConfig(POLICY, MODEL, weight=10.0, bc_weight=0.0, clip="none", pretrain_steps=0)
    guide, _ = trained_density(config, 400)
    algorithm = dbc(config, SPEC)
    state = jax.jit(algorithm.init)(jax.random.key(0))._replace(density=guide)
    data, update = batch_of(256, seed=999), jax.jit(algorithm.update)
    error = lambda state: float(
        jnp.mean(
            jnp.abs(
                algorithm.act(state, Context(data.observations), jax.random.key(0)) - data.actions
            )
        )
    )
    before = error(state)
    for n in range(150):
        state, _ = update(state, batch_of(seed=n), jax.random.key(n))
    assert error(state) < 0.7 * before


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_and_guides(kind):
    own = {"schedule": DensityConfig.schedule, "num_steps": DensityConfig.num_steps}
    model = replace(MODEL, kind=kind, **({} if kind == "diffusion" else own))
    early = 0 if kind == "gan" else 2
    config = DbcConfig(POLICY, model, bc_weight=0.0, clip="none", pretrain_steps=early)
    algorithm = dbc(config, SPEC)
    first = jax.jit(algorithm.init)(jax.random.key(0))
    update, state, seen = jax.jit(algorithm.update), first, []
    for n in range(4):
        state, metrics = update(state, batch_of(seed=n), jax.random.key(n))
        seen.append(metrics)
    moved = lambda a, b: any(
        bool(jnp.any(x != y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
    assert moved(state.density.params, first.density.params)
    assert moved(state.policy.params, first.policy.params)
    assert all(jnp.isfinite(v) for m in seen for v in m.values())
    assert set(seen[0]) == set(seen[-1])


@pytest.mark.parametrize("target", ["joint", "conditional", "action"])
def test_a_model_of_actions_alone_knows_no_state(target):
    model = make_density(replace(MODEL, target=target), 3, 2)
    params, data = model.init(jax.random.key(0)).params, batch_of()
    states, actions = data.observations[:, 0], data.actions[:, 0]
    one, two = (
        model.losses(params, s, actions, actions, jax.random.key(5))[0] for s in (states, -states)
    )
    assert bool(jnp.all(one == two)) == (target == "action")


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="clip 'bach'; the nearest is 'batch'"):
        DbcConfig(clip="bach")
    with pytest.raises(ValueError, match="time_range=\\(0.5, 0.2\\)"):
        DensityConfig(time_range=(0.5, 0.2))
    with pytest.raises(ValueError, match="target 'joined'; the nearest"):
        DensityConfig(target="joined")
    with pytest.raises(ValueError, match="gradient='distillation' changes nothing in .* 'vae'"):
        DensityConfig(kind="vae", gradient="distillation")
    with pytest.raises(ValueError, match="pretrain_steps=20000: a discriminator learns beside"):
        DbcConfig(density=DensityConfig(kind="gan"))
    with pytest.raises(ValueError, match="'gan' has no stage of its own"):
        density(DbcConfig(density=DensityConfig(kind="gan"), pretrain_steps=0), SPEC)
    with pytest.raises(ValueError, match="weight=-1.0 is negative"):
        DbcConfig(weight=-1.0)
    with pytest.raises(ValueError, match="head 'linear' has likelihood 'gaussian'"):
        BcConfig(head="linear", likelihood="gaussian")

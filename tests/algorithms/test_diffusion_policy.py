"""Diffusion policies: a linear expert, both modes, the chunk's place, padding, averages, all networks, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.algorithms.bc import BcConfig, bc
from daag_jax.algorithms.diffusion_policy import (
    DiffusionPolicyConfig,
    diffusion_policy,
    single_step,
)
from daag_jax.types import Algorithm, Batch, Context, Spec

EXPERT = np.array([[0.5, -0.3], [0.2, 0.4]], np.float32)
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
LEARNING = {"hidden_dims": (64, 64), "learning_rate": 3e-3, "time_dim": 16, "num_steps": 20}
BOX = {"action_low": (-1.0,), "action_high": (1.0,)}
SMALL = {
    "widths": (4, 8),
    "num_groups": 2,
    "time_dim": 4,
    "width": 4,
    "depth": 1,
    "num_heads": 2,
    "hidden_dims": (8,),
    "num_inference_steps": 2,
}


def batch_of(observations, actions) -> Batch:
    blank = jnp.zeros(observations.shape[:2])
    return Batch(observations, actions, blank, blank == 0)


def trained(algorithm: Algorithm, batch: Batch, steps: int, key):
    """The state after ``steps`` updates on one batch."""

    def update(index, state):
        return algorithm.update(state, batch, jax.random.fold_in(key, index))[0]

    return jax.jit(lambda state: jax.lax.fori_loop(0, steps, update, state))(
        algorithm.init(jax.random.key(1))
    )


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_recovers_a_linear_expert_with_bounds_and_without(key, sampler):
    data_key, train_key = jax.random.split(key)
    observations = jax.random.uniform(data_key, (256, 1, 2), minval=-1.0)
    actions = observations @ EXPERT
    bounds = {"action_low": (-1.0, -1.0), "action_high": (1.0, 1.0)} if sampler == "ddim" else {}
    few = 5 if sampler == "ddim" else 20
    config = single_step(**LEARNING, **bounds, sampler=sampler, num_inference_steps=few)
    algorithm = diffusion_policy(config, Spec(2, 2))
    state = trained(algorithm, batch_of(observations, actions), 1500, train_key)
    decided = jax.jit(algorithm.act)(state, Context(observations), jax.random.key(2))
    assert jnp.mean(jnp.abs(decided - actions)) < 0.2 * jnp.std(actions)


def test_both_modes_of_an_expert_are_drawn_where_cloning_gives_their_mean(key):
    observations = jnp.zeros((256, 1, 1))
    actions = jnp.where(jnp.arange(256) % 2 == 0, 1.0, -1.0)[:, None, None]
    batch, context = batch_of(observations, actions), Context(observations)
    bc_key, diffusion_key = jax.random.split(key)
    cloned = bc(BcConfig((16,), learning_rate=1e-2), Spec(1, 1))
    state = trained(cloned, batch, 100, bc_key)
    mean = jax.jit(cloned.act)(state, context, jax.random.key(2))
    assert jnp.max(jnp.abs(mean)) < 0.1
    config = single_step(**LEARNING, **BOX, num_inference_steps=20)
    algorithm = diffusion_policy(config, Spec(1, 1))
    state = trained(algorithm, batch, 600, diffusion_key)
    drawn = jax.jit(algorithm.act)(state, context, jax.random.key(2))
    assert jnp.mean(jnp.abs(jnp.abs(drawn) - 1.0) < 0.2) > 0.9
    assert 0.3 < jnp.mean(drawn > 0) < 0.7


def test_the_chunk_starts_with_the_present_action(key):
    """Action i of a window is the number i / 10, whatever is observed: act must begin at history - 1."""
    actions = jnp.broadcast_to(jnp.arange(6.0)[None, :, None] / 10, (64, 6, 1))
    config = DiffusionPolicyConfig(
        "mlp",
        history=3,
        horizon=6,
        execute=2,
        **LEARNING,
        **BOX,
        num_inference_steps=10,
        warmup_steps=0,
        ema_decay=0.0,
    )
    algorithm = diffusion_policy(config, Spec(1, 1))
    assert algorithm.window == (3, 6, 2, ())
    state = trained(algorithm, batch_of(jnp.zeros((64, 6, 1)), actions), 800, key)
    chunk = jax.jit(algorithm.act)(state, Context(jnp.zeros((64, 3, 1))), jax.random.key(2))
    assert chunk.shape == (64, 2, 1)
    np.testing.assert_allclose(jnp.mean(chunk, axis=(0, 2)), [0.2, 0.3], atol=0.04)


@pytest.mark.parametrize("network", ["mlp", "unet", "transformer"])
def test_every_network_learns_and_acts_and_ignores_padding(network):
    config = DiffusionPolicyConfig(network, horizon=4, execute=2, **SMALL)
    algorithm, task = diffusion_policy(config, Spec(3, 2, task_dim=4)), jnp.ones((2, 4))
    state = jax.jit(algorithm.init, compiler_options=QUICK)(jax.random.key(0))
    blank = jnp.zeros((2, 4))
    batch = Batch(
        jnp.ones((2, 4, 3)), jnp.zeros((2, 4, 2)), blank, blank.at[:, :3].add(1) > 0, {"task": task}
    )
    update = jax.jit(algorithm.update, compiler_options=QUICK)
    after, metrics = update(state, batch, jax.random.key(1))
    assert after.step == 1 and jnp.isfinite(metrics["loss/policy"])
    elsewhere = batch._replace(actions=batch.actions.at[:, 3].add(9.0))
    none = elsewhere._replace(mask=blank > 0)
    assert update(state, none, jax.random.key(1))[1]["loss/policy"] == 0.0
    if network == "transformer":  # causal: there the padded step cannot even be heard
        other = update(state, elsewhere, jax.random.key(1))[1]
        np.testing.assert_allclose(other["loss/policy"], metrics["loss/policy"], rtol=1e-4)
    context = Context(jnp.ones((2, 2, 3)), {"task": task})
    act = jax.jit(algorithm.act, compiler_options=QUICK)
    assert act(after, context, jax.random.key(2)).shape == (2, 2, 2)


def test_the_average_of_weights_warms_up():
    config = DiffusionPolicyConfig("mlp", horizon=4, execute=2, **SMALL)
    algorithm = diffusion_policy(config, Spec(1, 1))
    state = jax.jit(algorithm.init)(jax.random.key(0))
    batch = batch_of(jnp.ones((2, 4, 1)), jnp.ones((2, 4, 1)))
    update = jax.jit(algorithm.update)
    one, _ = update(state, batch, jax.random.key(1))  # decay 0 after the start: a copy
    jax.tree.map(np.testing.assert_array_equal, one.net.params, one.net.ema)
    two, _ = update(one, batch, jax.random.key(2))
    decay = 1.0 - 2.0**-config.ema_power
    mean = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, one.net.ema, two.net.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), two.net.ema, mean)


def test_the_baseline_of_diffusion_bc_is_one_step_at_a_time():
    config = single_step(hidden_dims=(256,) * 4, learning_rate=2e-4)
    assert (config.network, config.num_steps, config.num_inference_steps) == ("mlp", 1000, 1000)
    algorithm = diffusion_policy(config, Spec(6, 2))
    assert algorithm.window == (1, 1, 1, ())
    assert jax.eval_shape(algorithm.init, jax.random.key(0)).net.ema is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"network": "cnn"}, "network 'cnn' is unknown"),
        ({"sampler": "dpm"}, "sampler 'dpm' is unknown"),
        ({"history": 4, "horizon": 8}, "horizon=8 ends before execute=8 .* try 11"),
        ({"horizon": 14}, "horizon 14 is not a multiple of 4 .* try 16"),
        ({"action_high": (1.0,)}, "give both, or none"),
        ({"execute": 0}, "execute=0 is not positive"),
        ({"decay_steps": 400}, "decay_steps=400 ends within warmup_steps=500"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        DiffusionPolicyConfig(**fields)

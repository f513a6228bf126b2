"""Finetuning of a denoiser: what is trained moves, what is frozen stays, and it begins at the pretrained model."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.algorithms.denoiser_finetuning import (
    DenoiserFinetuningConfig,
    assemble,
    denoiser_finetuning,
    finetuned,
    start,
)
from daag_jax.algorithms.latent_diffusion import (
    Denoiser,
    LatentDiffusionConfig,
    denoising_loss,
    init_denoiser,
)
from daag_jax.networks.stable_diffusion import config as sd
from daag_jax.types import Batch

TRUNK = {
    "block_out_channels": (4,),
    "down_block_types": (sd.CROSS_DOWN,),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 6,
    "norm_num_groups": 2,
    "in_channels": 2,
}
SIZES = LatentDiffusionConfig(
    unet=sd.UNetConfig(**TRUNK, out_channels=2, up_block_types=(sd.CROSS_UP,)),
    controlnet=sd.ControlNetConfig(**TRUNK, conditioning_embedding_out_channels=(4, 4)),
    latent_size=4,
    num_regions=2,
    parameterisation="noise",
    warmup_steps=1,
    total_steps=20,
    learning_rate=1e-2,
    prompt_dropout=0.0,
    control_dropout=0.0,
)
CONTEXTS, NO_PROMPT = jnp.ones((3, 4, 6)), jnp.zeros((4, 6))
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def batch() -> Batch:
    random = np.random.default_rng(0)
    extras = {
        "latents": jnp.asarray(random.normal(size=(2, 4, 4, 2)), jnp.float32),
        "regions": jnp.full((2, 2, 4, 4), 0.5),
        "controls": jnp.asarray(random.integers(0, 256, (2, 8, 8, 3)), jnp.uint8),
        "prompts": jnp.asarray([[0, 1], [2, 1]]),
    }
    none = jnp.zeros((2, 1, 0))
    return Batch(none, none, jnp.zeros((2, 1)), jnp.ones((2, 1), bool), extras)


@functools.cache
def base() -> Denoiser:
    """A pretrained model: no parameter is zero or one."""
    with jax.ensure_compile_time_eval():
        blank = jax.eval_shape(lambda k: init_denoiser(SIZES, (4, 6), k), jax.random.key(9))
        random = np.random.default_rng(1)
        return jax.tree.map(lambda x: jnp.asarray(0.3 * random.normal(size=x.shape), "f4"), blank)


def equal(one, two) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), one, two)))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["controlnet", "lora"])
def test_what_is_frozen_stays_and_the_rest_learns(part, key):
    config = DenoiserFinetuningConfig(SIZES, part, rank=2)
    algorithm = denoiser_finetuning(config, CONTEXTS, NO_PROMPT)
    init_key, key = jax.random.split(key)
    state = start(config, jax.jit(algorithm.init, compiler_options=QUICK)(init_key), base())
    begun = assemble(config, state.trained.params, state.frozen)
    assert equal(begun.unet, base().unet)  # at first it is the pretrained model
    update = jax.jit(algorithm.update, compiler_options=QUICK)
    after, losses = state, []
    for _ in range(12):  # one key: one noise and one time, which can be learnt
        after, metrics = update(after, batch(), jax.random.clone(key))
        losses.append(float(metrics["loss/all"]))
    assert equal(after.frozen, state.frozen)
    assert not equal(after.trained.params, state.trained.params)
    assert losses[-1] < 0.98 * losses[0]
    model = finetuned(config, after)
    assert equal(model.unet, base().unet) == (part == "controlnet")
    assert jax.tree.structure(model) == jax.tree.structure(base())


@pytest.mark.slow
def test_keeping_less_for_the_backward_pass_changes_no_gradient(key):
    loss = denoising_loss(SIZES, CONTEXTS, NO_PROMPT)
    policy = jax.checkpoint_policies.save_only_these_names("block")
    grad = lambda f: jax.jit(jax.grad(lambda p, k: f(p, batch(), k)[0]), compiler_options=QUICK)
    whole = grad(loss)(base(), jax.random.clone(key))
    less = grad(jax.checkpoint(loss, policy=policy))(base(), key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole, less)


@pytest.mark.slow
def test_arithmetic_in_bfloat16_keeps_a_state_and_a_loss_in_float32(key):
    half = replace(SIZES, dtype="bfloat16")
    losses = [
        jax.jit(denoising_loss(sizes, CONTEXTS, NO_PROMPT), compiler_options=QUICK)(
            base(), batch(), jax.random.clone(key)
        )[0]
        for sizes in (SIZES, half)
    ]
    assert losses[1].dtype == jnp.float32 and losses[0] != losses[1]
    np.testing.assert_allclose(*losses, rtol=0.05)
    state = jax.eval_shape(
        denoiser_finetuning(DenoiserFinetuningConfig(half), CONTEXTS, NO_PROMPT).init, key
    )
    assert {x.dtype for x in jax.tree.leaves(state.trained.params)} == {jnp.dtype("float32")}


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="part 'text' is unknown"):
        DenoiserFinetuningConfig(part="text")

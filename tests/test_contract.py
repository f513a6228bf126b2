"""The contract of every algorithm in the table: shapes, one trace, no key used twice, seeds, devices, resuming.

A new algorithm is covered once it has a row in ``ALGORITHMS`` and a small case in ``CASES``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from daag_jax.algorithms import ALGORITHMS, config_class, make
from daag_jax.algorithms.bc import BcConfig
from daag_jax.algorithms.contrastive import ContrastiveConfig
from daag_jax.algorithms.latent_diffusion import LatentDiffusionConfig
from daag_jax.algorithms.parts.density import DensityConfig
from daag_jax.algorithms.parts.trajectories import DrawingConfig, TrajectoryConfig
from daag_jax.networks.clip.config import ClipConfig, ClipTextConfig, ClipVisionConfig
from daag_jax.networks.clip.tokenizer import EOS
from daag_jax.networks.stable_diffusion import config as sd
from daag_jax.training import checkpoint
from daag_jax.types import Algorithm, Batch, Context, Spec

SIDE, BATCH = 16, 4
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
PIXELS = Spec(3, 2, (-0.1, -1.0), (0.1, 1.0), (2, SIDE, SIDE, 3), 5)
STATES = Spec(3, 2, task_dim=5)
TRUNK = {
    "block_out_channels": (4,),
    "down_block_types": (sd.CROSS_DOWN,),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 6,
    "norm_num_groups": 2,
    "in_channels": 2,
}
DENOISER = {
    "unet": sd.UNetConfig(**TRUNK, out_channels=2, up_block_types=(sd.CROSS_UP,)),
    "controlnet": sd.ControlNetConfig(**TRUNK, conditioning_embedding_out_channels=(4, 4)),
    "latent_size": 4,
    "num_regions": 2,
}
PROMPTS = (np.ones((3, 4, 6), np.float32), np.zeros((4, 6), np.float32))
CLIP = ClipConfig(
    ClipTextConfig(256, 8, 16, 1, 2, 8, eos_token_id=EOS),
    ClipVisionConfig(8, 16, 1, 2, SIDE, 8),
    projection_dim=4,
    logit_bias_init_value=-10.0,
)


class Case(NamedTuple):
    """A small instance of an algorithm."""

    config: dict[str, Any]
    inputs: tuple[Any, ...]
    extras: Callable[[np.random.Generator], dict[str, np.ndarray]]


def frames(random: np.random.Generator, *lead: int) -> np.ndarray:
    return random.integers(0, 256, (BATCH, *lead, SIDE, SIDE, 3)).astype(np.uint8)


def task(random: np.random.Generator) -> np.ndarray:
    return random.normal(size=(BATCH, 5)).astype(np.float32)


def denoising(random: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "latents": random.normal(size=(BATCH, 4, 4, 2)).astype(np.float32),
        "regions": np.full((BATCH, 2, 4, 4), 0.5, np.float32),
        "controls": random.integers(0, 256, (BATCH, 8, 8, 3)).astype(np.uint8),
        "prompts": random.integers(0, 3, (BATCH, 2)).astype(np.int32),
    }


def transition(random: np.random.Generator) -> dict[str, np.ndarray]:
    return {"task": task(random), "terminal": random.random((BATCH, 2)) < 0.5}


def captioned(random: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "image": frames(random),
        "truth": random.random((BATCH, 2)) < 0.5,
        "known": np.ones((BATCH, 2), bool),
    }


CASES: dict[str, Case] = {
    "bc": Case(
        {"hidden_dims": (8,), "history": 2, "execute": 2, "ema_decay": 0.9},
        (STATES,),
        lambda random: {"task": task(random)},
    ),
    "dbc": Case(
        {
            "policy": BcConfig((8,), history=2, execute=2),
            "density": DensityConfig(width=8, depth=1, num_steps=10),
            "pretrain_steps": 1,
        },
        (STATES,),
        lambda random: {"task": task(random)},
    ),
    "implicit_bc": Case(
        {
            "hidden_dims": (8, 8),
            "num_negatives": 3,
            "inference": "langevin",
            "num_samples": 4,
            "langevin_iterations": 2,
            "history": 2,
            "ema_decay": 0.9,
        },
        (STATES,),
        lambda random: {"task": task(random)},
    ),
    "diffusion_policy": Case(
        {
            "network": "mlp",
            "hidden_dims": (8,),
            "time_dim": 4,
            "horizon": 4,
            "execute": 3,
            "action_low": (-1.0, -0.5),
            "action_high": (1.0, 0.5),
            "num_inference_steps": 2,
        },
        (STATES,),
        lambda random: {"task": task(random)},
    ),
    "diffuser": Case(
        {
            "trajectory": TrajectoryConfig(4, 2, (0,), (1,)),
            "drawing": DrawingConfig(num_inference_steps=2, candidates=2, execute=3),
            "widths": (16,),
            "value_widths": (16,),
            "time_dim": 4,
            "guide_scale": 0.1,
        },
        (Spec(3, 2, task_dim=1),),
        lambda random: {"task": task(random)[:, :1]},
    ),
    "decision_diffuser": Case(
        {
            "trajectory": TrajectoryConfig(4, has_actions=False),
            "drawing": DrawingConfig(num_inference_steps=2, execute=3),
            "conditions": ("task",),
            "condition_dims": (5,),
            "widths": (16,),
            "embedding_dim": 4,
            "inverse_dims": (8,),
        },
        (STATES,),
        lambda random: {"task": task(random)},
    ),
    "td3_bc": Case({"hidden_dims": (8,), "actor_every": 1}, (STATES,), transition),
    "iql": Case({"hidden_dims": (8,)}, (STATES,), transition),
    "cql": Case(
        {"hidden_dims": (8,), "actor_dims": (8,), "num_actions": 2, "action_gap": 1.0},
        (STATES,),
        transition,
    ),
    "awac": Case({"hidden_dims": (8,), "actor_dims": (8,)}, (STATES,), transition),
    "decision_transformer": Case(
        {"history": 3, "width": 8, "depth": 1, "num_heads": 2, "warmup_steps": 2},
        (STATES,),
        lambda random: {
            "task": task(random),
            "returns": random.normal(size=(BATCH, 3)).astype(np.float32),
        },
    ),
    "self_imitation": Case(
        {"hidden_dims": (8,), "width": 4, "history": 1, "binary_dims": (1,), "shift": 1},
        (PIXELS,),
        lambda random: {"image": frames(random, 1, 2), "task": task(random)},
    ),
    "autoencoder": Case(
        {
            "vae": sd.VaeConfig(
                latent_channels=2,
                block_out_channels=(4, 8),
                layers_per_block=1,
                norm_num_groups=2,
                mid_block_add_attention=False,
            ),
            "image_size": SIDE,
        },
        (),
        lambda random: {
            "image": frames(random),
            "segmentation": random.integers(0, 5, (BATCH, SIDE, SIDE)).astype(np.int32),
        },
    ),
    "contrastive": Case({"clip": CLIP}, (("the red cube", "the blue cube"),), captioned),
    "clip_finetuning": Case(
        {"training": ContrastiveConfig(clip=CLIP), "part": "lora", "rank": 2},
        (np.array([[2, 3, 1], [2, 4, 1]], np.int32),),
        captioned,
    ),
    "latent_diffusion": Case(DENOISER, PROMPTS, denoising),
    "denoiser_finetuning": Case(
        {
            "diffusion": LatentDiffusionConfig(**DENOISER),
            "part": "lora",
            "rank": 2,
        },
        PROMPTS,
        denoising,
    ),
}


class Subject(NamedTuple):
    """An algorithm under test; its update is compiled once for all the claims."""

    name: str
    algorithm: Algorithm
    init: Callable
    update: Callable  # raises when it is traced a second time


SLOW = ("latent_diffusion", "denoiser_finetuning")  # compiles for a minute, however small
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in ALGORITHMS]


@pytest.fixture(scope="module", params=NAMES)
def subject(request) -> Subject:
    name = request.param
    case = CASES[name]
    inputs = [jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in case.inputs]
    algorithm = make(name, config_class(name)(**case.config), *inputs)
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(algorithm.update, n=1), compiler_options=QUICK)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # as a restored state has one
    init = jax.jit(algorithm.init, out_shardings=place, compiler_options=QUICK)
    return Subject(name, algorithm, init, update)


def batch_at(subject: Subject, step: int) -> Batch:
    """Batch ``step`` of random experience."""
    random = np.random.default_rng(step)
    time, spec = subject.algorithm.window.horizon, STATES
    normal = lambda *shape: jnp.asarray(random.normal(size=shape).astype(np.float32))
    actions = jnp.clip(0.1 * normal(BATCH, time, spec.action_dim), -0.1, 0.1)
    extras = jax.tree.map(jnp.asarray, CASES[subject.name].extras(random))
    observations, rewards = normal(BATCH, time, spec.observation_dim), normal(BATCH, time)
    return Batch(observations, actions, rewards, jnp.ones((BATCH, time), bool), extras)


def run(subject: Subject, state, start: int, stop: int, seed: int = 1):
    """Steps start..stop: key n and batch n are functions of n."""
    for step in range(start, stop):
        key = jax.random.fold_in(jax.random.key(seed), step)
        state, metrics = subject.update(state, batch_at(subject, step), key)
    return state, metrics


def nearly_equal(one, two) -> None:
    """Equal to rounding; Adam may turn the rounding of a zero gradient into a step, in a few numbers."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        difference = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
        assert difference.mean() < 2e-5 and np.quantile(difference, 0.98) < 1e-4


def test_every_name_has_a_case():
    assert set(CASES) == set(ALGORITHMS)


def test_update_keeps_the_shapes_of_the_state_and_gives_flat_finite_scalars(subject):
    state = subject.init(jax.random.key(0))
    after, metrics = run(subject, state, 0, 1)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    assert any(name.startswith("loss/") for name in metrics)
    for name, value in metrics.items():
        assert value.shape == () and jnp.isfinite(value), name
    moved = jax.tree.map(lambda a, b: jnp.any(a != b), state, after)
    assert any(jax.tree.leaves(moved))


def test_update_traces_once_and_depends_on_its_arguments_alone(subject):
    state = subject.init(jax.random.key(0))
    one, _ = run(subject, state, 0, 3)
    two, _ = run(subject, state, 0, 3)
    chex.assert_trees_all_equal(one, two)


def test_no_key_is_used_twice(subject):
    assert jax.config.jax_debug_key_reuse  # conftest's guard: reuse raises in every call here

    def reusing(key):
        return jax.random.normal(key) + jax.random.normal(key)

    with pytest.raises(jax.errors.KeyReuseError):
        jax.jit(reusing)(jax.random.key(0))
    key = jax.random.key(3)
    subject.update(subject.init(jax.random.key(0)), batch_at(subject, 0), key)


def test_act_gives_a_chunk_of_bounded_actions(subject):
    algorithm, spec = subject.algorithm, CASES[subject.name].inputs[:1]
    if algorithm.act is None:
        assert "spec" not in ALGORITHMS[subject.name].inputs  # only worlds are acted in
        return
    window, batch = algorithm.window, batch_at(subject, 0)
    context = Context(batch.observations[:, : window.history], batch.extras)
    state = subject.init(jax.random.key(0))
    actions = jax.jit(algorithm.act, compiler_options=QUICK)(state, context, jax.random.key(1))
    assert actions.shape == (BATCH, window.execute, spec[0].action_dim)
    assert jnp.all(jnp.abs(actions) <= 1.0)


def test_a_resumed_run_is_bit_exact(subject, tmp_path):
    straight, _ = run(subject, subject.init(jax.random.key(0)), 0, 3)
    half, _ = run(subject, subject.init(jax.random.key(0)), 0, 1)
    checkpoint.save(tmp_path, 1, half)
    resumed, _ = run(subject, checkpoint.restore(tmp_path, half).state, 1, 3)
    chex.assert_trees_all_equal(straight, resumed)


def test_seeds_vmap(subject):
    keys = jax.random.split(jax.random.key(5), 2)
    states = jax.jit(jax.vmap(subject.algorithm.init), compiler_options=QUICK)(
        jax.random.clone(keys)
    )
    update = jax.vmap(subject.algorithm.update, in_axes=(0, None, 0))
    update = jax.jit(update, compiler_options=QUICK)
    update_keys = jax.random.split(jax.random.key(6), 2)
    states, _ = update(states, batch_at(subject, 0), jax.random.clone(update_keys))
    alone = subject.init(keys[1])
    alone, _ = subject.update(alone, batch_at(subject, 0), update_keys[1])
    nearly_equal(jax.tree.map(lambda leaf: leaf[1], states), alone)


def test_a_batch_over_two_devices_equals_one_device(subject):
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(AxisType.Auto,))
    everywhere, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    state, batch = subject.init(jax.random.key(0)), batch_at(subject, 0)
    single, _ = subject.update(state, batch, jax.random.key(7))
    update = jax.jit(
        subject.algorithm.update, out_shardings=(everywhere, None), compiler_options=QUICK
    )
    parallel, _ = update(
        jax.device_put(state, everywhere), jax.device_put(batch, split), jax.random.key(7)
    )
    nearly_equal(parallel, single)


def test_unknown_names_and_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match="'self_imitaton'; the nearest is 'self_imitation'"):
        make("self_imitaton")
    with pytest.raises(ValueError, match="takes a BcConfig, not a SelfImitationConfig"):
        make("bc", config_class("self_imitation")(), STATES)
    with pytest.raises(ValueError, match="'bc' needs spec .* given nothing"):
        make("bc")
    assert make("bc", None, STATES).window == make("bc", spec=STATES).window

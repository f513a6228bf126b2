"""UNet, ControlNet and VAE: parity with diffusers, regional prompts, cross-frame attention, and their limits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from daag_jax.networks.stable_diffusion import weights
from daag_jax.networks.stable_diffusion.attention import MODES, area_average
from daag_jax.networks.stable_diffusion.config import (
    CROSS_DOWN,
    CROSS_UP,
    PLAIN_DOWN,
    PLAIN_UP,
    ControlNetConfig,
    UNetConfig,
    VaeConfig,
)
from daag_jax.networks.stable_diffusion.controlnet import (
    ControlNet,
    combine_residuals,
    skip_widths,
    start_from_unet,
)
from daag_jax.networks.stable_diffusion.unet import Residuals, UNet
from daag_jax.networks.stable_diffusion.vae import Vae, kl, sample

UNET = UNetConfig(
    block_out_channels=(8, 16),
    down_block_types=(CROSS_DOWN, PLAIN_DOWN),
    up_block_types=(PLAIN_UP, CROSS_UP),
    layers_per_block=1,
    attention_head_dim=2,
    cross_attention_dim=6,
    norm_num_groups=4,
)
CONTROLNET = ControlNetConfig(
    conditioning_channels=5,
    conditioning_embedding_out_channels=(4, 8),
    block_out_channels=UNET.block_out_channels,
    down_block_types=UNET.down_block_types,
    layers_per_block=UNET.layers_per_block,
    attention_head_dim=UNET.attention_head_dim,
    cross_attention_dim=UNET.cross_attention_dim,
    norm_num_groups=UNET.norm_num_groups,
)
VAE = VaeConfig(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
FRAMES, SIDE, TOKENS = 4, 4, 5
# small arrays, many programs: compile quickly rather than well
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def filled(shapes, seed: int = 0):
    """Random parameters of the given shapes, with no layer left at zero or one."""
    random = np.random.default_rng(seed)

    def fill(leaf):
        spread = 0.7 / np.sqrt(max(np.prod(leaf.shape[:-1]), 4))
        return jnp.asarray(random.normal(size=leaf.shape) * spread, "f4")

    def lift(path, leaf):  # scales of normalisations are near one
        return leaf + 1.0 if path[-1].key == "scale" else leaf

    return jax.tree_util.tree_map_with_path(lift, jax.tree.map(fill, shapes))


@functools.cache
def unet_params():
    return filled(weights.unet_shapes(UNET))


@functools.cache
def unet_inputs():
    random = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape), "f4")
    return (
        draw(FRAMES, SIDE, SIDE, 4),
        jnp.full(FRAMES, 301),
        draw(FRAMES, 1, TOKENS, UNET.cross_attention_dim),
    )


@functools.partial(jit, static_argnames=("frames", "attention"))
def apply_unet(params, *inputs, frames=1, attention="off"):
    network = UNet(UNET)
    return network.apply({"params": params}, *inputs, frames=frames, attention=attention)


def unet(*inputs, **options):
    """The tiny UNet at its fixed random parameters: latents, time, context, regions, residuals."""
    return apply_unet(unet_params(), *inputs, **options)


def assert_close(actual, expected, tolerance: float = 1e-5):
    np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=tolerance)


def relative_error(actual, expected) -> float:
    actual, expected = np.asarray(actual), np.asarray(expected)
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


# --- attention -------------------------------------------------------------------------------------------------------


def test_area_average_keeps_the_sum_over_prompts_and_the_mean_of_each():
    regions = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, 3, 4, 8)), axis=1)
    coarse = area_average(regions, 2, 4)
    assert coarse.shape == (2, 8, 3)
    assert_close(coarse.sum(-1), np.ones((2, 8)))
    assert_close(coarse.mean(1), regions.mean((2, 3)))
    assert_close(coarse[1, 5, 2], regions[1, 2, 2:4, 2:4].mean())  # row 1, column 1


# --- regional prompts ------------------------------------------------------------------------------------------------


def test_one_prompt_everywhere_equals_the_plain_unet():
    inputs = unet_inputs()
    everywhere = jnp.ones((FRAMES, 1, SIDE, SIDE))
    assert_close(unet(*inputs, everywhere), unet(*inputs))


def test_equal_prompts_equal_one_prompt_whatever_the_regions():
    latents, time, context = unet_inputs()
    regions = jax.nn.softmax(jax.random.normal(jax.random.key(3), (FRAMES, 2, SIDE, SIDE)), axis=1)
    twice = jnp.concatenate((context, context), axis=1)
    assert_close(unet(latents, time, twice, regions), unet(latents, time, context))


def test_a_prompt_without_weight_has_no_effect_and_one_with_weight_has():
    latents, time, context = unet_inputs()
    both = jnp.concatenate((context, context[:, :, ::-1] + 1.0), axis=1)
    only = lambda p: jax.nn.one_hot(jnp.full((FRAMES, SIDE, SIDE), p), 2, axis=1)
    assert_close(unet(latents, time, both, only(0)), unet(latents, time, context))
    assert_close(unet(latents, time, both, only(1)), unet(latents, time, both[:, 1:]))
    assert relative_error(unet(latents, time, both, only(1)), unet(latents, time, context)) > 1e-3


# --- cross-frame attention -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_identical_frames_are_treated_as_one_frame_in_every_mode(mode):
    inputs = [jnp.repeat(x[:1], FRAMES, axis=0) for x in unet_inputs()]
    assert_close(unet(*inputs, frames=FRAMES, attention=mode), unet(*inputs))


@pytest.mark.parametrize(
    ("mode", "seen"),
    [("off", []), ("first", [0]), ("previous_first", [0, 1]), ("all", [0, 1, 3])],
)
def test_a_frame_sees_exactly_the_frames_of_its_mode(mode, seen):
    """Nudges each frame in turn and asks whether frame 2 of four changes."""
    latents, time, context = unet_inputs()
    whole = unet(latents, time, context, frames=4, attention=mode)
    for other in (0, 1, 3):
        nudged = latents.at[other].add(1.0)
        change = jnp.abs(unet(nudged, time, context, frames=4, attention=mode) - whole)[2].max()
        assert change > 1e-4 if other in seen else change == 0.0, (mode, other, change)


def test_clips_do_not_see_each_other():
    latents, time, context = unet_inputs()
    whole = unet(latents, time, context, frames=2, attention="all")
    nudged = unet(latents.at[1].add(1.0), time, context, frames=2, attention="all")
    change = jnp.abs(nudged - whole).max((1, 2, 3))
    assert (change[:2] > 1e-4).all() and (change[2:] == 0.0).all()


def test_the_modes_differ_from_each_other():
    inputs = unet_inputs()
    frames = [unet(*inputs, frames=FRAMES, attention=mode) for mode in MODES]
    for index, mode in enumerate(MODES):
        for other in range(index):
            assert relative_error(frames[index], frames[other]) > 1e-3, (mode, MODES[other])


# --- ControlNet ------------------------------------------------------------------------------------------------------


def control_inputs():
    conditions = jax.random.uniform(jax.random.key(4), (FRAMES, 2 * SIDE, 2 * SIDE, 5))
    return (*unet_inputs(), conditions)


@jit
def residuals_of(params, *inputs):
    return ControlNet(CONTROLNET).apply({"params": params}, *inputs)


def test_a_fresh_controlnet_started_from_a_unet_gives_zero_residuals():
    inputs = control_inputs()
    own = lambda params: {n: leaf for n, leaf in params.items() if n.startswith("controlnet_")}
    fresh = jit(lambda key: own(ControlNet(CONTROLNET).init(key, *inputs)["params"]))
    params = filled(weights.controlnet_shapes(CONTROLNET)) | fresh(jax.random.key(0))
    params = start_from_unet(params, unet_params())
    np.testing.assert_array_equal(params["conv_in"]["bias"], unet_params()["conv_in"]["bias"])
    np.testing.assert_array_equal(
        params["down_blocks_1"]["resnets_0"]["conv2"]["kernel"],
        unet_params()["down_blocks_1"]["resnets_0"]["conv2"]["kernel"],
    )
    residuals = residuals_of(params, *inputs)
    assert all(not leaf.any() for leaf in jax.tree.leaves(residuals))


def test_residuals_fit_the_unet_and_change_its_prediction():
    params = filled(weights.controlnet_shapes(CONTROLNET), seed=2)
    residuals = residuals_of(params, *control_inputs())
    assert tuple(x.shape[-1] for x in residuals.down) == skip_widths(CONTROLNET)
    steered, plain = unet(*unet_inputs(), None, residuals), unet(*unet_inputs())
    assert relative_error(steered, plain) > 1e-3
    nothing = combine_residuals((residuals,), (0.0,))
    assert_close(unet(*unet_inputs(), None, nothing), plain)


def test_residuals_of_several_controlnets_add_up_with_their_weights():
    one = Residuals((jnp.ones((1, 2, 2, 3)),), jnp.ones((1, 1, 1, 4)))
    two = jax.tree.map(lambda x: 10.0 * x, one)
    total = combine_residuals((one, two), (0.5, jnp.float32(0.1)))
    assert all((leaf == 1.5).all() for leaf in jax.tree.leaves(total))
    with pytest.raises(ValueError, match="weights has 1 entries for 2 ControlNets"):
        combine_residuals((one, two), (1.0,))


# --- VAE -------------------------------------------------------------------------------------------------------------


def test_the_vae_keeps_its_grid_and_its_sample_has_the_moments_it_states(key):
    images = jax.random.uniform(key, (2, 8, 6, 3), minval=-1.0)
    vae, params = Vae(VAE), filled(weights.vae_shapes(VAE))
    image, mean, logvar = jit(vae.apply)({"params": params}, images)
    assert image.shape == images.shape and mean.shape == logvar.shape == (2, 4, 3, 4)
    decoded = jit(functools.partial(vae.apply, method="decode"))({"params": params}, mean)
    assert_close(decoded, image)
    draws = sample(
        jnp.full((9, 10, 10, 10), 2.0), jnp.full((9, 10, 10, 10), -2.0), jax.random.key(2)
    )
    assert abs(draws.mean() - 2.0) < 0.02 and abs(draws.std() - np.exp(-1.0)) < 0.01
    zero = jnp.zeros((2, 1, 1, 3))
    assert_close(kl(zero, zero), np.zeros(2))
    assert_close(kl(zero + 1.0, zero), np.full(2, 1.5))


def test_bfloat16_computation_stays_near_float32():
    inputs = unet_inputs()
    network = UNet(UNET, dtype=jnp.bfloat16)
    half = jit(network.apply)({"params": unet_params()}, *inputs)
    assert half.dtype == jnp.bfloat16
    assert relative_error(half.astype("f4"), unet(*inputs)) < 0.1
    images = jnp.zeros((1, 8, 8, 3))
    shapes = weights.vae_shapes(VAE)
    decoded, *_ = jax.eval_shape(Vae(VAE, dtype=jnp.bfloat16).apply, {"params": shapes}, images)
    assert decoded.dtype == jnp.bfloat16


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.fixture
def shapes_unchecked():
    """Turns jaxtyping off, which library users do not have: the library's own sentence is under test."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 3}, "frames 3 does not divide the batch of 4"),
        ({"attention": "last"}, "attention 'last' is not one of"),
        ({"latents": jnp.zeros((FRAMES, 3, 4, 4))}, "latents of 3 x 4 are not a multiple of 2"),
        ({"context": jnp.zeros((2, 1, TOKENS, 6))}, "context holds 2 images, latents hold 4"),
        ({"context": jnp.zeros((FRAMES, 2, TOKENS, 6))}, "2 prompts an image but regions is None"),
        ({"regions": jnp.ones((FRAMES, 1, 8, 8))}, r"regions has shape \(4, 1, 8, 8\)"),
    ],
)
def test_inputs_that_do_not_fit_are_named(change, message, shapes_unchecked):
    latents, time, context = unet_inputs()
    arguments = {"latents": latents, "timesteps": time, "context": context, **change}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: UNet(UNET).apply({"params": unet_params()}, **arguments))


def test_conditions_of_another_size_are_named(shapes_unchecked):
    *inputs, conditions = control_inputs()
    params = filled(weights.controlnet_shapes(CONTROLNET))
    with pytest.raises(
        ValueError, match=r"conditions has shape \(4, 8, 8, 4\), not \(4, 8, 8, 5\)"
    ):
        ControlNet(CONTROLNET).apply({"params": params}, *inputs, conditions[..., :4])


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (UNET, {"norm_num_groups": 3}, "norm_num_groups 3 does not divide 8"),
        (UNET, {"attention_head_dim": 3}, "attention_head_dim 3"),
        (UNET, {"attention_head_dim": (1, 2, 3)}, "needs one entry for each of 2 levels"),
        (UNET, {"down_block_types": (CROSS_DOWN,)}, "down_block_types"),
        (UNET, {"up_block_types": (CROSS_UP, PLAIN_DOWN)}, "up_block_types"),
        (VAE, {"block_out_channels": (8, 6)}, "norm_num_groups 4 does not divide 6"),
    ],
)
def test_configurations_that_cannot_be_built_are_named(config, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **change)


# --- parity with torch diffusers -------------------------------------------------------------------------------------

REDUCED = {
    "block_out_channels": (16, 32, 48, 48),
    "layers_per_block": 2,
    "norm_num_groups": 8,
}
TOLERANCE = 1e-5


@pytest.fixture
def diffusers():
    pytest.importorskip("torch").manual_seed(0)
    return pytest.importorskip("diffusers")


def randomise(model):
    """Moves every torch parameter off its start: zero convolutions and unit norms would hide errors."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def from_torch(x):
    """NCHW to NHWC."""
    return np.moveaxis(x.detach().numpy(), 1, -1)


def parity_inputs(batch: int, pixels: int = 0):
    import torch

    latents = torch.randn(batch, 4, 16, 16)
    context = torch.randn(batch, 7, 24)
    conditions = torch.rand(batch, 3, pixels, pixels)
    return latents, torch.full((batch,), 421), context, conditions


def as_jax(latents, time, context, *images):
    return (
        from_torch(latents),
        jnp.asarray(time.numpy(), "i4"),
        jnp.asarray(context.numpy())[:, None],
        *(from_torch(x) for x in images),
    )


def torch_unet(diffusers, tmp_path, **change):
    model = randomise(
        diffusers.UNet2DConditionModel(
            **{"sample_size": 16, "cross_attention_dim": 24, "attention_head_dim": 4}
            | REDUCED
            | change
        )
    )
    model.save_pretrained(tmp_path)
    return model


UNET_REDUCED = UNetConfig(cross_attention_dim=24, attention_head_dim=4, **REDUCED)
CONTROLNET_REDUCED = ControlNetConfig(cross_attention_dim=24, attention_head_dim=4, **REDUCED)


@pytest.mark.oracle
def test_unet_and_two_controlnets_agree_with_diffusers(diffusers, tmp_path):
    import torch

    model = torch_unet(diffusers, tmp_path / "unet")
    *inputs, conditions = parity_inputs(2, 128)
    unet_net = jit(UNet(UNET_REDUCED).apply)
    params = {"params": weights.load_unet(tmp_path / "unet", UNET_REDUCED)}
    with torch.no_grad():
        expected = from_torch(model(*inputs).sample)
    assert relative_error(unet_net(params, *as_jax(*inputs)), expected) < TOLERANCE

    scales, ours, theirs = (0.7, 1.2), [], []
    for scale in scales:
        control = randomise(
            diffusers.ControlNetModel(cross_attention_dim=24, attention_head_dim=4, **REDUCED)
        )
        control.save_pretrained(tmp_path / str(scale))
        with torch.no_grad():
            theirs.append(control(*inputs, conditions, scale, return_dict=False))
        control_params = weights.load_controlnet(tmp_path / str(scale), CONTROLNET_REDUCED)
        control_net = jit(ControlNet(CONTROLNET_REDUCED).apply)
        ours.append(control_net({"params": control_params}, *as_jax(*inputs, conditions)))
        for mine, down in zip(
            (*ours[-1].down, ours[-1].mid), (*theirs[-1][0], theirs[-1][1]), strict=True
        ):
            assert relative_error(scale * mine, from_torch(down)) < TOLERANCE
    with torch.no_grad():
        down = [a + b for a, b in zip(theirs[0][0], theirs[1][0], strict=True)]
        expected = from_torch(
            model(
                *inputs,
                down_block_additional_residuals=down,
                mid_block_additional_residual=theirs[0][1] + theirs[1][1],
            ).sample
        )
    residuals = combine_residuals(ours, scales)
    actual = unet_net(params, *as_jax(*inputs), None, residuals)
    assert relative_error(actual, expected) < TOLERANCE


@pytest.mark.oracle
def test_first_frame_attention_agrees_with_text2video_zero(diffusers, tmp_path):
    import torch
    from diffusers.pipelines.deprecated.text_to_video_synthesis import (
        pipeline_text_to_video_zero as zero,
    )

    config = {
        "block_out_channels": (16, 32),
        "down_block_types": (CROSS_DOWN, PLAIN_DOWN),
        "up_block_types": (PLAIN_UP, CROSS_UP),
    }
    model = torch_unet(diffusers, tmp_path, **config)
    model.set_attn_processor(zero.CrossFrameAttnProcessor(batch_size=2))
    *inputs, _ = parity_inputs(2 * FRAMES)
    with torch.no_grad():
        expected = from_torch(model(*inputs).sample)
    config = dataclasses.replace(UNET_REDUCED, **config)
    params = {"params": weights.load_unet(tmp_path, config)}
    network = functools.partial(UNet(config).apply, frames=FRAMES, attention="first")
    assert relative_error(jit(network)(params, *as_jax(*inputs)), expected) < TOLERANCE


@pytest.mark.oracle
@pytest.mark.parametrize("has_attention", [True, False])
def test_vae_agrees_with_diffusers(has_attention, diffusers, tmp_path):
    import torch

    model = randomise(
        diffusers.AutoencoderKL(
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            mid_block_add_attention=has_attention,
            **REDUCED,
        )
    )
    model.save_pretrained(tmp_path)
    config = VaeConfig(mid_block_add_attention=has_attention, **REDUCED)
    params = {"params": weights.load_vae(tmp_path, config)}
    images = torch.rand(2, 3, 64, 48) * 2 - 1
    with torch.no_grad():
        latents = model.encode(images).latent_dist
        decoded = from_torch(model.decode(latents.mean).sample)
    image, mean, logvar = jit(Vae(config).apply)(params, from_torch(images))
    assert relative_error(mean, from_torch(latents.mean)) < TOLERANCE
    assert relative_error(logvar, from_torch(latents.logvar)) < TOLERANCE
    assert relative_error(image, decoded) < TOLERANCE


@pytest.mark.oracle
def test_diffusers_reads_the_files_written_here(diffusers, tmp_path):
    import torch
    from safetensors.torch import load_file

    model = torch_unet(diffusers, tmp_path / "theirs")
    params = weights.load_unet(tmp_path / "theirs", UNET_REDUCED)
    weights.save(params, tmp_path / "ours.safetensors")
    ours, theirs = load_file(tmp_path / "ours.safetensors"), model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

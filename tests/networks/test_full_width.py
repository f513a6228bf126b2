"""The published networks at full width equal those of diffusers and transformers, random weights read from their files.

Slow for the sizes: UNet 859.5 M parameters, ControlNet 361 M, VAE 84 M, text encoder 123 M, CLIP ViT-B/32 151 M.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.networks import folders
from daag_jax.networks.clip.config import CLIP_VIT_B32, SD15_TEXT, ClipTextConfig
from daag_jax.networks.clip.model import make_clip, make_text_encoder
from daag_jax.networks.stable_diffusion.config import SD15_CONTROLNET, SD15_UNET, SD15_VAE
from daag_jax.networks.stable_diffusion.controlnet import ControlNet
from daag_jax.networks.stable_diffusion.unet import UNet
from daag_jax.networks.stable_diffusion.vae import Vae

pytestmark = [pytest.mark.oracle, pytest.mark.slow]
TOLERANCE = 1e-4  # of the largest output, float32
LATENT, TOKENS = 32, 77


@pytest.fixture(autouse=True)
def oracles():
    """torch, diffusers and transformers, with a fixed seed."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def randomised(network):
    """The network with no layer that is zero."""
    import torch

    for parameter in network.eval().parameters():
        parameter.add_(0.01 * torch.randn(parameter.shape))
    return network


def reread(network, folder, expected):
    """Our parameters from the files that the network is saved to, of the configuration that is expected."""
    network.save_pretrained(folder)
    (part,) = folders.components(folder)
    assert part.config == expected
    return folders.load(part)


def channels_last(tensor) -> np.ndarray:
    return np.moveaxis(tensor.numpy(), 1, -1)


def assert_equal(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


def denoising_inputs():
    import torch

    return torch.randn(2, 4, LATENT, LATENT), torch.tensor([7, 801]), torch.randn(2, TOKENS, 768)


def as_ours(latents, steps, context):
    return channels_last(latents), jnp.asarray(steps.numpy()), context.numpy()[:, None]


def test_unet(tmp_path):
    import diffusers

    model = randomised(diffusers.UNet2DConditionModel(cross_attention_dim=768))
    params, inputs = reread(model, tmp_path, SD15_UNET), denoising_inputs()
    ours = jax.jit(UNet(SD15_UNET).apply)({"params": params}, *as_ours(*inputs))
    assert_equal(ours, channels_last(model(*inputs).sample))


def test_controlnet(tmp_path):
    import diffusers
    import torch

    model = randomised(diffusers.ControlNetModel(cross_attention_dim=768))
    params, inputs = reread(model, tmp_path, SD15_CONTROLNET), denoising_inputs()
    image = torch.rand(2, 3, 8 * LATENT, 8 * LATENT)
    run = jax.jit(ControlNet(SD15_CONTROLNET).apply)
    ours = run({"params": params}, *as_ours(*inputs), channels_last(image))
    down, mid = model(*inputs, image, return_dict=False)
    for mine, other in zip((*ours.down, ours.mid), (*down, mid), strict=True):
        assert_equal(mine, channels_last(other))


def test_vae(tmp_path):
    import diffusers
    import torch

    model = randomised(
        diffusers.AutoencoderKL(
            block_out_channels=SD15_VAE.block_out_channels,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    )
    params, images = reread(model, tmp_path, SD15_VAE), torch.rand(1, 3, 256, 256) * 2 - 1
    vae = Vae(SD15_VAE)
    mean, logvar = jax.jit(lambda p, x: vae.apply({"params": p}, x, method="encode"))(
        params, channels_last(images)
    )
    seen = model.encode(images).latent_dist
    assert_equal(mean, channels_last(seen.mean))
    assert_equal(logvar, channels_last(seen.logvar))
    ours = jax.jit(lambda p, z: vae.apply({"params": p}, z, method="decode"))(
        params, channels_last(seen.mean)
    )
    assert_equal(ours, channels_last(model.decode(seen.mean).sample))


def text_config(config: ClipTextConfig) -> dict:
    """The fields of a text tower as transformers names them."""
    return dict(vars(config))


def tokens(config: ClipTextConfig) -> np.ndarray:
    """Two sentences, padded with their ends."""
    found = np.random.default_rng(0).integers(0, config.vocab_size - 2, (2, TOKENS))
    found[:, 0], found[0, 9:], found[1, 30:] = config.bos_token_id, config.eos_token_id, 49407
    return found.astype(np.int32)


def test_text_encoder(tmp_path):
    import torch
    import transformers

    config = transformers.CLIPTextConfig(**text_config(SD15_TEXT))
    model, said = randomised(transformers.CLIPTextModel(config)), tokens(SD15_TEXT)
    params = reread(model, tmp_path, SD15_TEXT)
    ours = jax.jit(make_text_encoder(SD15_TEXT).hidden_states)(params, said)
    assert_equal(ours, model(input_ids=torch.tensor(said).long()).last_hidden_state)


def test_clip(tmp_path):
    import torch
    import transformers

    vision = dict(vars(CLIP_VIT_B32.vision_config))
    mean, std = (np.array(vision.pop(f"image_{name}"), np.float32) for name in ("mean", "std"))
    config = transformers.CLIPConfig(
        text_config=text_config(CLIP_VIT_B32.text_config),
        vision_config=vision,
        projection_dim=CLIP_VIT_B32.projection_dim,
    )
    model, said = randomised(transformers.CLIPModel(config)), tokens(CLIP_VIT_B32.text_config)
    params = reread(model, tmp_path, CLIP_VIT_B32)
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    pixels = ((images / 255.0 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    theirs = model(input_ids=torch.tensor(said).long(), pixel_values=torch.tensor(pixels.copy()))
    clip = make_clip(CLIP_VIT_B32)
    assert_equal(jax.jit(clip.encode_text)(params, said), theirs.text_embeds)
    assert_equal(jax.jit(clip.encode_image)(params, images), theirs.image_embeds)

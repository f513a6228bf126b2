"""Single-file checkpoints: the original names, one by one and in files, against ours and against diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from daag_jax.cli import main
from daag_jax.networks import folders
from daag_jax.networks.clip import weights as clip_weights
from daag_jax.networks.clip.config import SD15_TEXT, ClipTextConfig
from daag_jax.networks.stable_diffusion import weights
from daag_jax.networks.stable_diffusion.config import (
    SD15_CONTROLNET,
    SD15_UNET,
    SD15_VAE,
    ControlNetConfig,
    UNetConfig,
    VaeConfig,
)
from daag_jax.networks.stable_diffusion.single_file import original_name

# published names of Stable Diffusion 1.5 and of its ControlNets
PUBLISHED = [
    (SD15_UNET, "conv_in.weight", "input_blocks.0.0.weight"),
    (SD15_UNET, "time_embedding.linear_2.bias", "time_embed.2.bias"),
    (SD15_UNET, "down_blocks.0.downsamplers.0.conv.weight", "input_blocks.3.0.op.weight"),
    (SD15_UNET, "down_blocks.1.resnets.0.conv_shortcut.weight", "input_blocks.4.0.skip_connection.weight"),
    (SD15_UNET, "down_blocks.3.resnets.1.time_emb_proj.bias", "input_blocks.11.0.emb_layers.1.bias"),
    (SD15_UNET, "mid_block.resnets.1.norm2.weight", "middle_block.2.out_layers.0.weight"),
    (SD15_UNET, "up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
    (SD15_UNET, "up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight"),
    (
        SD15_UNET,
        "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_k.weight",
        "output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight",
    ),
    (SD15_UNET, "conv_out.bias", "out.2.bias"),
    (SD15_CONTROLNET, "controlnet_cond_embedding.blocks.5.weight", "input_hint_block.12.weight"),
    (SD15_CONTROLNET, "controlnet_cond_embedding.conv_out.bias", "input_hint_block.14.bias"),
    (SD15_CONTROLNET, "controlnet_down_blocks.11.bias", "zero_convs.11.0.bias"),
    (SD15_CONTROLNET, "controlnet_mid_block.weight", "middle_block_out.0.weight"),
    (SD15_VAE, "decoder.up_blocks.0.resnets.2.conv1.weight", "decoder.up.3.block.2.conv1.weight"),
    (SD15_VAE, "decoder.up_blocks.2.upsamplers.0.conv.bias", "decoder.up.1.upsample.conv.bias"),
    (SD15_VAE, "encoder.mid_block.attentions.0.to_out.0.weight", "encoder.mid.attn_1.proj_out.weight"),
    (SD15_VAE, "encoder.down_blocks.1.resnets.0.conv_shortcut.weight", "encoder.down.1.block.0.nin_shortcut.weight"),
    (SD15_VAE, "encoder.conv_norm_out.weight", "encoder.norm_out.weight"),
    (SD15_VAE, "quant_conv.weight", "quant_conv.weight"),
]  # fmt: skip
TRUNK = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}
TINY = {
    "unet": (
        UNetConfig(**TRUNK, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")),
        weights.unet_shapes,
    ),
    "vae": (
        VaeConfig(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4),
        weights.vae_shapes,
    ),
    "controlnet": (
        ControlNetConfig(**TRUNK, conditioning_embedding_out_channels=(4, 4, 4, 8)),
        weights.controlnet_shapes,
    ),
}
TEXT = ClipTextConfig(9, 8, 8, 1, 2, 6)


def filled(shapes):
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), "f4"), shapes)


def originals(name, folder, prefix=True):
    """Parameters of a tiny network, and the tensors that the original repository would have stored."""
    config, shapes = TINY[name]
    params, file = filled(shapes(config)), folder / f"{name}.safetensors"
    weights.save(params, file)
    tensors = {original_name(key, config): value for key, value in load_file(file).items()}
    if name == "vae":  # attention of one head is by 1 x 1 convolutions
        square = lambda k, v: v[:, :, None, None] if "attn_1" in k and v.ndim == 2 else v
        tensors = {k: square(k, v) for k, v in tensors.items()}
    if not prefix:
        tensors = {k.removeprefix("control_model."): v for k, v in tensors.items()}
    return params, tensors


@pytest.fixture
def checkpoint(tmp_path):
    """A whole checkpoint, small, with the weights' moving averages beside them, and what it holds."""
    found, tensors = {}, {"model_ema.decay": np.ones((), np.float32)}
    for name in ("unet", "vae"):
        found[name], own = originals(name, tmp_path)
        tensors |= own
    found["text_encoder"] = filled(clip_weights.parameter_shapes(TEXT))
    clip_weights.save(found["text_encoder"], tmp_path / "text.safetensors", TEXT)
    text = load_file(tmp_path / "text.safetensors")
    tensors |= {f"cond_stage_model.transformer.{name}": value for name, value in text.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors", found


@pytest.mark.parametrize("config, ours, theirs", PUBLISHED)
def test_published_names(config, ours, theirs):
    assert (
        original_name(ours, config).split("model.", 1)[-1].removeprefix("diffusion_model.")
        == theirs
    )


@pytest.mark.parametrize("config, shapes", [
    (SD15_UNET, weights.unet_shapes),
    (SD15_VAE, weights.vae_shapes),
    (SD15_CONTROLNET, weights.controlnet_shapes),
])  # fmt: skip
def test_no_two_tensors_have_one_original_name(config, shapes):
    names = [weights.tensor_name(path) for path in flatten_dict(shapes(config))]
    assert len({original_name(name, config) for name in names}) == len(names)


def test_every_network_of_a_checkpoint_is_read(checkpoint):
    path, found = checkpoint
    for name in ("unet", "vae"):
        config, _ = TINY[name]
        read = folders.load(folders.Component(name, config, path))
        jax.tree.map(np.testing.assert_array_equal, read, found[name])
        count = sum(leaf.size for leaf in jax.tree.leaves(found[name]))
        assert folders.check(folders.Component(name, config, path)).parameters == count
    text = folders.Component("text_encoder", TEXT, path)
    assert folders.check(text).problem == ""
    jax.tree.map(np.testing.assert_array_equal, folders.load(text), found["text_encoder"])


@pytest.mark.parametrize("prefix", [True, False])
def test_controlnets_are_read_with_and_without_their_prefix(prefix, tmp_path):
    params, tensors = originals("controlnet", tmp_path, prefix)
    save_file(tensors, tmp_path / "control.safetensors")
    read = weights.load_controlnet(tmp_path / "control.safetensors", TINY["controlnet"][0])
    jax.tree.map(np.testing.assert_array_equal, read, params)


def test_the_networks_of_a_checkpoint_are_listed_and_checked_as_stable_diffusion_15(
    checkpoint, capsys
):
    path, _ = checkpoint
    found = {part.name: part.config for part in folders.components(path)}
    assert found == {"unet": SD15_UNET, "vae": SD15_VAE, "text_encoder": SD15_TEXT}
    with pytest.raises(SystemExit):  # a tiny one is not
        main(["weights", "check", str(path)])
    assert "is it of another configuration" in capsys.readouterr().err


def test_what_a_checkpoint_lacks_is_named(checkpoint, tmp_path):
    path, _ = checkpoint
    with pytest.raises(ValueError, match="holds no ControlNet"):
        weights.load_controlnet(path, TINY["controlnet"][0])
    tensors = load_file(path)
    tensors.pop("model.diffusion_model.out.2.bias")
    save_file(tensors, path)
    with pytest.raises(ValueError, match="lacks conv_out.bias"):
        weights.load_unet(path, TINY["unet"][0])
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no single-file checkpoint"):
        folders.components(tmp_path / "other.safetensors")


@pytest.mark.oracle
@pytest.mark.parametrize("name", TINY)
def test_diffusers_translates_the_original_names_back_into_ours(name, tmp_path):
    utils = pytest.importorskip("diffusers.loaders.single_file_utils")
    config, _ = TINY[name]
    _, tensors = originals(name, tmp_path)
    ours = load_file(tmp_path / f"{name}.safetensors")
    card = {key: getattr(config, key) for key in config.__dataclass_fields__}
    card["down_block_types"] = card.get("down_block_types", ("DownEncoderBlock2D",) * 2)
    card["up_block_types"] = card.get("up_block_types", ("UpDecoderBlock2D",) * 2)
    convert = {
        "unet": utils.convert_ldm_unet_checkpoint,
        "vae": utils.convert_ldm_vae_checkpoint,
        "controlnet": utils.convert_controlnet_checkpoint,
    }[name]
    torch = pytest.importorskip("torch")
    theirs = convert({k: torch.from_numpy(v) for k, v in tensors.items()}, config=card)
    assert set(theirs) == set(ours)
    for key, value in ours.items():
        np.testing.assert_array_equal(theirs[key].numpy().reshape(value.shape), value)

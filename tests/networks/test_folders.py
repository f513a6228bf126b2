"""Hugging Face folders: configurations as published, and every way a folder can be wrong, named."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from daag_jax.cli import main
from daag_jax.networks import folders
from daag_jax.networks.clip import weights as clip_weights
from daag_jax.networks.clip.config import CLIP_VIT_B32, COMPACT_CLIP, SD15_TEXT
from daag_jax.networks.stable_diffusion import weights
from daag_jax.networks.stable_diffusion.config import (
    SD15_CONTROLNET,
    SD15_UNET,
    SD15_VAE,
    UNetConfig,
    VaeConfig,
)

TINY_VAE = VaeConfig(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
TINY_UNET = UNetConfig(
    block_out_channels=(8, 16),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    attention_head_dim=2,
    cross_attention_dim=8,
    norm_num_groups=4,
)
# what the published files say, beside fields that change nothing
PUBLISHED = {
    "UNet2DConditionModel": (
        SD15_UNET,
        {
            "_diffusers_version": "0.6.0",
            "act_fn": "silu",
            "attention_head_dim": 8,
            "block_out_channels": [320, 640, 1280, 1280],
            "center_input_sample": False,
            "cross_attention_dim": 768,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "downsample_padding": 1,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "layers_per_block": 2,
            "mid_block_scale_factor": 1,
            "norm_eps": 1e-05,
            "norm_num_groups": 32,
            "sample_size": 64,
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        },
    ),
    "AutoencoderKL": (
        SD15_VAE,
        {
            "act_fn": "silu",
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "latent_channels": 4,
            "layers_per_block": 2,
            "norm_num_groups": 32,
            "sample_size": 512,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        },
    ),
    "ControlNetModel": (
        SD15_CONTROLNET,
        {
            "conditioning_embedding_out_channels": [16, 32, 96, 256],
            "controlnet_conditioning_channel_order": "rgb",
            "num_attention_heads": None,
            "projection_class_embeddings_input_dim": None,
            "resnet_time_scale_shift": "default",
            "use_linear_projection": False,
        },
    ),
}


def write_config(folder, name, values):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": name} | values))


def filled(shapes):
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), "f4"), shapes)


@pytest.fixture
def pipeline(tmp_path):
    """A pipeline's folder with a tiny UNet and VAE, a scheduler and a tokenizer."""
    parts = {
        "unet": (TINY_UNET, weights.unet_shapes),
        "vae": (TINY_VAE, weights.vae_shapes),
    }
    for name, (config, shapes) in parts.items():
        folders.save(tmp_path / name, config, filled(shapes(config)))
    (tmp_path / "tokenizer").mkdir()
    write_config(tmp_path / "scheduler", "PNDMScheduler", {})
    return tmp_path


def file_of(pipeline, name="unet"):
    return pipeline / name / "diffusion_pytorch_model.safetensors"


def change(path, edit):
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_stable_diffusion_15(name, tmp_path):
    config, values = PUBLISHED[name]
    write_config(tmp_path, name, values)
    assert folders.read_config(tmp_path / "config.json") == config


def test_published_configs_of_clip_are_read(tmp_path):
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    tmp_path.joinpath("config.json").write_text(
        json.dumps({"architectures": ["CLIPTextModel"], "torch_dtype": "float32"} | text)
    )
    assert folders.read_config(tmp_path / "config.json") == SD15_TEXT
    towers = {"text_config": {"hidden_size": 512}, "vision_config": {"patch_size": 32}}
    tmp_path.joinpath("config.json").write_text(
        json.dumps({"architectures": ["CLIPModel"], "projection_dim": 512} | towers)
    )
    assert folders.read_config(tmp_path / "config.json") == CLIP_VIT_B32


def test_a_pipeline_is_found_checked_and_loaded(pipeline, capsys):
    found = {part.name: part for part in folders.components(pipeline)}
    assert {name: part.config for name, part in found.items()} == {
        "unet": TINY_UNET,
        "vae": TINY_VAE,
    }
    finding = folders.check(found["vae"])
    params = folders.load(found["vae"])
    assert finding.problem == "" and finding.dtypes == ("F32",)
    assert finding.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    main(["weights", "check", str(pipeline)])
    assert "yes" in capsys.readouterr().out


def test_one_component_by_itself_is_found(pipeline):
    (only,) = folders.components(pipeline / "vae")
    assert only.config == TINY_VAE and folders.check(only).problem == ""


def test_clip_is_checked_from_its_header(tmp_path):
    values = dataclasses.asdict(COMPACT_CLIP) | {"architectures": ["CLIPModel"]}
    (tmp_path / "config.json").write_text(json.dumps(values))
    params = filled(clip_weights.parameter_shapes(COMPACT_CLIP))
    clip_weights.save(params, tmp_path / "model.safetensors", COMPACT_CLIP)
    (only,) = folders.components(tmp_path)
    assert only.config == COMPACT_CLIP and folders.check(only).problem == ""
    change(tmp_path / "model.safetensors", lambda t: t.update(logit_scale=np.ones(2, np.float32)))
    assert "logit_scale has shape [2]" in folders.check(only).problem


def missing(pipeline):
    change(file_of(pipeline), lambda tensors: tensors.pop("conv_in.weight"))


def transposed(pipeline):
    name = "time_embedding.linear_1.weight"
    change(
        file_of(pipeline), lambda t: t.update({name: np.ascontiguousarray(t[name].swapaxes(0, 1))})
    )


def truncated(pipeline):
    file_of(pipeline).write_bytes(file_of(pipeline).read_bytes()[:-100])


def another_family(pipeline):
    file_of(pipeline).write_bytes(file_of(pipeline, "vae").read_bytes())


def gone(pipeline):
    file_of(pipeline).unlink()


@pytest.mark.parametrize(
    "damage, said",
    [
        (missing, "lacks conv_in.weight"),
        (transposed, "time_embedding.linear_1.weight has shape"),
        (truncated, "cut short"),
        (another_family, "is a VAE, not a UNet"),
        (gone, "holds none of"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_folder_is_refused_with_a_sentence(damage, said, pipeline, capsys):
    damage(pipeline)
    with pytest.raises(SystemExit):
        main(["weights", "check", str(pipeline)])
    assert said in capsys.readouterr().err


def test_a_config_that_asks_for_another_model_is_refused_by_field(tmp_path):
    write_config(tmp_path, "UNet2DConditionModel", {"use_linear_projection": True})
    with pytest.raises(ValueError, match=r"use_linear_projection=True .* Stable Diffusion 1"):
        folders.components(tmp_path)


def test_a_folder_without_networks_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"holds no config.json .* notes.txt"):
        folders.components(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        folders.components(tmp_path)

"""A whole folder of Stable Diffusion and ControlNets, small: read, edited with, and refused where it is wrong."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from editing_clips import jit
from tokenizers import Tokenizer, models, pre_tokenizers

from daag_jax.editing.editor import make_editor
from daag_jax.editing.editor_config import Clip, EditorConfig
from daag_jax.editing.pretrained import load_pretrained
from daag_jax.networks import folders
from daag_jax.networks.clip import weights as clip_weights
from daag_jax.networks.clip.config import ClipTextConfig
from daag_jax.networks.stable_diffusion import weights
from daag_jax.networks.stable_diffusion.config import (
    CROSS_DOWN,
    CROSS_UP,
    ControlNetConfig,
    UNetConfig,
    VaeConfig,
)

TRUNK = {
    "block_out_channels": (8,),
    "down_block_types": (CROSS_DOWN,),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}
TEXT = ClipTextConfig(
    vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
    max_position_embeddings=6, bos_token_id=7, eos_token_id=8, pad_token_id=8,
)  # fmt: skip
PARTS = {
    "vae": (
        VaeConfig(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=4),
        weights.vae_shapes,
    ),
    "unet": (
        UNetConfig(up_block_types=(CROSS_UP,), **TRUNK),
        weights.unet_shapes,
    ),
    "depth": (
        ControlNetConfig(conditioning_embedding_out_channels=(4, 8), **TRUNK),
        weights.controlnet_shapes,
    ),
}


def filled(shapes):
    """Parameters none of which is zero."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.2 * random.normal(size=x.shape), "f4"), shapes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sd")
    for name, (config, shapes) in PARTS.items():
        folders.save(root / name, config, filled(shapes(config)))
    (root / "depth").rename(root.parent / "depth")
    text = root / "text_encoder"
    text.mkdir()
    card = {"architectures": ["CLIPTextModel"]} | dataclasses.asdict(TEXT)
    (text / "config.json").write_text(json.dumps(card))
    params = filled(clip_weights.parameter_shapes(TEXT))
    clip_weights.save(params, text / "model.safetensors", TEXT)
    words = ["a", "red", "green", "blue", "block", "table", "<unk>"]
    words += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (root / "tokenizer").mkdir()
    tokenizer.save(str(root / "tokenizer" / "tokenizer.json"))
    return root


def test_a_folder_becomes_an_editor_that_hears_and_paints(folder):
    editor = load_pretrained(folder, {"depth": folder.parent / "depth"}, num_objects=1)
    assert editor.spec.parameterisation == "noise"
    random = np.random.default_rng(1)
    rgb = jnp.asarray(random.integers(0, 255, (1, 2, 16, 16, 3)), jnp.uint8)
    segmentation = jnp.zeros((1, 2, 16, 16), jnp.int32).at[..., 4:12, 4:12].set(1)
    depth, normals = jnp.ones((1, 2, 16, 16)), jnp.zeros((1, 2, 16, 16, 3))
    clip = Clip(rgb, depth, normals, segmentation)
    edit = jit(make_editor(EditorConfig(steps=1, guidance=2.0), editor.spec))

    def paint(said):
        prompts, is_edited = editor.prompts(["a table"], [[said]]), jnp.array([[True]])
        return np.asarray(edit(editor.params, clip, prompts, is_edited, jax.random.key(0)))

    red = paint("a red block")
    assert (red != paint("a green block")).any()
    is_object = np.asarray(segmentation == 1)
    assert (red != np.asarray(rgb))[is_object].any()
    np.testing.assert_array_equal(red[~is_object], np.asarray(rgb)[~is_object])
    with pytest.raises(ValueError, match="2 sentences"):
        editor.prompts(["a table"], [["a red block", "a blue block"]])


def test_parts_that_are_missing_or_of_another_network_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match="vae is a Vae, not a ControlNet"):
        load_pretrained(folder, {"depth": folder / "vae"})
    (tmp_path / "unet").symlink_to(folder / "unet")
    with pytest.raises(FileNotFoundError, match="has no vae; an editor needs vae, unet"):
        load_pretrained(tmp_path)


def test_what_the_scheduler_says_is_believed(folder, tmp_path):
    for name in ("vae", "unet", "text_encoder", "tokenizer"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "scheduler").mkdir()
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({"prediction_type": "v_prediction"}))
    assert load_pretrained(tmp_path).spec.parameterisation == "v"
    file.write_text(json.dumps({"prediction_type": "flow"}))
    with pytest.raises(ValueError, match="prediction_type 'flow'"):
        load_pretrained(tmp_path)

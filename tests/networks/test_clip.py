"""CLIP: parity with Hugging Face's torch models, weight files both ways, losses, tokenizers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from daag_jax.networks.clip.config import (
    CLIP_VIT_B32,
    COMPACT_CLIP,
    SD15_TEXT,
    ClipConfig,
    ClipTextConfig,
    ClipVisionConfig,
)
from daag_jax.networks.clip.model import (
    contrastive_loss,
    make_clip,
    make_text_encoder,
    sigmoid_loss,
)
from daag_jax.networks.clip.tokenizer import UnknownWordError, WordTokenizer, load_tokenizer
from daag_jax.networks.clip.weights import load, parameter_shapes, save

TEXT = ClipTextConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=7,
    bos_token_id=38,
    eos_token_id=39,
    pad_token_id=39,
)
VISION = ClipVisionConfig(
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=3,
    image_size=16,
    patch_size=8,
)
SMALL = ClipConfig(TEXT, VISION, projection_dim=10)
TOKENS = np.array([[38, 3, 9, 39, 39, 39, 39], [38, 7, 1, 2, 5, 30, 39]], np.int32)


def size(config) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(config)))


def hugging_face(config: ClipConfig):
    """The torch model of the same configuration with random weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    fields = dict(vars(config.text_config))
    vision = {k: v for k, v in vars(config.vision_config).items() if not k.startswith("image_m")}
    vision.pop("image_std")
    model = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config=fields, vision_config=vision, projection_dim=config.projection_dim
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return torch, model


def relative_error(ours, theirs) -> float:
    theirs = theirs.detach().numpy()
    return float(np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs))


def images(batch: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, 16, 16, 3)).astype(np.uint8)


@pytest.mark.oracle
@pytest.mark.parametrize("eos", [39, 2], ids=["eos", "legacy_eos"])
def test_both_towers_equal_hugging_face(tmp_path, eos):
    config = ClipConfig(ClipTextConfig(**{**vars(TEXT), "eos_token_id": eos}), VISION, 10)
    torch, model = hugging_face(config)
    model.save_pretrained(tmp_path)
    params = load(tmp_path, config)
    clip = make_clip(config)
    mean, std = (np.array(x, np.float32) for x in (VISION.image_mean, VISION.image_std))
    pixels = ((images() / 255.0 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    theirs = model(input_ids=torch.tensor(TOKENS).long(), pixel_values=torch.tensor(pixels.copy()))
    texts, seen = clip.encode_text(params, TOKENS), clip.encode_image(params, images())
    assert relative_error(texts, theirs.text_embeds) < 1e-4
    assert relative_error(seen, theirs.image_embeds) < 1e-4
    assert relative_error(clip.logits(params, seen, texts), theirs.logits_per_image) < 1e-4


@pytest.mark.oracle
def test_stable_diffusion_text_encoder_equals_hugging_face(tmp_path):
    torch, model = hugging_face(SMALL)
    transformers = pytest.importorskip("transformers")
    text = transformers.CLIPTextModel(model.config.text_config).eval()
    with torch.no_grad():
        for parameter in text.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    text.save_pretrained(tmp_path)
    ours = make_text_encoder(TEXT).hidden_states(load(tmp_path, TEXT), TOKENS)
    theirs = text(input_ids=torch.tensor(TOKENS).long()).last_hidden_state
    assert relative_error(ours, theirs) < 1e-4


@pytest.mark.oracle
def test_hugging_face_reads_what_we_save(tmp_path, key):
    _, model = hugging_face(SMALL)
    clip = make_clip(SMALL)
    params = jax.jit(clip.init)(key)
    model.config.save_pretrained(tmp_path)
    save(params, tmp_path / "model.safetensors", SMALL)
    reread = type(model).from_pretrained(tmp_path).eval()
    torch = pytest.importorskip("torch")
    theirs = reread.text_model(input_ids=torch.tensor(TOKENS).long()).last_hidden_state
    assert relative_error(clip.hidden_states(params, TOKENS), theirs) < 1e-4


def test_sizes_are_those_of_the_published_models():
    assert size(CLIP_VIT_B32) == 151_277_313  # openai/clip-vit-base-patch32
    assert size(SD15_TEXT) == 123_060_480  # the text encoder of Stable Diffusion 1.5
    assert 1_000_000 < size(COMPACT_CLIP) < 1_500_000


def test_save_then_load_is_the_identity(tmp_path, key):
    config = ClipConfig(TEXT, VISION, 10, logit_bias_init_value=-10.0)
    params = jax.jit(make_clip(config).init)(key)
    save(params, tmp_path / "clip.safetensors", config)
    again = load(tmp_path / "clip.safetensors", config)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    text_only = load(tmp_path / "clip.safetensors", TEXT)
    np.testing.assert_array_equal(
        make_clip(config).hidden_states(params, TOKENS),
        make_text_encoder(TEXT).hidden_states(text_only, TOKENS),
    )


@pytest.fixture
def file(tmp_path, key):
    """A sound weight file."""
    path = tmp_path / "model.safetensors"
    save(jax.jit(make_clip(SMALL).init)(key), path, SMALL)
    return path


def edited(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return file


@pytest.mark.nan_is_an_answer
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("text_projection.weight"), "has no text_projection.weight"),
        (lambda t: t.update({"logit_bias": np.zeros(1, np.float32)}), "holds logit_bias"),
        (
            lambda t: t.update({"visual_projection.weight": np.zeros((10, 13), np.float32)}),
            r"visual_projection.weight has shape \[10, 13\].*\[10, 12\]",
        ),
        (
            lambda t: t["vision_model.post_layernorm.bias"].__setitem__(0, np.nan),
            "vision_model.post_layernorm.bias holds NaN",
        ),
    ],
    ids=["missing", "unknown", "shape", "nan"],
)
def test_a_bad_tensor_is_refused_by_name(file, change, message):
    with pytest.raises(ValueError, match=message):
        load(edited(file, change), SMALL)


def test_truncated_and_foreign_files_are_refused(file, tmp_path):
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut short"):
        load(file, SMALL)
    unet = tmp_path / "unet.safetensors"
    save_file({"down_blocks.0.resnets.0.conv1.weight": np.zeros(1, np.float32)}, unet)
    with pytest.raises(ValueError, match="looks like a diffusion UNet"):
        load(unet, SMALL)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere.safetensors", SMALL)


def test_half_precision_files_are_widened(file):
    params = load(file, SMALL)
    half = edited(file, lambda t: t.update({k: v.astype(np.float16) for k, v in t.items()}))
    again = load(half, SMALL)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(again))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-3), params, again)


def test_embeddings_are_unit_vectors_and_bytes_equal_floats(key):
    clip = make_clip(SMALL)
    params = jax.jit(clip.init)(key)
    from_bytes = clip.encode_image(params, images())
    from_floats = clip.encode_image(params, images().astype(np.float32) / 255.0)
    np.testing.assert_allclose(from_bytes, from_floats, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(from_bytes, axis=1), 1.0, atol=1e-5)
    assert clip.encode_image(params, np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 10)
    with pytest.raises(ValueError, match=r"\(2, 16, 12, 3\).*square"):
        clip.encode_image(params, images()[:, :, :12])


def test_text_after_the_end_changes_nothing(key):
    clip = make_clip(SMALL)
    params = jax.jit(clip.init)(key)
    longer = TOKENS.copy()
    longer[0, 4:] = 11
    np.testing.assert_allclose(
        clip.encode_text(params, TOKENS)[0], clip.encode_text(params, longer)[0], atol=1e-6
    )


def test_sigmoid_loss_equals_its_sum(key):
    logits = jax.random.normal(key, (3, 4))
    truth = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], bool)
    z = np.where(truth, 1.0, -1.0)
    expected = -sum(
        np.log(1.0 / (1.0 + np.exp(-z[i, j] * float(logits[i, j]))))
        for i in range(3)
        for j in range(4)
    )
    np.testing.assert_allclose(sigmoid_loss(logits, jnp.asarray(truth)), expected / 3, rtol=1e-5)
    np.testing.assert_allclose(
        sigmoid_loss(logits, jnp.asarray(z, jnp.float32)), expected / 3, rtol=1e-5
    )


def test_contrastive_loss_of_equal_logits_is_the_log_of_the_batch():
    np.testing.assert_allclose(contrastive_loss(jnp.zeros((5, 5))), np.log(5.0), rtol=1e-6)
    assert contrastive_loss(100.0 * jnp.eye(5)) < 1e-6


def test_word_tokenizer_reads_every_task_and_caption():
    tokenizer = WordTokenizer()
    texts = [
        "The robot is grasping the red object",
        "The pink object is on top of the cyan object",
        "Stack all three objects",
        "a photo of a purple cube, on the table.",
    ]
    tokens = tokenizer(texts)
    assert tokens.shape == (4, 16) and tokens.dtype == np.int32
    assert tokenizer.decode(tokens[0]) == texts[0].lower()
    assert tokenizer.vocab_size <= COMPACT_CLIP.text_config.vocab_size


def test_word_tokenizer_refuses_what_it_cannot_say():
    tokenizer = WordTokenizer()
    with pytest.raises(UnknownWordError, match="'yelow'.*nearest word is 'yellow'"):
        tokenizer(["the yelow object"])
    with pytest.raises(ValueError, match="context_length is 16"):
        tokenizer(["the red object " * 8])
    with pytest.raises(ValueError, match="list of strings"):
        tokenizer("red")


@pytest.mark.oracle
def test_byte_pair_tokenizer_equals_hugging_face(tmp_path):
    transformers = pytest.importorskip("transformers")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789',.!"
    pieces = [*letters, *(c + "</w>" for c in letters)]
    merges = [("t", "h"), ("th", "e</w>"), ("r", "e"), ("re", "d</w>")]
    pieces += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n")
    texts = ["The red block's   top, 12!", "there", "RED"]
    ours = load_tokenizer(tmp_path, context_length=24)
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    for text, row in zip(texts, ours(texts), strict=True):
        expected = theirs(text)["input_ids"]
        assert row[: len(expected)].tolist() == expected
        assert set(row[len(expected) :].tolist()) == {ours.pad_id}
    theirs.save_pretrained(tmp_path / "fast")
    np.testing.assert_array_equal(load_tokenizer(tmp_path / "fast", 24)(texts), ours(texts))


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither tokenizer.json nor vocab.json"):
        load_tokenizer(tmp_path)

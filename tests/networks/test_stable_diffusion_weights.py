"""Weight files: exact round trips, the Hugging Face layout, and a refusal by name of everything else."""

import json
import struct
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from daag_jax.networks.stable_diffusion import weights
from daag_jax.networks.stable_diffusion.config import (
    COMPACT_CONTROLNET,
    COMPACT_UNET,
    COMPACT_VAE,
    SD15_CONTROLNET,
    SD15_UNET,
    SD15_VAE,
    VaeConfig,
)
from daag_jax.training.devices import make_mesh, shardings

TINY_VAE = VaeConfig(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
FAMILIES = {
    "vae": (weights.vae_shapes, weights.load_vae, COMPACT_VAE),
    "unet": (weights.unet_shapes, weights.load_unet, COMPACT_UNET),
    "controlnet": (weights.controlnet_shapes, weights.load_controlnet, COMPACT_CONTROLNET),
}


def filled(shapes, seed: int = 0):
    """Parameters of the given shapes with random values, without tracing a network."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), "f4"), shapes)


@pytest.fixture
def vae_file(tmp_path):
    path = tmp_path / "vae.safetensors"
    weights.save(filled(weights.vae_shapes(TINY_VAE)), path)
    return path


def rewrite(path, change):
    """Applies ``change`` to the dictionary of tensors in a file."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("family", FAMILIES)
def test_saving_and_loading_gives_the_same_parameters(family, tmp_path):
    shapes, load, config = FAMILIES[family]
    params = filled(shapes(config))
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.save(params, path)
    jax.tree.map(np.testing.assert_array_equal, load(path, config), params)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path, config), params)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_halves_the_file_and_loads_as_the_rounded_values(dtype, vae_file, tmp_path):
    params = weights.load_vae(vae_file, TINY_VAE)
    half = tmp_path / "half.safetensors"
    weights.save(params, half, dtype)
    assert half.stat().st_size < 0.75 * vae_file.stat().st_size  # the header is a large part here
    expected = jax.tree.map(lambda x: x.astype(dtype).astype(jnp.float32), params)
    jax.tree.map(np.testing.assert_array_equal, weights.load_vae(half, TINY_VAE), expected)
    kept = weights.load_vae(half, TINY_VAE, dtype)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(kept))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_parameters_are_read_to_where_they_live(dtype, vae_file):
    places = partial(shardings, mesh=make_mesh(1, 4), min_elements=16)
    split = weights.load_vae(vae_file, TINY_VAE, dtype, places)
    whole = weights.load_vae(vae_file, TINY_VAE, dtype)
    jax.tree.map(np.testing.assert_array_equal, split, whole)
    kernel = split["decoder"]["conv_in"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size
    assert kernel.sharding == places(whole)["decoder"]["conv_in"]["kernel"]


def test_stable_diffusion_15_has_the_published_names_and_sizes():
    counts = {}
    for name, shapes in (
        ("vae", weights.vae_shapes(SD15_VAE)),
        ("unet", weights.unet_shapes(SD15_UNET)),
        ("controlnet", weights.controlnet_shapes(SD15_CONTROLNET)),
    ):
        leaves = flatten_dict(shapes)
        names = {weights.tensor_name(path): leaf.shape for path, leaf in leaves.items()}
        counts[name] = (len(names), sum(int(np.prod(shape)) for shape in names.values()))
        if name == "unet":
            geglu = "up_blocks.1.attentions.2.transformer_blocks.0.ff.net.0.proj.weight"
            assert weights.torch_shape(names[geglu]) == (10240, 1280)
            assert weights.torch_shape(names["time_embedding.linear_1.weight"]) == (1280, 320)
            key = "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k.weight"
            assert weights.torch_shape(names[key]) == (1280, 768)
    # tensors and parameters of the published fp32 files
    assert counts == {
        "vae": (248, 83_653_863),
        "unet": (686, 859_520_964),
        "controlnet": (340, 361_279_120),
    }


@pytest.mark.parametrize("rank", [2, 4])
def test_old_attention_names_of_vae_files_are_understood(rank, vae_file):
    params = weights.load_vae(vae_file, TINY_VAE)

    def age(tensors):
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for name in [n for n in tensors if ".attentions." in n and ".to_" in n]:
            new = next(key for key in old if f".{key}." in name)
            value = tensors.pop(name)
            if rank == 4 and name.endswith("weight"):
                value = value[:, :, None, None]
            tensors[name.replace(f".{new}.", f".{old[new]}.")] = value

    rewrite(vae_file, age)
    assert any(".proj_attn." in name for name in load_file(vae_file))
    jax.tree.map(np.testing.assert_array_equal, weights.load_vae(vae_file, TINY_VAE), params)


def test_a_missing_tensor_is_refused_by_name(vae_file):
    rewrite(vae_file, lambda tensors: tensors.pop("decoder.conv_out.bias"))
    with pytest.raises(ValueError, match=r"vae\.safetensors lacks decoder\.conv_out\.bias"):
        weights.load_vae(vae_file, TINY_VAE)


def test_an_unexpected_tensor_is_refused_by_name(vae_file):
    rewrite(vae_file, lambda tensors: tensors.update({"decoder.extra": np.zeros(2, "f4")}))
    with pytest.raises(ValueError, match=r"has unexpected decoder\.extra"):
        weights.load_vae(vae_file, TINY_VAE)


def test_a_tensor_of_another_shape_is_refused_by_name(vae_file):
    name = "encoder.conv_in.weight"
    rewrite(vae_file, lambda tensors: tensors.update({name: np.zeros((8, 4, 3, 3), "f4")}))
    with pytest.raises(ValueError, match=r"encoder\.conv_in\.weight has shape \(8, 4, 3, 3\)"):
        weights.load_vae(vae_file, TINY_VAE)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_tensor_with_nan_is_refused_by_name(bad, vae_file):
    def spoil(tensors):
        tensors["quant_conv.bias"][3] = bad

    rewrite(vae_file, spoil)
    with pytest.raises(ValueError, match=r"vae\.safetensors: quant_conv\.bias holds NaN"):
        weights.load_vae(vae_file, TINY_VAE)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_refused_by_name(kept, vae_file):
    whole = vae_file.read_bytes()
    vae_file.write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"vae\.safetensors is not a whole safetensors file"):
        weights.load_vae(vae_file, TINY_VAE)


def test_a_file_with_a_damaged_header_is_refused_by_name(vae_file):
    header = json.dumps({"encoder.conv_in.weight": {"dtype": "F32", "shape": [9]}}).encode()
    vae_file.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        weights.load_vae(vae_file, TINY_VAE)


def test_a_file_of_another_family_is_refused_by_name(tmp_path):
    for actual, (shapes, _, config) in FAMILIES.items():
        path = tmp_path / f"{actual}.safetensors"
        weights.save(filled(shapes(config)), path)
        for wanted, (_, load, other) in FAMILIES.items():
            if wanted != actual:
                with pytest.raises(ValueError, match=rf"{actual}\.safetensors is a \w+, not a \w+"):
                    load(path, other)


def test_a_file_of_another_size_is_refused(vae_file):
    with pytest.raises(ValueError, match="is it of another configuration"):
        weights.load_vae(vae_file, COMPACT_VAE)


def test_pickles_and_absent_files_are_refused(tmp_path):
    pickle = tmp_path / "model.bin"
    pickle.write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"only \.safetensors is read"):
        weights.load_vae(pickle, TINY_VAE)
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors does not exist"):
        weights.load_vae(tmp_path / "nothing.safetensors", TINY_VAE)
    with pytest.raises(FileNotFoundError, match="holds none of"):
        weights.load_vae(tmp_path, TINY_VAE)


@pytest.mark.nan_is_an_answer
def test_parameters_that_cannot_be_stored_leave_no_file(vae_file, tmp_path):
    params = weights.load_vae(vae_file, TINY_VAE)
    params["quant_conv"]["bias"] = params["quant_conv"]["bias"].at[0].set(1e6)
    path = tmp_path / "new.safetensors"
    with pytest.raises(ValueError, match="quant_conv/bias holds NaN or infinity; it overflows"):
        weights.save(params, path, jnp.float16)
    params["quant_conv"]["bias"] = params["quant_conv"]["bias"].at[0].set(jnp.nan)
    with pytest.raises(ValueError, match="quant_conv/bias holds NaN or infinity; it is not"):
        weights.save(params, path)
    assert not path.exists()

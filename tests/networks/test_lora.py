"""Low-rank adapters: nothing at first, a low-rank change after, exact in files, and read by diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from daag_jax.networks import lora
from daag_jax.networks.stable_diffusion import weights
from daag_jax.networks.stable_diffusion.config import UNetConfig

UNET = UNetConfig(
    block_out_channels=(8, 16),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    attention_head_dim=2,
    cross_attention_dim=8,
    norm_num_groups=4,
)
EVERYTHING = (*lora.ATTENTION, r"conv1/kernel$")


@pytest.fixture(scope="module")
def params():
    random = np.random.default_rng(0)
    shapes = weights.unet_shapes(UNET)
    return jax.tree.map(lambda x: jnp.asarray(0.2 * random.normal(size=x.shape), "f4"), shapes)


def trained(adapters):
    """Adapters whose second factor is no longer zero."""
    keys = iter(jax.random.split(jax.random.key(1), len(adapters)))
    fill = lambda x: x._replace(up=0.3 * jax.random.normal(next(keys), x.up.shape))
    return {name: fill(adapter) for name, adapter in adapters.items()}


def test_a_new_adapter_changes_nothing_and_a_trained_one_only_its_kernels(params, key):
    adapters = lora.init_lora(params, key, 2, EVERYTHING)
    jax.tree.map(np.testing.assert_array_equal, lora.merge(params, adapters), params)
    merged = flatten_dict(lora.merge(params, trained(adapters)), sep="/")
    for name, before in flatten_dict(params, sep="/").items():
        change = np.asarray(merged[name] - before).reshape(-1, before.shape[-1])
        rank = np.linalg.matrix_rank(change, tol=1e-4)
        assert rank == (2 if name in adapters else 0), name
    half = flatten_dict(lora.merge(params, trained(adapters), 0.5), sep="/")
    name = next(iter(adapters))
    whole = merged[name] - flatten_dict(params, sep="/")[name]
    np.testing.assert_allclose(half[name] + 0.5 * whole, merged[name], atol=1e-6)


def test_gradients_reach_the_second_factor_first(params, key):
    """dW reaches A only through B, which is zero at first (section 4.1)."""
    adapters = lora.init_lora(params, key, 2)
    name = next(iter(adapters))
    total = lambda x: flatten_dict(lora.merge(params, x), sep="/")[name].sum()
    gradient = jax.grad(total)(adapters)[name]
    assert np.abs(gradient.up).min() > 0 and np.all(gradient.down == 0)


def test_saving_and_loading_gives_the_same_adapters(params, key, tmp_path):
    adapters = trained(lora.init_lora(params, key, 2, EVERYTHING))
    file = tmp_path / "lora.safetensors"
    lora.save(adapters, file, weights.tensor_name)
    blank = lora.init_lora(params, jax.random.key(2), 4, EVERYTHING)
    read = lora.load(file, blank, weights.tensor_name)
    jax.tree.map(np.testing.assert_array_equal, read, adapters)


def test_bad_adapters_are_refused(params, key, tmp_path):
    with pytest.raises(ValueError, match="find none of"):
        lora.init_lora(params, key, 2, ("no_such_layer",))
    adapters = lora.init_lora(params, key, 2)
    file = tmp_path / "lora.safetensors"
    lora.save(adapters, file, weights.tensor_name)
    more = lora.init_lora(params, jax.random.key(3), 2, EVERYTHING)
    lora.save(more, tmp_path / "more.safetensors", weights.tensor_name)
    with pytest.raises(ValueError, match="that no adapter here takes"):
        lora.load(tmp_path / "more.safetensors", adapters, weights.tensor_name)
    with pytest.raises(ValueError, match="no mid_block/other/kernel for an adapter"):
        lora.merge(params, {"mid_block/other/kernel": next(iter(adapters.values()))})
    wider = {n: a._replace(up=jnp.zeros((2, a.up.shape[1] + 1))) for n, a in adapters.items()}
    with pytest.raises(ValueError, match="has factors of"):
        lora.load(file, wider, weights.tensor_name)
    with pytest.raises(ValueError, match="lacks unet"):
        lora.load(
            file, {"mid_block/other/kernel": next(iter(adapters.values()))}, weights.tensor_name
        )
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match="cut short"):
        lora.load(file, adapters, weights.tensor_name)
    with pytest.raises(FileNotFoundError, match="name a file of adapters"):
        lora.load(tmp_path / "nothing", adapters, weights.tensor_name)


@pytest.mark.oracle
def test_diffusers_reads_what_we_save(params, key, tmp_path):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    adapters = trained(lora.init_lora(params, key, 2))
    lora.save(adapters, tmp_path / "pytorch_lora_weights.safetensors", weights.tensor_name)
    for name, tree in (("base", params), ("merged", lora.merge(params, adapters))):
        weights.save(tree, tmp_path / name / "diffusion_pytorch_model.safetensors")
    fields = {k: getattr(UNET, k) for k in UNET.__dataclass_fields__}
    model = diffusers.UNet2DConditionModel(**fields)
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([7]), torch.randn(1, 3, 8)
    outputs = {}
    from safetensors.torch import load_file

    for name in ("base", "merged"):
        file = tmp_path / name / "diffusion_pytorch_model.safetensors"
        model.load_state_dict(load_file(file))
        if name == "base":
            model.load_lora_adapter(
                load_file(tmp_path / "pytorch_lora_weights.safetensors"), prefix="unet"
            )
        with torch.no_grad():
            outputs[name] = model.eval()(*inputs).sample
        if name == "base":
            model.unload_lora()
    torch.testing.assert_close(outputs["base"], outputs["merged"], atol=1e-4, rtol=1e-4)

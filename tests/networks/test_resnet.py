"""ResNet-18: parity with Hugging Face's torch model, sizes, FiLM, keypoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.networks.resnet import ResNet18, spatial_softmax


def feature(key, net: ResNet18, side: int, condition=None):
    images = jnp.full((2, side, side, 3), 0.3)
    return jax.eval_shape(net.init_with_output, key, images, condition)


@pytest.mark.oracle
@pytest.mark.parametrize("side", [128], ids=["large_stem"])
def test_equals_the_torch_resnet18_with_group_norm(key, side):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 64, 128],
        depths=[2, 2, 2, 2],
        layer_type="basic",
    )
    model = transformers.ResNetModel(config).eval()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.BatchNorm2d):
                channels = child.num_features
                norm = torch.nn.GroupNorm(max(1, channels // 16), channels)
                torch.nn.init.normal_(norm.weight, 1.0, 0.2)
                torch.nn.init.normal_(norm.bias, 0.0, 0.2)
                setattr(module, name, norm)
    images = np.random.default_rng(0).random((2, side, side, 3)).astype(np.float32)
    net = ResNet18(width=16)
    params = fill(net.init(key, jnp.asarray(images))["params"], model)
    ours = net.apply({"params": params}, jnp.asarray(images))
    pixels = torch.tensor((2.0 * images - 1.0).transpose(0, 3, 1, 2).copy())
    theirs = model(pixels).pooler_output.detach().numpy()[:, :, 0, 0]
    assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)


def fill(params, model):
    """Our parameters with the numbers of the torch model."""
    state = {k: v.numpy() for k, v in model.state_dict().items()}

    def layer(kernel, norm, prefix):
        return {
            kernel: {"kernel": state[f"{prefix}.convolution.weight"].transpose(2, 3, 1, 0)},
            norm: {
                "group": {
                    "scale": state[f"{prefix}.normalization.weight"],
                    "bias": state[f"{prefix}.normalization.bias"],
                }
            },
        }

    filled = layer("stem", "stem_norm", "embedder.embedder")
    for name in params:
        if name.startswith("stage"):
            prefix = f"encoder.stages.{name[5]}.layers.{name[-1]}"
            filled[name] = layer("conv1", "norm1", f"{prefix}.layer.0")
            filled[name] |= layer("conv2", "norm2", f"{prefix}.layer.1")
            if "shortcut" in params[name]:
                filled[name] |= layer("shortcut", "shortcut_norm", f"{prefix}.shortcut")
    assert jax.tree.map(np.shape, filled) == jax.tree.map(np.shape, params)
    return filled


def test_the_standard_width_has_the_parameters_of_resnet18(key):
    _, variables = feature(key, ResNet18(), 224)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert count == 11_689_512 - 513_000  # the published model without its 1000-class head


@pytest.mark.parametrize("pool, size", [("average", 32), ("spatial_softmax", 64), ("both", 96)])
def test_feature_sizes(key, pool, size):
    features, _ = feature(key, ResNet18(width=4, pool=pool), 16)
    assert features.shape == (2, size)


def test_an_untrained_instruction_changes_nothing(key):
    net = ResNet18(width=4, strides=(2, 2, 2, 1))
    image_key, word_key, init_key = jax.random.split(key, 3)
    images = jax.random.uniform(image_key, (2, 16, 16, 3))
    words = jax.random.normal(word_key, (2, 5))
    params = net.init(init_key, images, words)
    np.testing.assert_array_equal(
        net.apply(params, images, words), net.apply(params, images, jnp.zeros((2, 5)))
    )


def test_bytes_equal_floats(key):
    net = ResNet18(width=4, pool="spatial_softmax")
    images = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3)).astype(np.uint8)
    params = net.init(key, jnp.asarray(images))
    floats = jnp.asarray(images / 255.0, jnp.float32)
    np.testing.assert_allclose(
        net.apply(params, jnp.asarray(images)), net.apply(params, floats), atol=1e-4
    )


def test_spatial_softmax_finds_a_peak():
    x = jnp.zeros((1, 5, 9, 2)).at[0, 1, 8, 0].set(50.0).at[0, 4, 4, 1].set(50.0)
    np.testing.assert_allclose(spatial_softmax(x), [[1.0, 0.0, -0.5, 1.0]], atol=1e-5)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="pool 'max' is unknown"):
        ResNet18(pool="max")
    with pytest.raises(ValueError, match="norm 'batch' is unknown"):
        ResNet18(norm="batch")

"""Leaves of a state as a file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.training.weights import load_leaves, save_leaves


def test_leaves_come_back_by_name_and_of_the_type_asked_for(tmp_path):
    tree = {"net": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "reach": jnp.float32(0.5)}
    save_leaves(tree, tmp_path / "x.safetensors")
    back = load_leaves(jax.eval_shape(lambda: tree), tmp_path / "x.safetensors")
    jax.tree.map(np.testing.assert_array_equal, tree, back)
    assert back["reach"].shape == ()


def test_leaves_of_another_configuration_are_refused_by_name(tmp_path):
    save_leaves({"kernel": jnp.ones((2, 3))}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"kernel has shape \(2, 3\), expected \(3, 2\)"):
        load_leaves({"kernel": jnp.ones((3, 2))}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="bias has nothing"):
        load_leaves({"bias": jnp.ones(2)}, tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="cut short or damaged"):
        load_leaves({"kernel": jnp.ones((2, 3))}, tmp_path / "x.safetensors")

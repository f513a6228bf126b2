"""Functions of rows: the same by chunks and over devices, with few rows in memory at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.rows import chunk_of, divided, in_chunks
from daag_jax.training.devices import make_mesh

WEIGHTS = jnp.linspace(-1.0, 1.0, 15).reshape(3, 5)


def layer(x, shift):
    """[N, 2, 3] and [N] to {"y": [N, 2, 5]}."""
    return {"y": jnp.tanh(x @ WEIGHTS + shift[:, None, None])}


def rows(num: int):
    return jax.random.normal(jax.random.key(num), (num, 2, 3)), jnp.arange(num, dtype=jnp.float32)


@pytest.mark.parametrize("num", [1, 8, 24, 29])
def test_chunks_change_nothing(num):
    inputs = rows(num)
    found = jax.jit(in_chunks(layer, 8))(*inputs)["y"]
    np.testing.assert_allclose(found, layer(*inputs)["y"], rtol=1e-6)


def test_gradients_go_through_chunks():
    total = lambda f: jax.grad(lambda *inputs: jnp.sum(jnp.square(f(*inputs)["y"])), (0, 1))
    inputs = rows(24)
    for found, expected in zip(
        total(in_chunks(layer, 8))(*inputs), total(layer)(*inputs), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("num", "chunk"), [(7, 7), (8, 8), (9, 3), (24, 8), (20, 5), (23, 23)])
def test_chunks_divide_the_rows_or_there_are_none(num, chunk):
    assert chunk_of(num, 8) == chunk


def test_only_a_chunk_is_computed_at_once():
    text = jax.jit(in_chunks(layer, 8)).lower(*rows(24)).as_text()
    assert "tensor<8x2x5xf32>" in text
    assert "while" in text
    assert "while" not in jax.jit(in_chunks(layer, 8)).lower(*rows(8)).as_text()


def test_every_device_computes_chunks_of_its_own_rows():
    mesh = make_mesh()
    x, shift = rows(16 * mesh.size)

    def divided_layer(x, shift):
        return in_chunks(layer, 8)(divided(x), divided(shift))["y"]

    with jax.set_mesh(mesh):
        compiled = jax.jit(divided_layer).lower(x, shift).compile()
        found = compiled(x, shift)
    np.testing.assert_allclose(found, layer(x, shift)["y"], rtol=1e-6)
    assert not found.sharding.is_fully_replicated
    assert found.sharding.shard_shape(found.shape)[0] == 16
    assert "all-" not in compiled.as_text()  # nothing is exchanged


def test_rows_that_devices_do_not_divide_stay():
    with jax.set_mesh(make_mesh()):
        x, _ = rows(3)
        assert jax.jit(divided)(x).sharding.is_fully_replicated

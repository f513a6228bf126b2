"""Placement of states on a mesh, and keys as functions of the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from daag_jax.training import devices
from daag_jax.training.keys import key_at


def test_the_largest_divisible_axis_is_split_and_small_leaves_stay_whole():
    assert devices.largest_axis((64, 129, 256), 4) == PartitionSpec(None, None, "fsdp")
    assert devices.largest_axis((256, 129), 4) == PartitionSpec("fsdp")
    assert devices.largest_axis((129, 131), 4) == PartitionSpec()
    assert devices.largest_axis((8, 8), 4) == PartitionSpec()


def test_a_state_is_born_where_it_lives():
    mesh = devices.make_mesh(2, 2)
    init = lambda key: {"kernel": jax.random.normal(key, (64, 128)), "bias": jnp.zeros(128)}
    state = devices.born_sharded(init, mesh, jax.random.key(0), rules=[("bias", PartitionSpec())])
    assert {s.data.shape for s in state["kernel"].addressable_shards} == {(64, 64)}
    np.testing.assert_array_equal(state["kernel"], init(jax.random.key(0))["kernel"])


def test_a_rule_that_does_not_divide_is_refused_by_name():
    mesh = devices.make_mesh(1, 4)
    with pytest.raises(ValueError, match=r"splits head/kernel of shape \(6, 4\)"):
        devices.shardings(
            {"head": {"kernel": jnp.ones((6, 4))}}, mesh, [("kernel", PartitionSpec("fsdp"))]
        )


def test_a_mesh_of_the_wrong_size_names_the_cure():
    with pytest.raises(ValueError, match="not the number of devices, 4; try data=-1"):
        devices.make_mesh(3, 1)


def test_the_mesh_shrinks_to_divide_the_batch():
    assert devices.mesh_for_batch(8).size == 4
    assert devices.mesh_for_batch(6).size == 3
    assert devices.mesh_for_batch(7).size == 1


def test_keys_differ_by_stream_and_step_and_not_by_history(key):
    bits = {
        (name, n): int(jax.random.bits(key_at(key, name, n)))
        for name in ("data", "update", "act")
        for n in range(20)
    }
    assert len(set(bits.values())) == len(bits)
    traced = jax.jit(lambda n: jax.random.bits(key_at(key, "data", n)))(7)
    assert int(traced) == bits["data", 7]


def test_rows_are_drawn_where_they_lie():
    mesh = devices.make_mesh(2, 2)
    data = devices.spread({"x": np.arange(11), "y": np.arange(22).reshape(11, 2)}, mesh)
    draw = jax.jit(lambda data, key: devices.draw_rows(data, key, 8))
    lowered = draw.lower(data, jax.random.key(0)).compile()
    assert "all-gather" not in lowered.as_text() and "all-reduce" not in lowered.as_text()
    rows = lowered(data, jax.random.key(0))
    assert rows["x"].shape == (8,) and rows["y"].shape == (8, 2)
    np.testing.assert_array_equal(rows["y"][:, 0], 2 * rows["x"])  # rows stay together
    own = np.repeat(np.arange(4), 2)
    np.testing.assert_array_equal(np.asarray(rows["x"]) // 2, own)  # two rows of each of four


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    data = devices.spread(np.arange(8), devices.make_mesh(4, 1))
    with pytest.raises(ValueError, match=r"count=6 is not a multiple of the 4 devices .* try 4"):
        devices.draw_rows(data, jax.random.key(0), 6)


def test_a_dataset_smaller_than_the_mesh_is_refused():
    with pytest.raises(ValueError, match="dataset of 3 rows has none for some of 4 devices"):
        devices.spread(np.arange(3), devices.make_mesh(4, 1))


def test_a_step_over_a_mesh_gives_what_pmap_gives(key):
    """The same sums over four devices: what `jax.pmap` does with an axis name, `jit` does with placed arrays."""
    weight_key, data_key = jax.random.split(key)
    weights = jax.random.normal(weight_key, (8, 2))
    x = jax.random.normal(data_key, (16, 8))
    loss = lambda weights, x: jnp.mean((x @ weights - x[:, :2]) ** 2)

    def per_device(weights, x):
        gradient = jax.lax.pmean(jax.grad(loss)(weights, x), "devices")
        return weights - 0.1 * gradient

    def whole(weights, x):
        return weights - 0.1 * jax.grad(loss)(weights, devices.split_batch(x, mesh))

    mesh = devices.make_mesh()
    mapped = jax.pmap(per_device, axis_name="devices", in_axes=(None, 0))
    old = mapped(weights, x.reshape(4, 4, 8))
    new = jax.jit(whole)(*devices.replicate((weights, x), mesh))
    for one in old:
        np.testing.assert_allclose(one, new, rtol=1e-6, atol=1e-7)

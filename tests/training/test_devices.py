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

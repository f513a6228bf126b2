"""What compiled programs cost: counted in their text, held against numbers known beforehand and XLA's own analysis."""

import importlib.util
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from daag_jax.commands.compiled import PROGRAMS, Compile, compile_programs, tables
from daag_jax.training import hlo
from daag_jax.training.compiled import (
    Cost,
    Traffic,
    cost_of,
    count_bytes,
    count_collectives,
    count_flops,
    efficiency,
    roofline,
)
from daag_jax.training.devices import make_mesh
from daag_jax.training.topologies import (
    CHIPS,
    ENVIRONMENT,
    TOPOLOGIES,
    Chip,
    chips_of,
    mesh_of,
    one_chip,
)

FLOAT = 4  # [B]
TPU_PROGRAM = Path(__file__).parent.parent / "golden" / "tpu_program.hlo"


def cost(function, *args, **options) -> Cost:
    return cost_of(jax.jit(function, **options).lower(*args).compile())


def everywhere(function):
    """A function of what each of four devices has, as a program of all."""
    spec = PartitionSpec(("data", "fsdp"))
    return jax.shard_map(function, mesh=make_mesh(), in_specs=spec, out_specs=spec, check_vma=False)


def sum_of_all(x):
    return jax.lax.psum(x, ("data", "fsdp"))


def test_an_all_reduce_has_the_bytes_of_its_array():
    found = cost(everywhere(sum_of_all), jnp.ones(4 * 1000)).collectives
    assert found == {"all-reduce": Traffic(1, 1000 * FLOAT, 1.5 * 1000 * FLOAT)}


def test_an_all_reduce_of_several_arrays_has_the_bytes_of_all():
    both = everywhere(lambda x: (sum_of_all(x), sum_of_all(x[:100])))
    found = cost(both, jnp.ones(4 * 1000)).collectives["all-reduce"]
    assert found.bytes == 1100 * FLOAT


def test_slices_of_a_state_are_gathered_whole():
    mesh = make_mesh(1, 4)
    split, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("fsdp"), PartitionSpec()))
    weights, x = jnp.ones((64, 32)), jnp.ones((8, 64))
    found = cost(
        lambda w, x: x @ jax.lax.with_sharding_constraint(w, whole),
        weights,
        x,
        in_shardings=(split, whole),
        out_shardings=whole,
    )
    size = weights.size * FLOAT
    assert found.collectives == {"all-gather": Traffic(1, size, size * 3 / 4)}


def test_a_group_is_smaller_than_the_mesh():
    mesh = make_mesh(2, 2)
    spec = PartitionSpec("data", "fsdp")
    total = jax.shard_map(
        partial(jax.lax.psum, axis_name="fsdp"),
        mesh=mesh,
        in_specs=spec,
        out_specs=PartitionSpec("data"),
    )
    found = cost(total, jnp.ones((2, 200))).collectives["all-reduce"]
    assert found == Traffic(1, 100 * FLOAT, 100 * FLOAT)  # 2 (n - 1) / n of two


@pytest.mark.parametrize("kind", ["fori_loop", "scan"])
def test_collectives_and_flops_in_a_loop_count_as_often_as_it_runs(kind):
    def step(x):
        return sum_of_all(jnp.tanh(x @ x))

    def looped(x):
        if kind == "scan":
            return jax.lax.scan(lambda x, _: (step(x), None), x, None, length=7)[0]
        return jax.lax.fori_loop(0, 7, lambda _, x: step(x), x)

    found = cost(everywhere(looped), jnp.ones((4 * 32, 32)))
    assert found.collectives["all-reduce"].count == 7
    assert found.collectives["all-reduce"].bytes == 7 * 32 * 32 * FLOAT
    assert found.flops >= 7 * 2 * 32**3
    assert found.once_flops == pytest.approx(found.flops / 7, rel=0.05)
    assert found.unknown_loops == 0


def test_a_loop_that_ends_by_its_data_is_said_to_be_unknown():
    found = cost(
        lambda x: jax.lax.while_loop(lambda x: x.sum() < 9.0, lambda x: x * 2, x), jnp.ones(8)
    )
    assert found.unknown_loops == 1


def test_flops_are_those_of_xla_where_there_is_no_loop():
    def network(image, kernel, weights):
        seen = jax.lax.conv_general_dilated(
            image, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jnp.maximum(seen.reshape(2, -1) @ weights, 0.0))

    shapes = (2, 17, 17, 3), (3, 3, 3, 8), (9 * 9 * 8, 16)
    loss = jax.grad(network, argnums=(1, 2))
    found = cost(loss, *(jnp.ones(shape) for shape in shapes))
    assert found.flops == pytest.approx(found.xla_flops, rel=0.02)


def test_a_slice_moves_its_own_bytes_not_those_of_the_whole():
    rows = jnp.ones((1000, 256))
    scanned = lambda x, rows: jax.lax.scan(lambda x, row: (x + row, x.sum()), x, rows)
    found = cost(scanned, rows[0], rows)
    assert rows.size * FLOAT <= found.bytes < 10 * rows.size * FLOAT


def test_memory_is_of_one_device():
    mesh = make_mesh(1, 4)
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    x = jnp.ones((64, 32))
    found = cost(lambda x: x + 1, x, in_shardings=split, out_shardings=split)
    assert found.arguments == found.outputs == x.size * FLOAT / 4
    assert found.peak == found.arguments + found.outputs + found.temporaries


def test_the_text_of_a_tpu_is_read():
    """A loop without a note of its length, a gather in two fusions, a scatter as a fusion, a permutation as a pair."""
    module = hlo.parse(TPU_PROGRAM.read_text())
    found = hlo.runs(module)
    assert found.executed["body.1"] == 4  # 4, 8, 12, 16
    assert found.unknown_loops == ()
    gathered, reduced = 64 * 128 * 2, 64 * 128 * 4
    assert count_collectives(module, found) == {
        "collective-permute": Traffic(4, 4 * 64, 4 * 64),
        "all-gather": Traffic(1, gathered, gathered * 7 / 8),
        "reduce-scatter": Traffic(1, reduced, reduced * 7 / 8),
    }
    assert count_flops(module, found) >= 4


def test_what_a_tpu_keeps_close_is_no_traffic_and_tiles_are_whole():
    begin = "HloModule m\n\nENTRY %m (p: f32[4,130]) -> f32[4,130] {\n"
    parameter = "  %p = f32[4,130]{1,0:T(8,128)} parameter(0)\n"
    for memory, size in (("", 2), ("S(1)", 1)):
        line = f"  ROOT %a = f32[4,130]{{1,0:T(8,128){memory}}} negate(%p)\n}}\n"
        module = hlo.parse(begin + parameter + line)
        assert count_bytes(module, hlo.runs(module)) == size * 8 * 256 * FLOAT


def of(flops=0.0, moved=0.0, sent=0.0) -> Cost:
    traffic = {"all-reduce": Traffic(1, sent / 2, sent)}
    return Cost(flops, moved, traffic, 0, 0, 0, 0, flops, moved, flops, 0)


def test_the_roofline_is_the_longest_of_three():
    chip = Chip(flops=100.0, memory=1.0, bandwidth=10.0, links=1.0)
    one, many = roofline(of(100.0, 5.0), chip), roofline(of(100.0, 5.0, sent=4.0), chip)
    assert one == (1.0, 0.5, 0.0) and (one.seconds, one.bound) == (1.0, "compute")
    assert many == (1.0, 0.5, 4.0) and (many.seconds, many.bound) == (4.0, "links")
    assert efficiency(one, many) == 0.25


def test_topologies_are_of_known_chips():
    assert {"v5e:4x4", "v5e:16x16", "v5p:4x4x4"} <= set(TOPOLOGIES)
    assert [chips_of(name) for name in ("v5e:4x4", "v5e:16x16", "v5p:4x4x4")] == [16, 256, 64]
    assert all(chips_of(one_chip(name)) == 1 for name in TOPOLOGIES)
    assert all(name.split(":")[0] in CHIPS for name in TOPOLOGIES)


@pytest.mark.parametrize(
    "options, answer",
    [
        ({"topology": ("v5e:4x5",)}, "there is no topology 'v5e:4x5'; the nearest is 'v5e:4x"),
        ({"programs": ("plannr",)}, "the nearest is 'planner'"),
        ({"items": -1}, "items=-1 is negative"),
        ({"effort": 2.0}, r"effort=2.0 is not in \[-1, 1\]"),
    ],
)
def test_a_wrong_option_is_named(options, answer):
    with pytest.raises(ValueError, match=answer):
        compile_programs(Compile(**options))


def test_without_the_compiler_its_name_is_said(monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "libtpu" else there(n))
    with pytest.raises(ImportError, match="pip install 'libtpu=="):
        mesh_of("v5e:4x4")


def test_every_program_has_its_name_and_items():
    from daag_jax.commands import compiled, programs

    assert tuple(programs.PROGRAMS) == PROGRAMS == tuple(compiled.ITEMS)


def test_tables_say_efficiency_and_what_was_not_compiled():
    row = {"program": "planner", "topology": "v5e:1x1", "chips": 1, "fsdp": 1, "items": 64}
    numbers = of(1e12, 1e9)._asdict() | {"collectives": {}, "sent": 0.0, "seconds": 1.0}
    one = (
        row
        | numbers
        | {"compute": 1.0, "memory": 1.0, "links": 0.0, "step": 1.0, "bound": "memory"}
    )
    many = one | {"topology": "v5e:4x4", "chips": 16, "links": 2.0, "step": 2.0}
    failed = row | {"topology": "v5e:8x8", "problem": "it does not fit"}
    said = tables([one, many, failed])
    assert "| 1024 trajectories |" in said and "| 50% |" in said
    assert "not compiled: it does not fit" in said


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")
def test_a_program_is_compiled_for_a_tpu_that_is_not_there(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    mesh = mesh_of("v5e:4x4", fsdp=8)
    places = PartitionSpec(None, "fsdp"), PartitionSpec()
    split, whole = (NamedSharding(mesh, place) for place in places)
    kernels = jax.ShapeDtypeStruct((5, 1024, 1024), jnp.float32, sharding=split)
    x = jax.ShapeDtypeStruct((256, 1024), jnp.float32, sharding=whole)

    def network(kernels, x):
        step = lambda x, kernel: (
            jnp.tanh(x @ jax.lax.with_sharding_constraint(kernel, whole)),
            None,
        )
        return jax.lax.scan(step, x, kernels)[0]

    found = cost(network, kernels, x, out_shardings=whole)
    assert found.flops == pytest.approx(5 * 2 * 256 * 1024**2, rel=0.05)
    assert found.xla_flops == pytest.approx(found.once_flops, rel=0.02)
    gathered = found.collectives["all-gather"]
    assert gathered.bytes in (5 * 1024**2 * 2, 5 * 1024**2 * 4)  # the compiler may gather bfloat16
    assert found.unknown_loops == 0 and found.peak < CHIPS["v5e"].memory

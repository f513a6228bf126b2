"""Frames per second of the renderer (RGB, depth, normals, segmentation), and how far from the limit.

Scene: a floor, three cubes, a palm, two capsule fingers, and a sphere, a cylinder and an ellipsoid
(10 geoms), 64 x 64 pixels.  Each row is one way to spread a batch: ``vmap`` on one device, ``lax.map``
over chunks, ``vmap`` sharded over two virtual devices of the CPU.

Physical limit: every distinct per-pixel operation of the graph is executed once, one vector operation
per lane at half the multiply-add rate of a large matrix product measured on the same machine (which
counts two operations per lane), or every output byte is written once at the measured speed of a copy,
whichever takes longer.  It is an estimate: a multiply and an add that XLA fuses count as two, a division
or square root as one.  The rates are measured in the same run, so a busy machine lowers the limit too.

Frames per core-second count processor time only: other programs on the machine disturb them less.

    python -m benchmarks.renderer [--seconds 2]

Takes about a minute on two CPU cores.  Expect 5,000 to 7,000 frames per core-second on
an AMD EPYC 9005.
"""

from __future__ import annotations

import argparse
import json
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    )

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from daag_jax.envs import renderer

SIZE = 64
WORLD = """
<mujoco><worldbody>
  <geom name="floor" type="plane" size="0 0 1" rgba="0.72 0.70 0.66 1"/>
  <geom type="box" size="0.025 0.025 0.025" pos="-0.05 -0.03 0.025" euler="0 0 20"/>
  <geom type="box" size="0.025 0.025 0.025" pos="0.06 0.02 0.025" euler="0 0 -35"/>
  <geom type="box" size="0.025 0.025 0.025" pos="-0.05 -0.03 0.075" euler="0 0 50"/>
  <geom type="box" size="0.045 0.02 0.012" pos="0.06 0.02 0.14"/>
  <geom type="capsule" size="0.008 0.035" pos="0.03 0.02 0.095"/>
  <geom type="capsule" size="0.008 0.035" pos="0.09 0.02 0.095"/>
  <geom type="sphere" size="0.02" pos="0.0 0.09 0.02"/>
  <geom type="cylinder" size="0.02 0.02" pos="-0.09 0.06 0.02"/>
  <geom type="ellipsoid" size="0.03 0.02 0.015" pos="0.09 -0.08 0.015"/>
</worldbody></mujoco>
"""
FREE = {"broadcast_in_dim", "reshape", "squeeze", "slice", "concatenate", "stop_gradient", "iota"}


def count_operations(jaxpr, inputs: list, seen: dict, pixels: int) -> tuple[int, list]:
    """Distinct operations on arrays of at least ``pixels`` elements; equal ones count once."""
    names = dict(zip(jaxpr.invars, inputs, strict=True))
    names |= {v: ("constant", id(v)) for v in jaxpr.constvars}
    total = 0
    for eqn in jaxpr.eqns:
        given = [str(v) if hasattr(v, "val") else names[v] for v in eqn.invars]
        inner = eqn.params.get("jaxpr")
        if eqn.primitive.name == "optimization_barrier":
            names |= zip(eqn.outvars, given, strict=True)
        elif inner is not None:
            more, results = count_operations(inner.jaxpr, given, seen, pixels)
            total += more
            names |= zip(eqn.outvars, results, strict=True)
        else:
            what = (eqn.primitive.name, str(eqn.params), tuple(given))
            size = max(v.aval.size for v in eqn.outvars)
            if what not in seen and size >= pixels and eqn.primitive.name not in FREE:
                total += size
            number = seen.setdefault(what, len(seen))
            names |= {v: (number, i) for i, v in enumerate(eqn.outvars)}
    return total, [str(v) if hasattr(v, "val") else names[v] for v in jaxpr.outvars]


def clock(function, *arguments, seconds: float) -> tuple[float, float]:
    """Wall and processor seconds per call, the best of the calls that fit into ``seconds``."""
    jax.block_until_ready(function(*arguments))
    walls, works, stop = [], [], time.perf_counter() + seconds
    while not walls or time.perf_counter() < stop:
        wall, work = time.perf_counter(), time.process_time()
        jax.block_until_ready(function(*arguments))
        walls.append(time.perf_counter() - wall)
        works.append(time.process_time() - work)
    return min(walls), min(works)


def physical_limit(draw, scene, seconds: float) -> dict[str, float]:
    """Frames/s if only distinct operations and output bytes cost time, at measured rates."""
    jaxpr = jax.make_jaxpr(draw)(scene)
    inputs = [("input", i) for i in range(len(jaxpr.jaxpr.invars))]
    operations, _ = count_operations(jaxpr.jaxpr, inputs, {}, SIZE * SIZE)
    written = sum(x.size * x.dtype.itemsize for x in jax.eval_shape(draw, scene))
    n = 1024
    matrix = jnp.ones((n, n))
    rate = n**3 / clock(jax.jit(jnp.dot), matrix, matrix, seconds=seconds)[0]
    large = jnp.ones(16 * written // 4)  # as much as a batch of 16
    copied = large.nbytes / clock(jax.jit(lambda x: x + 1.0), large, seconds=seconds)[0]
    return {
        "operations_per_frame": operations,
        "bytes_per_frame": written,
        "operations_per_second": rate,
        "bytes_per_second": copied,
        "limit_frames_per_second": 1.0 / max(operations / rate, written / copied),
    }


def ways(draw):
    """Named functions of a batch of scenes, with the batch sizes to try."""
    batched = jax.vmap(draw)
    yield "vmap", jax.jit(batched), (16, 32, 64)
    yield "lax.map, chunks of 16", jax.jit(lambda s: jax.lax.map(draw, s, batch_size=16)), (64,)
    if len(jax.devices()) > 1:
        mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
        spec = jax.sharding.PartitionSpec("data")
        shard = jax.shard_map(batched, mesh=mesh, in_specs=spec, out_specs=spec)
        yield "vmap, 2 virtual devices", jax.jit(shard), (32, 64, 128)


def measure(draw, scene, seconds: float) -> list[tuple[str, int, float, float]]:
    """Way, batch size, frames/s, and frames per second of processor time of each."""
    rows = []
    for name, function, sizes in ways(draw):
        for size in sizes:
            # Poses differ between frames, as in use.
            shift = 0.01 * jax.random.normal(jax.random.key(size), (size, *scene.positions.shape))
            scenes = jax.tree.map(lambda x, n=size: jnp.stack([x] * n), scene)
            scenes = scenes._replace(positions=scenes.positions + shift)
            if "devices" in name:
                mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
                spec = jax.sharding.PartitionSpec("data")
                scenes = jax.device_put(scenes, jax.sharding.NamedSharding(mesh, spec))
            wall, work = clock(function, scenes, seconds=seconds)
            rows.append((name, size, size / wall, size / work))
    return rows


def rasterize(model, data, seconds: float) -> float | None:
    """Frames/s of MuJoCo's own renderer (RGB, depth, segmentation: three passes), None without GL."""
    try:
        gl = mujoco.Renderer(model, SIZE, SIZE)
    except Exception:  # every backend fails in its own way
        return None

    def frame():
        gl.update_scene(data)
        pictures = [gl.render()]
        gl.enable_depth_rendering()
        pictures.append(gl.render())
        gl.disable_depth_rendering()
        gl.enable_segmentation_rendering()
        pictures.append(gl.render())
        gl.disable_segmentation_rendering()
        return pictures

    return 1.0 / clock(frame, seconds=seconds)[0]


def main() -> None:
    """Prints the table and, as the last line, its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="time per row")
    seconds = parser.parse_args().seconds
    model = mujoco.MjModel.from_xml_string(WORLD)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    kinds, scene = (
        renderer.kinds_of(model),
        renderer.scene_of(model, data.geom_xpos, data.geom_xmat),
    )
    camera = renderer.look_at((0.44, -0.36, 0.40), (0.0, 0.0, 0.05), np.deg2rad(30.0))
    draw = lambda s: renderer.render(kinds, s, camera, renderer.sun(), SIZE, SIZE)
    limit = physical_limit(draw, scene, seconds)
    rows = measure(draw, scene, seconds)
    peer = rasterize(model, data, seconds)
    best = max(row[2] for row in rows)
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{len(kinds)} geoms, {SIZE} x {SIZE}: RGB, depth, normals, segmentation")
    print(f"{'way':<26}{'batch':>6}{'frames/s':>12}{'of limit':>10}{'per core-second':>18}")
    for name, size, rate, per_core in rows:
        share = rate / limit["limit_frames_per_second"]
        print(f"{name:<26}{size:>6}{rate:>12,.0f}{share:>10.1%}{per_core:>18,.0f}")
    if peer is None:
        print("MuJoCo's renderer: no GL backend here (try MUJOCO_GL=osmesa or egl)")
    else:
        print(f"{'MuJoCo (no normals)':<26}{1:>6}{peer:>12,.0f}   ratio {best / peer:.1f}")
    print(
        f"limit {limit['limit_frames_per_second']:,.0f} frames/s: "
        f"{limit['operations_per_frame']:,} operations at {limit['operations_per_second']:.2e}/s, "
        f"{limit['bytes_per_frame']:,} bytes at {limit['bytes_per_second']:.2e}/s"
    )
    figures = {
        "frames_per_second": best,
        **limit,
        "ratio_to_limit": best / limit["limit_frames_per_second"],
        "mujoco_frames_per_second": peer,
        "rows": [
            {"way": n, "batch": b, "frames_per_second": r, "per_core_second": c}
            for n, b, r, c in rows
        ],
        "load": os.getloadavg()[0],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

"""Physics steps per second of the stacking world: MJX by batch and devices, beside C MuJoCo on the same model.

    python -m benchmarks.physics        # about 3 min on two CPU cores

Two virtual CPU devices stand for two cores; ``shard_map`` gives each its own worlds.  All worlds hold a tower of two
and a lying cube.  The last line is one JSON object.  The limit is C MuJoCo's rate on one core times the number of
cores: MJX does the same arithmetic with more padding.
"""

from __future__ import annotations

import json
import os
import time

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax.sharding import PartitionSpec
from rich.console import Console
from rich.table import Table

from daag_jax.envs.physics import Physics
from daag_jax.envs.tasks import rgb_stacking_model as body

STEPS = 100
HEIGHTS, PLACES = (1, 3, 1), ((0.05, 0.05), (0.05, 0.05), (-0.05, -0.05))


def configuration() -> np.ndarray:
    """A tower of two, a lying cube, and the open gripper above."""
    cubes = [(*xy, h * body.CUBE, 1, 0, 0, 0) for xy, h in zip(PLACES, HEIGHTS, strict=True)]
    grip = (0, 0, 0.25, 0, body.FINGER_OPEN, body.FINGER_OPEN)
    return np.array([*grip, *np.ravel(cubes)], np.float32)


def mjx_rate(physics: Physics, batch: int, devices: int) -> float:
    """MJX steps per second, all worlds counted; checks that the tower still stands."""
    qpos = jnp.asarray(configuration())
    start = physics.start(qpos, qpos[:6])
    worlds = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch * devices, *x.shape)), start)
    ctrls = jnp.broadcast_to(qpos[None, :6], (STEPS, 6))
    run = jax.vmap(lambda state: physics.follow(state, ctrls))
    mesh = jax.make_mesh(
        (devices,),
        ("data",),
        devices=jax.devices()[:devices],
        axis_types=(jax.sharding.AxisType.Auto,),
    )
    split = PartitionSpec("data")
    run = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=split, out_specs=split, check_vma=False))
    out = jax.block_until_ready(run(worlds))
    heights = body.cube_positions(out.qpos)[..., 2]
    np.testing.assert_allclose(
        heights, np.tile(body.CUBE * np.array(HEIGHTS), (len(heights), 1)), atol=3e-3
    )
    best = np.inf
    for _ in range(3):
        begin = time.perf_counter()
        jax.block_until_ready(run(worlds))
        best = min(best, time.perf_counter() - begin)
    return batch * devices * STEPS / best


def c_rate(model: mujoco.MjModel, steps: int = 5000) -> float:
    """Steps per second of C MuJoCo on one core."""
    data = mujoco.MjData(model)
    data.qpos[:] = configuration()
    data.ctrl[:] = data.qpos[:6]
    begin = time.perf_counter()
    for _ in range(steps):
        mujoco.mj_step(model, data)
    return steps / (time.perf_counter() - begin)


def main() -> None:
    physics = Physics(body.load_model())
    reference = c_rate(physics.model)
    table = Table("simulator", "devices", "batch per device", "steps/s", "of C, one core")
    figures = {"c_mujoco_one_core": reference}
    for devices in (1, 2):
        for batch in (8, 16, 32):
            rate = mjx_rate(physics, batch, devices)
            figures[f"mjx_{devices}x{batch}"] = rate
            table.add_row(
                "MJX", str(devices), str(batch), f"{rate:,.0f}", f"{rate / reference:.2f}"
            )
    table.add_row("C MuJoCo", "1", "1", f"{reference:,.0f}", "1.00")
    Console(width=100).print(table)
    limit = reference * 2
    best = max(value for name, value in figures.items() if name.startswith("mjx"))
    print(json.dumps(figures | {"limit": limit, "best": best, "ratio_to_limit": best / limit}))


if __name__ == "__main__":
    main()

"""What scaling costs: work and traffic of a device as devices are added, `fit` over a bare step, and saving.

    python -m benchmarks.scaling            # about 10 min on two CPU cores

Weak scaling is read off compiled programs of 1 to 8 virtual devices, each with its own share of the batch: FLOP and
bytes that one device computes and sends in a step, which should not grow.  (With a ring, an all-reduce of n bytes sends
2 n (d - 1) / d of them; the table shows n.)  `fit` and a bare loop over the same compiled step take turns, round by
round; what is told are medians over windows of a hundred steps, and of the ratio of these over rounds.  Saving is what
a hundred steps take longer when an asynchronous checkpoint of the whole state was started at their beginning than the
hundred before, the median over such pairs.  The limits: 2 % over a bare step, 5 % for saving.  The last line is one
JSON object.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import tyro
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from daag_jax.algorithms.bc import BcConfig
from daag_jax.algorithms.dbc import DbcConfig, dbc
from daag_jax.algorithms.diffuser import DiffuserConfig, diffuser
from daag_jax.algorithms.parts.density import DensityConfig
from daag_jax.algorithms.parts.trajectories import TrajectoryConfig
from daag_jax.data.windows import draw_windows, episode_data
from daag_jax.training.compiled import cost_of
from daag_jax.training.devices import born_sharded, make_mesh, replicate, split_batch
from daag_jax.training.fit import FitConfig, Sampler, fit
from daag_jax.training.keys import key_at
from daag_jax.training.report import read_metrics
from daag_jax.types import Algorithm, Key, Metrics, Spec, State
from experiments.scaling.programs import walks

SPEC = Spec(4, 2)
DEVICES = (1, 2, 4, 8)
WINDOW = 100  # steps


@dataclass(frozen=True)
class Config:
    """How long it is measured."""

    seconds: float = 20.0  # of a round's bare loop, and about as many of its `fit`
    rounds: int = 5
    rows_per_device: int = 16
    only_weak: bool = False  # the part of virtual devices, as a process of its own


def algorithms() -> dict[str, Algorithm]:
    """What is measured: Diffuser's U-Net, and Diffusion-BC's policy and model."""
    planner = DiffuserConfig(TrajectoryConfig(32), widths=(16, 32, 64), time_dim=16)
    cloning = DbcConfig(
        BcConfig((256, 256, 256)), DensityConfig(width=128, depth=3), pretrain_steps=0
    )
    return {"diffuser": diffuser(planner, SPEC), "dbc": dbc(cloning, SPEC)}


def sampler_of(algorithm: Algorithm, batch: int) -> Sampler:
    """Windows of random walks."""
    data = episode_data(walks(), algorithm.window)
    return Sampler(data, lambda data, key, n: draw_windows(data, algorithm.window, batch, key))


def weak(config: Config) -> list[dict[str, Any]]:
    """FLOP and collective bytes of a device in one step, by number of devices and slices of the model."""
    rows = []
    for name, algorithm in algorithms().items():
        for count in DEVICES:
            for fsdp in sorted({1, count}):
                mesh = make_mesh(-1, fsdp, jax.devices()[:count])
                sampler = sampler_of(algorithm, config.rows_per_device * count)
                _, lowered = lowered_step(algorithm, sampler, mesh)
                cost = cost_of(lowered.compile())
                row = {"program": name, "devices": count, "slices": fsdp, "flops": cost.flops}
                kinds = {k: (t.count, t.bytes) for k, t in cost.collectives.items()}
                rows.append(
                    row | {"collectives": kinds, "bytes": sum(b for _, b in kinds.values())}
                )
    return rows


def lowered_step(algorithm: Algorithm, sampler: Sampler, mesh: Mesh) -> tuple[Any, Any]:
    """What a step carries, and the bare step: batch and update, state donated, as ``fit`` has it."""
    root = jax.random.key(0)
    state = born_sharded(algorithm.init, mesh, key_at(root, "init", 0))
    root, data = replicate((root, sampler.data), mesh)
    places = jax.tree.map(lambda x: x.sharding, state)

    def step(data: Any, root: Key, state: State, n: jax.Array) -> tuple[State, Metrics]:
        batch = split_batch(sampler.draw(data, key_at(root, "data", n), n), mesh)
        return algorithm.update(state, batch, key_at(root, "update", n))

    jitted = jax.jit(step, donate_argnums=2, out_shardings=(places, None))
    return (data, root, state), jitted.lower(data, root, state, np.int32(0))


def bare_loop(algorithm: Algorithm, sampler: Sampler) -> Callable[[int], np.ndarray]:
    """A function that gives the seconds of a step in so many windows of a loop that does nothing else."""
    (data, root, begun), lowered = lowered_step(
        algorithm, sampler, make_mesh(1, 1, jax.devices()[:1])
    )
    step = lowered.compile()

    def measure(windows: int) -> np.ndarray:
        state = jax.tree.map(lambda x: x.copy(), begun)
        times = []
        for n in range((windows + 1) * WINDOW):
            if n % WINDOW == 0 and n:  # the first window is left out
                jax.block_until_ready(state)
                times.append(time.perf_counter())
            state, _ = step(data, root, state, np.int32(n))
        jax.block_until_ready(state)
        return np.diff([*times, time.perf_counter()]) / WINDOW

    return measure


def fit_windows(algorithm: Algorithm, sampler: Sampler, steps: int) -> np.ndarray:
    """Seconds of a step in ``fit``, which logs every hundredth and saves every two hundredth [pairs, 2].

    The first of a pair are a hundred steps without a save, the second the next hundred, at whose beginning one was
    started.  The first three hundred steps are left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = FitConfig(
            300 + steps,
            directory=folder,
            log_every=WINDOW,
            checkpoint_every=2 * WINDOW,
            progress=False,
            tensorboard=False,
        )
        fit(algorithm, sampler, config, mesh=make_mesh(1, 1, jax.devices()[:1]))
        rows = read_metrics(f"{folder}/metrics.jsonl")
        times = [row["time"] for row in rows if "steps_per_second" in row and row["step"] >= 300]
    return np.diff(times)[: len(times) // 2 * 2].reshape(-1, 2) / WINDOW


def overhead(name: str, algorithm: Algorithm, config: Config) -> dict[str, Any]:
    """Of ``fit`` over a bare step, whole runs taking turns, and of saving over ``fit``, windows taking turns."""
    sampler = sampler_of(algorithm, 4 * config.rows_per_device)
    bare = bare_loop(algorithm, sampler)
    pairs = max(2, int(config.seconds / bare(1)[0]) // (2 * WINDOW))
    rounds = []
    for _ in range(config.rounds):
        rounds.append((bare(2 * pairs), fit_windows(algorithm, sampler, 2 * WINDOW * pairs)))
    windows = np.concatenate([window for _, window in rounds])
    over_bare = [np.median(window[:, 0]) / np.median(alone) - 1 for alone, window in rounds]
    return {
        "program": name,
        "bare_ms": 1e3 * float(np.median([alone for alone, _ in rounds])),
        "fit_ms": 1e3 * float(np.median(windows[:, 0])),
        "saving_ms": 1e3 * float(np.median(windows[:, 1])),
        "fit_over_bare": statistics.median(over_bare),
        "fit_over_bare_of_rounds": over_bare,
        "saving_over_fit": float(np.median(windows[:, 1] / windows[:, 0])) - 1,
        "pairs": len(windows),
    }


def weak_elsewhere(config: Config) -> list[dict[str, Any]]:
    """``weak`` in a process with virtual devices, which would disturb the timing of this one."""
    flags = (
        os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={max(DEVICES)}"
    )
    command = [sys.executable, "-m", "benchmarks.scaling", "--only-weak"]
    command += ["--rows-per-device", str(config.rows_per_device)]
    said = subprocess.run(
        command,
        env=os.environ | {"XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(said.stdout.splitlines()[-1])


def main(config: Config) -> None:
    if config.only_weak:
        print(json.dumps(weak(config)))
        return
    found = {
        "weak": weak_elsewhere(config),
        "overheads": [overhead(name, a, config) for name, a in algorithms().items()],
    }
    console = Console(width=120)
    table = Table(
        "program", "devices", "slices", "MFLOP", "collectives", "MB", title="one device, one step"
    )
    for row in found["weak"]:
        kinds = ", ".join(f"{count:g} {kind}" for kind, (count, _) in row["collectives"].items())
        numbers = [f"{row['flops'] / 1e6:.1f}", kinds, f"{row['bytes'] / 1e6:.2f}"]
        table.add_row(row["program"], str(row["devices"]), str(row["slices"]), *numbers)
    console.print(table)
    table = Table(
        "program", "bare [ms]", "fit [ms]", "saving [ms]", "fit over bare", "saving over fit"
    )
    for row in found["overheads"]:
        seconds = [f"{row[k]:.2f}" for k in ("bare_ms", "fit_ms", "saving_ms")]
        shares = [f"{row[k]:+.1%}" for k in ("fit_over_bare", "saving_over_fit")]
        table.add_row(row["program"], *seconds, *shares)
    console.print(table)
    print(json.dumps(found))


if __name__ == "__main__":
    main(tyro.cli(Config))

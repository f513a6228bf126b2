"""Updates of Diffusion-BC's policy per second, beside a plain PyTorch loop of the same networks on the same machine.

    pip install -c constraints.txt -e '.[oracle]'
    python -m benchmarks.update                # about 3 min on two CPU cores

PyTorch runs eagerly, with one thread and with one per core, of which the faster counts; both sides compute on the
CPU.  The networks of Maze in the release: a policy of three tanh layers of 256, a frozen model of three layers of 128
with a learnt vector per step, batches of 128, Adam, clipped gradients.  Both sides draw batches from data in memory,
each in a process of its own (``benchmarks/sides.py``), and take turns; seconds are medians over rounds.  Ours runs one
seed, and ten seeds as one program that divides them among virtual devices, one per core where that divides them
(``training/seeds.py``; ``JAX_NUM_CPU_DEVICES=2`` for an experiment).

The limit is arithmetic: FLOPs of an update over the rate of a product of 2048 x 2048 matrices on the same machine.
The last line is one JSON object.
"""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.sides import Calls, Facts, Side, ceiling, fill_compilation_cache, take_turns
from daag_jax.algorithms.bc import paper_policy
from daag_jax.algorithms.dbc import DbcConfig, dbc
from daag_jax.data.windows import draw_windows, episode_data
from daag_jax.training.devices import every_core_a_device, mesh_for_batch, over_all, replicate
from daag_jax.training.fit import Sampler
from daag_jax.training.seeds import compile_steps, init_seeds, roots_of
from daag_jax.types import Episode, Spec

BATCH, STATE, ACTION = 128, 6, 2
DIMS, WIDTH, DEPTH, STEPS = (256, 256, 256), 128, 3, 1000
WEIGHT, RATE, CLIP = 30.0, 5e-5, 0.5


@dataclass(frozen=True)
class Config:
    """How long it is measured."""

    updates: int = 200  # per round
    rounds: int = 5
    seeds: int = 10
    with_torch: bool = True  # where it is installed


def experience() -> Episode:
    """As much data as the Maze's demonstrations, of random numbers."""
    random = np.random.default_rng(0)
    normal = lambda *shape: random.normal(size=shape).astype(np.float32)
    blank = np.zeros((100, 186, 0, 0, 0, 3), np.uint8)
    rewards, length = np.zeros((100, 185), np.float32), np.full(100, 185)
    return Episode(normal(100, 186, STATE), blank, normal(100, 185, ACTION), rewards, length)


def ours(num_seeds: int, count: int) -> tuple[Calls, Facts]:
    """``count`` updates of every seed."""
    jax.config.update("jax_platforms", "cpu")
    every_core_a_device()  # seeds are divided among them
    config = DbcConfig(paper_policy(DIMS, RATE, 0), weight=WEIGHT, pretrain_steps=0)
    config = replace(config, density=replace(config.density, width=WIDTH, num_steps=STEPS))
    algorithm = dbc(config, Spec(STATE, ACTION))
    data = jax.tree.map(jnp.asarray, episode_data(experience(), algorithm.window))
    draw = lambda data, key, n: draw_windows(data, algorithm.window, BATCH, key)
    seeds = list(range(num_seeds))
    mesh = mesh_for_batch(num_seeds, devices=jax.local_devices())
    run = compile_steps(algorithm, Sampler(data, draw), roots_of(seeds), mesh=mesh)
    data = replicate(data, mesh)
    held = [jax.device_put(init_seeds(algorithm, seeds), over_all(mesh))]

    def updates() -> None:
        held[0], metrics = run(data, held[0], np.int32(0), np.int32(count))
        jax.block_until_ready(metrics)

    return {"updates": updates}, {}


def theirs(num_threads: int, count: int) -> tuple[Calls, Facts]:
    """The same of one seed in PyTorch, written plainly; the model's weights need no gradient."""
    import torch

    torch.set_num_threads(num_threads)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            sizes = [STATE + ACTION] + [WIDTH] * DEPTH
            self.layers = torch.nn.ModuleList(
                torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)
            )
            self.steps = torch.nn.ModuleList(torch.nn.Embedding(STEPS, WIDTH) for _ in range(DEPTH))
            self.out = torch.nn.Linear(WIDTH, STATE + ACTION)

        def forward(self, x, t):
            for layer, step in zip(self.layers, self.steps, strict=True):
                x = torch.relu(layer(x) + step(t))
            return self.out(x)

    sizes = [STATE, *DIMS]
    parts = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        parts += [torch.nn.Linear(a, b), torch.nn.Tanh()]
    policy = torch.nn.Sequential(*parts, torch.nn.Linear(DIMS[-1], ACTION))
    model = Model().requires_grad_(False)
    optimizer = torch.optim.Adam(policy.parameters(), lr=RATE)
    states, actions = torch.randn(18_500, STATE), torch.randn(18_500, ACTION)
    betas = 1e-4 + torch.sigmoid(torch.linspace(-6, 6, STEPS)) * (0.02 - 1e-4)
    alphas = torch.cumprod(1 - betas, 0)

    def loss_of(s, a, t, noise):
        x = torch.cat([s, a], 1)
        alpha = alphas[t][:, None]
        found = model(alpha.sqrt() * x + (1 - alpha).sqrt() * noise, t)
        return torch.mean((found - noise) ** 2)

    def updates() -> None:
        for _ in range(count):
            rows = torch.randint(0, len(states), (BATCH,))
            s, a = states[rows], actions[rows]
            half = torch.randint(0, STEPS, (BATCH // 2,))
            t, noise = torch.cat([half, STEPS - 1 - half]), torch.randn(BATCH, STATE + ACTION)
            decided = policy(s)
            with torch.no_grad():
                expert = loss_of(s, a, t, noise)
            guiding = torch.clamp(loss_of(s, decided, t, noise) - expert, min=0)
            loss = torch.mean((decided - a) ** 2) + WEIGHT * guiding
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), CLIP)
            optimizer.step()

    return {"updates": updates}, {}


def flops() -> float:
    """Of one update: three passes of the policy, and of the model two forward and one to its input."""
    product = lambda sizes: sum(2 * a * b for a, b in zip(sizes, sizes[1:], strict=False))
    policy = product([STATE, *DIMS, ACTION])
    model = product([STATE + ACTION, *[WIDTH] * DEPTH, STATE + ACTION])
    return BATCH * 3.0 * (policy + model)


def main(config: Config) -> None:
    fill_compilation_cache(ours, 1, config.updates)
    fill_compilation_cache(ours, config.seeds, config.updates)
    sides, seeds = {}, {}
    if config.with_torch and importlib.util.find_spec("torch"):
        for threads in sorted({1, os.cpu_count() or 1}):
            sides[f"PyTorch, threads: {threads}"] = Side(theirs, threads, config.updates)
    for count in (1, config.seeds):
        name = f"ours, seeds: {count}"
        sides[name], seeds[name] = Side(ours, count, config.updates), count
    taken = take_turns(sides, config.rounds)["updates"]
    for side in sides.values():
        side.close()
    rates = {name: seeds.get(name, 1) * config.updates / value for name, value in taken.items()}
    peer = max((rate for name, rate in rates.items() if "PyTorch" in name), default=float("nan"))
    limit = ceiling() / flops()
    table = Table("side", "updates/s, seeds added up", "beside PyTorch", "of the limit")
    figures = {"limit": limit, "flops": flops()}
    for name, rate in rates.items():
        ratio = rate / peer  # the faster of its two
        table.add_row(name, f"{rate:,.0f}", f"{ratio:.2f} x", f"{rate / limit:.2f}")
        figures[name] = {"rate": rate, "ratio": ratio, "of_limit": rate / limit}
    Console(width=100).print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(tyro.cli(Config))

"""Diffuser's updates and plans, beside CleanDiffuser's Diffuser on the same machine.

    pip install -c constraints.txt -e '.[oracle]' torchvision einops
    git clone https://github.com/CleanDiffuserTeam/CleanDiffuser ../CleanDiffuser
    python -m benchmarks.planner --peer ../CleanDiffuser         # about 6 min on two CPU cores
    python -m benchmarks.planner                                 # ours alone

Both sides: observations 17, actions 6, horizon 32, widths 32, 64, 128, 256 with kernels of 5 (3.96 M parameters), a
value network of kernels of 3, x0 as target, 20 steps, batches of 64, Adam and a moving average.  PyTorch runs eagerly,
on a CPU with one thread per core; ours divides candidates among virtual devices, one per core (``jax.set_mesh``), and
updates on one of them.  Each side has a process of its own (``benchmarks/sides.py``), and the two take turns; seconds
are medians over rounds, and of "3,200 plans" those of one call.  ``LD_PRELOAD`` of tcmalloc serves both sides.
"five steps, one candidate" is what a control loop needs: DDIM, from the present state to a plan, goal: 20 ms.

The limit of the updates is arithmetic: FLOPs as compiled (by Winograd's filtering fewer than the sums have) over the
rate of a product of 2048 x 2048 matrices.  The last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, PyTree
from rich.console import Console
from rich.table import Table

from benchmarks.sides import Call, Calls, Facts, Side, ceiling, fill_compilation_cache, take_turns
from daag_jax.algorithms.diffuser import (
    DiffuserConfig,
    DiffuserState,
    diffuser,
    planning_function,
)
from daag_jax.algorithms.parts.trajectories import DrawingConfig, TrajectoryConfig
from daag_jax.training.devices import every_core_a_device, mesh_for_batch, replicate
from daag_jax.types import Batch, Context, Spec

OBSERVATION, ACTION, HORIZON, BATCH, STEPS = 17, 6, 32, 64, 20
SPEC, DIM = Spec(OBSERVATION, ACTION), OBSERVATION + ACTION
WIDTHS = (32, 64, 128, 256)
CANDIDATES, MANY = 64, 50  # of one world, and the worlds of "3,200"
GUIDE = 0.3
MANY_ROWS = ("3,200 plans", "3,200 plans, guided")


@dataclass(frozen=True)
class Config:
    """What is measured, and how often."""

    peer: str = ""  # a checkout of CleanDiffuser
    rounds: int = 5
    with_many: bool = True  # 3,200 candidates: half a minute per call

    def __post_init__(self):
        if self.peer and not Path(self.peer, "cleandiffuser").is_dir():
            raise ValueError(
                f"peer={self.peer!r} holds no cleandiffuser; give the folder of a checkout of CleanDiffuser."
            )


def configuration() -> DiffuserConfig:
    """Diffuser's networks on locomotion."""
    return DiffuserConfig(
        TrajectoryConfig(HORIZON),
        DrawingConfig(num_inference_steps=STEPS, temperature=0.5, candidates=CANDIDATES),
        widths=WIDTHS,
        value_widths=WIDTHS,
        value_kernel=3,
        num_steps=STEPS,
    )


def normal(*shape: int) -> Array:
    """The same numbers at every call."""
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def count(params: PyTree) -> float:
    """Parameters."""
    return float(sum(leaf.size for leaf in jax.tree.leaves(params)))


def update_call(config: DiffuserConfig) -> tuple[Call, float]:
    """An update that waits for its metrics, and its FLOPs."""
    algorithm, key = diffuser(config, SPEC), jax.random.key(0)
    batch = Batch(
        normal(BATCH, HORIZON, OBSERVATION),
        normal(BATCH, HORIZON, ACTION),
        normal(BATCH, HORIZON),
        jnp.ones((BATCH, HORIZON), bool),
    )
    held = [jax.jit(algorithm.init)(key)]
    compiled = jax.jit(algorithm.update, donate_argnums=0).lower(held[0], batch, key).compile()

    def update() -> None:
        held[0], metrics = compiled(held[0], batch, key)
        jax.block_until_ready(metrics)

    return update, float(compiled.cost_analysis()["flops"])


def plan_call(config: DiffuserConfig, state: DiffuserState, worlds: int) -> Call:
    """Plans of so many worlds, candidates divided among the devices, that wait for their result."""
    make = jax.jit(planning_function(config, SPEC), static_argnums=2)
    candidates = worlds * config.drawing.candidates
    mesh = mesh_for_batch(candidates, devices=jax.local_devices())
    given = (state, Context(normal(worlds, 1, OBSERVATION)), jax.random.key(0))
    state, context, key = replicate(given, mesh)

    def plan() -> None:
        with jax.set_mesh(mesh):
            jax.block_until_ready(make(state, context, None, key))

    return plan


def ours(with_many: bool) -> tuple[Calls, Facts]:
    """Calls that wait for their result, and facts: parameters and FLOPs."""
    every_core_a_device()
    config = configuration()
    alone = replace(config, value_widths=(), drawing=DrawingConfig(num_inference_steps=STEPS))
    guided = replace(config, guide_scale=GUIDE, guide_steps=1)
    few = replace(config, drawing=DrawingConfig("ddim", num_inference_steps=5))
    state = jax.jit(diffuser(config, SPEC).init)(jax.random.key(0))
    facts = {"parameters": count(state.net.params), "of value": count(state.value.params)}
    calls = {}
    for row, one in {"update": alone, "update, with value": config}.items():
        calls[row], facts[f"flops of {row}"] = update_call(one)
    calls["64 plans"] = plan_call(config, state, 1)
    calls["64 plans, guided"] = plan_call(guided, state, 1)
    if with_many:
        calls |= {
            row: plan_call(one, state, MANY)
            for row, one in zip(MANY_ROWS, (config, guided), strict=True)
        }
    calls["five steps, one candidate"] = plan_call(few, state, 1)
    return calls, facts


def peer_agent(path: str, device: str) -> tuple[Any, Facts]:
    """CleanDiffuser's Diffuser, as its pipeline for locomotion makes it, and its parameters."""
    sys.path.insert(0, path)
    import torch
    from cleandiffuser.classifier import CumRewClassifier
    from cleandiffuser.diffusion import DiscreteDiffusionSDE
    from cleandiffuser.nn_classifier import HalfJannerUNet1d
    from cleandiffuser.nn_diffusion import JannerUNet1d

    sizes = {"model_dim": 32, "emb_dim": 32, "dim_mult": [1, 2, 2, 2]}
    net = JannerUNet1d(DIM, kernel_size=5, **sizes)
    value = HalfJannerUNet1d(HORIZON, DIM, out_dim=1, kernel_size=3, **sizes)
    fix = torch.zeros((HORIZON, DIM))
    fix[0, :OBSERVATION] = 1.0
    agent = DiscreteDiffusionSDE(
        net,
        None,
        fix_mask=fix,
        classifier=CumRewClassifier(value, device=device),
        diffusion_steps=STEPS,
        predict_noise=False,
        device=device,
    )
    count = lambda net: float(sum(p.numel() for p in net.parameters()))
    return agent, {"parameters": count(net), "of value": count(value)}


def theirs(path: str, with_many: bool) -> tuple[Calls, Facts]:
    """CleanDiffuser's calls, as its pipeline for locomotion makes them."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    agent, facts = peer_agent(path, device)
    x, target = (torch.randn(shape, device=device) for shape in ((BATCH, HORIZON, DIM), (BATCH, 1)))

    def update() -> None:
        agent.train()
        agent.update(x)
        wait()

    def update_both() -> None:
        update()
        agent.update_classifier(x, target)
        wait()

    def plans(num: int, weight: float, steps: int = STEPS, solver: str = "ddpm") -> Call:
        prior = torch.zeros((num, HORIZON, DIM), device=device)
        asked = {"n_samples": num, "sample_steps": steps, "w_cg": weight, "temperature": 0.5}

        def plan() -> None:
            agent.eval()
            agent.sample(prior, solver=solver, **asked)
            wait()

        return plan

    calls = {
        "update": update,
        "update, with value": update_both,
        "64 plans": plans(CANDIDATES, 0.0),
        "64 plans, guided": plans(CANDIDATES, GUIDE),
    }
    if with_many:
        many = CANDIDATES * MANY
        calls |= {row: plans(many, w) for row, w in zip(MANY_ROWS, (0.0, GUIDE), strict=True)}
    calls["five steps, one candidate"] = plans(1, 0.0, 5, "ddim")
    return calls, facts


def main(config: Config) -> None:
    fill_compilation_cache(ours, config.with_many)
    sides = {"ours": Side(ours, config.with_many)}
    if config.peer:
        sides["CleanDiffuser"] = Side(theirs, config.peer, config.with_many)
    taken = take_turns(sides, config.rounds, once=MANY_ROWS)
    for side in sides.values():
        side.close()
    names, (rate, facts) = tuple(sides), (ceiling(), sides["ours"].facts)
    table = Table("", *(f"{name} [ms]" for name in names), "ratio", "of the limit")
    figures: dict[str, object] = {"device": jax.devices()[0].device_kind, "FLOP per second": rate}
    for row, medians in taken.items():
        found = {}
        if config.peer:
            found["ratio"] = medians["CleanDiffuser"] / medians["ours"]
        if flops := facts.get(f"flops of {row}"):
            found["of_limit"] = flops / rate / medians["ours"]
        cells = [f"{1e3 * value:,.1f}" for value in medians.values()]
        cells += [f"{found[name]:.2f}" if name in found else "" for name in ("ratio", "of_limit")]
        table.add_row(row, *cells)
        figures[row] = medians | found
    for name, side in sides.items():
        figures[f"facts of {name}"] = side.facts
    Console(width=100).print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(tyro.cli(Config))

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
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.sides import Calls, Side, ceiling, fill_compilation_cache, take_turns
from daag_jax.algorithms.diffuser import DiffuserConfig, diffuser, planning_function
from daag_jax.algorithms.parts.trajectories import DrawingConfig, TrajectoryConfig
from daag_jax.training.devices import every_core_a_device, mesh_for_batch, replicate
from daag_jax.types import Batch, Context, Spec

OBSERVATION, ACTION, HORIZON, BATCH, STEPS = 17, 6, 32, 64, 20
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


def ours(with_many: bool) -> tuple[Calls, dict[str, float]]:
    """Calls that wait for their result, and facts: parameters and FLOPs."""
    every_core_a_device()
    config, spec = configuration(), Spec(OBSERVATION, ACTION)
    random = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)
    batch = Batch(
        normal(BATCH, HORIZON, OBSERVATION),
        normal(BATCH, HORIZON, ACTION),
        normal(BATCH, HORIZON),
        jnp.ones((BATCH, HORIZON), bool),
    )
    calls, facts = {}, {}

    def updates(name: str, config: DiffuserConfig) -> Callable[[], None]:
        algorithm = diffuser(config, spec)
        key = jax.random.key(0)
        held = [jax.jit(algorithm.init)(key)]
        compiled = jax.jit(algorithm.update, donate_argnums=0).lower(held[0], batch, key).compile()
        facts[f"flops of {name}"] = float(compiled.cost_analysis()["flops"])

        def update() -> None:
            held[0], metrics = compiled(held[0], batch, key)
            jax.block_until_ready(metrics)

        return update

    def plans(config: DiffuserConfig, worlds: int) -> Callable[[], None]:
        make = jax.jit(planning_function(config, spec), static_argnums=2)
        key, context = jax.random.key(0), Context(normal(worlds, 1, OBSERVATION))
        candidates = worlds * config.drawing.candidates
        mesh = mesh_for_batch(candidates, devices=jax.local_devices())
        given = replicate((state, context, key), mesh)

        def plan() -> None:
            with jax.set_mesh(mesh):
                jax.block_until_ready(make(*given[:2], None, given[2]))

        return plan

    calls["update"] = updates(
        "update", replace(config, value_widths=(), drawing=DrawingConfig(num_inference_steps=STEPS))
    )
    calls["update, with value"] = updates("update, with value", config)
    state = jax.jit(diffuser(config, spec).init)(jax.random.key(0))
    count = lambda params: float(sum(leaf.size for leaf in jax.tree.leaves(params)))
    facts |= {"parameters": count(state.net.params), "of value": count(state.value.params)}
    guided = replace(config, guide_scale=GUIDE, guide_steps=1)
    calls["64 plans"] = plans(config, 1)
    calls["64 plans, guided"] = plans(guided, 1)
    if with_many:
        calls |= {
            row: plans(one, MANY) for row, one in zip(MANY_ROWS, (config, guided), strict=True)
        }
    few = DrawingConfig("ddim", num_inference_steps=5)
    calls["five steps, one candidate"] = plans(replace(config, drawing=few), 1)
    return calls, facts


def theirs(path: str, with_many: bool) -> tuple[Calls, dict[str, float]]:
    """CleanDiffuser's, as its pipeline for locomotion calls it."""
    sys.path.insert(0, path)
    import torch
    from cleandiffuser.classifier import CumRewClassifier
    from cleandiffuser.diffusion import DiscreteDiffusionSDE
    from cleandiffuser.nn_classifier import HalfJannerUNet1d
    from cleandiffuser.nn_diffusion import JannerUNet1d

    device = "cuda" if torch.cuda.is_available() else "cpu"
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    dim = OBSERVATION + ACTION
    sizes = {"model_dim": 32, "emb_dim": 32, "dim_mult": [1, 2, 2, 2]}
    net = JannerUNet1d(dim, kernel_size=5, **sizes)
    value = HalfJannerUNet1d(HORIZON, dim, out_dim=1, kernel_size=3, **sizes)
    fix = torch.zeros((HORIZON, dim))
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
    x, target = (
        torch.randn(*shape, device=device) for shape in ((BATCH, HORIZON, dim), (BATCH, 1))
    )

    def update() -> None:
        agent.train()
        agent.update(x)
        wait()

    def update_both() -> None:
        update()
        agent.update_classifier(x, target)
        wait()

    def plans(num: int, weight: float, steps: int = STEPS, solver: str = "ddpm") -> Callable:
        prior = torch.zeros((num, HORIZON, dim), device=device)

        def plan() -> None:
            agent.eval()
            agent.sample(
                prior,
                solver=solver,
                n_samples=num,
                sample_steps=steps,
                w_cg=weight,
                temperature=0.5,
            )
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
    count = lambda net: float(sum(p.numel() for p in net.parameters()))
    return calls, {"parameters": count(net), "of value": count(value)}


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
        ratio = medians["CleanDiffuser"] / medians["ours"] if config.peer else float("nan")
        flops = facts.get(f"flops of {row}")
        share = flops / rate / medians["ours"] if flops else float("nan")
        cells = [f"{1e3 * value:,.1f}" for value in medians.values()]
        table.add_row(row, *cells, f"{ratio:.2f} x", f"{share:.2f}")
        figures[row] = medians | {"ratio": ratio, "of_limit": share}
    for name, side in sides.items():
        figures[f"facts of {name}"] = side.facts
    Console(width=100).print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(tyro.cli(Config))

"""The command line: ``daag COMMAND``, every command a frozen dataclass that tyro reads.

    daag demo                                        edit failures into successes and learn from them, end to end
    daag collect --policy expert --out runs/expert   episodes of RGB stacking, as a file
    daag collect maze2d-medium --out runs/maze       demonstrations of a world without pixels, as a Minari dataset
    daag train bc runs/maze                          an algorithm on such a file or dataset; also .npz and D4RL's .hdf5
    daag plan multi2d-large-v1                       the shipped planner in a maze: score, and a picture of plans
    daag evaluate runs/bc                            success rate with its interval, and videos
    daag launch --processes 2 daag train bc ...      one run in several processes; also of several hosts
    daag edit FRAMES red=green                       colours of objects in a video, by diffusion
    daag report RUN                                  report.html of a run folder
    daag weights check FOLDER                        what a folder of Stable Diffusion, ControlNet or CLIP holds
    daag weights fetch OWNER/NAME FOLDER             such a folder from the Hugging Face hub
    daag compile --topology v5e:4x4                  programs for TPU pods without one: memory, collectives, scaling
    daag list                                        algorithms, worlds, tasks, shipped weights

An unknown name is answered with the nearest one.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from daag_jax.commands.compiled import Compile, compile_programs
from daag_jax.commands.episodes import ENVS, Collect, collect
from daag_jax.commands.evaluate import Evaluate, evaluate
from daag_jax.commands.launch import launch
from daag_jax.commands.plans import Plan, plan
from daag_jax.commands.train import train
from daag_jax.commands.videos import Edit, edit
from daag_jax.commands.weights import Check, Fetch, check, fetch
from daag_jax.names import check_name
from daag_jax.training.compilations import keep_compilations
from daag_jax.training.host_memory import keep_freed_memory

Positional = tyro.conf.Positional


@dataclasses.dataclass(frozen=True)
class Report:
    """Makes report.html of a run folder from its metrics, results and videos."""

    run: Positional[Path]


@dataclasses.dataclass(frozen=True)
class List:
    """Algorithms, worlds, data sets, tasks and shipped weights with their cards."""


def report(options: Report) -> None:
    """Runs :class:`Report`."""
    from daag_jax.evaluation.html import report_of_run

    if not options.run.is_dir():
        raise FileNotFoundError(f"there is no folder {options.run}; give the folder of a run.")
    print(report_of_run(options.run))


def list_all(options: List) -> None:
    """Runs :class:`List`."""
    del options
    from daag_jax.algorithms import ALGORITHMS
    from daag_jax.assets import ASSETS
    from daag_jax.envs.tasks.rgb_stacking import task_sentences
    from daag_jax.envs.worlds import WORLDS
    from daag_jax.evaluation.offline_data import DATA_SETS

    print("algorithms")
    for name, entry in ALGORITHMS.items():
        module = importlib.import_module(f"daag_jax.algorithms.{name}")
        first = (module.__doc__ or "").strip().splitlines()[0]
        print(f"  {name:<18}{first}  [{entry.config}]")
    print("worlds\n  " + "\n  ".join((*ENVS, *WORLDS)))
    print("data of runners, for `daag collect`\n  " + "\n  ".join(DATA_SETS))
    print("tasks\n  " + "\n  ".join(task_sentences()))
    print("shipped weights")
    for card in sorted(ASSETS.glob("*.md")):
        lines = [line for line in card.read_text().splitlines() if line.strip()]
        print(f"  {card.stem:<22}{lines[1] if len(lines) > 1 else ''}")


def demo(arguments: Sequence[str]) -> None:
    """``daag demo``: the whole system, small; its options are those of ``agent.demo.DemoConfig``."""
    if importlib.util.find_spec("daag_jax.agent.demo") is None:
        raise ValueError(
            "daag_jax.agent.demo is not part of this installation; reinstall daag-jax."
        )
    from daag_jax.training.devices import every_core_a_device

    every_core_a_device()
    module = importlib.import_module("daag_jax.agent.demo")
    module.run(tyro.cli(module.DemoConfig, args=list(arguments), prog="daag demo"))


def weights(arguments: Sequence[str]) -> None:
    """``daag weights check FOLDER`` and ``daag weights fetch OWNER/NAME FOLDER``."""
    kind = check_name("subcommand of weights", arguments[0] if arguments else "", WEIGHTS)
    options, run = WEIGHTS[kind]
    run(tyro.cli(options, args=list(arguments[1:]), prog=f"daag weights {kind}"))


def _command(kind: type, run: Any) -> Any:
    return lambda arguments: run(
        tyro.cli(kind, args=list(arguments), prog=f"daag {kind.__name__.lower()}")
    )


WEIGHTS: dict[str, Any] = {"check": (Check, check), "fetch": (Fetch, fetch)}
COMMANDS: dict[str, Any] = {
    "demo": demo,
    "train": train,
    "plan": _command(Plan, plan),
    "evaluate": _command(Evaluate, evaluate),
    "collect": _command(Collect, collect),
    "edit": _command(Edit, edit),
    "report": _command(Report, report),
    "weights": weights,
    "launch": launch,
    "compile": _command(Compile, compile_programs),
    "list": _command(List, list_all),
}


def main(arguments: Annotated[Sequence[str] | None, "sys.argv[1:] by default"] = None) -> None:
    """Runs one command; what is wrong with its input is said in one line, with exit code 2."""
    keep_compilations()
    keep_freed_memory()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    try:
        COMMANDS[check_name("command", arguments[0], COMMANDS)](arguments[1:])
    except (ValueError, OSError, ImportError) as error:
        print(f"daag: {error}", file=sys.stderr, flush=True)
        if "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
            os._exit(2)  # at a usual exit it would wait for the other processes, who wait for it
        raise SystemExit(2) from error

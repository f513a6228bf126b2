"""``daag compile``: programs for slices of TPU pods, compiled on a machine without a TPU, and how they would scale.

    pip install 'libtpu==0.0.42.*'                                   # the compiler
    daag compile --topology v5e:4x4 v5e:16x16 v5p:4x4x4 --programs finetuning planner rollout --out runs/compile

For each program and topology: the compiler's own figures of memory, FLOP and bytes counted in the compiled text, its
collectives, and the time of the roofline (``training.compiled``), an estimate from below.  Weak scaling is the time on
one chip over that on many, each chip with the same work.  Writes the compiled text and results.json after every
program, and tables.md.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from daag_jax.names import check_name
from daag_jax.training.topologies import (
    CHIPS,
    TOPOLOGIES,
    kind_of,
    mesh_of,
    one_chip,
    set_environment,
)

PROGRAMS = ("finetuning", "planner", "rollout", "editor")
ITEMS = {"finetuning": "frames", "planner": "trajectories", "rollout": "worlds", "editor": "clips"}
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Compile:
    """Compiles programs for TPU topologies that are not there; prints what they cost and how they would scale."""

    topology: tuple[str, ...] = ("v5e:4x4", "v5e:16x16", "v5p:4x4x4")
    programs: tuple[str, ...] = ("finetuning", "planner", "rollout")  # and editor
    out: Path | None = None  # a folder
    items: int = 0  # per chip; 0: 1 frame, 64 trajectories, 64 worlds, 1 clip
    fsdp: int = 0  # slices of the state; 0: 8 of finetuning's, 1 of the others'
    one_chip: bool = True  # one chip of each kind, too, from which efficiency is reckoned
    effort: float = -1.0  # of the compiler, -1 to 1; at 0 finetuning takes half an hour
    attention: str = "first"  # of the editor, across frames
    frames: int = 16  # of the editor's clips

    def __post_init__(self):
        for field in ("items", "fsdp"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field}={getattr(self, field)} is negative; 0 takes the usual.")
        if not -1.0 <= self.effort <= 1.0:
            raise ValueError(f"effort={self.effort} is not in [-1, 1]; try -1.")


def compile_programs(options: Compile) -> None:
    """Runs :class:`Compile`.

    Raises:
        ValueError: a topology or program is unknown.
        ImportError: libtpu is not installed.
    """
    for name in options.topology:
        check_name("topology", name, TOPOLOGIES)
    for name in options.programs:
        check_name("program", name, PROGRAMS)
    set_environment()
    names = list(options.topology)
    if options.one_chip:
        names = list(dict.fromkeys([one_chip(name) for name in names] + names))
    mesh_of(names[0])  # the compiler is there, before any work
    import jax

    # what was compiled for an absent device is written to the cache, and cannot be read
    jax.config.update("jax_enable_compilation_cache", False)
    rows: list[Row] = []
    for program in options.programs:
        for topology in names:
            rows.append(compiled_row(options, program, topology))
            print(said_of(rows[-1]), flush=True)
            if options.out:
                options.out.mkdir(parents=True, exist_ok=True)
                (options.out / "results.json").write_text(json.dumps(rows, indent=1))
    text = tables(rows)
    print("\n" + text)
    if options.out:
        (options.out / "tables.md").write_text(text)


def compiled_row(options: Compile, name: str, topology: str) -> Row:
    """A program compiled for a topology, as a row; what went wrong is its ``problem``."""
    import jax

    from daag_jax.commands.programs import PROGRAMS as KNOWN
    from daag_jax.training.compiled import cost_of, roofline

    program = KNOWN[name]
    items, fsdp = options.items or program.items, options.fsdp or program.fsdp
    mesh = mesh_of(topology, fsdp)
    row = {"program": name, "topology": topology, "chips": mesh.size, "items": items}
    row |= {"fsdp": mesh.shape["fsdp"], "effort": options.effort, "jax": jax.__version__}
    more = {}
    if name == "editor":
        more = {"attention": options.attention, "frames": options.frames}
    began = time.monotonic()
    try:
        lowered = program.lower(mesh, items, **more)
        compiled = lowered.compile({"exec_time_optimization_effort": options.effort})
    except jax.errors.JaxRuntimeError as error:  # what does not fit is a finding
        problem = str(error).strip().splitlines()[0]
        return row | more | {"problem": problem, "seconds": time.monotonic() - began}
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{name}_{topology.replace(':', '_')}.hlo").write_text(compiled.as_text())
    cost = cost_of(compiled)
    least = roofline(cost, CHIPS[kind_of(topology)])
    row |= more | {"seconds": time.monotonic() - began} | cost._asdict() | least._asdict()
    row["collectives"] = {kind: one._asdict() for kind, one in cost.collectives.items()}
    return row | {"sent": cost.sent, "step": least.seconds, "bound": least.bound}


def said_of(row: Row) -> str:
    """A line of a row."""
    begin = f"{row['program']:<11}{row['topology']:<10}"
    if "problem" in row:
        return f"{begin}not compiled: {row['problem']}"
    return (
        f"{begin}{row['peak'] / 1e9:6.2f} GB of {CHIPS[kind_of(row['topology'])].memory / 1e9:.0f}, "
        f"{row['flops'] / 1e12:.3g} TFLOP, {row['sent'] / 1e9:.3g} GB sent, at least {row['step'] * 1e3:.3g} ms, "
        f"compiled in {row['seconds']:.0f} s"
    )


def tables(rows: Sequence[Row]) -> str:
    """Cost, collectives and weak scaling in Markdown, and what was not compiled."""
    done = [row for row in rows if "problem" not in row]
    parts = [
        "Cost of one chip in one step (of the rollout: in whole episodes)",
        cost_table(done),
        "Collectives of one chip in one step: number, bytes of the whole arrays, bytes that a ring sends",
        collective_table(done),
        "Weak scaling by the roofline: an estimate of the least time of a step, each chip with the same work",
        scaling_table(done),
    ]
    failed = [said_of(row) for row in rows if "problem" in row]
    unknown = [
        f"{row['program']} on {row['topology']}: {row['unknown_loops']} loops of unknown length, counted once."
        for row in done
        if row["unknown_loops"]
    ]
    return "\n\n".join(parts + failed + unknown) + "\n"


def cost_table(rows: Sequence[Row]) -> str:
    """Memory, FLOP, and bytes."""
    head = (
        "program | topology | chips | slices | arguments [GB] | temporaries [GB] | peak [GB] | of the chip | TFLOP | "
        "loops once: ours, XLA's | memory traffic [GB] | compiled in [s]"
    )

    def cells(row: Row) -> Iterable[str]:
        giga = lambda name: f"{row[name] / 1e9:.2f}"
        share = row["peak"] / CHIPS[kind_of(row["topology"])].memory
        yield from (row["program"], row["topology"], str(row["chips"]), str(row["fsdp"]))
        yield from (giga("arguments"), giga("temporaries"), giga("peak"), f"{share:.0%}")
        yield number(row["flops"] / 1e12)
        yield f"{number(row['once_flops'] / 1e12)}, {number(row['xla_flops'] / 1e12)}"
        yield from (number(row["bytes"] / 1e9), f"{row['seconds']:.0f}")

    return table(head, rows, cells)


def collective_table(rows: Sequence[Row]) -> str:
    """A line for each kind that occurs, or for none."""
    none = {"none": {"count": 0, "bytes": 0, "sent": 0}}
    lines = [
        {"of": row, "kind": kind} | one
        for row in rows
        for kind, one in (row["collectives"] or none).items()
    ]

    def cells(line: Row) -> Iterable[str]:
        yield from (line["of"]["program"], line["of"]["topology"], line["kind"])
        yield from (f"{line['count']:.0f}", number(line["bytes"] / 1e6), number(line["sent"] / 1e6))

    return table("program | topology | kind | number | MB | MB sent", lines, cells)


def scaling_table(rows: Sequence[Row]) -> str:
    """The parts of the roofline, and efficiency against one chip of the same kind."""
    head = (
        "program | topology | chips | items | compute [ms] | memory [ms] | links [ms] | step [ms] | bound by | "
        "items/s | efficiency"
    )
    from daag_jax.training.compiled import Roofline, efficiency

    least = lambda row: Roofline(row["compute"], row["memory"], row["links"])
    ones = {
        (row["program"], kind_of(row["topology"])): least(row) for row in rows if row["chips"] == 1
    }

    def cells(row: Row) -> Iterable[str]:
        one = ones.get((row["program"], kind_of(row["topology"])))
        num = row["items"] * row["chips"]
        yield from (row["program"], row["topology"], str(row["chips"]))
        yield f"{num} {ITEMS[row['program']]}"
        yield from (number(row[part] * 1e3) for part in ("compute", "memory", "links", "step"))
        yield from (row["bound"], number(num / row["step"]))
        yield "-" if one is None else f"{efficiency(one, least(row)):.0%}"

    in_order = sorted(
        rows, key=lambda r: (PROGRAMS.index(r["program"]), kind_of(r["topology"]), r["chips"])
    )
    return table(head, in_order, cells)


def table(head: str, rows: Iterable[Row], cells: Callable[[Row], Iterable[str]]) -> str:
    """A Markdown table."""
    rule = "|".join(["---"] * (head.count("|") + 1))
    return "\n".join(
        f"| {line} |" for line in [head, rule, *(" | ".join(cells(row)) for row in rows)]
    )


def number(value: float) -> str:
    """Three figures: 12,300, 1.23, 0.0123."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

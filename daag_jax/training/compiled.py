"""What a compiled program costs one device, and how fast that lets it be.

    cost = cost_of(jax.jit(step).lower(state, batch, key).compile())
    time = max(FLOP / peak, bytes of memory / bandwidth, bytes sent / links)        (roofline, Williams et al. 2009)

Works on programs for TPUs that are not there (``training.topologies``) and on those of this machine's own devices.
FLOP, bytes and collectives are counted in the compiled text, every line as often as the loops around it run; XLA's own
analysis, which counts a loop's body once, stands beside them.  What is counted:

    FLOP       two for each product in dots and convolutions (padding apart), one for each element of arithmetic, as
               XLA does; transcendental functions are left out
    bytes      what each line, or fusion, reads from and writes to the main memory (what the compiler keeps in a TPU's
               faster memories is free), with the padding of tiles; of a slice or an update in place, its own bytes
    sent       by a ring among n: all-reduce 2 (n-1)/n of its bytes, all-gather, reduce-scatter and all-to-all (n-1)/n,
               collective-permute all of them; its bytes are those of the whole array, gathered or not yet scattered
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from daag_jax.training import hlo
from daag_jax.training.hlo import Computation, Instruction, Module, Shape
from daag_jax.training.topologies import Chip

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
ARITHMETIC = re.compile(
    "add|subtract|multiply|divide|maximum|minimum|negate|abs|compare|select|and|or|xor|not|convert|clamp|floor|ceil|"
    "round-nearest-(even|afz)|sign|remainder|shift-(left|right-logical|right-arithmetic)|is-finite|real|imag|complex"
)
UNMOVED = re.compile(  # lines that move nothing, or whose parts are counted
    "parameter|constant|tuple|get-tuple-element|bitcast|while|conditional|call|after-all|partition-id|replica-id|"
    "optimization-barrier|async-(start|update)|send|recv|domain|.*-done"
)
SLICES = ("dynamic-slice", "slice", "gather")


class Traffic(NamedTuple):
    """Collectives of a kind, of one device in one run of the program."""

    count: float
    bytes: float  # of the whole arrays
    sent: float  # over the links, by a ring


class Cost(NamedTuple):
    """Of one device, in one run of the program."""

    flops: float
    bytes: float  # to and from the main memory
    collectives: Mapping[str, Traffic]  # by kind; those that occur
    arguments: float  # [B], as below
    outputs: float
    temporaries: float
    peak: float  # all of these, without outputs in the place of arguments
    xla_flops: float  # of XLA's analysis: bodies of loops once
    xla_bytes: float
    once_flops: float  # counted here, bodies of loops once: to be held against XLA's
    unknown_loops: int  # counted once, for nothing says how often they run

    @property
    def sent(self) -> float:
        """Over the links, by all collectives."""
        return sum(traffic.sent for traffic in self.collectives.values())


class Roofline(NamedTuple):
    """Seconds that each part takes at its peak; a program takes the longest of them, or more."""

    compute: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        return max(self)

    @property
    def bound(self) -> str:
        """What takes longest."""
        return self._fields[int(np.argmax(self))]


def cost_of(compiled: Any) -> Cost:
    """The cost of a ``jax.stages.Compiled``."""
    module = hlo.parse(compiled.as_text())
    found, once = hlo.runs(module), hlo.runs(module, whole_loops=False)
    memory, analysis = compiled.memory_analysis(), compiled.cost_analysis() or {}
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return Cost(
        count_flops(module, found),
        count_bytes(module, found),
        count_collectives(module, found),
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.temp_size_in_bytes,
        kept - memory.alias_size_in_bytes + memory.temp_size_in_bytes,
        analysis.get("flops", math.nan),
        analysis.get("bytes accessed", math.nan),
        count_flops(module, once),
        len(found.unknown_loops),
    )


def roofline(cost: Cost, chip: Chip) -> Roofline:
    """The least time of a program on a chip; all its links are taken to be busy at once."""
    return Roofline(cost.flops / chip.flops, cost.bytes / chip.bandwidth, cost.sent / chip.links)


def efficiency(one: Roofline, many: Roofline) -> float:
    """Of weak scaling: time on one chip over time on many, each chip with the same work."""
    return one.seconds / many.seconds


def count_flops(module: Module, found: hlo.Runs) -> float:
    """FLOP of all lines, in fusions or not."""
    return sum(
        times * sum(flops_of(module.computations[name], line) for line in lines_of(module, name))
        for where in (found.executed, found.fused)
        for name, times in where.items()
    )


def lines_of(module: Module, name: str) -> Any:
    """The lines of a computation."""
    return module.computations[name].lines.values()


def flops_of(computation: Computation, line: Instruction) -> float:
    """FLOP of one line."""
    if ARITHMETIC.fullmatch(line.opcode):
        return line.shape.elements
    shape = lambda k: computation.lines[line.operands[k]].shape
    if line.opcode == "dot":
        found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.attributes)
        axes = [int(axis) for axis in found[1].split(",") if axis]
        return 2.0 * line.shape.elements * math.prod(shape(0).dims[axis] for axis in axes)
    if line.opcode == "convolution":
        return convolution_flops(shape(0), shape(1), line)
    if line.opcode == "reduce":
        return max(0, shape(0).elements - line.shape.elements)
    if line.opcode in ("all-reduce", "all-reduce-start", "reduce-scatter"):
        return sum(one.elements for one in line.shapes)
    return 0.0


def convolution_flops(image: Shape, kernel: Shape, line: Instruction) -> float:
    """Two for each product with an element of the image, not with its padding or the gaps of its dilation."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.attributes)
    found = re.search(r"window=\{(.*?)\}", line.attributes)
    window = dict(re.findall(r"(\w+)=([\d\-_x]+)", found[1])) if found else {}
    side = lambda name, axis, default: (
        int(window[name].split("x")[axis].split("_")[0]) if name in window else default
    )
    products = 1.0
    for axis in range(sum(label.isdigit() for label in labels[1])):
        sizes = [
            shape.dims[text.index(str(axis))]
            for shape, text in zip((image, kernel, line.shape), labels.groups(), strict=True)
        ]
        start = np.arange(sizes[2])[:, None] * side("stride", axis, 1) - side("pad", axis, 0)
        place = start + np.arange(sizes[1])[None] * side("rhs_dilate", axis, 1)
        gap = side("lhs_dilate", axis, 1)
        products *= np.sum((place >= 0) & (place % gap == 0) & (place // gap < sizes[0]))
    features = kernel.dims[labels[2].index("i")] * line.shape.dims[labels[3].index("f")]
    return 2.0 * products * features * line.shape.dims[labels[3].index("b")]


def count_bytes(module: Module, found: hlo.Runs) -> float:
    """Bytes between the main memory and the rest, of all lines outside fusions."""
    return sum(
        times * sum(bytes_of(module, module.computations[name], x) for x in lines_of(module, name))
        for name, times in found.executed.items()
    )


def in_memory(shape: Shape) -> float:
    """Its bytes in the main memory: none where it is elsewhere."""
    return shape.held if shape.memory == 0 else 0.0


def bytes_of(module: Module, computation: Computation, line: Instruction) -> float:
    """What one line reads and writes."""
    if UNMOVED.fullmatch(line.opcode) or 'custom_call_target="AllocateBuffer"' in line.attributes:
        return 0.0
    sources = [computation.lines[name] for name in line.operands]
    written = sum(in_memory(shape) for shape in line.shapes)
    if line.opcode in (
        "copy-start",
        "slice-start",
    ):  # (result, source, flag); ((source), result, flag)
        result = line.shapes[0 if line.opcode == "copy-start" else 1]
        return in_memory(result) + (result.held if in_memory(sources[0].shape) else 0.0)
    if line.opcode in ("all-gather-start", "collective-permute-start"):  # (operands, results)
        return written
    if line.opcode in SLICES:
        return written + (line.shape.held if in_memory(sources[0].shape) else 0.0)
    if line.opcode in ("dynamic-update-slice", "scatter"):
        update = sources[1 if line.opcode == "dynamic-update-slice" else -1].shape
        return in_memory(update) + (update.held if written else 0.0)
    if line.opcode != "fusion":
        return written + sum(in_memory(shape) for source in sources for shape in source.shapes)
    inner = module.computations[hlo.called(line, "calls")[0]]
    read = sum(
        min(in_memory(source.shape), read_bytes(module, inner, inner.parameter(k), source.shape))
        for k, source in enumerate(sources)
        if in_memory(source.shape)
    )
    return read + sum(write_bytes(module, inner, inner.root, line.shapes))


def read_bytes(module: Module, inner: Computation, name: str, whole: Shape) -> float:
    """How much of a fusion's parameter it reads: of what is sliced, the slices."""
    read = 0.0
    for line in hlo.users(inner, name):
        is_first = line.operands[0] == name and name not in line.operands[1:]
        if line.opcode in SLICES and is_first:
            read += line.shape.held
        elif line.opcode == "dynamic-update-slice" and is_first:
            continue
        elif line.opcode == "bitcast":
            read += read_bytes(module, inner, line.name, whole)
        elif line.opcode == "fusion":
            nested = module.computations[hlo.called(line, "calls")[0]]
            places = [k for k, operand in enumerate(line.operands) if operand == name]
            read += sum(read_bytes(module, nested, nested.parameter(k), whole) for k in places)
        else:
            return whole.held
    return read


def write_bytes(
    module: Module, inner: Computation, name: str, shapes: tuple[Shape, ...]
) -> list[float]:
    """How much a fusion writes of each of its results: of what is updated in place, the update."""
    line = inner.lines[name]
    if line.opcode == "tuple":
        pairs = zip(line.operands, shapes, strict=True)
        return [sum(write_bytes(module, inner, part, (shape,))) for part, shape in pairs]
    if line.opcode == "bitcast":
        return write_bytes(module, inner, line.operands[0], shapes)
    if line.opcode == "fusion":
        nested = module.computations[hlo.called(line, "calls")[0]]
        return write_bytes(module, nested, nested.root, shapes)
    if line.opcode == "dynamic-update-slice" and in_memory(shapes[0]):
        return [inner.lines[line.operands[1]].shape.held]
    return [in_memory(shape) for shape in shapes]


def count_collectives(module: Module, found: hlo.Runs) -> dict[str, Traffic]:
    """Collectives by kind.

    A pair of start and done counts once.  So does a collective that a TPU's compiler spreads over several fusions, all
    of which repeat its line: the fusion that starts it counts.
    """
    totals: dict[str, Traffic] = {}
    for where in (found.executed, found.fused):
        for name, times in where.items():
            computation = module.computations[name]
            for line in computation.lines.values():
                kind = line.opcode.removesuffix("-start")
                if kind not in COLLECTIVES or is_repeated(computation, line):
                    continue
                if name.startswith("all-reduce-scatter"):  # how a TPU writes it: reduce, then slice
                    kind = "reduce-scatter"
                group = group_size(line, module.num_devices)
                size = collective_bytes(computation, line, kind, group)
                before = totals.get(kind, Traffic(0.0, 0.0, 0.0))
                added = (times, times * size, times * size * sent_share(kind, group))
                totals[kind] = Traffic(*map(sum, zip(before, added, strict=True)))
    return totals


def is_repeated(computation: Computation, line: Instruction) -> bool:
    """Whether this is a later piece of a collective that was started in another fusion."""
    if "async_collective_fusion_config" not in line.attributes:
        return False
    starts = 'custom_call_target="AsyncCollectiveStart"'
    return not any(starts in other.attributes for other in computation.lines.values())


def collective_bytes(computation: Computation, line: Instruction, kind: str, group: int) -> float:
    """Of the whole arrays, on one device."""
    operands = [computation.lines[name] for name in line.operands]
    if kind == "collective-permute":
        return operands[0].shape.bytes
    size = sum(shape.bytes for operand in operands for shape in operand.shapes)
    return size * group if kind == "all-gather" else size


def sent_share(kind: str, group: int) -> float:
    """Which multiple of its bytes each device of a ring sends."""
    if kind == "collective-permute":
        return 1.0
    return (2.0 if kind == "all-reduce" else 1.0) * (group - 1) / group


def group_size(line: Instruction, num_devices: int) -> int:
    """How many devices take part: ``{{0,1},{2,3}}``, ``[2,4]<=[8]`` or ``mesh['a'=2,'b'=4] {'b'}``."""
    attributes = line.attributes
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[(.*?)\].*?\{('[^}]*)\}", attributes):
        sizes = dict(re.findall(r"('\w+')=(\d+)", found[1]))
        axes = re.findall(r"('\w+')(?::\(\d+\)(\d+))?", found[2])  # 'a', or a part of it: 'a':(2)4
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return num_devices

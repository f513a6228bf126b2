"""Compiled programs as XLA prints them (``compiled.as_text()``): computations, shapes, and how often each loop runs.

    %while.1 = (s32[], f32[16,1024]{1,0:T(8,128)S(1)}) while(%tuple.3), condition=%region_1.2, body=%region_0.1
     name       shapes: dimensions {layout: tile, memory}  opcode operands   attributes

How often a loop runs is what XLA notes beside it (``known_trip_count``, on CPUs), or follows from its counter: a start,
a step and a limit that are constants of the text (TPUs).  A loop whose end depends on data is unknown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "c64": 64, "c128": 128, "tf32": 32}
SHAPE = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
NAME = re.compile(r"%([\w.\-]+)")
SAME = ("copy", "bitcast", "convert", "reshape", "optimization-barrier")  # one value, written anew


class Shape(NamedTuple):
    """An array: type, dimensions, their order from the fastest, the tile it is padded to, and its memory (0: main)."""

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    memory: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Of its elements."""
        return self.elements * bits_of(self.dtype) / 8

    @property
    def held(self) -> float:
        """With the padding of its tiles."""
        sides = [self.dims[axis] for axis in self.order or range(len(self.dims))[::-1]]
        for k, length in enumerate(reversed(self.tile[-len(sides) :] if sides else ())):
            sides[k] = -(-sides[k] // length) * length
        return math.prod(sides) * bits_of(self.dtype) / 8


class Instruction(NamedTuple):
    """A line; a tuple has several shapes, and what is in the brackets of a constant or parameter is its ``value``."""

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    value: str
    attributes: str

    @property
    def shape(self) -> Shape:
        return self.shapes[0]


class Computation(NamedTuple):
    """Instructions by name, in order, and the one whose result it is."""

    name: str
    lines: Mapping[str, Instruction]
    root: str

    def parameter(self, index: int) -> str:
        """The name of a parameter."""
        return next(
            i.name for i in self.lines.values() if i.opcode == "parameter" and i.value == str(index)
        )


class Module(NamedTuple):
    """Computations by name, the called before the callers; ``loops`` has the caller and the loop of each body."""

    computations: Mapping[str, Computation]
    entry: str
    num_devices: int
    loops: Mapping[str, tuple[Computation, Instruction]]


def bits_of(dtype: str) -> int:
    """Bits of a number: 16 of bf16, 8 of f8e4m3fn, 4 of s4."""
    if dtype in BITS:
        return BITS[dtype]
    found = re.match(r"[a-z]+(\d+)", dtype)
    return int(found[1]) if found else 0


def parse(text: str) -> Module:
    """Reads what ``compiled.as_text()`` prints."""
    computations: dict[str, Computation] = {}
    lines: dict[str, Instruction] = {}
    entry = name = root = ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            name, lines, root = header[2], {}, ""
            entry = name if header[1] else entry
        elif line.startswith("}") and name:
            computations[name] = Computation(name, lines, root or next(reversed(lines)))
            name = ""
        elif name and (begin := LINE.match(line)):
            lines[begin[2]] = parse_line(begin[2], line[begin.end() :])
            root = begin[2] if begin[1] else root
    loops = {
        called(line, "body")[0]: (computation, line)
        for computation in computations.values()
        for line in computation.lines.values()
        if line.opcode == "while"
    }
    counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", text[: text.find("\n")])
    return Module(computations, entry, math.prod(map(int, counts)), loops)


def parse_line(name: str, rest: str) -> Instruction:
    """What stands behind the sign of equality."""
    rest = re.sub(r"/\*.*?\*/", "", rest)
    end = closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opening = rest.index("(", end)
    close = closing(rest, opening)
    value, attributes = rest[opening + 1 : close], rest[close + 1 :]
    shapes = tuple(parse_shape(*found) for found in SHAPE.findall(rest[:end]))
    opcode = rest[end:opening].strip()
    return Instruction(name, shapes, opcode, tuple(NAME.findall(value)), value, attributes)


def parse_shape(dtype: str, dims: str, order: str, layout: str) -> Shape:
    """f32 [16,1024] {1,0 : T(8,128)S(1)}."""
    numbers = lambda text: tuple(int(n) for n in re.findall(r"\d+", text))
    tile, memory = re.search(r"T\(([\d,]+)\)", layout), re.search(r"S\((\d+)\)", layout)
    return Shape(
        dtype,
        numbers(dims),
        numbers(order),
        numbers(tile[1]) if tile else (),
        int(memory[1]) if memory else 0,
    )


def closing(text: str, start: int) -> int:
    """Where the bracket that opens at ``start`` closes."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return len(text)


def called(line: Instruction, *attributes: str) -> list[str]:
    """Computations that a line names as one of its attributes: ``body=%a``, ``branch_computations={%a, %b}``."""
    names = []
    for attribute in attributes:
        for found in re.findall(rf"\b{attribute}=(\{{[^}}]*\}}|%[\w.\-]+)", line.attributes):
            names += NAME.findall(found)
    return names


def run_by(line: Instruction) -> list[str]:
    """Computations that a line runs line by line, as often as itself; loops and fusions are apart."""
    if line.opcode == "call":
        return called(line, "to_apply")
    if line.opcode == "conditional":
        return called(line, "branch_computations", "true_computation", "false_computation")
    if line.opcode in ("async-start", "custom-call"):
        return called(line, "calls", "called_computations")
    return []


class Runs(NamedTuple):
    """How often computations run: one after the other, or inside a fusion; and the loops of unknown length."""

    executed: Mapping[str, float]
    fused: Mapping[str, float]
    unknown_loops: tuple[str, ...]


def runs(module: Module, *, whole_loops: bool = True) -> Runs:
    """Counts from the entry down; a loop of unknown length runs once, of a conditional every branch.

    Args:
        whole_loops: False counts the body of every loop once, as XLA's own analysis does.
    """
    executed, fused, unknown = {module.entry: 1.0}, {}, []
    add = lambda where, name, times: where.update({name: where.get(name, 0.0) + times})
    for computation in reversed(module.computations.values()):
        name = computation.name
        for line in computation.lines.values() if name in executed or name in fused else ():
            own = executed if name in executed else fused
            if line.opcode == "while":
                length = trip_count(module, computation, line)
                unknown += [line.name] if length is None else []
                times = length if whole_loops and length is not None else 1
                for part in called(line, "body", "condition"):
                    add(executed, part, own[name] * times)
            elif line.opcode == "fusion":
                add(fused, called(line, "calls")[0], own[name])
            for part in run_by(line):
                add(own, part, own[name])
    return Runs(executed, fused, tuple(unknown))


def trip_count(module: Module, computation: Computation, line: Instruction) -> int | None:
    """How often a loop's body runs; None where that is not said."""
    if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', line.attributes):
        return int(noted[1])
    condition = module.computations[called(line, "condition")[0]]
    test = condition.lines[condition.root]
    if test.opcode != "compare" or "direction=LT" not in test.attributes:
        return None
    index = element_index(condition, test.operands[0])
    limit = constant_of(module, condition, test.operands[1])
    if limit is None and (place := element_index(condition, test.operands[1])) is not None:
        limit = carried(module, computation, line, place)  # kept in the loop's state
    if index is None or limit is None:
        return None
    start = element_of(module, computation, line.operands[0], index)
    step = step_of(module, module.computations[called(line, "body")[0]], index)
    return None if start is None or not step else max(0, -(-(limit - start) // step))


def step_of(module: Module, body: Computation, index: int) -> int | None:
    """The constant that a loop's body adds to an element of its state."""
    root = body.lines[body.root]
    if root.opcode != "tuple":
        return None
    line = behind(body, root.operands[index])
    if line.opcode != "add":
        return None
    for one, other in (line.operands, line.operands[::-1]):
        if element_index(body, one) == index:
            return constant_of(module, body, other)
    return None


def behind(computation: Computation, name: str) -> Instruction:
    """The line whose value a name has, behind copies of it."""
    line = computation.lines[name]
    while line.opcode in SAME:
        line = computation.lines[line.operands[0]]
    return line


def element_index(computation: Computation, name: str) -> int | None:
    """Which element of the computation's only parameter this is."""
    line = behind(computation, name)
    if line.opcode != "get-tuple-element":
        return None
    is_parameter = computation.lines[line.operands[0]].opcode == "parameter"
    return index_of(line) if is_parameter else None


def index_of(line: Instruction) -> int:
    """Of a get-tuple-element."""
    return int(re.search(r"index=(\d+)", line.attributes)[1])


def constant_of(module: Module, computation: Computation, name: str) -> int | None:
    """The whole number that a name always has."""
    line = behind(computation, name)
    if line.opcode == "constant":
        return int(line.value) if re.fullmatch(r"-?\d+", line.value) else None
    if line.opcode == "get-tuple-element":
        return element_of(module, computation, line.operands[0], index_of(line))
    return None


def element_of(module: Module, computation: Computation, name: str, index: int) -> int | None:
    """The whole number that an element of a tuple always has; through the loops that leave it as it is."""
    line = behind(computation, name)
    if line.opcode == "tuple":
        return constant_of(module, computation, line.operands[index])
    if line.opcode == "while":
        return carried(module, computation, line, index)
    if line.opcode == "parameter" and computation.name in module.loops:
        return carried(module, *module.loops[computation.name], index)
    return None


def carried(module: Module, computation: Computation, line: Instruction, index: int) -> int | None:
    """The whole number in an element of a loop's state that its body leaves as it is."""
    body = module.computations[called(line, "body")[0]]
    root = body.lines[body.root]
    if root.opcode != "tuple" or element_index(body, root.operands[index]) != index:
        return None
    return element_of(module, computation, line.operands[0], index)


def users(computation: Computation, name: str) -> Iterator[Instruction]:
    """Lines that read a name."""
    return (line for line in computation.lines.values() if name in line.operands)

"""Block files of episodes (:mod:`daag_jax.data.disk`) read in part: their headers once, then single windows of rows.

Rows are read by position (``preadv``) into arrays that are there: no page of a file is mapped, a file that shrinks is
an error and no SIGBUS, and other threads run meanwhile (``get_slice`` of safetensors 0.8 holds the interpreter's lock).
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from daag_jax.data.disk import FIELDS, check_names, opened

DTYPES = {"BOOL": "?", "F16": "f2", "F32": "f4", "F64": "f8", "U8": "u1", "U16": "u2", "U32": "u4"}
DTYPES |= {"U64": "u8", "I8": "i1", "I16": "i2", "I32": "i4", "I64": "i8"}


class Field(NamedTuple):
    """Where the rows of a tensor [E, T, ...] lie in a file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes from one episode to the next, from one step to the next, ...
    offset: int  # of the first byte, from the start of the file


class Block(NamedTuple):
    """What is known of a file without reading its steps."""

    path: Path
    fields: dict[str, Field]  # observations, images, ..., extras/NAME
    length: Int[np.ndarray, "M"]
    terminated: Bool[np.ndarray, "M"]  # where the file says it of episodes; else none did
    task: str


def find_blocks(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files of a folder and of its folders, in the order of their names; or the files that are given.

    Raises:
        FileNotFoundError: there are none.
        ValueError: one is of another kind.
    """
    if isinstance(paths, (str, Path)):
        path = Path(paths)
        paths = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
        if not paths:
            raise FileNotFoundError(f"{path} holds no .safetensors; {_CURE}.")
    files = [Path(path) for path in paths]
    if not files:
        raise FileNotFoundError(f"no files were given; {_CURE}.")
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} does not exist; {_CURE}.")
        if file.suffix != ".safetensors":
            raise ValueError(f"{file} is no .safetensors, and is not read in part; {_CURE}.")
    return files


_CURE = "`daag collect WORLD --format safetensors` writes such files"


def read_blocks(files: Sequence[Path], names: Sequence[str] = FIELDS) -> list[Block]:
    """Headers and lengths; blocks must agree in what a step of the fields ``names`` is, not in how many they hold.

    Raises:
        ValueError: a file is cut short, is no file of episodes, or its steps are not those of the first file.
    """
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # far files answer late
        blocks = list(pool.map(read_block, files))
    for block in blocks:
        for name in names:
            _check_same(block, blocks[0], name)
    return blocks


def read_block(path: Path) -> Block:
    """The header and the lengths of one file.

    Raises:
        ValueError: it is cut short, or no file of episodes.
    """
    with opened(path) as file:  # which checks that the tensors fill the file
        metadata = file.metadata() or {}
        check_names(path, set(file.keys()), metadata)
        names = ("length", "extras/terminated")
        small = {n: file.get_tensor(n) for n in names if n in file.keys()}  # noqa: SIM118
    fields, length = _fields(path), small["length"]
    _check_counts(path, fields, length)
    terminated = small.get("extras/terminated", np.zeros(len(length)))
    task = json.loads(metadata["task"])
    return Block(path, fields, length.astype(np.int64), terminated.astype(bool), task)


def _check_counts(path: Path, fields: dict[str, Field], length: np.ndarray) -> None:
    """Raises ValueError where fields hold other numbers of episodes or steps than the rewards [E, T]."""
    num, longest = (*fields["rewards"].shape, 0)[:2]
    expected = dict.fromkeys(("rewards", "actions", "extras/terminal"), (num, longest))
    expected |= dict.fromkeys(("observations", "images"), (num, longest + 1))
    expected |= dict.fromkeys(("length", "extras/terminated", "extras/task"), (num,))
    for name, shape in expected.items():
        if name in fields and (found := fields[name].shape[: len(shape)]) != shape:
            raise ValueError(f"{path}: {name} are {found}, not {shape}; collect again.")
    if num and not 0 <= length.min() <= length.max() <= longest:
        raise ValueError(f"{path}: a length is {length.max()} of {longest} steps; collect again.")


def _fields(path: Path) -> dict[str, Field]:
    """The header of a safetensors file: its size in 8 bytes, then JSON, then the tensors, row by row."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    fields = {}
    for name, found in header.items():
        if found["dtype"] not in DTYPES:
            raise ValueError(f"{path}: {name} is of type {found['dtype']}; write it as float32.")
        dtype, shape = np.dtype(DTYPES[found["dtype"]]), tuple(found["shape"])
        strides = tuple(dtype.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape)))
        fields[name] = Field(dtype, shape, strides, 8 + size + found["data_offsets"][0])
    return fields


def fingerprint_blocks(paths: str | Path | Sequence[str | Path]) -> str:
    """The SHA-256 of block files but for their images, of which it takes the size alone."""
    digest, files = hashlib.sha256(), find_blocks(paths)
    for file in files:
        place = file.relative_to(paths) if isinstance(paths, Path) and paths.is_dir() else file.name
        digest.update(f"{place} {file.stat().st_size}\n".encode())
        with opened(file) as tensors:
            for name in sorted(set(tensors.keys()) - {"images"}):
                digest.update(name.encode() + tensors.get_tensor(name).tobytes())
    return digest.hexdigest()


def _check_same(block: Block, first: Block, name: str) -> None:
    lead = 1 if name == "extras/task" else 2
    step = lambda block: block.fields[name].shape[lead:] if name in block.fields else None
    if step(block) != step(first):
        raise ValueError(
            f"{block.path}: {name} of a step have shape {step(block)}, in {first.path} {step(first)}; "
            "use files of one world."
        )


def read_rows(file: Any, block: Block, name: str, start: tuple[int, ...], out: np.ndarray) -> None:
    """Fills ``out`` [n, ...] with as many rows of a field, from the one at ``start`` on: (episode, step) or (episode,).

    Raises:
        ValueError: the file became shorter.
    """
    field = block.fields[name]
    raw = out if out.dtype == field.dtype else np.empty(out.shape, field.dtype)
    if raw.nbytes == 0:
        return
    begin = field.offset + sum(i * n for i, n in zip(start, field.strides, strict=False))
    if _read_at(file, begin, raw) != raw.nbytes:
        raise ValueError(f"{block.path} was cut short since it was opened; collect it again.")
    if raw is not out:
        out[...] = raw


def _read_at(file: Any, begin: int, out: np.ndarray) -> int:
    """Fills ``out`` with what lies at a position, and says how many bytes there were."""
    if hasattr(os, "preadv"):  # not on every platform
        return os.preadv(file.fileno(), [out], begin)
    found = os.pread(file.fileno(), out.nbytes, begin)
    out.reshape(-1).view(np.uint8)[: len(found)] = np.frombuffer(found, np.uint8)
    return len(found)

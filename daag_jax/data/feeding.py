"""Batches that come from the host: data sets larger than memory, read a window at a time.

    feed = window_feed("runs/blocks", algorithm.window, batch=256, seed=0)
    fit(algorithm, feed, config)

Batch n is a function of (seed, n): not of where reading started, of the number of threads, or of how often a run was
resumed.  So the place in the data is the step itself, and a checkpoint need not hold it.  Each epoch takes every
decision of every episode once, in an order of its own (``grain``'s shuffle, which permutes indices and stores none);
in memory are the lengths of the episodes and the batches on their way.  A process reads its own rows only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from daag_jax.data.block_files import Block, find_blocks, read_blocks, read_rows
from daag_jax.data.windows import returns
from daag_jax.types import Batch, Window

KNOWN = {"image": "images", "returns": "rewards", "task": "extras/task", "terminal": "rewards"}


class Feed(NamedTuple):
    """Batches n, n + 1, ... from ``start(n)``: the rows of this process; ``example`` has the shapes of the whole."""

    example: Batch
    start: Callable[[int], Iterator[Batch]]


class Index(NamedTuple):
    """Every decision of the episodes of many blocks by its number."""

    blocks: tuple[Block, ...]
    block: Int[np.ndarray, "M"]  # where an episode is
    row: Int[np.ndarray, "M"]  # and which of its block
    length: Int[np.ndarray, "M"]
    end: Int[np.ndarray, "M"]  # the number of the decision after its last


def window_feed(
    paths: str | Path | Sequence[str | Path],
    window: Window,
    batch: int,
    seed: int,
    *,
    discount: float = 1.0,
    process_index: int | None = None,
    process_count: int | None = None,
    threads: int = 4,
    prefetch: int = 8,
) -> Feed:
    """Windows as :func:`~daag_jax.data.windows.draw_windows` cuts them, from files of ``write_episodes``.

    Args:
        paths: a folder (its folders, too), a file, or files; blocks may hold episodes of different number and length.
        batch: rows of all processes together, of which process p of P reads the p-th part.
        discount: of the returns, where the window asks for them.
        threads: that read batches at the same time; 0 reads when asked.
        prefetch: batches held ready, of this process.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: a file is cut short, or its steps are not those of the first; no episode has a step, or the window
            asks for what they do not hold; processes do not divide the batch.  From the iterator: NaN in the data.
    """
    index_of_process = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    _check_numbers(batch, seed, index_of_process, count, threads, prefetch)
    index = read_index(paths, window)
    part = batch // count
    load = lambda decisions: cut_windows(index, window, decisions, discount)
    one = load(np.zeros(1, np.int64))
    shape = lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)

    def start(step: int) -> Iterator[Batch]:
        import grain  # here, for it takes a while

        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
        # grain's seed of an epoch is seed + epoch, by which seeds 0 and 1 would share all epochs but one
        order_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        order = grain.MapDataset.range(int(index.end[-1])).shuffle(seed=order_seed).repeat()
        parts = order.batch(part, batch_fn=np.asarray)[step * count + index_of_process :: count]
        batches = iter(parts.map(load).to_iter_dataset(options))
        batches.start_prefetch()
        return batches

    return Feed(jax.tree.map(shape, one), start)


def _check_numbers(
    batch: int, seed: int, process_index: int, process_count: int, threads: int, prefetch: int
) -> None:
    if batch < 1 or batch % process_count:
        raise ValueError(
            f"batch={batch} is not a multiple of the {process_count} processes that read it; "
            f"try {process_count * max(1, round(batch / process_count))}."
        )
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index={process_index} is none of {process_count} processes; count from 0."
        )
    for name, value in (("seed", seed), ("threads", threads)):
        if value < 0:
            raise ValueError(f"{name}={value} is negative; try 0 or more.")
    if prefetch < max(1, threads):
        raise ValueError(
            f"prefetch={prefetch} is less than threads={threads}; try {max(1, threads)}."
        )


def read_index(paths: str | Path | Sequence[str | Path], window: Window) -> Index:
    """Headers and lengths of the files, checked.

    Raises:
        FileNotFoundError, ValueError: see :func:`window_feed`.
    """
    files = find_blocks(paths)
    for field in window.fields:
        if field not in KNOWN:
            raise ValueError(f"the window asks for {field!r}; episodes hold {sorted(KNOWN)}.")
    fields = ("observations", "actions", "rewards", *(KNOWN[field] for field in window.fields))
    blocks = read_blocks(files, fields)
    for field in window.fields:
        found = blocks[0].fields.get(KNOWN[field])
        if found is None or (field == "image" and 0 in found.shape[2:]):
            raise ValueError(
                f"the window asks for {field!r}, which {blocks[0].path} does not hold; "
                "use another algorithm, or a spec without it."
            )
    num = [len(block.length) for block in blocks]
    length = np.concatenate([block.length for block in blocks])
    if length.sum() == 0:
        raise ValueError(
            f"none of the {length.size} episodes of {len(files)} files ({files[0]}, ...) has a step; collect again."
        )
    place = np.repeat(np.arange(len(blocks)), num)
    row = np.concatenate([np.arange(n) for n in num])
    return Index(tuple(blocks), place, row, length, np.cumsum(length))


def cut_windows(
    index: Index, window: Window, decisions: Int[np.ndarray, "B"], discount: float = 1.0
) -> Batch:
    """The windows around the decisions of these numbers, read from the files.

    Raises:
        ValueError: a window holds NaN, or a file became shorter.
    """
    episode = np.searchsorted(index.end, decisions, side="right")
    length, place = index.length[episode], index.block[episode]
    time = decisions - index.end[episode] + length
    step = time[:, None] - window.history + 1 + np.arange(window.horizon)[None]
    mask = step < length[:, None]
    step = np.clip(step, 0, length[:, None] - 1)
    arrays = _empty(index.blocks[0], window, len(decisions))
    for number in np.unique(place):
        block = index.blocks[number]
        with block.path.open("rb", buffering=0) as file:  # per call: threads share no handle
            for i in np.flatnonzero(place == number):
                own = {name: array[i] for name, array in arrays.items()}
                _read_window(file, block, int(index.row[episode[i]]), step[i], discount, own)
    _check_finite(arrays, [index.blocks[number].path for number in place])
    observations, actions, rewards = (arrays.pop(n) for n in ("observations", "actions", "rewards"))
    return Batch(observations, actions, rewards, mask, arrays)


def _empty(first: Block, window: Window, batch: int) -> dict[str, np.ndarray]:
    """Arrays for a batch: the fields of a Batch, and the extras that are wanted."""
    steps = (batch, window.horizon)
    made = {
        name: np.empty((*steps, *first.fields[name].shape[2:]), np.float32)
        for name in ("observations", "actions", "rewards")
    }
    for name in window.fields:
        field = first.fields[KNOWN[name]]
        if name == "task":
            dtype = jax.dtypes.canonicalize_dtype(field.dtype)
            made[name] = np.empty((batch, *field.shape[1:]), dtype)
        elif name == "image":
            made[name] = np.empty((*steps, *field.shape[2:]), field.dtype)
        else:
            made[name] = np.empty(steps, bool if name == "terminal" else np.float32)
    return made


def _read_window(
    file: Any,
    block: Block,
    row: int,
    step: Int[np.ndarray, "N"],
    discount: float,
    out: dict[str, np.ndarray],
) -> None:
    """Fills ``out`` with the steps (which never go back, and may stay) of one episode."""
    first, num = int(step[0]), int(step[-1] - step[0]) + 1

    def read(name: str, array: np.ndarray) -> None:
        read_rows(file, block, name, (row, first), array[:num])
        if num < len(array):
            array[...] = array[step - first]

    for name in ("observations", "actions", "rewards"):
        read(name, out[name])
    if "image" in out:
        read("images", out["image"])
    if "returns" in out:
        rest = np.empty(block.fields["rewards"].shape[1] - first, np.float32)
        read_rows(file, block, "rewards", (row, first), rest)
        rest[int(block.length[row]) - first :] = 0  # padding
        out["returns"][...] = returns(rest[None], discount)[0, step - first]
    if "terminal" in out and "extras/terminal" in block.fields:
        read("extras/terminal", out["terminal"])
    elif "terminal" in out:
        out["terminal"][...] = block.terminated[row] & (step == block.length[row] - 1)
    if "task" in out:
        read_rows(file, block, "extras/task", (row,), out["task"])


def _check_finite(arrays: dict[str, np.ndarray], paths: Sequence[Path]) -> None:
    for name, values in arrays.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            rows = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
            raise ValueError(
                f"{paths[int(np.argmin(rows))]}: {name} hold NaN or infinity; collect it again."
            )

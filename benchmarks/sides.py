"""The sides of a comparison, each in a process of its own, so that neither's threads and memory are in the other's way.

    sides = {"ours": Side(ours, config), "theirs": Side(theirs, config)}   # functions at the top of a module
    taken = take_turns(sides, rounds=5)                                    # seconds by row, side and round

A function of a side gives its rows, calls that return when their result is there, and facts of them.  Ours is compiled
by a process before (:func:`fill_compilation_cache`): in one that has compiled, glibc searches a heap full of holes, and
an update takes 1.4 times as long.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Call = Callable[[], None]
Calls = Mapping[str, Call]
Facts = Mapping[str, float]
Make = Callable[..., tuple[Calls, Facts]]
LEAST = 0.5  # seconds of a round: shorter calls are repeated


def seconds(run: Call) -> float:
    """Of one call."""
    began, calls = time.perf_counter(), 0
    while calls == 0 or (time.perf_counter() - began < LEAST and calls < 50):
        run()
        calls += 1
    return (time.perf_counter() - began) / calls


def serve(connection: Connection, make: Make, args: tuple) -> None:
    """A process of one side: its rows and facts, then the seconds of each row that it is sent, until None."""
    calls, facts = make(*args)
    connection.send((list(calls), facts))
    while (row := connection.recv()) is not None:
        connection.send(seconds(calls[row]))


class Side:
    """The other end of :func:`serve`.

    Raises:
        RuntimeError: the process has died.
    """

    def __init__(self, make: Make, *args):
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, make, args), daemon=True)
        self.process.start()
        other.close()
        self.name = make.__name__
        self.rows, self.facts = self.answer()

    def seconds(self, row: str) -> float:
        """Of one call."""
        self.connection.send(row)
        return self.answer()

    def answer(self) -> Any:
        """What the process says next."""
        try:
            return self.connection.recv()
        except EOFError as error:
            raise RuntimeError(
                f"the process of side {self.name!r} died; its error is above, cure that."
            ) from error

    def close(self) -> None:
        """Ends the process."""
        self.connection.send(None)
        self.process.join()


def fill_compilation_cache(make: Make, *args) -> None:
    """Calls every row in a process that ends then."""
    side = Side(make, *args)
    for row in side.rows:
        side.seconds(row)
    side.close()


def take_turns(
    sides: Mapping[str, Side], rounds: int, once: tuple[str, ...] = ()
) -> dict[str, dict[str, float]]:
    """Median seconds of each row and of the sides that have it, after a round that is not counted.

    Rows in ``once`` take one round.
    """
    medians: dict[str, dict[str, float]] = {}
    for row in dict.fromkeys(row for side in sides.values() for row in side.rows):
        having = {name: side for name, side in sides.items() if row in side.rows}
        turns = [
            {name: side.seconds(row) for name, side in having.items()}
            for _ in range(1 + (1 if row in once else rounds))
        ]
        medians[row] = {
            name: float(np.median([turn[name] for turn in turns[1:]])) for name in having
        }
        print(row, medians[row], flush=True)
    return medians


def ceiling(size: int = 2048, dtype: str = "float32") -> float:
    """FLOP per second of a product of square matrices, the fastest of five rounds: what the machine can do."""
    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    call = lambda: jax.block_until_ready(product(x, x))
    call()
    return 2 * size**3 / min(seconds(call) for _ in range(5))

"""Convolutions along time on a CPU: Winograd's filtering beside one product of gathered patches.

    python -m benchmarks.convolution                     # 80 s on two CPU cores
    taskset -c 0 python -m benchmarks.convolution        # on one

The layers of Diffuser's network at horizon 32: 32, 64, 128 and 256 channels at 32, 16, 8 and 4 steps, with five taps
and with three; forward, and with gradients of input and taps.  A number is the time of gathered patches over that of
filtering, medians over rounds in which the two take turns; ``networks.unet1d.WINOGRAD_ROWS`` is chosen by it.  The last
line is one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.sides import seconds
from daag_jax.networks.unet1d import convolve_by_product
from daag_jax.networks.winograd import convolve_winograd

LAYERS = ((32, 32), (16, 64), (8, 128), (4, 256))  # steps, channels


@dataclass(frozen=True)
class Config:
    """Numbers of sequences, and how often each is measured."""

    batches: tuple[int, ...] = (1, 8, 64, 512)
    rounds: int = 3


def calls(form: Callable, x: jax.Array, kernel: jax.Array) -> list[Callable[[], None]]:
    """Forward, and gradients of a sum of squares."""
    total = lambda x, kernel: jnp.sum(jnp.square(form(x, kernel)))
    made = [jax.jit(form), jax.jit(jax.grad(total, (0, 1)))]
    return [lambda f=f: jax.block_until_ready(f(x, kernel)) for f in made]


def ratios(x: jax.Array, kernel: jax.Array, rounds: int) -> list[float]:
    """Of both calls: the time of gathered patches over that of filtering."""
    pairs = zip(
        calls(convolve_by_product, x, kernel), calls(convolve_winograd, x, kernel), strict=True
    )
    found = []
    for pair in pairs:
        for call in pair:
            call()
        taken = np.array([[seconds(call) for call in pair] for _ in range(rounds)])
        gathered, filtered = np.median(taken, axis=0)
        found.append(float(gathered / filtered))
    return found


def main(config: Config) -> None:
    jax.config.update("jax_platforms", "cpu")
    table = Table("taps", "sequences", *(f"{c} channels, {t} steps" for t, c in LAYERS))
    figures: dict[str, list[float]] = {}
    random = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)
    for taps in (5, 3):
        for batch in config.batches:
            row = []
            for steps, channels in LAYERS:
                x, kernel = normal(batch, steps, channels), normal(taps, channels, channels)
                found = ratios(x, kernel, config.rounds)
                figures[f"{taps} taps, {batch} x {steps} x {channels}"] = found
                row.append(" / ".join(f"{ratio:.2f}" for ratio in found))
            table.add_row(str(taps), str(batch), *row)
    Console(width=110).print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(tyro.cli(Config))

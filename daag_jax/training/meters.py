"""What a run costs while it runs: steps, examples and FLOP per second, memory; and a trace of the profiler."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import jax

from daag_jax.training.topologies import CHIPS

PEAK_FLOPS = {  # per chip, bfloat16 without sparsity; data sheets of Google and NVIDIA
    "TPU v4": 275e12,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(kind: str) -> float | None:
    """FLOP/s of a device of that kind; None where it is not in the table."""
    names = [name for name in PEAK_FLOPS if kind.startswith(name)]
    return PEAK_FLOPS[max(names, key=len)] if names else None


def memory_gb() -> float:
    """The most memory that was in use at once [GB]: of the first device, or of the process where devices do not say."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class Meter:
    """Rates since the last reading."""

    def __init__(self, examples: int, flops: float | None, step: int) -> None:
        self.examples, self.flops = examples, flops  # of one step; FLOP of one device
        self._peak = peak_flops(jax.local_devices()[0].device_kind)
        self._step, self._since = step, time.monotonic()

    def read(self, step: int) -> dict[str, float]:
        """Steps and examples per second, TFLOP/s of a device, its share of a known peak, memory [GB]."""
        now = time.monotonic()
        rate = (step - self._step) / max(now - self._since, 1e-9)
        self._step, self._since = step, now
        row = {"steps_per_second": rate, "examples_per_second": rate * self.examples}
        if self.flops:
            row["tflops_per_second"] = rate * self.flops / 1e12
            if self._peak:
                row["utilisation"] = rate * self.flops / self._peak
        return row | {"memory_gb": memory_gb()}


class Trace:
    """A trace of the JAX profiler of a few steps, after the first ones, as ``profile/`` of the run (for XProf)."""

    WARM, LONG = 5, 10  # steps before, and traced

    def __init__(self, directory: str | Path | None, start: int, is_main: bool = True) -> None:
        # the stops are those of every process, which must run the same steps; one of them traces
        self._directory, self._is_on, self._is_main = directory, False, is_main
        first = start + self.WARM
        self.stops = () if directory is None else (first, first + self.LONG)

    def at(self, step: int) -> None:
        """Starts or ends the trace where ``step`` is one of ``stops``."""
        if self.stops and step == self.stops[0] and self._is_main:
            jax.profiler.start_trace(str(Path(self._directory) / "profile"))
            self._is_on = True
        elif self.stops and step == self.stops[1]:
            self.close()

    def close(self) -> None:
        """Ends a trace that is on."""
        if self._is_on:
            jax.profiler.stop_trace()
            self._is_on = False

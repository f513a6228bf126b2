"""Slices of TPU pods that are not there: their chips, and meshes over them for ahead-of-time compilation.

The compiler for TPUs is the wheel ``libtpu``; it needs no TPU.  What a chip can do is taken from the Cloud TPU
documentation, pages "TPU v5e" and "TPU v5p": peak in bfloat16, memory and its bandwidth, and the bandwidth at which a
chip sends over all its links together (1,600 and 4,800 Gbit/s; the pages now give both directions, 400 and 1,200 GB/s).
"""

from __future__ import annotations

import importlib.util
import math
import os
from typing import Any, NamedTuple

from daag_jax.names import check_name

# libtpu asks a host what TPU it has, and keeps other processes out; here there is none
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Chip(NamedTuple):
    """What one chip can do."""

    flops: float  # per second, bfloat16
    memory: float  # [B]
    bandwidth: float  # of the memory [B/s]
    links: float  # what a chip sends over all its links [B/s]


CHIPS = {
    "v5e": Chip(197e12, 16e9, 819e9, 200e9),
    "v5p": Chip(459e12, 95e9, 2765e9, 600e9),
}
SLICES = {  # of up to 512 chips; a host has 4 of them, and one chip alone is where scaling begins
    "v5e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("1x1x1", "2x2x1", "2x2x2", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
}
TOPOLOGIES = tuple(f"{kind}:{shape}" for kind, shapes in SLICES.items() for shape in shapes)


def kind_of(topology: str) -> str:
    """The kind of its chips: v5e of v5e:4x4."""
    return topology.split(":")[0]


def chips_of(topology: str) -> int:
    """The number of its chips."""
    return math.prod(int(side) for side in topology.split(":")[1].split("x"))


def one_chip(topology: str) -> str:
    """The topology of one such chip."""
    return f"{kind_of(topology)}:{SLICES[kind_of(topology)][0]}"


def set_environment() -> None:
    """Makes JAX and libtpu compile for what is not there; of use only before ``jax`` is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def mesh_of(topology: str, fsdp: int = 1) -> Any:
    """A mesh (``data``, ``fsdp``) over a topology that is not there; ``fsdp`` is at most the number of chips.

    Raises:
        ValueError: the topology is unknown, or ``fsdp`` does not divide its chips.
        ImportError: libtpu is not installed.
    """
    check_name("topology", topology, TOPOLOGIES)
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError(
            "libtpu, the compiler for TPUs, is not installed; pip install 'libtpu==0.0.42.*' (no TPU is needed)."
        )
    from jax.experimental import topologies

    from daag_jax.training.devices import make_mesh

    alone = {"chips_per_host_bounds": (1, 1, 1)} if chips_of(topology) == 1 else {}
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **alone).devices
    return make_mesh(-1, min(fsdp, len(found)), found)

"""Many processes as one run: each holds its own devices, and all of them together form the mesh.

A run of several processes is the same program started once per host (or once per process, see ``daag launch``), with

    JAX_COORDINATOR_ADDRESS=host:port  JAX_NUM_PROCESSES=4  JAX_PROCESS_ID=0

set for each; on TPU pods and under Slurm nothing need be set.  Every process runs the same steps, reads its own rows of
the data, and simulates its own part of the worlds; process 0 writes.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def join(environ: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes of this run, where there are any; call it before the first use of a device.

    Raises:
        ValueError: some of the three variables are set and others are not, or they are no numbers in range.
    """
    if jax.distributed.is_initialized():
        return
    if given := [name for name in (ADDRESS, COUNT, INDEX) if environ.get(name)]:
        if missing := {ADDRESS, COUNT, INDEX} - set(given):
            raise ValueError(
                f"{', '.join(given)} are set, but not {', '.join(sorted(missing))}; set all three, or none."
            )
        count, index = _number(environ, COUNT), _number(environ, INDEX)
        if not 0 <= index < count:
            raise ValueError(f"{INDEX}={index} is not below {COUNT}={count}; count from 0.")
        jax.distributed.initialize(environ[ADDRESS], count, index)
    elif is_cluster(environ):
        jax.distributed.initialize()  # which finds the addresses by itself
    if jax.distributed.is_initialized():
        sys.excepthook = fail_at_once


def fail_at_once(kind: type, error: BaseException, where: types.TracebackType | None) -> None:
    """Ends a process that failed; at a usual exit it would wait for the others, who wait for it."""
    traceback.print_exception(kind, error, where)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except ValueError:
        raise ValueError(f"{name}={environ[name]!r} is not a number; try {name}=1.") from None


def is_cluster(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether JAX finds the other processes by itself: a Slurm step of several tasks, or a TPU VM."""
    if "SLURM_STEP_NODELIST" in environ and int(environ.get("SLURM_NTASKS", "1")) > 1:
        return True
    wanted = environ.get("JAX_PLATFORMS", "tpu")
    has_chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    return bool("tpu" in wanted and has_chips and importlib.util.find_spec("libtpu"))


def check_joined(environ: Mapping[str, str] = os.environ) -> None:
    """Raises RuntimeError in one of several processes that never called :func:`join`: each would train for itself."""
    if environ.get(COUNT, "1") != "1" and not jax.distributed.is_initialized():
        raise RuntimeError(
            f"{COUNT}={environ[COUNT]}, but this program did not join the others; call training.processes.join() first."
        )


def is_main() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def barrier(name: str, seconds: int = 3600) -> None:
    """Waits until every process is here, without a device; nothing on one."""
    if jax.process_count() > 1:
        ocp.multihost.get_barrier_sync_fn()(key=name, timeout_ms=1000 * seconds)


def agreed(value: int) -> int:
    """The largest value over the processes: all of them must take the same branch."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def told(find: Callable[[], int]) -> int:
    """What process 0 finds, on every process: of a folder that others may see a moment later."""
    if jax.process_count() == 1:
        return find()
    found = np.int32(find() if is_main() else 0)
    return int(multihost_utils.broadcast_one_to_all(found))


def gathered(tree: Any) -> Any:
    """Arrays that lie on the devices of many processes, whole, as numpy, on each of them."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    barrier("gathered")  # who still compiles would let the collective of the others time out
    return multihost_utils.process_allgather(tree, tiled=True)

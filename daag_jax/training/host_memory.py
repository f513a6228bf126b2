"""Freed memory of the host stays with the process: XLA's buffers on a CPU need no fresh pages at every step.

By default glibc gives large blocks back to the system when they are freed, and every step of training faults all pages
of its buffers in again: an update of Diffuser's network took 21,000 page faults and 96 ms, and none and 80 ms without.
An allocator of another kind that is preloaded (tcmalloc, say) is faster still: RESULTS.md, planning, speed.
"""

from __future__ import annotations

import ctypes
import sys

# parameters of mallopt (malloc.h of glibc)
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
KEPT = 2 * 10**9  # bytes at the end of the heap before any go back
LARGEST = 2**30  # bytes of a block that may lie in the heap; longer ones are mapped apart
STEP = 2**26  # bytes by which the heap grows


def keep_freed_memory() -> bool:
    """Tells glibc to keep what is freed, in one heap for all threads; says whether there is a glibc that listens.

    To be called before JAX computes anything: threads that have begun keep heaps of their own.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    settings = {
        _TRIM_THRESHOLD: KEPT,
        _MMAP_THRESHOLD: LARGEST,
        _TOP_PAD: STEP,
        _ARENA_MAX: 1,
    }
    return all(mallopt(name, value) == 1 for name, value in settings.items())

"""SIGTERM and SIGINT as news to read between chunks."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def noted_signals() -> Iterator[dict[str, int]]:
    """Notes SIGTERM and SIGINT instead of dying of them (in the main thread, where that is possible)."""
    received: dict[str, int] = {}
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    note = lambda number, frame: received.update(number=number)
    before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""``daag launch``: one run in several processes of this host, or in processes of several hosts by hand.

    daag launch --processes 2 daag train bc runs/maze
    daag launch --processes 2 --devices 4 daag train bc runs/maze      # four virtual devices each

and on hosts a and b, of four processes in all:

    daag launch --processes 2 --total 4 --first 0 --coordinator a:8476 daag train bc runs/maze
    daag launch --processes 2 --total 4 --first 2 --coordinator a:8476 daag train bc runs/maze

TPU pods and Slurm need no launcher: start the same command on every host (``experiments/launch``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import tyro


@dataclasses.dataclass(frozen=True)
class Launch:
    """Starts a command in several processes that form one run; they end together."""

    processes: int = 2  # on this host
    devices: int = 0  # virtual devices of each on a CPU; 0 leaves them as they are
    coordinator: str = ""  # host:port of process 0; "" means a free port of this host
    total: int = 0  # processes of all hosts; 0 means those of this one
    first: int = 0  # index of the first process on this host
    patience: float = 60.0  # seconds to save in, before what was asked to end is killed

    def __post_init__(self) -> None:
        for field, least in (("processes", 1), ("devices", 0), ("total", 0), ("first", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"{field}={getattr(self, field)} is below {least}; try {least}.")
        if self.patience < 0:
            raise ValueError(f"patience={self.patience} is below 0; try 60.")
        if self.first + self.processes > (self.total or self.processes):
            raise ValueError(
                f"first={self.first} and processes={self.processes} pass total={self.total}; "
                f"try total={self.first + self.processes}."
            )
        if self.total > self.processes and not self.coordinator:
            raise ValueError(
                f"total={self.total} needs the coordinator of all hosts; try host0:8476."
            )


def launch(arguments: Sequence[str]) -> None:
    """``daag launch [options] COMMAND ...``; exits with the code of the first process that failed."""
    options, command = split(arguments)
    settings = tyro.cli(Launch, args=options, prog="daag launch")
    if not command:
        raise ValueError(
            "launch needs a command: daag launch --processes 2 daag train bc EPISODES."
        )
    if code := run(settings, command):
        raise SystemExit(code)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options of ``launch``, and the command: it begins at the first word that is neither an option nor its value."""
    place = 0
    while place < len(arguments) and arguments[place].startswith("-"):
        if arguments[place] == "--":
            return list(arguments[:place]), list(arguments[place + 1 :])
        has_value = "=" not in arguments[place] and arguments[place] not in ("-h", "--help")
        place += 1 + has_value
    return list(arguments[:place]), list(arguments[place:])


def run(settings: Launch, command: Sequence[str]) -> int:
    """Runs the processes to their end; where one fails, the others are asked to end, too (SIGTERM, then SIGKILL)."""
    address = settings.coordinator or f"127.0.0.1:{free_port()}"
    total = settings.total or settings.processes
    processes = [
        start(settings, command, address, total, settings.first + i)
        for i in range(settings.processes)
    ]
    speakers = [
        threading.Thread(target=speak, args=(process, settings.first + i), daemon=True)
        for i, process in enumerate(processes)
    ]
    for speaker in speakers:
        speaker.start()
    with passed_on(processes):
        codes = ends(processes, settings.patience)
    for speaker in speakers:
        speaker.join()
    failed = next((code for code in codes if code), 0)
    return failed if failed >= 0 else 128 - failed  # as a shell says that a signal ended it


def start(
    settings: Launch, command: Sequence[str], address: str, total: int, index: int
) -> subprocess.Popen:
    """Starts one process."""
    from daag_jax.training.processes import ADDRESS, COUNT, INDEX  # slow to import: it loads JAX

    environ = os.environ | {ADDRESS: address, COUNT: str(total), INDEX: str(index)}
    if settings.processes > 1 and not settings.devices and Path("/dev/nvidia0").exists():
        environ["JAX_LOCAL_DEVICE_IDS"] = str(index - settings.first)  # a GPU each
    if settings.devices:
        environ["JAX_PLATFORMS"] = "cpu"
        flag = f"--xla_force_host_platform_device_count={settings.devices}"
        environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    try:
        return subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except OSError as error:
        raise ValueError(f"{shlex.join(command)} cannot be started ({error.strerror}).") from error


def speak(process: subprocess.Popen, index: int) -> None:
    """Passes on what a process says, with its index before each line."""
    for line in process.stdout:
        sys.stdout.write(f"[{index}] {line}")
        sys.stdout.flush()


def ends(processes: Sequence[subprocess.Popen], patience: float) -> list[int]:
    """Waits for all, and gives their exit codes in the order in which they ended.

    After one has failed the others may wait for it in a collective, where no signal but SIGKILL reaches them.
    """
    codes, running, news = [], list(processes), threading.Condition()
    ended: list[subprocess.Popen] = []

    def watch(process: subprocess.Popen) -> None:
        process.wait()
        with news:
            ended.append(process)
            news.notify()

    for process in processes:
        threading.Thread(target=watch, args=(process,), daemon=True).start()
    deadline = math.inf
    while running:
        left = deadline - time.monotonic()
        with news:
            if not news.wait_for(lambda: ended, None if left == math.inf else max(left, 0.0)):
                print(f"[launch] {len(running)} did not end within {patience:g} s; they are killed")
                for other in running:
                    other.kill()
                news.wait_for(lambda: ended)
            process = ended.pop(0)
        running.remove(process)
        codes.append(process.returncode)
        if process.returncode and running and deadline == math.inf:
            print(
                f"[launch] a process ended with {process.returncode}; the others are asked to end"
            )
            for other in running:
                other.terminate()
            deadline = time.monotonic() + patience
    return codes


@contextlib.contextmanager
def passed_on(processes: Sequence[subprocess.Popen]) -> Iterator[None]:
    """SIGTERM and SIGINT go to the processes, which save and end; the launcher waits for them."""

    def pass_on(number: int, frame: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, pass_on) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port() -> int:
    """A port of this host that nothing uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]

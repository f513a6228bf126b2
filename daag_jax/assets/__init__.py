"""Small trained weights that ship with the library, each with a card (``NAME.md``)."""

from __future__ import annotations

import zlib
from pathlib import Path

ASSETS = Path(__file__).parent


def asset(name: str) -> Path:
    """The path of a shipped file.

    Raises:
        FileNotFoundError: it is not there; the message says what trains it.
    """
    path = ASSETS / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{name} is not among the shipped weights {sorted(p.name for p in ASSETS.glob('*.safetensors'))}; "
            "train it with `python -m experiments.pretrain.autoencoder`, `.clip`, `.denoiser` or `.experts`; a planner "
            "with `python -m experiments.planning.maze2d` and `.ship`."
        )
    return path


def shipped_checksum(pattern: str = "*.safetensors") -> int:
    """A checksum of the shipped weights whose file names match."""
    checksum = 0
    for path in sorted(ASSETS.glob(pattern)):
        checksum = zlib.crc32(path.read_bytes(), checksum)
    return checksum

"""Compiled programs that outlive their process; to be asked for before JAX is imported."""

from __future__ import annotations

import os
from pathlib import Path


def keep_compilations() -> None:
    """Keeps what XLA compiles in ``$XDG_CACHE_HOME/daag_jax``; ``JAX_COMPILATION_CACHE_DIR`` names another folder."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(caches / "daag_jax"))

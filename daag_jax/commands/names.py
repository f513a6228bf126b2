"""Names that a user types."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(kind: str, name: str, known: Sequence[str]) -> str:
    """``name`` where it is known.

    Raises:
        ValueError: it is not; the message gives the nearest one.
    """
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    raise ValueError(
        f"there is no {kind} {name!r}; the nearest is {near!r}, all are {', '.join(known)}."
    )

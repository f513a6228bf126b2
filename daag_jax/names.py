"""Names that a user types: an unknown one is answered with the nearest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like ``name``."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)[0]


def check_name(kind: str, name: str, known: Iterable[str]) -> str:
    """``name`` where it is known.

    Raises:
        ValueError: it is not; the message gives the nearest one.
    """
    known = list(known)
    if name not in known:
        raise ValueError(
            f"there is no {kind} {name!r}; the nearest is {nearest(name, known)!r}, all are {', '.join(known)}."
        )
    return name

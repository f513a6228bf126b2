"""The sentences that a diffusion model reads about a frame: one for the background, one for each object."""

from __future__ import annotations

BACKGROUND = "a robot gripper above a table"
NO_PROMPT = ""


def object_prompt(color: str) -> str:
    """What is said of one object."""
    return f"a {color} block"

"""Models that other packages ship: MJCFs and meshes of Gymnasium and Gymnasium-Robotics, read where they lie."""

from __future__ import annotations

import importlib.util
from pathlib import Path

REQUIREMENTS = {
    "gymnasium": "gymnasium>=1.4",
    "gymnasium_robotics": "gymnasium-robotics>=1.4,<2",
}


def installed_model(package: str, path: str) -> Path:
    """The file ``path`` below ``envs`` of an installed package, which is not imported.

    Raises:
        ModuleNotFoundError: the package, or the file in it, is missing; the message says what to install.
    """
    found = importlib.util.find_spec(package)
    file = None if found is None else Path(found.origin).parent / "envs" / path
    if file is None or not file.is_file():
        raise ModuleNotFoundError(
            f"{path} is read from {package}, which is missing or has no such file: "
            f"pip install '{REQUIREMENTS[package]}'."
        )
    return file

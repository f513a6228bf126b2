"""The README's own code does what it says, in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def said_by(marker: str, statement: str) -> str:
    """What a statement behind the block with the marker prints."""
    code = next(block for block in BLOCKS if marker in block)
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # one device
    words = [sys.executable, "-c", f"{code}\n{statement}"]
    return subprocess.run(
        words, capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    ).stdout


@pytest.mark.slow
def test_the_planner_that_is_trained_there_finds_its_goals():
    shape, mean = said_by("evaluate_planner", "print(returns.shape[0], returns.mean())").split()[
        -2:
    ]
    assert int(shape) == 100 and float(mean) > 200


def test_its_worlds_show_what_they_say():
    said = said_by("render_qpos", "print(frames.rgb.shape == oracle.rgb.shape, len(frames.rgb))")
    assert said.split() == ["True", "64"]

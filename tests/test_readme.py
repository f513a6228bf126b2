"""The README's own code does what it says."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def test_the_planner_that_is_trained_there_finds_its_goals():
    code = next(block for block in BLOCKS if "evaluate_planner" in block)
    names: dict = {}
    exec(code, names)
    assert names["returns"].shape == (100,) and names["returns"].mean() > 200


def test_its_worlds_show_what_they_say():
    code = next(block for block in BLOCKS if "render_qpos" in block).replace("64", "1")
    names: dict = {}
    exec(code, names)
    assert names["frames"].rgb.shape == names["oracle"].rgb.shape

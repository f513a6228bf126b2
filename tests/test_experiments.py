"""The experiments' options can be read: a name that is not imported would show only after it was typed."""

import dataclasses
import importlib
import typing
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "experiments").rglob("*.py"))
    if "class Config" in path.read_text()
]
WITHOUT_DEFAULTS = ("experiments.scaling.programs",)  # one of the programs has to be named
WITHOUT_PRESETS = (  # of one size
    "experiments.planning.ship",
    "experiments.scaling.equality",
    "experiments.scaling.kills",
)


@pytest.mark.parametrize("name", MODULES)
def test_options_have_defaults_of_known_types(name):
    config = importlib.import_module(name).Config
    fields = dataclasses.fields(config)
    assert set(typing.get_type_hints(config)) == {field.name for field in fields}
    if name in WITHOUT_DEFAULTS:
        return
    assert dataclasses.replace(config()) == config()
    assert name in WITHOUT_PRESETS or "preset" in {field.name for field in fields}

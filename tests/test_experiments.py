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


@pytest.mark.parametrize("name", MODULES)
def test_options_have_defaults_of_known_types(name):
    config = importlib.import_module(name).Config
    assert set(typing.get_type_hints(config)) == {f.name for f in dataclasses.fields(config)}
    assert config() == config(preset=config().preset)

"""Options of experiments and benchmarks can be read: a name that is not imported would show only after it was typed."""

import dataclasses
import importlib
import typing
from pathlib import Path

import pytest

from experiments.dbc import problems
from experiments.dbc.study import Options
from experiments.planning import baselines, mazes

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


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem[0] != "_")
)
def test_benchmarks_can_be_imported(name):
    module = importlib.import_module(f"benchmarks.{name}")
    if hasattr(module, "Config"):
        assert dataclasses.replace(module.Config()) == module.Config()


def test_a_size_that_is_given_replaces_that_of_the_preset(tmp_path, monkeypatch):
    monkeypatch.setattr(problems, "DEMONSTRATIONS", tmp_path)
    preset = Options(preset="smoke").load("maze").sizes
    given = Options(preset="smoke", policy_steps=7, seeds=(3,)).load("maze").sizes
    assert given == dataclasses.replace(preset, policy_steps=7)


def test_a_baseline_is_scored_once_for_each_setting(tmp_path, monkeypatch):
    maze, calls = mazes.load("umaze", "smoke", tmp_path), []
    task = baselines.Task("maze2d-umaze", maze.env, maze.episodes, 4, runs_on=True)
    monkeypatch.setattr(baselines, "score", lambda *asked: calls.append(asked) or ([1.0], 2.0))
    ask = lambda updates: baselines.stored_score("bc", task, (0,), updates, tmp_path)
    assert ask(30) == ask(30) and ask(30)["scores"] == [1.0]
    assert len(calls) == 1
    ask(31)
    assert len(calls) == 2

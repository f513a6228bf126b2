"""Options of experiments and benchmarks can be read: a name that is not imported would show only after it was typed."""

import dataclasses
import importlib
import shlex
import typing
from pathlib import Path

import jax
import numpy as np
import pytest
import tyro

from daag_jax.types import Episode
from experiments.dbc import arms, problems
from experiments.dbc.study import Options
from experiments.planning import (
    baselines,
    conditional,
    maze2d,
    mazes,
    methods,
    runners,
    sampling,
)
from experiments.pretrain import experts
from experiments.pretrain.cards import command_of

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


def test_the_command_of_a_card_gives_its_configuration():
    sac = experts.SacConfig(width=32, learning_rate=3e-4)
    asked = experts.Config("walker2d", steps=1_200_000, stage="medium", sac=sac)
    words = shlex.split(command_of("experiments.pretrain.experts", asked, "world"))
    assert words[:4] == ["python", "-m", "experiments.pretrain.experts", "walker2d"]
    assert tyro.cli(experts.Config, args=words[3:]) == asked


def test_a_size_that_is_given_replaces_that_of_the_preset(tmp_path, monkeypatch):
    monkeypatch.setattr(problems, "DEMONSTRATIONS", tmp_path)
    preset = Options(preset="smoke").load("maze").sizes
    given = Options(preset="smoke", policy_steps=7, seeds=(3,)).load("maze").sizes
    assert given == dataclasses.replace(preset, policy_steps=7)


def test_nothing_is_a_size_too_and_less_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(problems, "DEMONSTRATIONS", tmp_path)
    options = Options(preset="smoke", weight=0.0)
    assert problems.weight_of(options.load("maze")) == 0.0
    with pytest.raises(ValueError, match="policy_steps=-5 is not positive"):
        Options(preset="smoke", policy_steps=-5).load("maze")
    raw = options.load("maze")._replace(stats=None)
    limited = raw._replace(sizes=dataclasses.replace(raw.sizes, observation_limit=10.0))
    with pytest.raises(ValueError, match="observation_limit=10.0 is in deviations"):
        arms.in_units(limited, None)


def test_one_model_may_guide_all_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(problems, "DEMONSTRATIONS", tmp_path)

    def guides(**given):
        options = Options(preset="smoke", density_steps=2, directory=str(tmp_path), **given)
        loaded = options.load("maze")
        config = arms.dbc_config(loaded.sizes, 1.0)
        return arms.train_guides(loaded, config, options.run(loaded.sizes))

    shared, own = guides(seeds=(0, 1), model_seed=7), guides(seeds=(7,))
    for many, one in zip(jax.tree.leaves(shared), jax.tree.leaves(own), strict=True):
        np.testing.assert_array_equal(many, np.repeat(one, 2, axis=0))


def test_a_baseline_is_scored_once_for_each_setting(tmp_path, monkeypatch):
    maze, calls = mazes.load("umaze", "smoke", tmp_path), []
    task = methods.Task("maze2d-umaze", "maze2d-umaze", maze.env, maze.episodes, 4, runs_on=True)
    monkeypatch.setattr(baselines, "score", lambda *asked: calls.append(asked) or ([1.0], 2.0))
    ask = lambda updates: baselines.stored_score("bc", task, (0,), updates, "cpu", tmp_path)
    assert ask(30) == ask(30) and ask(30)["scores"] == [1.0]
    assert len(calls) == 1
    ask(31)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: maze2d.Config(protocols=("one plan",)), "no protocol 'one plan'"),
        (lambda: maze2d.Config(families=("maze",)), "no family 'maze'"),
        (lambda: sampling.Config(family="multi"), "no family 'multi'"),
        (lambda: conditional.Config(layouts=("umze",)), "no layout 'umze'"),
        (lambda: baselines.Config(methods=("bc", "td3bc")), "no method 'td3bc'"),
        (lambda: runners.Config(data=("hoper-medium-ours",)), "no data set 'hoper"),
    ],
)
def test_a_misspelt_choice_is_said_before_anything_is_trained(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_data_of_policies_that_ship_no_more_are_not_read(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(runners, "collected", lambda *asked: made.append(asked) or short_episodes())
    load = lambda: runners.load("hopper-medium-ours", "smoke", tmp_path)
    load(), load()
    assert len(made) == 1
    monkeypatch.setattr(runners, "shipped_checksum", lambda pattern: 1)
    load()
    assert len(made) == 2


def short_episodes() -> Episode:
    seen = np.zeros((1, 3, 11), np.float32)
    actions, rewards = np.zeros((1, 2, 3), np.float32), np.zeros((1, 2), np.float32)
    return Episode(seen, np.zeros((1, 3, 0, 0, 0, 3), np.uint8), actions, rewards, np.array([2]))


def runner_task(rewards) -> methods.Task:
    shape = np.shape(rewards)
    seen = np.zeros((shape[0], shape[1] + 1, 2), np.float32)
    blank = np.zeros((*seen.shape[:2], 0, 0, 0, 3), np.uint8)
    length = np.full(shape[0], shape[1])
    rewards = np.asarray(rewards, np.float32)
    episodes = Episode(seen, blank, np.zeros((*shape, 1), np.float32), rewards, length)
    return methods.Task("hopper", "hopper-medium-expert-ours", None, episodes, 1)


def test_rewards_of_runners_are_scaled_for_iql_alone():
    task = runner_task([[1.0, 3.0], [0.0, 2.0]])  # returns 4 and 2
    assert methods.reward_scale("iql", task) == 500.0
    assert methods.reward_scale("td3_bc", task) == 1.0
    assert methods.reward_scale("iql", task._replace(runs_on=True)) == 1.0


def test_scales_of_returns_are_positive_where_returns_are_not():
    task = runner_task([[-100.0, -200.0], [-50.0, -50.0]])
    sequence = methods.settings("decision_transformer", task, 100, "cpu")
    assert -101.0 > sequence.target_return > -105.0 and sequence.return_scale == 300.0
    assert methods.settings("decision_diffuser", task, 100, "cpu").returns_scale > 0


def test_the_published_guide_depends_on_the_data():
    task = runner_task([[1.0, 3.0]])
    hopper = methods.settings("diffuser", task, 100, "paper")
    assert (hopper.guide_scale, hopper.guide_stop) == (0.0001, 0.25)
    other = methods.settings("diffuser", task._replace(data="walker2d-medium-ours"), 100, "paper")
    assert (other.guide_scale, other.guide_stop) == (0.1, 0.15)

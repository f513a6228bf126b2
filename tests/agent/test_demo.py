"""What the demo and the experiments share: setups are checked, results are counted and drawn."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tyro

from daag_jax.agent.demo import DemoConfig
from daag_jax.agent.demo_report import print_table, report_page, summarise
from daag_jax.agent.llm import EndpointConfig
from daag_jax.agent.memory import World
from daag_jax.agent.orchestrator import NoisyOrchestrator, RuleOrchestrator
from daag_jax.agent.reward import fingerprint, make_detector
from daag_jax.agent.setup import (
    OrchestratorConfig,
    Setup,
    SetupConfig,
    make_orchestrator,
    make_world,
    novel_captions,
    prepare,
)
from daag_jax.assets import asset
from daag_jax.evaluation import html
from daag_jax.networks.clip import weights as clip_weights

TASKS = SetupConfig.tasks


def row(task: str, episodes: int, **values) -> dict:
    counts = ("kept", "edited", "kept_valid", "edited_valid", "extracted", "extracted_valid")
    return dict.fromkeys((*counts, "succeeded_before"), 0) | {
        "task": task,
        "episodes": 8,
        "episodes_of_task": episodes,
        "reached": [0.5, 0.25],
        "success": 0.25,
        **values,
    }


class Asked(RuleOrchestrator):
    counts = Counter({"answered": 3, "not JSON": 1})


@pytest.fixture
def setup():
    world = World(None, None, None, None, Asked())
    pictures = {
        k: np.full((9, 8, 8, 3), v, np.uint8)
        for k, v in (("before", 9), ("edited", 99), ("oracle", 199))
    }
    return Setup(world, {}, {"no edits": 0.5, "edits": 0.75}, pictures)


@pytest.fixture
def arms():
    pieces = {"kept": 3, "kept_valid": 3, "edited": 1, "edited_valid": 0}
    return {
        "reward": [row(t, n) for t in TASKS for n in (8, 16)],
        "hindsight": [row(t, n, **pieces) for t in TASKS for n in (8, 16)],
    }


def test_the_table_counts_pieces_of_all_iterations_of_a_task(setup, arms):
    table = summarise(TASKS, setup, arms)["table"]
    assert [r["episodes"] for r in table] == [16] * 4
    assert [(r["kept"], r["edited"]) for r in table] == [(0, 0), (0, 0), (6, 2), (6, 2)]
    assert table[0]["label_validity"] is None and table[2]["label_validity"] == 0.75
    assert table[0]["average_precision"] is None and table[2]["average_precision"] == 0.75
    value, low, high = table[2]["success"]
    assert low < value == 0.25 < high


def test_label_validity_counts_what_earlier_tasks_gave(setup, arms):
    arms["hindsight"][2] |= {"extracted": 8, "extracted_valid": 4}
    table = summarise(TASKS, setup, arms)["table"]
    assert table[3]["extracted"] == 8 and table[3]["label_validity"] == 10 / 16


def test_outcomes_of_a_language_model_are_shown(setup, arms, capsys):
    results = summarise(TASKS, setup, arms)
    assert results["language_model"] == {"answered": 3, "not JSON": 1}
    print_table(results)
    assert "not JSON" in capsys.readouterr().out


def test_the_page_is_one_self_contained_file(setup, arms, tmp_path):
    page = report_page(TASKS, setup, arms, summarise(TASKS, setup, arms), [])
    text = html.write(page, tmp_path / "report.html").read_text()
    assert "0.25" in text and "+ hindsight augmentation" in text
    assert 'src="http' not in text and 'href="http' not in text


def test_orchestrators_are_chosen_by_name():
    assert make_orchestrator(OrchestratorConfig()) == RuleOrchestrator()
    noisy = make_orchestrator(OrchestratorConfig("noisy", p_err=0.3), seed=4)
    assert noisy == NoisyOrchestrator(p_err=0.3, seed=4)


@pytest.mark.parametrize(
    "kind, field", [("endpoint", "endpoint.model"), ("replay", "endpoint.transcript")]
)
def test_what_an_orchestrator_lacks_is_named(kind, field):
    with pytest.raises(ValueError, match=field):
        OrchestratorConfig(kind, endpoint=EndpointConfig())


def test_a_missing_transcript_is_named(tmp_path):
    config = OrchestratorConfig("replay", endpoint=EndpointConfig(transcript=str(tmp_path / "no")))
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "no")):
        make_orchestrator(config)


def test_a_last_task_without_a_new_subgoal_is_refused():
    assert novel_captions(TASKS)[-1] == "The green object is on top of the red object"
    with pytest.raises(ValueError, match="no sub-goal of its own"):
        novel_captions((TASKS[0], TASKS[0]))


@pytest.mark.parametrize(
    "values, said",
    [
        ({"detectors": ("edit",)}, "'edits'"),
        ({"means": "paint"}, "means 'paint'"),
        ({"edited": 0}, "edited=0"),
        ({"tasks": ("Grasp the pink object",)}, "'pink'"),
    ],
)
def test_a_mistake_in_a_setup_is_named_before_anything_is_built(values, said):
    with pytest.raises(ValueError, match=said):
        SetupConfig(**values)


def test_the_arms_of_the_demo_need_both_detectors():
    with pytest.raises(ValueError, match="no edits"):
        DemoConfig(setup=SetupConfig(detectors=("edits",)))


def test_a_setup_is_built_once(setup, tmp_path, monkeypatch):
    config = SetupConfig(detectors=("edits",))
    world = make_world(replace(config, means="recolour"))
    clip_params = clip_weights.load(asset("clip.safetensors"), config.detector.clip)
    detector = make_detector(clip_params, world.env.captions, config.detector)
    built = setup._replace(world=world, detectors={"edits": detector})
    monkeypatch.setattr("daag_jax.agent.setup.build", lambda config, say: built)
    monkeypatch.setattr("daag_jax.agent.setup.make_world", lambda config: world)
    prepare(config, tmp_path)
    monkeypatch.setattr("daag_jax.agent.setup.build", None)
    again = prepare(replace(config, means="oracle"), tmp_path)
    assert fingerprint(again.detectors["edits"]) == fingerprint(detector)
    assert again.precisions == built.precisions
    np.testing.assert_array_equal(again.pictures["edited"], built.pictures["edited"])
    with pytest.raises(ValueError, match="another configuration"):
        prepare(replace(config, labelled=7), tmp_path)


def test_options_of_the_demo_reach_the_setup():
    config = tyro.cli(
        DemoConfig, args=["--seed", "3", "--orchestrator.kind", "noisy", "--episodes", "8"]
    )
    expected = replace(DemoConfig().setup, seed=3, orchestrator=OrchestratorConfig("noisy"))
    assert config == DemoConfig(episodes=8, setup=expected)

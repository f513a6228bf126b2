"""The lifelong loop end to end, tiny: shipped CLIP, a recolouring editor, real physics; interrupted and continued."""

import signal
import subprocess
import sys
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.agent.augmenter import make_augmenter, make_looker
from daag_jax.agent.daag import memory_of, run_daag
from daag_jax.agent.daag_config import DaagConfig
from daag_jax.agent.demo_report import edited_films
from daag_jax.agent.hindsight import HindsightConfig
from daag_jax.agent.memory import World
from daag_jax.agent.programs import Programs, return_then_explore
from daag_jax.agent.reward import DetectorConfig, make_detector, make_scorer
from daag_jax.algorithms.parts.action_head import Exploration
from daag_jax.algorithms.self_imitation import SelfImitationConfig
from daag_jax.assets import asset
from daag_jax.data.disk import write_episodes
from daag_jax.envs.tasks.rgb_stacking import RgbStacking, RgbStackingConfig, parse_task
from daag_jax.envs.tasks.rgb_stacking_scenes import random_scene
from daag_jax.networks.clip import weights
from daag_jax.networks.clip.config import COMPACT_CLIP
from daag_jax.training.checkpoint import Checkpoints
from daag_jax.types import Episode

POLICY = SelfImitationConfig(
    width=4, hidden_dims=(16,), stem_stride=4, binary_dims=(2,), exploration=Exploration(0.1)
)
CONFIG = DaagConfig(
    tasks=("Grasp the red object", "Grasp the green object"),
    iterations=2,
    episodes=4,
    train_steps=2,
    batch=4,
    capacity=64,
    policy=POLICY,
)


class Stop(Exception):
    """The end of an interrupted run."""


@pytest.fixture(scope="module")
def parts():
    env = RgbStacking(RgbStackingConfig(cameras=("front_left",), horizon=1))
    world = World(
        env,
        jax.jit(make_scorer(DetectorConfig())),
        make_looker(env),
        make_augmenter("recolour", env, None),
    )
    detector = make_detector(
        weights.load(asset("clip.safetensors"), COMPACT_CLIP), env.captions, DetectorConfig()
    )
    # so low that an untrained detector sees something in most frames
    detector = detector._replace(thresholds=jnp.full_like(detector.thresholds, 0.02))
    return world, detector, Programs(world, CONFIG)


@pytest.fixture(scope="module")
def whole(parts):
    world, detector, programs = parts
    return run_daag(world, detector, CONFIG, programs=programs)


def test_every_episode_is_accounted_for(whole):
    assert [row["task"] for row in whole] == [t for t in CONFIG.tasks for _ in range(2)]
    for row in whole:
        outcomes = row["outcomes"]
        counted = sum(
            outcomes.get(name, 0) for name in ("matched", "achieved other", "achieved nothing")
        )
        assert counted == row["episodes"] == CONFIG.episodes
        assert row["kept_valid"] <= row["kept"] and row["edited_valid"] <= row["edited"]
        assert len(row["reached"]) == 1


def test_an_interrupted_run_ends_as_an_uninterrupted_one(parts, whole, tmp_path):
    world, detector, programs = parts
    seen = []

    def interrupt(row):
        seen.append(row)
        if len(seen) == 3:
            raise Stop

    with pytest.raises(Stop):
        run_daag(world, detector, CONFIG, tmp_path, interrupt, programs)
    rows = run_daag(world, detector, CONFIG, tmp_path, programs=programs)
    np.testing.assert_equal(rows, whole)
    with pytest.raises(ValueError, match="another configuration"):
        run_daag(world, detector, replace(CONFIG, seed=1), tmp_path, programs=programs)
    other = detector._replace(thresholds=detector.thresholds + 0.1)
    with pytest.raises(ValueError, match="another detector"):
        run_daag(world, other, CONFIG, tmp_path, programs=programs)
    with pytest.raises(ValueError, match="another world"):
        elsewhere = world._replace(identity="another editor")
        run_daag(elsewhere, detector, CONFIG, tmp_path, programs=programs)


def test_the_reward_arm_needs_no_detector(parts):
    world, _, programs = parts
    rows = run_daag(
        world, None, replace(CONFIG, arm="reward", tasks=CONFIG.tasks[:1]), programs=programs
    )
    assert all(row["edited"] == 0 and row["kept"] == row["rewarded"] for row in rows)


def block_of(env, num=3, success=False):
    """Episodes of one decision in random scenes, as they are stored."""
    keys = jax.random.split(jax.random.key(5), num)
    qpos = np.asarray(jax.vmap(random_scene)(keys)[0])
    images = np.asarray(
        jax.jit(jax.vmap(lambda q: env.render_qpos(q, env.default_colors).rgb))(qpos)
    )
    pair = lambda x: np.stack([x, x], axis=1)
    extras = {
        "qpos": pair(qpos),
        "labels": np.zeros((num, 2, len(env.captions)), bool),
        "success": np.full(num, success),
    }
    observations = np.zeros((num, 2, env.spec.observation_dim), np.float32)
    actions, rewards = np.zeros((num, 1, 3), np.float32), np.full((num, 1), success, np.float32)
    return Episode(observations, pair(images), actions, rewards, np.ones(num, np.int32), extras)


def test_a_reward_counts_for_the_task_it_was_given_for(parts):
    world, _, _ = parts
    memory = memory_of(world, None, replace(CONFIG, arm="reward"))
    index = memory.add(block_of(world.env, success=True), CONFIG.tasks[0])
    lessons = [memory.lesson(index, task) for task in CONFIG.tasks]
    assert [lesson.counts["kept"] for lesson in lessons] == [3, 0]
    assert [lesson.counts["kept valid"] for lesson in lessons] == [3, 0]


def test_edited_episodes_are_shown_beside_their_oracle(parts, tmp_path):
    world, detector, _ = parts
    write_episodes(tmp_path / "0.safetensors", block_of(world.env), CONFIG.tasks[0])
    seen = np.zeros((64, len(world.env.captions)), np.float32)
    seen[1::2, world.env.captions.index("The robot is grasping the red object")] = 0.9
    memory = memory_of(world._replace(scores=lambda *_: seen), detector, CONFIG)
    films = edited_films(memory, [tmp_path / "0.safetensors"], CONFIG.tasks[1], most=2)
    assert len(films) == 2
    assert all(film.caption.startswith("The robot is grasping the red object →") for film in films)


@pytest.mark.slow
def test_a_policy_that_is_told_its_task_runs_and_hears_it(parts):
    world, detector, _ = parts
    told = world._replace(instruct=lambda task: np.float32([len(task), 1, 0]) / 32)
    programs = Programs(told, CONFIG)
    rows = run_daag(told, detector, replace(CONFIG, iterations=1), programs=programs)
    assert len(rows) == 2 and rows[0]["buffer"] and rows[0]["loss"] is not None
    task, calm = parse_task(CONFIG.tasks[0], told.env.config.colors), np.zeros((4, 1), np.float32)
    act = lambda instruction: (
        programs.collect(
            programs.init(jax.random.key(0)), jax.random.key(1), task, instruction, calm
        ).actions
    )
    red, green = (programs.instruction(name) for name in CONFIG.tasks)
    assert not np.array_equal(act(red), act(green))


def test_episodes_follow_the_policy_first_and_explore_then(key):
    scales = return_then_explore(key, 200, 4)
    explores = scales > 1.0
    assert not explores[:, 0].any() and (np.diff(explores.astype(int), axis=1) >= 0).all()
    shares = explores.mean(axis=0)
    np.testing.assert_allclose(shares, [0.0, 0.25, 0.5, 0.75], atol=0.1)


def test_what_is_missing_is_named(parts):
    world, _, programs = parts
    with pytest.raises(ValueError, match="detector"):
        run_daag(world, None, CONFIG, programs=programs)
    with pytest.raises(ValueError, match="arm 'magic'"):
        DaagConfig(arm="magic")
    with pytest.raises(ValueError, match="epsilon"):
        DaagConfig(policy=replace(POLICY, exploration=Exploration()))
    with pytest.raises(ValueError, match="policy.history=2"):
        DaagConfig(policy=replace(POLICY, history=2))
    with pytest.raises(ValueError, match="'Polish the red object'"):
        tasks = (CONFIG.tasks[0], "Polish the red object")
        run_daag(world, None, replace(CONFIG, arm="reward", tasks=tasks), programs=programs)


@pytest.mark.parametrize(
    "kind, values",
    [
        (HindsightConfig, {"swap_mode": "shuffle"}),
        (HindsightConfig, {"discount": 1.5}),
        (HindsightConfig, {"max_edits": -1}),
        (DetectorConfig, {"precision": 0.0}),
        (DetectorConfig, {"prevalence": 1.0}),
    ],
)
def test_a_choice_out_of_range_is_named(kind, values):
    with pytest.raises(ValueError, match=next(iter(values))):
        kind(**values)


@pytest.mark.slow
def test_a_killed_process_continues_bit_for_bit(tmp_path):
    """SIGKILL at a random moment, start again: the rows and the last state of a run that nobody killed."""
    code = (
        "import sys, json; sys.path.insert(0, 'tests/agent'); import test_daag as t;"
        "world, detector, programs = t.parts.__wrapped__();"
        "config = t.replace(t.CONFIG, iterations=8);"
        "rows = t.run_daag(world, detector, config, sys.argv[1], lambda r: print('row', flush=True), programs);"
        "print(json.dumps(rows))"
    )
    start = lambda folder: subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / folder)], stdout=subprocess.PIPE, text=True
    )
    reference = start("whole").communicate()[0].splitlines()[-1]
    killed = start("killed")
    killed.stdout.readline()  # the first iteration is done
    time.sleep(np.random.default_rng().uniform(0, 2))
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL  # it had not finished
    assert start("killed").communicate()[0].splitlines()[-1] == reference
    last = lambda folder: Checkpoints(tmp_path / folder / "checkpoints").restore().state
    jax.tree.map(np.testing.assert_array_equal, last("killed"), last("whole"))


def test_programs_that_were_compiled_ahead_are_not_compiled_again(parts, caplog):
    world, _, _ = parts
    with jax.log_compiles():
        programs = Programs(world, CONFIG)
        programs.compile()
        task, scales = CONFIG.tasks[0], np.zeros((CONFIG.episodes, 1), np.float32)
        parsed = parse_task(task, world.env.config.colors)
        policy = programs.init(jax.random.key(1))
        told = programs.instruction(task)
        programs.collect(policy, jax.random.key(2), parsed, told, scales)
    compiled = [r.message for r in caplog.records if "Finished XLA compilation" in r.message]
    assert sum("jit(local)" in message for message in compiled) == 1, compiled

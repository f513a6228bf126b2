"""The Fetch worlds step as gymnasium-robotics does, lie in the boxes of the paper, and their experts succeed."""

import types

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from daag_jax.envs import installed
from daag_jax.envs.env import Env
from daag_jax.envs.experts.fetch import scripted
from daag_jax.envs.host_physics import HostPhysics
from daag_jax.envs.tasks.fetch import (
    GOAL_BOX,
    GOAL_CENTRE,
    GOAL_HEIGHTS,
    OBJECT_BOX,
    OBJECT_CENTRE,
    Fetch,
    FetchConfig,
    seen,
    tilt_of,
)
from daag_jax.evaluation.outcomes import attempts, demonstrations

pytest.importorskip("gymnasium_robotics")

TASKS = ("pick", "push")
TOLERANCE = 1e-5  # [m] and [rad]; 5e-7 to 2e-6 are seen: the states are float32
QUICK = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="module", params=TASKS)
def world(request):
    """A world, its compiled reset and step."""
    env = Fetch(FetchConfig(request.param))
    reset = jax.jit(lambda seed: env.reset(jax.random.key(seed)), compiler_options=QUICK)
    return env, reset, jax.jit(env.step, compiler_options=QUICK)


@pytest.fixture
def gym_env(world, monkeypatch):
    """The same task in gymnasium-robotics, whose look-ups compare enums as MuJoCo no longer lets them."""
    import gymnasium
    import gymnasium_robotics
    from gymnasium_robotics.utils import mujoco_utils

    joints = {name: int(value) for name, value in mujoco.mjtJoint.__members__.items()}
    stand_in = types.SimpleNamespace(**vars(mujoco))
    stand_in.mjtJoint = types.SimpleNamespace(**joints)
    monkeypatch.setattr(mujoco_utils, "mujoco", stand_in)
    gymnasium.register_envs(gymnasium_robotics)
    name = {"pick": "FetchPickAndPlace-v4", "push": "FetchPush-v4"}[world[0].config.task]
    return gymnasium.make(name).unwrapped


def gym_started(reference, on_table, goal):
    """Puts the object and the goal of gymnasium-robotics, and returns what is observed."""
    reference.reset(seed=0)
    reference.data.joint("object0:joint").qpos[:2] = on_table
    mujoco.mj_forward(reference.model, reference.data)
    reference.goal = np.asarray(goal, np.float64)
    return gym_seen(reference._get_obs())


def gym_seen(observed):
    return np.concatenate([observed["observation"][:13], observed["desired_goal"]])


def gym_stepped(reference, action):
    padded = np.zeros(4)
    padded[: len(action)] = action
    observed, _, _, _, info = reference.step(padded)
    return gym_seen(observed), info["is_success"]


@pytest.mark.parametrize("driver", ["expert", "random"])
def test_steps_agree_with_gymnasium_robotics(world, gym_env, driver, key):
    env, reset, step = world
    expert = scripted(env)
    act = jax.jit(expert.act, compiler_options=QUICK)
    state = reset(0)
    memory = expert.start(state, key)
    at = seen(state.obs)
    expected = gym_started(gym_env, at.object[:2], at.goal)
    np.testing.assert_allclose(state.obs, expected, atol=TOLERANCE)
    rng, successes = np.random.default_rng(0), 0
    for _ in range(25 if driver == "random" else 36):  # pick grasps after 20, both arrive by 36
        action, memory = act(memory, state, key)
        if driver == "random":
            action = jnp.asarray(rng.uniform(-1, 1, env.spec.action_dim), jnp.float32)
        state = step(state, action)
        expected, is_success = gym_stepped(gym_env, np.asarray(action))
        np.testing.assert_allclose(state.obs, expected, atol=TOLERANCE)
        assert state.metrics["success"] == is_success
        successes += is_success
    assert driver == "random" or successes


def test_an_episode_begins_where_that_of_gymnasium_robotics_does(world, gym_env):
    begin = world[0].begin
    np.testing.assert_allclose(begin.qpos, gym_env.initial_qpos, atol=1e-12)
    np.testing.assert_allclose(begin.qvel, gym_env.initial_qvel, atol=1e-12)
    np.testing.assert_allclose(begin.gripper, gym_env.initial_gripper_xpos, atol=1e-12)
    np.testing.assert_allclose(begin.height, gym_env.height_offset, atol=1e-12)


def test_sizes_are_those_of_the_paper(world):
    env, reset, _ = world
    state = reset(0)
    is_pick = env.config.task == "pick"
    assert isinstance(env, Env)
    assert env.spec[:2] == (16, 4 if is_pick else 3)
    assert env.horizon == (50 if is_pick else 60)
    assert [len(part) for part in seen(state.obs)] == [3, 3, 3, 2, 2, 3]
    assert state.obs.dtype == jnp.float32 and state.obs.shape == (16,)
    assert not state.done and not state.info["steps"]


def test_objects_and_goals_fill_boxes_that_grow_with_noise(world):
    task = world[0].config.task
    for noise in (1.0, 2.0):
        env = Fetch(FetchConfig(task, noise))
        resets = jax.jit(jax.vmap(env.reset), compiler_options=QUICK)
        at = seen(resets(jax.random.split(jax.random.key(1), 256)).obs)
        for points, centre, box in (
            (at.object, OBJECT_CENTRE, OBJECT_BOX),
            (at.goal, GOAL_CENTRE, GOAL_BOX),
        ):
            offsets = np.asarray(points)[:, :2] - env.begin.gripper[:2] - np.array(centre)
            low, high = np.array(box) * noise
            assert (offsets >= low - 1e-6).all() and (offsets <= high + 1e-6).all()
            np.testing.assert_allclose(offsets.min(0), low, atol=5e-3 * noise)
            np.testing.assert_allclose(offsets.max(0), high, atol=5e-3 * noise)
        height = env.begin.height + GOAL_HEIGHTS[task]
        np.testing.assert_allclose(at.goal[:, 2], height, atol=1e-6)
        assert abs(np.corrcoef(at.object[:, 0], at.goal[:, 0])[0, 1]) < 0.2


def test_keys_and_actions_alone_decide_what_happens(world):
    env, reset, step = world
    action = jnp.full((env.spec.action_dim,), 0.3)
    one, other, another = (step(reset(seed), action) for seed in (0, 0, 9))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert not jnp.array_equal(one.obs, another.obs)


def test_a_batch_of_any_number_of_threads_equals_single_worlds(world):
    env, reset, step = world
    states = jax.vmap(reset)(jnp.arange(3))
    actions = jax.random.uniform(jax.random.key(3), (3, env.spec.action_dim), minval=-1.0)
    alone = [
        step(jax.tree.map(lambda x, i=i: x[i], states), actions[i]).pipeline_state for i in range(3)
    ]
    for num_threads in (1, 3):
        threaded = Fetch(env.config)
        threaded.physics = HostPhysics(threaded.physics.model, num_threads)
        batched = jax.jit(jax.vmap(threaded.step), compiler_options=QUICK)
        batch = batched(states, actions).pipeline_state
        for i in range(3):
            np.testing.assert_array_equal(batch.qpos[i], alone[i].qpos)
            np.testing.assert_array_equal(batch.qvel[i], alone[i].qvel)


def test_an_episode_ends_at_its_horizon(key):
    env = Fetch(FetchConfig("push", horizon=2))
    state, step = env.reset(key), jax.jit(env.step, compiler_options=QUICK)
    for expected in (0.0, 1.0):
        state = step(state, jnp.zeros(3))
        assert state.done == expected and state.reward == 0.0


def test_actions_beyond_one_are_ones(world):
    env, reset, step = world
    ones = jnp.ones(env.spec.action_dim)
    np.testing.assert_array_equal(step(reset(0), 5 * ones).obs, step(reset(0), ones).obs)


def test_tilt_is_the_first_two_euler_angles():
    rng = np.random.default_rng(0)
    from gymnasium_robotics.utils import rotations

    for _ in range(20):
        matrix = np.empty(9)
        quaternion = rng.normal(size=4)
        mujoco.mju_quat2Mat(matrix, quaternion / np.linalg.norm(quaternion))
        expected = rotations.mat2euler(matrix.reshape(3, 3))[:2]
        tilt = tilt_of(jnp.asarray(matrix.reshape(3, 3)[:, 2]))
        np.testing.assert_allclose(tilt, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "slide"}, "task 'slide' is unknown; use one of"),
        ({"noise": 0.0}, "noise 0.0 is not positive"),
        ({"noise": float("nan")}, "noise nan is not positive"),
        ({"horizon": 0}, "horizon 0 is not positive"),
    ],
)
def test_what_cannot_be_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        FetchConfig(**changes)


def test_a_missing_robot_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install 'gymnasium-robotics"):
        Fetch()


def test_the_expert_succeeds_with_actions_inside_the_bounds(world):
    env = world[0]
    attempt = lambda key: attempts(env, scripted(env), key, 2)
    episodes = jax.jit(attempt, compiler_options=QUICK)(jax.random.key(5))
    assert episodes.extras["accepted"].all() and episodes.extras["success"].all()
    assert (np.abs(episodes.actions) <= 1.0).all()
    np.testing.assert_array_equal(episodes.rewards.sum(axis=1), 1.0)


@pytest.mark.slow
def test_sixty_demonstrations_are_as_those_of_the_paper(world):
    env = world[0]
    episodes = jax.jit(lambda key: attempts(env, scripted(env), key, 60))(jax.random.key(0))
    assert episodes.extras["accepted"].all()
    assert 32.5 < episodes.length.mean() < 35.5  # 10 000 / 303 = 33.0 in the file of pick
    mask = np.arange(episodes.actions.shape[1])[None] < episodes.length[:, None]
    deviation = np.asarray(episodes.actions)[mask].std(axis=0)
    expected = {"pick": (0.09, 0.44, 0.30, 0.03), "push": (0.12, 0.58, 0.19)}[env.config.task]
    np.testing.assert_allclose(deviation, expected, atol=0.02)


@pytest.mark.slow
def test_a_data_set_is_the_same_bits_again(world):
    env = world[0]
    one, other = (demonstrations(env, scripted(env), 0, 303) for _ in range(2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert 9_500 < one.length.sum() < 11_000

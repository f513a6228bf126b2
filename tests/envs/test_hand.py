"""HandRotate: sizes and layout, keys, gymnasium-robotics step by step, success, ranges; and an expert that turns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.envs.env import Env
from daag_jax.envs.physics import PhysicsState
from daag_jax.envs.tasks.hand_rotate import (
    PALM_HEIGHT,
    SUCCESS_ANGLE,
    HandRotate,
    HandRotateConfig,
    about_z,
    angle_between,
    hand_model,
)
from daag_jax.envs.worlds import make_expert, make_world

pytest.importorskip("gymnasium_robotics")
QUICK = {"xla_backend_optimization_level": 0}
NUM = 4
ENV = HandRotate(HandRotateConfig(horizon=3))
RESET = jax.jit(jax.vmap(ENV.reset), compiler_options=QUICK)
STEP = jax.jit(jax.vmap(ENV.step), compiler_options=QUICK)


def fresh(seed):
    return RESET(jax.random.split(jax.random.key(seed), NUM))


@pytest.fixture(scope="module")
def states():
    return fresh(0)


def placed(states, goal_angle, block_angle):
    """The states with another goal, and their blocks turned about z where they lie."""
    quats = about_z(jnp.full((NUM,), block_angle))
    qpos = states.pipeline_state.qpos.at[:, 27:31].set(quats)
    info = {**states.info, "goal": about_z(jnp.full((NUM,), goal_angle))}
    return states.replace(pipeline_state=states.pipeline_state._replace(qpos=qpos), info=info)


def test_the_world_has_the_layout_of_the_paper(states):
    assert isinstance(ENV, Env)
    assert (ENV.spec.observation_dim, ENV.spec.action_dim) == (68, 20)
    physics, obs = states.pipeline_state, states.obs
    np.testing.assert_array_equal(obs[:, :24], physics.qpos[:, :24])
    np.testing.assert_array_equal(obs[:, 24:54], physics.qvel)
    np.testing.assert_array_equal(obs[:, 54:61], physics.qpos[:, 24:])
    np.testing.assert_array_equal(obs[:, 61:64], 0.0)
    np.testing.assert_array_equal(obs[:, 64:], states.info["goal"])
    assert make_world("hand-rotate").horizon == 50


def test_keys_decide_the_state(states):
    np.testing.assert_array_equal(fresh(0).obs, states.obs)
    assert len(np.unique(states.obs, axis=0)) == NUM
    assert not np.isin(fresh(1).obs[:, 54:61], states.obs[:, 54:61]).any()


def test_the_block_starts_in_the_palm_and_the_goal_in_its_range(states):
    both = jax.tree.map(lambda *x: jnp.concatenate(x), states, fresh(1))
    assert (both.pipeline_state.qpos[:, 26] > PALM_HEIGHT).all()
    w, x, y, z = np.asarray(both.info["goal"]).T
    angles = 2.0 * np.arctan2(z, w)
    assert (angles > np.pi / 3).all() and (angles < 2 * np.pi / 3).all() and np.ptp(angles) > 0.3
    assert not x.any() and not y.any()
    assert not np.asarray(both.done).any()


def test_without_noise_all_blocks_start_alike():
    env = HandRotate(HandRotateConfig(initial_angle=0.0, noise=0.0))
    keys = jax.random.split(jax.random.key(3))
    first = jax.jit(jax.vmap(env.reset), compiler_options=QUICK)(keys).obs[:, :61]
    np.testing.assert_allclose(first[0], first[1], atol=1e-6)


@pytest.fixture
def theirs(monkeypatch):
    """The environment of gymnasium-robotics, whose access to joints fails with MuJoCo 3.17 and is replaced."""
    import gymnasium
    import gymnasium_robotics
    from gymnasium_robotics.utils import mujoco_utils

    def set_joint_qpos(model, data, name, value):
        data.joint(name).qpos[:] = value

    joint = {
        "get_joint_qpos": lambda model, data, name: data.joint(name).qpos.copy(),
        "get_joint_qvel": lambda model, data, name: data.joint(name).qvel.copy(),
        "set_joint_qpos": set_joint_qpos,
    }
    for name, function in joint.items():
        monkeypatch.setattr(mujoco_utils, name, function)
    gymnasium.register_envs(gymnasium_robotics)
    env = gymnasium.make("HandManipulateBlockRotateZ-v1").unwrapped
    env.reset(seed=0)
    return env


def test_steps_agree_with_gymnasium_robotics(theirs, states):
    copies = lambda x: jnp.tile(jnp.asarray(x, jnp.float32)[None], (NUM, 1))
    physics = PhysicsState(
        *map(copies, (theirs.data.qpos[:31], theirs.data.qvel[:30], np.zeros(20), np.zeros(30)))
    )
    goal = theirs.goal[3:]
    ours = states.replace(pipeline_state=physics, info={**states.info, "goal": copies(goal)})
    for action in np.random.default_rng(0).uniform(-0.6, 0.6, (3, 20)).astype(np.float32):
        ours, seen = STEP(ours, copies(action)), theirs.step(action)[0]
        obs = np.asarray(ours.obs[0])
        np.testing.assert_allclose(obs[:24], seen["observation"][:24], atol=1e-3)
        np.testing.assert_allclose(obs[24:54], seen["observation"][24:54], atol=5e-2)
        np.testing.assert_allclose(obs[54:61], seen["observation"][54:], atol=1e-3)
        angle = theirs._goal_distance(seen["achieved_goal"], seen["desired_goal"])[1]
        error = np.minimum(angle, 2.0 * np.pi - angle)
        np.testing.assert_allclose(ours.metrics["rotation_error"][0], error, atol=2e-3)


def test_an_action_names_joint_targets_between_the_ends_of_their_ranges():
    low, high = hand_model().actuator_ctrlrange.T
    np.testing.assert_allclose(ENV.targets(-2.0 * jnp.ones((20,))), low, atol=1e-6)
    np.testing.assert_allclose(ENV.targets(jnp.ones((20,))), high, atol=1e-6)
    np.testing.assert_allclose(ENV.targets(jnp.zeros((20,))), (low + high) / 2, atol=1e-6)


def test_the_wanted_rotation_ends_the_episode_with_reward_one(states):
    reached = STEP(placed(states, 1.2, 1.2), jnp.zeros((NUM, 20)))
    missed = STEP(placed(states, 1.2, 0.8), jnp.zeros((NUM, 20)))
    assert (reached.metrics["rotation_error"] < SUCCESS_ANGLE).all()
    assert (missed.metrics["rotation_error"] > SUCCESS_ANGLE).all()
    for seen, expected in ((reached, 1.0), (missed, 0.0)):
        for value in (seen.reward, seen.done, seen.metrics["success"]):
            np.testing.assert_array_equal(value, expected)


def test_the_episode_ends_at_its_horizon(states):
    for n in range(ENV.horizon):
        assert not np.asarray(states.done).any(), n
        states = STEP(states, jnp.zeros((NUM, 20)))
    assert np.asarray(states.done).all() and not np.asarray(states.reward).any()


def test_the_angle_between_rotations_is_the_shorter_way_round():
    a, b = about_z(jnp.float32(0.2)), about_z(jnp.float32(1.5))
    np.testing.assert_allclose(angle_between(a, b), 1.3, atol=1e-6)
    np.testing.assert_allclose(angle_between(a, -b), 1.3, atol=1e-6)
    np.testing.assert_allclose(angle_between(a, a), 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial_angle": -0.1}, "initial_angle -0.1"),
        ({"goal_low": 2.0, "goal_high": 1.0}, "goal_low 2.0 and goal_high 1.0"),
        ({"noise": -1.0}, "noise -1.0"),
        ({"horizon": 0}, "horizon 0"),
    ],
)
def test_a_value_that_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        HandRotateConfig(**changes)


def test_the_expert_turns_the_block_towards_the_goal(states):
    env = HandRotate()
    expert = make_expert("hand-rotate", env)

    def step(states, _):
        actions, _ = jax.vmap(lambda state: expert.act((), state, jax.random.key(0)))(states)
        return jax.vmap(env.step)(states, actions), None

    after, _ = jax.jit(lambda states: jax.lax.scan(step, states, None, length=8))(states)
    turned = states.metrics["rotation_error"] - after.metrics["rotation_error"]
    assert (turned > 0.05).all() and turned.mean() > 0.1

"""HalfCheetah, Walker2d, Hopper and AntReach agree with Gym's own worlds, and their experts with their cards."""

import json
import re

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.assets import ASSETS
from daag_jax.envs.env import Env
from daag_jax.envs.experts.trained import WORLD_NAMES, mean_action, trained
from daag_jax.envs.tasks import ant_reach, locomotion
from daag_jax.envs.tasks.ant_reach import AntReach, AntReachConfig
from daag_jax.envs.tasks.locomotion import (
    HalfCheetah,
    HalfCheetahConfig,
    Hopper,
    HopperConfig,
    Walker2d,
    Walker2dConfig,
)
from daag_jax.envs.worlds import make_expert, make_world
from daag_jax.evaluation.outcomes import attempts

RUNNERS = {
    "HalfCheetah-v5": (HalfCheetah, HalfCheetahConfig, "half_cheetah.xml"),
    "Walker2d-v5": (Walker2d, Walker2dConfig, "walker2d.xml"),
    "Hopper-v5": (Hopper, HopperConfig, "hopper.xml"),
}
NAMES = sorted({*WORLD_NAMES.values()} - {"hand-rotate"})  # which has tests of its own
SHIPPED = [name for name in NAMES if (ASSETS / f"expert_{name}.safetensors").is_file()]


def beside_gym(name: str, key, num_steps: int, scale: float):
    """Observations, rewards and ends of ours and of Gym's under the same actions, from the same state."""
    cls, config, xml = RUNNERS[name]
    env, gym = cls(config()), gymnasium.make(name, xml_file=xml).unwrapped
    reset_key, action_key = jax.random.split(key)
    state = jax.jit(env.reset)(reset_key)
    gym.reset(seed=0)
    gym.set_state(*(np.asarray(x, np.float64) for x in state.pipeline_state[:2]))
    shape = (num_steps, env.spec.action_dim)
    actions = scale * jax.random.uniform(action_key, shape, minval=-1.0)
    step = jax.jit(env.step)
    ours, theirs = [], []
    for action in actions:
        state = step(state, action)
        ours.append((np.asarray(state.obs), float(state.reward), bool(state.done)))
        theirs.append(gym.step(np.asarray(action, np.float64))[:3])
    return ours, theirs


@pytest.mark.parametrize("name", RUNNERS)
def test_a_runner_agrees_with_gym_step_by_step(name, key):
    ours, theirs = beside_gym(name, key, num_steps=20, scale=0.5)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine[0], other[0], atol=5e-3)
        paid = other[1] + float(other[2])  # v4 pays for being alive at the fall too, v5 does not
        assert abs(mine[1] - paid) < 5e-3
        assert mine[2] == other[2]


@pytest.mark.parametrize("name", ["Walker2d-v5", "Hopper-v5"])
def test_what_walks_falls_when_gyms_does(name, key):
    ours, theirs = beside_gym(name, key, num_steps=60, scale=1.0)
    falls = [next(i for i, step in enumerate(run) if step[2]) for run in (ours, theirs)]
    assert falls[0] == falls[1] > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_world_keeps_its_contract(name, key):
    env = make_world(name)
    assert isinstance(env, Env)
    state = jax.jit(env.reset)(key)
    after = jax.jit(env.step)(state, jnp.full(env.spec.action_dim, 0.1))
    assert jax.tree.structure(state) == jax.tree.structure(after)
    assert state.obs.shape == after.obs.shape == (env.spec.observation_dim,)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, after)
    assert int(after.info["steps"]) == 1 and float(after.metrics["success"]) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_an_action_beyond_the_bounds_is_one_at_the_bounds(name, key):
    env = make_world(name)
    state, step = jax.jit(env.reset)(key), jax.jit(env.step)
    far, near = (step(state, jnp.full(env.spec.action_dim, x)) for x in (3.0, 1.0))
    assert jnp.array_equal(far.obs, near.obs) and far.reward == near.reward


def test_an_episode_ends_at_the_horizon(key):
    env = HalfCheetah(HalfCheetahConfig(horizon=2))
    state, step = jax.jit(env.reset)(key), jax.jit(env.step)
    dones = []
    for _ in range(2):
        state = step(state, jnp.zeros(6))
        dones.append(float(state.done))
    assert dones == [0.0, 1.0]


def test_an_ant_observes_its_body_its_goal_and_the_way_between(key):
    env = AntReach(AntReachConfig())
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    state = step(reset(key), jnp.full(8, 0.5))
    physics, goal = state.pipeline_state, state.info["goal"]
    parts = jnp.split(state.obs, [13, 15, 20, 34, 40])
    expected = (
        physics.qpos[2:],
        goal,
        jnp.asarray(ant_reach.GOAL_REST),
        physics.qvel,
        jnp.zeros(6),
        goal - physics.qpos[:2],
    )
    for part, wanted in zip(parts, expected, strict=True):
        assert jnp.array_equal(part, wanted)
    assert abs(float(jnp.linalg.norm(goal)) - ant_reach.RADIUS) < 1e-5 and goal[1] >= 0


def test_an_ant_moves_as_mujoco_says(key):
    import mujoco

    env = AntReach(AntReachConfig(spawn_noise=0.01))
    state = jax.jit(env.reset)(key)
    model = locomotion.gym_model("ant.xml")
    model.opt.timestep = 0.02
    data = mujoco.MjData(model)
    data.qpos[:], data.ctrl[:] = state.pipeline_state.qpos, 0.3
    mujoco.mj_step(model, data, 5)
    after = jax.jit(env.step)(state, jnp.full(8, 0.3))
    np.testing.assert_allclose(after.pipeline_state.qpos, data.qpos, atol=1e-4)
    distance = np.linalg.norm(np.asarray(state.info["goal"]) - data.qpos[:2])
    assert abs(float(after.reward) - (1 - distance / 5 - 0.005 * 8 * 0.3**2)) < 1e-4


@pytest.mark.parametrize("ends", [False, True])
def test_success_stays_and_ends_an_episode_only_where_asked(ends, key):
    env = AntReach(AntReachConfig(ends_at_success=ends))
    state, step = jax.jit(env.reset)(key), jax.jit(env.step)
    state = state.replace(info={**state.info, "goal": jnp.array([0.1, 0.0])})
    state = step(state, jnp.zeros(8))
    assert float(state.metrics["success"]) == 1.0 and float(state.done) == float(ends)
    state = state.replace(info={**state.info, "goal": jnp.array([4.0, 0.0])})
    assert float(step(state, jnp.zeros(8)).metrics["success"]) == 1.0


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: HalfCheetahConfig(physics="gpu"), "physics 'gpu' is unknown"),
        (lambda: Walker2dConfig(horizon=0), "horizon 0"),
        (lambda: AntReachConfig(spawn_noise=-1.0), "spawn_noise -1.0"),
    ],
)
def test_a_configuration_that_does_not_fit_names_its_field(make, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


def test_a_missing_model_says_what_to_install():
    with pytest.raises(ImportError, match="pip install"):
        locomotion.gym_model("no_such_model.xml")


def test_no_expert_is_given_for_another_world():
    with pytest.raises(ValueError, match="no expert was trained for object"):
        trained(object())


@pytest.mark.slow
def test_mjx_agrees_with_the_host(key):
    reset_key, action_key = jax.random.split(key)
    actions = jax.random.uniform(action_key, (5, 6), minval=-1.0)
    start, paths = jax.jit(HalfCheetah(HalfCheetahConfig()).reset)(reset_key), []
    for physics in ("host", "mjx"):
        env = HalfCheetah(HalfCheetahConfig(physics=physics))
        state, step = start, jax.jit(env.step)
        for action in actions:
            state = step(state, action)
        paths.append(state.obs)
    np.testing.assert_allclose(*paths, atol=2e-2)


@pytest.mark.parametrize("name", SHIPPED)
def test_an_expert_moves_forward_within_a_hundred_steps(name, key):
    env = make_world(name)
    expert = make_expert(name, env)

    @jax.jit
    def run(state):
        def step(state, _):
            action, _ = expert.act((), state, key)
            return env.step(state, action), action

        return jax.lax.scan(step, state, None, length=100 if name != "ant-reach" else 20)

    state = jax.jit(env.reset)(key)
    after, actions = run(state)
    assert jnp.all(jnp.abs(actions) <= 1.0)
    if name == "ant-reach":
        assert after.metrics["distance"] < state.metrics["distance"] - 0.5
    else:
        assert after.pipeline_state.qpos[0] > state.pipeline_state.qpos[0] + 0.1


def test_the_mean_action_is_that_of_brax():
    from brax.training.acme import running_statistics
    from brax.training.agents.sac import networks

    from experiments.pretrain.brax_worlds import as_weights

    network = networks.make_sac_networks(
        5, 2, running_statistics.normalize, hidden_layer_sizes=(8, 8)
    )
    policy = network.policy_network.init(jax.random.key(1))
    statistics = running_statistics.NestedMeanStd(jnp.full(5, 0.3), jnp.full(5, 2.0))
    observation = jax.random.normal(jax.random.key(2), (3, 5))
    with jax.numpy_rank_promotion("allow"):
        act = networks.make_inference_fn(network)((statistics, policy), deterministic=True)
        wanted, _ = act(observation, jax.random.key(3))
    weights = {k: jnp.asarray(v) for k, v in as_weights((statistics, policy)).items()}
    np.testing.assert_allclose(mean_action(weights, observation), wanted, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SHIPPED, "hand-rotate"])
def test_an_expert_is_as_good_as_its_card_says(name, key):
    env = make_world(name)
    card = (ASSETS / f"expert_{name}.md").read_text()
    told = json.loads(re.search(r"measured[^`]*`(\{.*?\})`", card)[1])
    found = attempts(env, make_expert(name, env), key, 32)
    if name in ("ant-reach", "hand-rotate"):
        assert np.mean(found.extras["accepted"]) > told["success"] - 0.15
    else:
        full = np.asarray(found.extras["accepted"])
        returns = np.sum(np.asarray(found.rewards), axis=1)
        assert np.mean(full) > 0.7 and returns[full].mean() > 0.9 * told["return"]


@pytest.mark.parametrize("num_banked", [0, 5])
def test_a_training_is_paid_for_coming_nearer_and_begins_anew_elsewhere(num_banked):
    from experiments.pretrain.brax_worlds import Adapter, first_states, wrapped

    world = Adapter(make_world("ant-reach"), "distance", 7.0)
    bank = first_states(world, num_banked, seed=0) if num_banked else None
    env = wrapped(world, episode_length=2, bank=bank)
    keys = jax.random.split(jax.random.PRNGKey(0), 3)  # as brax has them
    first = jax.jit(env.reset)(keys)
    step = jax.jit(env.step)
    second = step(first, jnp.ones((3, 8)))
    nearer = first.metrics["distance"] - second.metrics["distance"]
    paid = second.reward - second.pipeline_state.reward
    np.testing.assert_allclose(paid, 7.0 * nearer, atol=1e-4)
    last = step(second, jnp.ones((3, 8)))
    assert (np.asarray(last.done) == 1).all() and (np.asarray(second.done) == 0).all()
    assert (np.asarray(last.pipeline_state.info["steps"]) == 0).all()
    before = first if bank is None else bank
    is_same = (np.asarray(last.obs)[:, None] == np.asarray(before.obs)[None]).all(axis=2)
    assert (is_same.any(axis=1) == bool(num_banked)).all()

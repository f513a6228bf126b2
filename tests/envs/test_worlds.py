"""The contract of every world: brax's State, one trace, keys that matter, fresh resets, devices; probes that teach."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.algorithms.bc import BcConfig, bc
from daag_jax.algorithms.self_imitation import SelfImitationConfig, self_imitation
from daag_jax.envs.env import PixelEnv
from daag_jax.envs.probes import PROBES, Probe
from daag_jax.envs.tasks.rgb_stacking import RgbStacking, RgbStackingConfig
from daag_jax.envs.wrappers import auto_reset, sharded, vector_reset
from daag_jax.evaluation.rollout import rollout
from daag_jax.training.devices import make_mesh
from daag_jax.types import Batch

QUICK = {"xla_backend_optimization_level": 0}
NUM = 4
WORLDS = {
    "stacking, primitive": lambda: RgbStacking(RgbStackingConfig(horizon=2)),
    "stacking, cartesian": lambda: RgbStacking(RgbStackingConfig(mode="cartesian", horizon=2)),
    **{f"probe, {name}": lambda name=name: Probe(name) for name in PROBES},
}


@pytest.fixture(scope="module", params=WORLDS)
def world(request):
    """A world, its vectorised step that must not be traced twice, and some fresh states."""
    env = WORLDS[request.param]()
    chex.clear_trace_counter()
    steps = chex.assert_max_traces(lambda states, actions: jax.vmap(env.step)(states, actions), n=1)
    step = jax.jit(steps, compiler_options=QUICK)
    return env, step, vector_reset(env, jax.random.key(1), NUM)


def some_actions(env, seed=0):
    return jax.random.uniform(jax.random.key(seed), (NUM, env.spec.action_dim), minval=-1.0)


def test_states_keep_their_shapes_and_types_and_one_trace_serves_all_steps(world):
    env, step, states = world
    assert isinstance(env, PixelEnv)
    after = step(states, some_actions(env))
    chex.assert_trees_all_equal_shapes_and_dtypes(states, after)
    chex.assert_tree_all_finite(step(after, some_actions(env, 1)))
    assert states.obs.shape == (NUM, env.spec.observation_dim)
    assert states.reward.shape == states.done.shape == (NUM,)
    assert "success" in states.metrics and not states.done.any()


def test_an_episode_ends_at_its_horizon(world):
    env, step, states = world
    for n in range(env.horizon):
        assert not np.asarray(states.done).any(), n
        states = step(states, jnp.zeros_like(some_actions(env)))
    assert np.asarray(states.done).all()


def test_keys_decide_the_state(world):
    env, _, states = world
    chex.assert_trees_all_equal(states, vector_reset(env, jax.random.key(1), NUM))
    goals = np.asarray(states.pipeline_state.qpos)
    is_random = getattr(env, "name", "") != "constant"
    assert (len(np.unique(goals, axis=0)) == NUM) == is_random


def test_a_step_is_a_function_of_its_arguments(world):
    env, step, states = world
    chex.assert_trees_all_equal(step(states, some_actions(env)), step(states, some_actions(env)))


def test_pixels_and_captions_have_the_shapes_of_the_spec(world):
    env, _, states = world
    frame = jax.jit(jax.vmap(env.render), compiler_options=QUICK)(states)
    assert frame.rgb.shape == (NUM, *env.spec.image_shape) and frame.rgb.dtype == jnp.uint8
    assert frame.depth.shape == frame.segmentation.shape == frame.rgb.shape[:-1]
    labels = jax.vmap(env.labels)(states)
    assert labels.shape == (NUM, len(env.captions)) and labels.dtype == bool


@pytest.mark.parametrize("name", PROBES)
def test_an_ended_episode_starts_afresh(name):
    env = Probe(name)
    step, states = jax.vmap(auto_reset(env)), vector_reset(env, jax.random.key(2), NUM)
    for n in range(env.horizon):
        keys = jax.random.split(jax.random.key(n), NUM)
        states = step(states, jax.vmap(env.expert)(states), keys)
    assert states.done.all() and (states.reward == 1.0).all()
    assert not states.info["steps"].any()
    fresh = vector_reset(env, jax.random.key(env.horizon - 1), NUM)
    chex.assert_trees_all_equal(states.pipeline_state, fresh.pipeline_state)
    chex.assert_trees_all_equal(states.obs, fresh.obs)


@pytest.mark.parametrize("name", PROBES)
def test_worlds_split_over_devices_are_the_same_worlds(name):
    env = Probe(name)
    states = vector_reset(env, jax.random.key(2), NUM)
    step = jax.vmap(env.step)
    actions = some_actions(env)
    split = sharded(step, make_mesh(4, 1))(states, actions)
    chex.assert_trees_all_close(split, step(states, actions))


def test_an_unknown_probe_is_named():
    with pytest.raises(ValueError, match="'remember'"):
        Probe("remember")


def demonstrations(env, num=256):
    """The first decisions of the expert."""
    states = vector_reset(env, jax.random.key(3), num)
    images = jax.vmap(env.render)(states).rgb
    one = jnp.ones((num, 1))
    actions = jax.vmap(env.expert)(states)[:, None]
    return Batch(states.obs[:, None], actions, 0 * one, one > 0, {"image": images[:, None]})


def success_after(algorithm, env, steps):
    """Success of a cloned policy."""
    data = demonstrations(env)
    state = jax.jit(algorithm.init, compiler_options=QUICK)(jax.random.key(4))
    update = jax.jit(algorithm.update, compiler_options=QUICK)
    for n in range(steps):
        index = np.random.default_rng(n).integers(0, 256, 32)
        batch = jax.tree.map(lambda x, i=index: x[i], data)
        state, _ = update(state, batch, jax.random.key(100 + n))
    run = lambda state, key: rollout(env, algorithm.act, state, key, 64).extras["success"]
    run = jax.jit(run, compiler_options=QUICK)
    return float(run(state, jax.random.key(5)).mean())


@pytest.mark.parametrize("name", [p for p in PROBES if p != "see"])
def test_cloning_solves_what_can_be_read_off(name):
    env = Probe(name)
    spec = env.spec._replace(image_shape=())
    algorithm = bc(BcConfig(hidden_dims=(32,), learning_rate=1e-2), spec)
    assert success_after(algorithm, env, 100) > 0.95


def test_only_pixels_show_the_bar():
    env = Probe("see")
    blind = bc(BcConfig(hidden_dims=(32,), learning_rate=1e-2), env.spec._replace(image_shape=()))
    assert success_after(blind, env, 60) < 0.5
    config = SelfImitationConfig(width=4, hidden_dims=(32,), shift=0, learning_rate=3e-3)
    assert success_after(self_imitation(config, env.spec), env, 150) > 0.8

"""Outcomes of policies and demonstrations of experts, in a world small enough to count by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.data.windows import terminals
from daag_jax.envs.env import State
from daag_jax.envs.experts.expert import Expert, until_done
from daag_jax.envs.physics import PhysicsState
from daag_jax.evaluation.outcomes import (
    attempts,
    demonstrations,
    evaluate_policy,
    spread_evaluation,
)
from daag_jax.training.devices import make_mesh
from daag_jax.types import Spec, Window


class Counter:
    """A number that actions are added to; success at 3, after which every step would still pay 1."""

    spec = Spec(1, 1)
    horizon = 6

    def reset(self, key):
        qpos = jax.random.randint(key, (1,), 0, 2).astype(jnp.float32)
        zero = jnp.zeros(())
        physics = PhysicsState(qpos, *jnp.zeros((3, 1)))
        return State(physics, qpos, zero, zero, {"success": zero}, {"steps": jnp.int32(0)})

    def step(self, state, action):
        qpos, steps = state.pipeline_state.qpos + action, state.info["steps"] + 1
        success = (qpos[0] >= 3).astype(jnp.float32)
        return state.replace(
            pipeline_state=state.pipeline_state._replace(qpos=qpos),
            obs=qpos,
            reward=success,
            done=jnp.maximum(success, (steps >= self.horizon).astype(jnp.float32)),
            metrics={"success": success},
            info={"steps": steps},
        )


def constant(value):
    return lambda policy, context, key: jnp.full((context.observations.shape[0], 2, 1), value)


@pytest.mark.parametrize("execute", [1, 2])
def test_a_world_that_is_done_pays_no_more(key, execute):
    window = Window(execute=execute)
    found = jax.jit(lambda k: evaluate_policy(Counter(), constant(1.0), (), k, 16, window))(key)
    assert found.success.all() and (found.returns == 1.0).all()
    assert set(np.asarray(found.length).tolist()) == {2, 3}  # from 1 and from 0


def test_actions_are_kept_inside_the_bounds(key):
    far = jax.jit(lambda k: evaluate_policy(Counter(), constant(9.0), (), k, 16))(key)
    assert far.length.min() == 2
    still = jax.jit(lambda k: evaluate_policy(Counter(), constant(-9.0), (), k, 4))(
        jax.random.key(1)
    )
    assert not still.success.any() and (still.length == 6).all()


def test_policies_are_evaluated_together(key):
    act = lambda policy, context, key: jnp.broadcast_to(
        policy, (context.observations.shape[0], 1, 1)
    )
    run = lambda policy: evaluate_policy(Counter(), act, policy, jax.random.key(0), 8)
    found = jax.jit(jax.vmap(run))(jnp.array([1.0, 0.0, 0.5]))
    assert found.success.mean(axis=1).tolist() == [1.0, 0.0, 1.0]


def test_each_device_simulates_its_part(key):
    evaluate = spread_evaluation(Counter(), constant(1.0), 16, make_mesh(2, 2))
    found = evaluate((), key)
    assert found.success.shape == (16,) and (found.returns == 1.0).all()
    starts = 3 - found.length.reshape(4, 4)
    assert len({tuple(row) for row in starts.tolist()}) > 1  # of episodes of their own
    with pytest.raises(ValueError, match="10 episodes are not a multiple of 4 devices; try 12"):
        spread_evaluation(Counter(), constant(1.0), 10, make_mesh(2, 2))


def counting_expert(**changes):
    """Adds 1 and remembers how often; it goes on after success, to 5."""
    fields = {
        "start": lambda state, key: jnp.int32(0),
        "act": lambda memory, state, key: (jnp.ones(1), memory + 1),
        "is_finished": lambda memory, state: state.obs[0] >= 5,
        "max_steps": 10,
    }
    return Expert(**(fields | changes))


def test_a_demonstration_ends_where_the_expert_says(key):
    episodes = jax.jit(lambda k: attempts(Counter(), counting_expert(), k, 8))(key)
    first = np.asarray(episodes.observations[:, 0, 0])
    np.testing.assert_array_equal(episodes.length, 5 - first)
    np.testing.assert_array_equal(episodes.rewards.sum(axis=1), 3)  # at 3, 4 and 5
    assert episodes.extras["accepted"].all() and episodes.extras["success"].all()
    cut = jax.jit(lambda k: attempts(Counter(), counting_expert(max_steps=4), k, 8))(
        jax.random.key(0)
    )
    np.testing.assert_array_equal(cut.extras["accepted"], np.asarray(cut.observations[:, 0, 0]) > 0)


def test_a_demonstration_says_whether_its_end_is_for_good(key):
    found = jax.jit(lambda k: attempts(Counter(), counting_expert(**until_done(10)), k, 8))(key)
    assert found.extras["terminated"].all()  # at 3, before the horizon
    last = np.asarray(found.length) - 1
    np.testing.assert_array_equal(terminals(found)[np.arange(8), last], True)
    lazy = {"act": lambda memory, state, key: (jnp.zeros(1), memory)}
    cut = jax.jit(lambda k: attempts(Counter(), counting_expert(**until_done(10) | lazy), k, 8))
    assert not cut(jax.random.key(1)).extras["terminated"].any()  # by the horizon


def test_as_many_as_are_asked_for_and_only_accepted_ones():
    lazy = counting_expert(min_steps=5)  # from 1 it takes four
    episodes = demonstrations(Counter(), lazy, 0, 7, 4)
    assert episodes.length.tolist() == [5] * 7 and episodes.actions.shape == (7, 5, 1)
    never = counting_expert(**until_done(6), min_steps=9)
    with pytest.raises(ValueError, match="0 of 80 attempts of the expert were accepted"):
        demonstrations(Counter(), never, 0, 1, 4)


class Paid(Counter):
    """Every step earns its action, and none succeeds."""

    def step(self, state, action):
        after = super().step(state, action)
        done = (after.info["steps"] >= self.horizon).astype(jnp.float32)
        return after.replace(reward=action[0], done=done)


@pytest.mark.parametrize("execute", [1, 2])
def test_a_policy_of_returns_is_told_what_was_done_and_earned(key, execute):
    def act(policy, context, key):
        done, earned = context.extras["actions"], context.extras["earned"]
        assert done.shape == (4, 3, 1) and earned.shape == (4, 3)
        action = 0.5 - 0.5 * done[:, 1] + 0.2 * done[:, 0] + 0.1 * (earned[:, 2:] - earned[:, :1])
        return jnp.repeat(action[:, None], 2, axis=1)

    window = Window(3, 3, execute, ("returns",))
    found = jax.jit(lambda k: evaluate_policy(Paid(), act, (), k, 4, window))(key)
    done, earned = [0.0, 0.0], [0.0, 0.0, 0.0]
    for _ in range(Paid.horizon // execute):
        action = 0.5 - 0.5 * done[-1] + 0.2 * done[-2] + 0.1 * (earned[-1] - earned[-3])
        for _ in range(execute):
            done.append(action)
            earned.append(earned[-1] + action)
    np.testing.assert_allclose(found.returns, earned[-1], rtol=1e-5)

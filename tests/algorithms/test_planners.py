"""Planners in worlds with known answers: forks, compositions, goals, and what follows a plan."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.algorithms.decision_diffuser import (
    Ask,
    DecisionDiffuserConfig,
    decision_diffuser,
    inverse_errors,
)
from daag_jax.algorithms.decision_diffuser import planner as decision_planner
from daag_jax.algorithms.diffuser import DiffuserConfig, diffuser, planner
from daag_jax.algorithms.parts import planning
from daag_jax.algorithms.parts.combinators import normalized
from daag_jax.algorithms.parts.planning import Plan, follow_inverse
from daag_jax.algorithms.parts.trajectories import (
    DrawingConfig,
    TrajectoryConfig,
    check_episodes,
    chosen,
    held,
    known_of,
    starting_point,
    trajectories,
)
from daag_jax.data.normalize import Stats
from daag_jax.diffusion import schedules
from daag_jax.diffusion.samplers import METHODS
from daag_jax.envs.tasks.maze import Maze, MazeConfig
from daag_jax.envs.worlds import make_world
from daag_jax.evaluation.plans import crosses, evaluate_planner
from daag_jax.networks.unet1d import UNet1D
from daag_jax.rows import CHUNK
from daag_jax.training.devices import make_mesh, replicate
from daag_jax.types import Batch, Context, Spec

BATCH, LENGTH = 64, 8
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
FORK = Spec(2, 2, task_dim=2)
SMALL = {"widths": (16,), "time_dim": 8, "num_steps": 20, "learning_rate": 3e-3}


def line_to(end: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Straight ways from the origin, [B, H, 2], and their steps."""
    share = jnp.linspace(0.0, 1.0, LENGTH).reshape(1, -1, 1)
    states = share * end[:, None]
    return states, jnp.concatenate([jnp.diff(states, axis=1), 0 * states[:, :1]], axis=1)


def fork(key: jax.Array) -> Batch:
    """Half of the ways lead to (1, 0.5), where the reward is, and half to (-1, 0.5)."""
    side = jnp.where(jax.random.bernoulli(key, 0.5, (BATCH,)), 1.0, -1.0)
    states, actions = line_to(jnp.stack([0.9 * side, jnp.full(BATCH, 0.5)], axis=1))
    rewards = jnp.zeros((BATCH, LENGTH)).at[:, -1].set(side)
    return Batch(states, actions, rewards, jnp.ones((BATCH, LENGTH), bool))


def halves(key: jax.Array) -> Batch:
    """Ways that end at x = 0.8 (task 0) or at y = 0.8 (task 1); the other coordinate is free."""
    kind_key, free_key = jax.random.split(key)
    is_first = jax.random.bernoulli(kind_key, 0.5, (BATCH,))[:, None]
    free = jax.random.uniform(free_key, (BATCH, 1), minval=-0.9, maxval=0.9)
    fixed = jnp.full((BATCH, 1), 0.8)
    end = jnp.where(is_first, jnp.concatenate([fixed, free], 1), jnp.concatenate([free, fixed], 1))
    states, actions = line_to(end)
    task = jnp.concatenate([is_first, ~is_first], axis=1).astype(jnp.float32)
    mask, rewards = jnp.ones((BATCH, LENGTH), bool), jnp.zeros((BATCH, LENGTH))
    return Batch(states, actions, rewards, mask, {"task": task})


def learnt(algorithm, draw, steps):
    """The state after so many updates, as one program."""

    def step(state, key):
        data_key, update_key = jax.random.split(key)
        return algorithm.update(state, draw(data_key), update_key)[0], None

    keys = jax.random.split(jax.random.key(1), steps)
    train = lambda state: jax.lax.scan(step, state, keys)[0]
    state = jax.jit(algorithm.init, compiler_options=QUICK)(jax.random.key(0))
    return jax.jit(train, compiler_options=QUICK)(state)


@pytest.fixture(scope="module")
def forked():
    config = DiffuserConfig(
        TrajectoryConfig(LENGTH),
        DrawingConfig(num_inference_steps=20),
        value_widths=(16,),
        **SMALL,
    )
    return config, learnt(diffuser(config, FORK), fork, 600)


def sides(config, state, num=200):
    """The share of plans that take the rewarded side, and their ends."""
    made = planner(config, FORK, "actions").plan
    context = Context(jnp.zeros((num, 1, 2)))
    ends = jax.jit(lambda key: made(state, context, None, key))(jax.random.key(5)).observations
    return float(jnp.mean(ends[:, -1, 0] > 0)), ends


def test_plans_are_like_what_was_learnt_and_start_at_the_present_state(forked):
    share, states = sides(*forked)
    assert 0.3 < share < 0.7
    assert jnp.all(states[:, 0] == 0)
    assert jnp.mean(jnp.abs(jnp.abs(states[:, -1, 0]) - 0.9) < 0.2) > 0.9


@pytest.mark.parametrize("how", ["guidance", "selection"])
def test_the_planner_takes_the_rewarded_fork(forked, how):
    config, state = forked
    if how == "guidance":
        config = replace(config, guide_scale=4.0)
    else:
        config = replace(config, drawing=replace(config.drawing, candidates=8))
    share, states = sides(config, state)
    assert share > 0.95
    assert jnp.mean(jnp.abs(states[:, -1, 1] - 0.5) < 0.2) > 0.9  # and still ends where ways end


def test_candidates_that_devices_share_give_the_same_plan(forked):
    config, state = forked
    drawing = replace(config.drawing, num_inference_steps=4, candidates=2 * CHUNK * 4)
    config = replace(config, drawing=drawing, guide_scale=1.0, guide_steps=1)
    plan = planner(config, FORK, "actions").plan
    make = jax.jit(plan, static_argnums=2, compiler_options=QUICK)
    given = state, Context(jnp.zeros((1, 1, 2)))
    alone = make(*given, None, jax.random.key(2))
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        shared = make(*replicate(given, mesh), None, jax.random.key(2))
    np.testing.assert_allclose(shared.observations, alone.observations, atol=1e-5)
    np.testing.assert_allclose(shared.score, alone.score, atol=1e-5)


@pytest.fixture(scope="module")
def composed():
    config = DecisionDiffuserConfig(
        TrajectoryConfig(LENGTH, has_actions=False),
        DrawingConfig("ddim", num_inference_steps=20, temperature=0.5),
        conditions=("task",),
        condition_dims=(2,),
        widths=(16,),
        embedding_dim=16,
        num_steps=50,
        inverse_dims=(32,),
        learning_rate=3e-3,
        parameterisation="x0",
    )
    return config, learnt(decision_diffuser(config, FORK), halves, 1500)


def asked_ends(composed, *asks):
    config, state = composed
    make = decision_planner(config, FORK, *asks).plan
    context = Context(jnp.zeros((200, 1, 2)))
    return jax.jit(lambda key: make(state, context, None, key))(jax.random.key(5)).observations[
        :, -1
    ]


def task_ask(index: int, weight: float) -> Ask:
    one_hot = jnp.eye(2)[index]
    return Ask(lambda context: {"task": jnp.broadcast_to(one_hot, (200, 2))}, weight)


def test_one_constraint_holds_and_leaves_the_other_coordinate_free(composed):
    ends = asked_ends(composed, task_ask(0, 1.2))
    assert jnp.mean(jnp.abs(ends[:, 0] - 0.8) < 0.15) > 0.9
    assert jnp.std(ends[:, 1]) > 0.15


def test_two_constraints_that_were_trained_apart_hold_together(composed):
    ends = asked_ends(composed, task_ask(0, 1.2), task_ask(1, 1.2))
    assert jnp.mean(jnp.all(jnp.abs(ends - 0.8) < 0.2, axis=1)) > 0.9


def test_a_negative_weight_asks_for_the_opposite(composed):
    both = asked_ends(composed, task_ask(0, 1.2))
    without = asked_ends(composed, task_ask(0, 1.2), task_ask(1, -0.6))
    assert jnp.mean(without[:, 1]) < jnp.mean(both[:, 1]) - 0.1


def test_the_inverse_model_gives_the_step_between_two_states(composed):
    config, state = composed
    follow = decision_planner(config, FORK).follow
    states, actions = line_to(jnp.array([[0.8, 0.3], [0.2, 0.8]]))
    plan = Plan(states, jnp.zeros((2, LENGTH, 0)), jnp.zeros(2), jnp.ones(2, bool))
    found = follow(state, plan, jnp.int32(2), states[:, 2])
    np.testing.assert_allclose(found, actions[:, 2], atol=0.05)


def test_the_inverse_model_looks_from_state_to_state_where_they_are_strides_apart():
    form, spec = TrajectoryConfig(8, 2, has_actions=False), Spec(1, 1)
    states = jnp.cumsum(jnp.arange(9.0))[None, :8, None]  # s[t + 2] - s[t] = 2 t + 3
    actions = 2 * jnp.arange(8.0)[None, :, None] + 3
    mask = jnp.arange(8)[None] < 6
    actions = jnp.where(jnp.arange(8)[None, :, None] < 4, actions, 99.0)  # whose target is padding
    batch = Batch(states, actions, jnp.zeros((1, 8)), mask)

    class Difference:
        apply = staticmethod(lambda params, pairs: pairs[..., 1:] - pairs[..., :1])

    np.testing.assert_allclose(inverse_errors(form, {}, Difference, batch), 0.0)
    seen = []
    inverse = lambda state, present, following: seen.append((present, following)) or present
    plan = Plan(states[:, ::2], jnp.zeros((1, 4, 0)), jnp.zeros(1), jnp.ones(1, bool))
    follow_inverse(2, inverse)(None, plan, jnp.int32(2), states[:, 2])
    np.testing.assert_allclose(seen[0][1], states[:, 4])

    config = DecisionDiffuserConfig(
        form,
        DrawingConfig("ddim", num_inference_steps=2, execute=6),
        widths=(8,),
        num_steps=4,
        inverse_dims=(8,),
    )
    learner = decision_diffuser(config, spec)
    state = learner.init(jax.random.key(0))
    found = jax.jit(learner.act)(state, Context(jnp.zeros((2, 1, 1))), jax.random.key(1))
    assert found.shape == (2, 6, 1)
    np.testing.assert_array_equal(found[:, ::2], found[:, 1::2])


def test_decision_diffuser_plans_what_a_context_names(composed):
    config, state = composed
    make = decision_planner(replace(config, weight=1.5), FORK).plan
    task = jnp.broadcast_to(jnp.eye(2)[1], (50, 2))
    plan = make(state, Context(jnp.zeros((50, 1, 2)), {"task": task}), None, jax.random.key(2))
    assert jnp.mean(jnp.abs(plan.observations[:, -1, 1] - 0.8) < 0.15) > 0.9


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (lambda context: {"tsak": jnp.ones((4, 2))}, "there is no condition 'tsak'"),
        (
            lambda context: {"task": jnp.ones((4, 1))},
            "is given 1 numbers and condition_dims says 2",
        ),
    ],
)
def test_what_was_not_learnt_cannot_be_asked_for(composed, asked, message):
    config, state = composed
    make = decision_planner(config, FORK, Ask(asked)).plan
    with pytest.raises(ValueError, match=message):
        make(state, Context(jnp.zeros((4, 1, 2))), None, jax.random.key(0))


@pytest.mark.parametrize("name", ["forked", "composed"])
def test_acting_beyond_a_plan_is_refused(name, request):
    config, state = request.getfixturevalue(name)
    learner = diffuser if name == "forked" else decision_diffuser
    drawing = replace(config.drawing, execute=LENGTH + 1)
    act = learner(replace(config, drawing=drawing), FORK).act
    with pytest.raises(ValueError, match=f"execute={LENGTH + 1}, and a plan"):
        act(state, Context(jnp.zeros((4, 1, 2))), jax.random.key(0))


def test_a_goal_is_not_learnt_from_what_was_cut_short():
    form = TrajectoryConfig(4, goal_dims=(0,))
    mask = jnp.array([[True, True, True, True], [True, True, False, False]])
    batch = Batch(jnp.ones((2, 4, 2)), jnp.ones((2, 4, 1)), jnp.zeros((2, 4)), mask)
    is_real = trajectories(form, batch, jax.random.key(0))[1]
    assert is_real.tolist() == [[True] * 4, [False] * 4]
    free = trajectories(TrajectoryConfig(4), batch, jax.random.key(0))[1]
    assert free.tolist() == mask.tolist()


GOAL = TrajectoryConfig(8, 2, goal_dims=(0,), velocity_dims=(1,), rests_at_goal=True)


def test_trajectories_that_rest_stay_where_they_stop():
    states = jnp.arange(1.0, 17.0).reshape(2, 8, 1) * jnp.ones((1, 1, 2))
    batch = Batch(states, jnp.ones((2, 8, 1)), jnp.zeros((2, 8)), jnp.ones((2, 8), bool))
    x0, is_real = trajectories(GOAL, batch, jax.random.key(3))
    assert x0.shape == (2, 4, 3) and jnp.all(is_real)
    for row, offset in zip(np.asarray(x0), (0, 8), strict=True):
        moves = int(np.sum(row[:, 1] != 0))  # velocities are 0 once it has stopped
        assert 1 <= moves < 4
        np.testing.assert_array_equal(row[:moves, 0], offset + 1 + 2 * np.arange(moves))
        np.testing.assert_array_equal(row[moves:, 0], offset + 1 + 2 * moves)
        assert np.all(row[moves:, 2] == 0)


def test_start_and_goal_are_held_at_every_noise_level():
    known = known_of(GOAL, Spec(2, 1, task_dim=1), jnp.array([[0.1, 0.2]]), jnp.array([[0.7]]))
    x = held(jnp.full((1, 4, 3), 9.0), known)
    np.testing.assert_allclose(x[0, 0], [0.1, 0.2, 9.0])
    np.testing.assert_allclose(x[0, -1], [0.7, 0.0, 9.0])
    assert jnp.all(x[0, 1:3] == 9.0)


def test_leaps_are_set_aside_and_where_all_leap_the_plan_says_so():
    steady = jnp.linspace(0.0, 1.0, 4).reshape(4, 1) * jnp.ones((1, 3))
    leap = jnp.array([0.0, 0.0, 1.0, 1.0]).reshape(4, 1) * jnp.ones((1, 3))
    x = jnp.stack([leap, steady, leap, 0.98 * leap])
    score = jnp.array([5.0, 1.0, 2.0, 3.0])
    plan = chosen(
        GOAL, Spec(2, 1, task_dim=1), x, score, jnp.float32(0.4), DrawingConfig(candidates=2)
    )
    np.testing.assert_array_equal(plan.is_possible, [True, False])
    np.testing.assert_allclose(plan.score, [1.0, 3.0])


@pytest.mark.parametrize("follower", ["pd", "pursuit"])
@pytest.mark.parametrize("stride", [1, 4])
def test_followers_carry_out_a_straight_plan(follower, stride):
    world = Maze(
        MazeConfig("open", 150, starts=((1.0, 1.0),), goals=((3.0, 3.0),), observes_goal=False)
    )
    length = 64 // stride
    line = jnp.linspace(0.0, 1.0, length).reshape(1, -1, 1)
    speed = 2.0 / (64 * 0.01)

    def plan(state, context, previous, key):
        start = context.observations[:, -1, :2]
        way = start[:, None] + line * (context.extras["task"] - start)[:, None]
        states = jnp.concatenate([way, jnp.full_like(way, speed / 2)], axis=-1)
        num = start.shape[0]
        return Plan(states, jnp.zeros((num, length, 0)), jnp.zeros(num), jnp.ones(num, bool))

    dims = ((0, 1), (2, 3))
    follow = planning.follow_pd(stride, *dims)
    if follower == "pursuit":
        follow = planning.follow_pursuit(stride, *dims, 0.3)
    made = planning.Planner(plan, follow, 200, stride)
    found = jax.jit(lambda key: evaluate_planner(world, made, None, key, 4))(jax.random.key(0))
    assert jnp.all(found.outcomes.success)


def test_a_normalized_planner_gives_the_world_its_units():
    stats = Stats(
        jnp.array([1.0, 0.0]),
        jnp.array([2.0, 1.0]),
        jnp.zeros(1),
        jnp.ones(1),
        jnp.array([1.0]),
        jnp.array([2.0]),
    )
    spec = Spec(2, 1, task_dim=1)
    config = DiffuserConfig(
        GOAL, DrawingConfig("ddim", num_inference_steps=2), select="arrival", **SMALL
    )
    state = normalized(diffuser(config, spec), stats).init(jax.random.key(0))
    make = planner(config, spec, "pd", stats).plan
    present, goal = jnp.array([[[0.4, 0.1]]]), jnp.array([[1.9]])
    plan = make(state, Context(present, {"task": goal}), None, jax.random.key(1))
    np.testing.assert_allclose(plan.observations[0, 0], [0.4, 0.1], atol=1e-6)
    np.testing.assert_allclose(plan.observations[0, -1], [1.9, 0.0], atol=1e-6)


def test_a_warm_start_begins_with_the_last_plan_as_it_looks_now():
    """Through ``normalized_planner``, whose inner planner gives back what it is given to begin with."""
    form = TrajectoryConfig(16, 2)
    drawing = DrawingConfig("ddim", num_inference_steps=10, warm_time=0.3, execute=4)
    schedule = schedules.cosine(64)
    stats = Stats(jnp.full(2, 1.0), jnp.full(2, 2.0), jnp.full(2, 3.0), jnp.full(2, 5.0))

    def inner(state, context, previous, key):
        x, times = starting_point(form, drawing, schedule, previous, jnp.zeros((1, 8, 4)))
        assert times.shape == (4,) and times[0] == jnp.float32(0.3)
        x0 = x / schedule.alpha(times[0])
        return Plan(x0[..., :2], x0[..., 2:], jnp.zeros(1), jnp.ones(1, bool))

    made = planning.normalized_planner(planning.Planner(inner, None, 4, 2), stats)
    before = Plan(
        jnp.arange(16.0).reshape(1, 8, 2),
        jnp.arange(16.0).reshape(1, 8, 2) - 3.0,
        jnp.zeros(1),
        jnp.ones(1, bool),
    )
    after = made.plan(None, Context(jnp.zeros((1, 1, 2))), before, None)
    for found, old in ((after.observations, before.observations), (after.actions, before.actions)):
        np.testing.assert_allclose(found[0, :6], old[0, 2:], atol=1e-5)  # 4 steps: 2 states
        np.testing.assert_allclose(found[0, 6:], old[0, [7, 7]], atol=1e-5)


def test_a_plan_that_looks_on_by_less_than_a_state_lies_between_two():
    plan = jnp.array([0.0, 4.0, 8.0, 0.0])[None, :, None]
    np.testing.assert_allclose(planning.shifted(plan, 3, 4)[0, :, 0], [3.0, 7.0, 2.0, 0.0])
    np.testing.assert_allclose(planning.shifted(plan, 6, 4)[0, :, 0], [6.0, 4.0, 0.0, 0.0])


@pytest.mark.parametrize("method", METHODS)
def test_the_network_always_sees_what_is_held(method):
    """Also in Heun's second look, which comes before the step is projected."""
    drawing = DrawingConfig(method, num_inference_steps=3)
    config, seen = DiffuserConfig(TrajectoryConfig(LENGTH), drawing, **SMALL), []
    state = diffuser(config, FORK).init(jax.random.key(0))
    present = jnp.array([[[0.3, -0.6]]])

    def watch(call, args, kwargs, context):
        if isinstance(context.module, UNet1D) and context.method_name == "__call__":
            jax.debug.callback(seen.append, args[0][:, 0, :2])
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        planner(config, FORK, "actions").plan(state, Context(present), None, jax.random.key(1))
    jax.effects_barrier()
    assert len(seen) >= 3
    np.testing.assert_allclose(np.stack(seen), np.broadcast_to(present, (len(seen), 1, 2)))


def planned(stride: int) -> Plan:
    """x = n^2 and v = n at the state n; actions -n."""
    n = jnp.arange(4.0).reshape(1, 4, 1)
    states = jnp.concatenate([n**2, n], axis=-1)
    return Plan(states, -n, jnp.zeros(1), jnp.ones(1, bool))


@pytest.mark.parametrize(
    ("stride", "step", "place", "speed", "action"),
    [
        (1, 0, 1.0, 1.0, 0.0),
        (1, 2, 9.0, 3.0, -2.0),
        (1, 3, 9.0, 0.0, -3.0),  # past the end: there, at rest
        (4, 0, 0.25, 0.25, 0.0),
        (4, 5, 2.5, 1.5, -1.0),
        (4, 11, 9.0, 3.0, -2.0),
        (4, 12, 9.0, 0.0, -3.0),
    ],
)
def test_followers_aim_at_the_planned_state_of_the_next_step(stride, step, place, speed, action):
    plan, seen = planned(stride), jnp.array([[0.5, 0.25]])
    wanted = planning.follow_pd(stride, (0,), (1,))(None, plan, jnp.int32(step), seen)
    np.testing.assert_allclose(wanted, [[place - 0.5 + speed - 0.25]], atol=1e-6)
    taken = planning.follow_actions(stride)(None, plan, jnp.int32(step), seen)
    np.testing.assert_allclose(taken, [[action]])


def test_pursuit_aims_so_far_ahead_along_the_plan():
    corner = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    states = jnp.concatenate([corner, jnp.zeros((4, 2))], axis=1)[None]
    plan = Plan(states, jnp.zeros((1, 4, 0)), jnp.zeros(1), jnp.ones(1, bool))
    seen = jnp.array([[0.75, 0.1, 0.2, 0.0]])  # nearest: (0.75, 0); half a metre on: (1, 0.25)
    found = planning.follow_pursuit(4, (0, 1), (2, 3), 0.5)(None, plan, jnp.int32(0), seen)
    np.testing.assert_allclose(found, [[10 * 0.25 - 0.2, 10 * 0.15]], atol=1e-5)


def test_an_arrival_is_the_first_state_near_the_goal():
    path = jnp.array([[[0.0], [0.5], [0.95], [1.0]], [[0.0], [0.1], [0.2], [0.3]]])
    found = planning.arrival(path, jnp.ones((2, 1)), 0.1)
    np.testing.assert_allclose(found, [2.0, 4.0])


def test_a_path_through_a_wall_is_seen_where_the_physics_has_the_wall():
    walls = make_world("maze2d-umaze-v1").walls
    around = jnp.array([[1.0, 1.0], [1.0, 3.0], [3.0, 3.0], [3.0, 1.0]])
    through = jnp.array([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [3.0, 1.0]])
    below = jnp.array([[1.0, 1.0], [1.35, 1.0], [1.35, 1.0], [1.0, 1.0]])  # the cell ends at 1.3
    above = jnp.array([[1.0, 1.0], [1.25, 1.0], [1.25, 1.0], [1.0, 1.0]])
    found = crosses(walls, jnp.stack([around, through, below, above]))
    np.testing.assert_array_equal(found, [False, True, True, False])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrajectoryConfig(30, 4), "horizon=30 is no multiple of stride=4; try 32"),
        (lambda: TrajectoryConfig(0), "horizon=0 is not positive"),
        (lambda: TrajectoryConfig(8, rests_at_goal=True), "rests_at_goal=True needs a goal"),
        (lambda: DrawingConfig(warm_time=2.0), "warm_time=2.0 is no time"),
        (lambda: DrawingConfig("dimm"), "the nearest is 'ddim'"),
        (lambda: DiffuserConfig(guide_scale=0.1), "guide_scale=0.1 needs V"),
        (lambda: DiffuserConfig(guide_steps=0), "guide_steps=0 is not positive"),
        (lambda: DiffuserConfig(clip=-1.0), "clip=-1.0 is negative; 0 switches it off"),
        (lambda: DiffuserConfig(first_action_weight=-3.0), "first_action_weight=-3.0 is negative"),
        (lambda: DiffuserConfig(guide_stop=7.0), "guide_stop=7.0 is no time"),
        (lambda: DrawingConfig(temperature=-1.0), "temperature=-1.0 is negative"),
        (
            lambda: check_episodes(TrajectoryConfig(64, 2, goal_dims=(0,)), 62),
            "episodes of 63 steps and more, and the longest has 62",
        ),
        (lambda: DiffuserConfig(ema_decay=1.0), "ema_decay=1.0 is outside"),
        (lambda: DiffuserConfig(widths=()), "make no network"),
        (lambda: DiffuserConfig(value_scale=0.0), "value_scale=0.0 is not positive"),
        (lambda: DecisionDiffuserConfig(returns_scale=-1.0), "returns_scale=-1.0 is not positive"),
        (
            lambda: DiffuserConfig(TrajectoryConfig(120, 8)),
            "horizon=120 gives 15 states, which 3 levels cannot halve; try 128",
        ),
        (lambda: DiffuserConfig(num_steps=20), "num_inference_steps=64 are more than the 20"),
        (lambda: TrajectoryConfig(8, 1, (0, 1), (1,)), "overlap; name each once"),
        (lambda: DrawingConfig(slack=0.0), "slack=0.0 and goal_tolerance=0.1 must be positive"),
        (
            lambda: DiffuserConfig(GOAL, value_widths=(16,)),
            "value_widths and rests_at_goal=True",
        ),
        (lambda: DecisionDiffuserConfig(conditions=(), condition_dims=()), "nothing to ask for"),
        (
            lambda: planner(
                DiffuserConfig(GOAL), Spec(2, 1, task_dim=1), "pd", Stats(jnp.zeros(2), jnp.ones(2))
            ),
            "these statistics know no task",
        ),
        (
            lambda: DiffuserConfig(drawing=DrawingConfig(candidates=2), select="arrival"),
            "select='arrival' needs a goal",
        ),
        (lambda: DecisionDiffuserConfig(TrajectoryConfig(8)), "has_actions=True"),
        (lambda: DecisionDiffuserConfig(dropout=0.0), "dropout=0.0 must lie inside"),
        (lambda: DecisionDiffuserConfig(conditions=("task", "returns")), "must be as many"),
        (
            lambda: diffuser(DiffuserConfig(TrajectoryConfig(8, goal_dims=(7, 1))), FORK),
            r"goal_dims=\(7, 1\) must lie in 0 to 1",
        ),
        (
            lambda: diffuser(DiffuserConfig(TrajectoryConfig(8, goal_dims=(1,))), FORK),
            "a task of this world has 2 numbers",
        ),
        (
            lambda: planner(DiffuserConfig(), FORK, "pd"),
            "follower 'pd' needs a position and a velocity for each of 2 actions",
        ),
        (
            lambda: planner(
                DiffuserConfig(TrajectoryConfig(8, has_actions=False)), FORK, "actions"
            ),
            "needs planned actions",
        ),
    ],
)
def test_bad_configurations_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()

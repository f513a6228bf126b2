"""PointMaze: the closed form is MuJoCo's physics, the world D4RL's, and the demonstrations are those of the paper."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from daag_jax.envs.experts.maze import next_cells, wander, waypoints
from daag_jax.envs.physics import Physics
from daag_jax.envs.point_mass import MASS, MAX_SPEED, PointMass, mjcf
from daag_jax.envs.tasks.maze import LAYOUTS, Maze, MazeConfig, walls_of
from daag_jax.envs.worlds import make_world
from daag_jax.evaluation.outcomes import attempts, demonstrations
from experiments.planning.controllers import moved_by_mujoco, returns_of


def pushed(walls: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Differences of position and velocity after single steps from C MuJoCo's states; how many were in contact."""
    model = mujoco.MjModel.from_xml_string(mjcf(walls))
    data, physics = mujoco.MjData(model), PointMass(walls)
    data.qpos[:] = np.argwhere(~walls)[0]
    states, actions, after, contacts = [], [], [], 0
    random, action = np.random.default_rng(0), np.zeros(2)
    for n in range(steps):
        if n % 20 == 0:
            action = random.uniform(-1, 1, 2)
        data.qvel[:] = np.clip(data.qvel, -MAX_SPEED, MAX_SPEED)
        states.append(np.concatenate([data.qpos, data.qvel]))
        data.ctrl[:] = action
        mujoco.mj_step(model, data)
        actions.append(action)
        after.append(np.concatenate([data.qpos, data.qvel]))
        contacts += data.ncon > 0
    states, actions, after = (jnp.asarray(x, jnp.float32) for x in (states, actions, after))
    start = jax.vmap(physics.start)(states[:, :2], actions)._replace(qvel=states[:, 2:])
    found = jax.jit(jax.vmap(physics.step))(start, actions)
    return np.abs(found.qpos - after[:, :2]), np.abs(found.qvel - after[:, 2:]), contacts


@pytest.mark.parametrize("layout", ["medium", "large"])
def test_every_step_is_that_of_c_mujoco(layout):
    position, velocity, contacts = pushed(walls_of(layout), 3000)
    assert contacts > 500
    assert position.max() < 1e-5 and velocity.max() < 5e-4  # float32 against float64


def test_its_mass_and_contact_weight_are_those_of_the_model():
    model = mujoco.MjModel.from_xml_string(mjcf(walls_of("medium")))
    np.testing.assert_allclose(model.body_mass[1], MASS)
    np.testing.assert_allclose(model.body_invweight0[1, 0], 1 / MASS)


@pytest.mark.slow
def test_mjx_agrees_where_contacts_begin_at_touch():
    walls = walls_of("medium")
    physics = Physics(mujoco.MjModel.from_xml_string(mjcf(walls, margin=0.0)))
    exact = PointMass(walls, margin=0.0)
    state = one = physics.start(jnp.array([1.0, 1.0]), jnp.zeros(2))
    step, exact_step = jax.jit(physics.step), jax.jit(exact.step)
    random, worst = np.random.default_rng(0), 0.0
    for n in range(300):
        if n % 20 == 0:
            action = jnp.asarray(random.uniform(-1, 1, 2), jnp.float32)
        one = exact_step(state, action)
        state = step(state, action)
        worst = max(worst, float(jnp.max(jnp.abs(one.qpos - state.qpos))))
    assert worst < 1e-4


def test_an_episode_ends_at_the_goal_and_pays_one():
    env = Maze(MazeConfig(starts=((1.0, 1.0),), goals=((1.0, 2.0),), noise=0.0, goal_noise=0.0))
    state, step = jax.jit(env.reset)(jax.random.key(0)), jax.jit(env.step)
    assert state.obs.tolist() == [1.0, 1.0, 0.0, 0.0, 1.0, 2.0]
    for _ in range(60):
        state = step(state, jnp.array([0.0, 1.0]))
        if state.done:
            break
    assert state.done == state.reward == state.metrics["success"] == 1.0
    assert abs(float(state.obs[1]) - 2.0) <= 0.5


def test_starts_and_goals_cover_what_is_asked_for():
    keys = jax.random.split(jax.random.key(0), 400)
    cells = lambda x: {tuple(c) for c in np.rint(np.asarray(x)).astype(int).tolist()}
    whole, half = (Maze(MazeConfig(coverage=share)) for share in (1.0, 0.5))
    everywhere = jax.jit(jax.vmap(whole.reset))(jax.random.clone(keys)).obs
    assert len(cells(everywhere[:, :2])) == len(whole.cells) == 26
    some = jax.jit(jax.vmap(half.reset))(keys).obs
    assert len(cells(some[:, :2])) == len(cells(some[:, 4:])) == 13


def test_the_way_to_a_goal_is_a_shortest_one():
    cells = Maze().cells
    table, index = next_cells(cells), {tuple(c): i for i, c in enumerate(cells.astype(int))}
    cell, goal, steps = index[1, 1], index[6, 6], 0
    while cell != goal:
        following = table[cell, goal]
        assert np.abs(cells[following] - cells[cell]).sum() == 1
        cell, steps = following, steps + 1
    assert steps == 10  # 5 along each axis: no detour


def test_demonstrations_are_those_of_the_paper():
    env = make_world("maze2d-medium")
    episodes = jax.device_get(
        jax.jit(lambda key: attempts(env, waypoints(env), key, 1500))(jax.random.key(0))
    )
    kept = episodes.extras["accepted"]
    length = episodes.length[kept]
    is_there = np.arange(episodes.actions.shape[1])[None] < length[:, None]
    actions = episodes.actions[kept][is_there]
    assert abs(length.mean() - 185) < 5 and length.min() >= 76 and length.max() < 600
    assert np.all(np.abs(actions.std(axis=0) - 0.745) < 0.01)
    assert np.all(np.abs((np.abs(actions) >= 1).mean(axis=0) - 0.335) < 0.01)
    assert episodes.extras["success"][kept].all()


def test_the_same_seed_gives_the_same_demonstrations():
    env = make_world("maze2d-medium")
    one, two = (demonstrations(env, waypoints(env), 3, 4, 8) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert not np.array_equal(one.actions, demonstrations(env, waypoints(env), 4, 4, 8).actions)


D4RL = {  # returns: random policy, stale controller, correct one
    "umaze": (23.85, 161.86, 224.4),
    "medium": (13.13, 277.39, 419.5),
    "large": (6.7, 273.99, 548.6),
}


@pytest.mark.parametrize("layout", ["umaze", pytest.param("large", marks=pytest.mark.slow)])
def test_d4rls_controllers_are_paid_what_they_are_there(layout):
    world = make_world(f"maze2d-{layout}-v1")
    for name, published, share in zip(
        ("straight", "waypoints"), D4RL[layout][1:], (0.1, 0.03), strict=True
    ):
        found = returns_of(world, name, jax.random.key(0), 300)
        error = found.std() / 300**0.5
        assert abs(found.mean() - published) < max(3 * error, share * published)


def test_places_in_walls_are_refused():
    for field in ("starts", "goals"):
        with pytest.raises(ValueError, match=rf"{field} name \(0.0, 0.4\), which lies in no free"):
            Maze(MazeConfig("umaze", **{field: ((1.0, 1.0), (0.0, 0.4))}))


def test_whole_episodes_are_paid_what_c_mujoco_pays():
    name = "maze2d-umaze-v1"
    ours, theirs = (
        returns_of(world, "straight", jax.random.key(0), 50)
        for world in (make_world(name), moved_by_mujoco(name))
    )
    np.testing.assert_allclose(ours, theirs, atol=1)  # of 300 steps, in float32 against float64


def test_d4rls_worlds_show_no_goal_and_last_their_horizon():
    world = make_world("maze2d-umaze-v1")
    assert (world.spec.observation_dim, world.spec.task_dim, world.horizon) == (4, 2, 300)
    state = jax.jit(world.reset)(jax.random.key(0))
    cell = np.argwhere(np.array([list(row) for row in LAYOUTS["umaze"]]) == "G")[0]
    assert np.all(np.abs(state.info["goal"] - cell) <= 0.11)
    there = state.replace(
        pipeline_state=state.pipeline_state._replace(qpos=state.info["goal"], qvel=jnp.zeros(2))
    )
    after = jax.jit(world.step)(there, jnp.zeros(2))
    assert after.reward == 1 and after.done == 0


def test_runs_go_from_goal_to_goal_without_an_end():
    world = make_world("maze2d-umaze-v1")
    runs = jax.device_get(jax.jit(lambda key: wander(world, key, 8, 600))(jax.random.key(1)))
    assert runs.actions.shape == (8, 600, 2) and np.all(runs.length == 600)
    position = runs.observations[..., :2]
    assert np.linalg.norm(np.diff(position, axis=1), axis=-1).max() < 0.08  # no reset
    cells = {tuple(cell) for cell in np.round(position.reshape(-1, 2)).astype(int)}
    assert cells == {tuple(cell) for cell in np.argwhere(~world.walls)}
    paid = np.linalg.norm(position[:, 1:] - np.array([1.0, 1.0]), axis=-1)
    assert (
        set(np.unique(runs.rewards)) == {0.0, 1.0} and runs.rewards.mean() < 0.3 and paid.min() < 1
    )
    with pytest.raises(ValueError, match="observes_goal=True would show the goals"):
        wander(make_world("maze2d-umaze-v1", observes_goal=True), jax.random.key(0), 1, 2)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="layout 'mediun'; the nearest is 'medium'"):
        MazeConfig("mediun")
    with pytest.raises(ValueError, match="coverage=0.0 is no share"):
        MazeConfig(coverage=0.0)
    with pytest.raises(ValueError, match="the nearest is 'maze2d-medium'"):
        make_world("maze2d-mediun")
    with pytest.raises(ValueError, match="field of MazeConfig 'layuot'; the nearest is 'layout'"):
        make_world("maze2d-medium", layuot="large")
    assert set(LAYOUTS) == {"open", "umaze", "medium", "large"}

"""The stacking world: sentences, predicates, physics that grasps and stacks, pictures that tell the truth."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from daag_jax.envs.env import PixelEnv
from daag_jax.envs.experts.stacking import cartesian_expert, primitive_expert
from daag_jax.envs.tasks import rgb_stacking_model as body
from daag_jax.envs.tasks.rgb_stacking import (
    RgbStacking,
    RgbStackingConfig,
    parse_task,
    task_sentences,
)
from daag_jax.envs.tasks.rgb_stacking_scenes import captions, random_scene, relations_of
from daag_jax.envs.wrappers import auto_reset, vector_reset

NUM = 6
STACKS = task_sentences()[3:9]


@pytest.fixture(scope="module")
def env():
    return RgbStacking(RgbStackingConfig(horizon=2))


@pytest.fixture(scope="module")
def episode(env):
    """Six worlds, one for each ordered pair, driven by the expert: states before, between and after."""
    tasks = jax.tree.map(lambda *x: jnp.stack(x), *[parse_task(s) for s in STACKS])
    traces = []

    def step(state):
        traces.append(1)
        return jax.vmap(env.step)(state, jax.vmap(primitive_expert)(state))

    step = jax.jit(step)
    states = [jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(3), NUM), tasks)]
    for _ in range(2):
        states.append(step(states[-1]))
    return states, traces


def standing(heights, places, fingers=body.FINGER_OPEN, palm=(0.0, 0.0, 0.25)):
    """A configuration with cubes at (x, y) and heights in units of a cube's side."""
    cubes = [
        (*xy, body.CUBE * (1 + 2 * h), 1, 0, 0, 0) for xy, h in zip(places, heights, strict=True)
    ]
    return jnp.array([*palm, 0.0, fingers, fingers, *np.ravel(cubes)], jnp.float32)


APART = ((0.05, 0.05), (-0.05, 0.0), (0.05, -0.05))


def test_the_world_keeps_the_contract(env):
    assert isinstance(env, PixelEnv)
    assert env.spec.image_shape == (2, 64, 64, 3)


def test_every_task_sentence_is_understood():
    assert len(task_sentences()) == 10
    kinds = [int(parse_task(sentence).kind) for sentence in task_sentences()]
    assert kinds == [0] * 3 + [1] * 6 + [2]


def test_a_wrong_colour_or_sentence_is_named():
    with pytest.raises(ValueError, match="'blue'"):
        parse_task("Grasp the bleu object")
    with pytest.raises(ValueError, match="not understood"):
        parse_task("Juggle the red object")
    with pytest.raises(ValueError, match="mode 'joint'"):
        RgbStackingConfig(mode="joint")
    with pytest.raises(ValueError, match="mauve"):
        RgbStackingConfig(colors=("red", "mauve", "blue"))


def test_resets_differ_by_key_and_repeat(env):
    states = jax.jit(lambda key: vector_reset(env, key, 8))(jax.random.key(0))
    again = jax.jit(lambda key: vector_reset(env, key, 8))(jax.random.key(0))
    np.testing.assert_array_equal(states.pipeline_state.qpos, again.pipeline_state.qpos)
    flat = np.asarray(states.pipeline_state.qpos)
    assert len(np.unique(flat[:, 6])) == 8 and len(np.unique(flat[:, 0])) == 8


def test_the_expert_stacks_every_ordered_pair(episode):
    states, traces = episode
    np.testing.assert_array_equal(states[-1].metrics["success"], np.ones(NUM))
    np.testing.assert_array_equal(states[-1].reward, np.ones(NUM))
    np.testing.assert_array_equal(states[-1].done, np.ones(NUM))
    np.testing.assert_array_equal(states[1].reward, np.zeros(NUM))
    assert len(traces) == 1


def test_captions_tell_what_happened(env, episode):
    states, _ = episode
    names = captions()
    labels = jax.jit(jax.vmap(env.labels))
    before, held, after = (np.asarray(labels(state)) for state in states)
    assert not before.any()
    for world, sentence in enumerate(STACKS):
        top, bottom = sentence.split()[2], sentence.split()[8]
        assert [names[i] for i in np.flatnonzero(held[world])] == [
            f"The robot is grasping the {top} object"
        ]
        assert f"The {top} object is on top of the {bottom} object" in [
            names[i] for i in np.flatnonzero(after[world])
        ]


def test_captions_follow_other_colours(env, episode):
    states, _ = episode
    qpos = states[-1].pipeline_state.qpos[0]  # red on green
    labels = np.asarray(env.labels_qpos(qpos, jnp.array([6, 7, 3])))  # cyan, pink, yellow
    found = [captions()[i] for i in np.flatnonzero(labels)]
    assert found == ["The cyan object is on top of the pink object"]


def test_other_colours_change_the_cubes_pixels_only(env, episode):
    states, _ = episode
    qpos = states[1].pipeline_state.qpos[0]
    render = jax.jit(env.render_qpos)
    before, after = render(qpos, jnp.array([0, 1, 2])), render(qpos, jnp.array([0, 4, 2]))
    changed = (np.asarray(before.rgb) != np.asarray(after.rgb)).any(-1)
    np.testing.assert_array_equal(changed, np.asarray(before.segmentation) == 2)
    np.testing.assert_array_equal(before.depth, after.depth)


@pytest.mark.parametrize(
    ("heights", "places", "pairs"),
    [
        ((0, 0, 0), APART, []),
        ((1, 0, 0), ((-0.05, 0.01), *APART[1:]), [(0, 1)]),
        ((1, 0, 0), ((0.02, 0.0), *APART[1:]), []),  # in the air beside it
        ((2, 1, 0), ((0.05, -0.05), (0.05, -0.04), APART[2]), [(0, 1), (1, 2)]),
    ],
)
def test_on_top_is_a_matter_of_geometry(heights, places, pairs):
    found = np.argwhere(np.asarray(relations_of(standing(heights, places)).on_top))
    assert [tuple(row) for row in found] == pairs


def test_a_held_cube_is_grasped_only_off_its_support():
    grip = {"fingers": body.CUBE + body.FINGER_RADIUS}
    lifted = standing((2, 0, 0), APART, palm=(0.05, 0.05, 0.125 + body.TIP - body.CUBE), **grip)
    lying = standing((0, 0, 0), APART, palm=(0.05, 0.05, body.TIP), **grip)
    np.testing.assert_array_equal(relations_of(lifted).grasped, [True, False, False])
    assert not np.asarray(relations_of(lying).grasped).any()


def test_relations_agree_with_contacts_in_c_mujoco():
    """Scripted pick and place in C: whenever geometry says "on top" at rest, the two cubes touch."""
    model = body.load_model()
    data = mujoco.MjData(model)
    data.qpos[:] = np.asarray(standing((0, 0, 0), APART))
    data.ctrl[:] = data.qpos[:6]

    def go(x, y, z, finger, steps):
        begin = data.ctrl.copy()
        goal = np.array([x, y, z, 0, finger, finger])
        for i in range(steps):
            data.ctrl[:4] = (begin + (goal - begin) * min(1, (i + 1) / (0.7 * steps)))[:4]
            data.ctrl[4:] = goal[4:]
            mujoco.mj_step(model, data)

    opened, closed = body.FINGER_OPEN, body.FINGER_CLOSED
    for x, y, z, finger, steps in (
        (0.05, 0.05, 0.25, opened, 60),
        (0.05, 0.05, body.TIP, opened, 60),
        (0.05, 0.05, body.TIP, closed, 30),
        (0.05, 0.05, 0.25, closed, 80),
    ):
        go(x, y, z, finger, steps)
    assert np.asarray(relations_of(jnp.asarray(data.qpos, jnp.float32)).grasped)[0]
    go(-0.05, 0.0, 0.25, closed, 60)
    go(-0.05, 0.0, body.TIP + 2 * body.CUBE + 0.004, closed, 80)
    go(-0.05, 0.0, body.TIP + 2 * body.CUBE + 0.004, opened, 30)
    go(-0.05, 0.0, 0.25, opened, 60)
    names = {
        frozenset(mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_GEOM, g) for g in contact.geom)
        for contact in data.contact[: data.ncon]
    }
    assert (
        frozenset({"object0", "object1"}) in names and frozenset({"object0", "floor"}) not in names
    )
    assert np.asarray(relations_of(jnp.asarray(data.qpos, jnp.float32)).on_top)[0, 1]


@pytest.mark.parametrize("is_mjx", [True, False])
def test_a_tower_of_three_stands_for_ten_seconds(env, is_mjx):
    qpos = standing((0, 1, 2), ((0.0, 0.0), (0.008, 0.0), (0.0, 0.006)))
    if is_mjx:
        ctrls = jnp.broadcast_to(qpos[None, :6], (2000, 6))
        qpos = jax.jit(env.physics.follow)(env.physics.start(qpos, qpos[:6]), ctrls).qpos
    else:
        data = mujoco.MjData(env.physics.model)
        data.qpos[:], data.ctrl[:] = np.asarray(qpos), np.asarray(qpos[:6])
        mujoco.mj_step(env.physics.model, data, 2000)
        qpos = data.qpos
    heights = body.cube_positions(jnp.asarray(qpos))[:, 2]
    np.testing.assert_allclose(heights, body.CUBE * np.array([1, 3, 5]), atol=0.003)


def test_mjx_follows_c_mujoco(env):
    """A cube falls 4 cm while the gripper moves; after 40 steps both simulators agree."""
    qpos = standing((0.8, 0, 0), APART)
    ctrl = jnp.array([0.05, -0.05, 0.2, 0.1, body.FINGER_CLOSED, body.FINGER_CLOSED])
    state = env.physics.start(qpos, ctrl)
    ours = jax.jit(env.physics.follow)(state, jnp.broadcast_to(ctrl[None], (40, 6)))
    data = mujoco.MjData(env.physics.model)
    data.qpos[:], data.ctrl[:] = np.asarray(qpos), np.asarray(ctrl)
    for _ in range(40):
        mujoco.mj_step(env.physics.model, data)
    np.testing.assert_allclose(ours.qpos, data.qpos, atol=2e-3)


def test_random_scenes_are_told_truly():
    qpos, colors = jax.jit(jax.vmap(random_scene))(jax.random.split(jax.random.key(0), 64))
    relations = jax.vmap(relations_of)(qpos)
    assert np.asarray(relations.grasped).any(-1).mean() > 0.15
    assert np.asarray(relations.on_top).any((-2, -1)).mean() > 0.15
    assert all(len(set(row)) == 3 for row in np.asarray(colors).tolist())


@pytest.mark.slow
def test_an_automatic_reset_is_fresh(env):
    step = jax.jit(jax.vmap(auto_reset(env)))
    state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 4))
    first = state.pipeline_state.qpos
    action = jnp.zeros((4, 3))
    for i in range(2):
        state = step(state, action, jax.random.split(jax.random.key(i + 1), 4))
    np.testing.assert_array_equal(state.done, np.ones(4))
    np.testing.assert_array_equal(state.info["steps"], np.zeros(4))
    assert not np.allclose(state.pipeline_state.qpos, first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "expert"), [("primitive", primitive_expert), ("cartesian", cartesian_expert)]
)
def test_experts_succeed(mode, expert):
    env = RgbStacking(RgbStackingConfig(mode=mode))
    tasks = [parse_task(s) for s in task_sentences()[:9]]
    chosen = jax.tree.map(lambda *x: jnp.stack(x), *[tasks[i % 9] for i in range(72)])

    def run(keys, tasks):
        def step(state, _):
            after = jax.vmap(env.step)(state, jax.vmap(expert)(state))
            reached = jnp.maximum(state.metrics["success"], after.metrics["success"])
            return after.replace(metrics={"success": reached}), None

        return jax.lax.scan(step, jax.vmap(env.reset)(keys, tasks), None, env.horizon)[0]

    final = jax.jit(run)(jax.random.split(jax.random.key(1), 72), chosen)
    assert float(final.metrics["success"].mean()) >= 0.95

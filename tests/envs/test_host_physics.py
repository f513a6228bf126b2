"""C MuJoCo behind the contract of physics: the same steps, for any number of worlds, as a pure function."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from daag_jax.envs.host_physics import HostPhysics
from daag_jax.envs.physics import Physics

PENDULUM = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body><joint name="hinge" axis="0 1 0"/><geom type="capsule" fromto="0 0 0 0 0 -0.5" size="0.05"/></body>
  </worldbody>
  <actuator><motor joint="hinge" gear="3"/></actuator>
  <sensor><jointpos joint="hinge"/></sensor>
</mujoco>"""
MODEL = mujoco.MjModel.from_xml_string(PENDULUM)


def some_states(physics, num=5):
    angles = jnp.linspace(-1.0, 1.0, num)[:, None]
    return jax.vmap(physics.start)(angles, 0.3 * angles), 0.5 * angles


def test_a_step_is_that_of_c_mujoco_and_sensors_are_read_before_the_last_one():
    physics = HostPhysics(MODEL)
    states, ctrls = some_states(physics)
    after, sensors = jax.jit(jax.vmap(lambda s, c: physics.hold(s, c, 7)))(states, ctrls)
    for i in range(5):
        data = mujoco.MjData(MODEL)
        data.qpos[:], data.ctrl[:] = states.qpos[i], ctrls[i]
        mujoco.mj_step(MODEL, data, 6)
        seen = data.qpos.copy()
        mujoco.mj_step(MODEL, data)
        np.testing.assert_allclose(after.qpos[i], data.qpos, atol=1e-6)
        np.testing.assert_allclose(after.qvel[i], data.qvel, atol=1e-5)
        np.testing.assert_allclose(sensors[i], seen, atol=1e-6)


def test_mjx_has_the_same_verbs_and_results():
    host, mjx = HostPhysics(MODEL), Physics(MODEL)
    states, ctrls = some_states(host)
    one, two = (
        jax.jit(jax.vmap(lambda s, c, p=p: p.hold(s, c, 3)))(states, ctrls) for p in (host, mjx)
    )
    np.testing.assert_allclose(one[0].qpos, two[0].qpos, atol=1e-5)
    np.testing.assert_allclose(one[1], two[1], atol=1e-5)


def test_many_worlds_are_the_worlds_one_by_one_whatever_the_threads():
    states, ctrls = some_states(HostPhysics(MODEL))
    run = lambda physics: jax.jit(jax.vmap(physics.step))(states, ctrls)
    one, two = run(HostPhysics(MODEL, 1)), run(HostPhysics(MODEL, 2))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    physics = HostPhysics(MODEL)
    alone = jax.jit(physics.step)(jax.tree.map(lambda x: x[2], states), ctrls[2])
    np.testing.assert_array_equal(alone.qpos, one.qpos[2])


def test_it_stands_inside_scans():
    physics = HostPhysics(MODEL)
    states, ctrls = some_states(physics)

    def run(state, ctrl):
        return jax.lax.scan(lambda s, _: (physics.step(s, ctrl), None), state, None, length=7)[0]

    scanned = jax.jit(jax.vmap(run))(states, ctrls)
    held = jax.jit(jax.vmap(lambda s, c: physics.hold(s, c, 7)[0]))(states, ctrls)
    np.testing.assert_allclose(scanned.qpos, held.qpos, atol=1e-5)  # float32 between steps


def test_models_with_more_state_are_refused():
    muscle = PENDULUM.replace(
        '<motor joint="hinge" gear="3"/>', '<intvelocity joint="hinge" actrange="-1 1"/>'
    )
    with pytest.raises(ValueError, match="activations and plugins are not supported"):
        HostPhysics(mujoco.MjModel.from_xml_string(muscle))

"""The Fetch robot at its table: the MJCF of gymnasium-robotics, with sensors, and where every episode begins.

The MJCF and its meshes are those of the installed package (Plappert et al., arXiv 1802.09464; 26 MB, not vendored).
The robot has no motors in its arm: a weld pulls the gripper towards a mocap body, which the action moves.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import mujoco
import numpy as np
from jaxtyping import Float

from daag_jax.envs.installed import installed_model

Values = jax.Array | np.ndarray  # poses are computed on the host once, and traced in every step

SUBSTEPS = 20  # of 2 ms: a control step of 40 ms
DOWN = (1.0, 0.0, 1.0, 0.0)  # quaternion of a gripper that points at the table, not normalised
FILES = {"pick": "pick_and_place.xml", "push": "push.xml"}
EXTRA_HEIGHTS = {"pick": 0.2, "push": 0.0}  # of the gripper at the start [m]
FINGERS = ("robot0:r_gripper_finger_joint", "robot0:l_gripper_finger_joint")  # order of qpos
OBJECT = "object0:joint"

BASE = {"robot0:slide0": 0.405, "robot0:slide1": 0.48, "robot0:slide2": 0.0}  # [m]
OBJECT_START = (1.25, 0.53, 0.4, 1.0, 0.0, 0.0, 0.0)  # in the table by half a block, which settles
TO_START = (-0.498, 0.005, -0.431)  # from where the gripper is at qpos0 [m]
SETTLING = 10  # control steps


class Poses(NamedTuple):
    """What the sensors say, in world coordinates."""

    grip: Float[Values, "3"]  # between the fingers [m]
    object: Float[Values, "3"]  # [m]
    object_up: Float[Values, "3"]  # z axis of the object
    wrist: Float[Values, "7"]  # position [m] and quaternion of the body welded to the mocap body


class Start(NamedTuple):
    """Where every episode begins, but for the place of the object."""

    qpos: Float[np.ndarray, "Q"]
    qvel: Float[np.ndarray, " V"]
    poses: Poses  # of qpos
    gripper: Float[np.ndarray, "3"]  # what the boxes of objects and goals are centred on [m]
    height: float  # of an object on the table [m]


def split_poses(sensors: Float[Values, "16"]) -> Poses:
    """Names the sensor values."""
    return Poses(sensors[:3], sensors[3:6], sensors[6:9], sensors[9:16])


def fetch_model(task: str) -> mujoco.MjModel:
    """The compiled model of "pick" or "push", with the sensors of :class:`Poses`.

    Raises:
        ModuleNotFoundError: gymnasium-robotics is not installed.
    """
    path = installed_model("gymnasium_robotics", f"assets/fetch/{FILES[task]}")
    spec = mujoco.MjSpec.from_file(str(path))
    site, body = mujoco.mjtObj.mjOBJ_SITE, mujoco.mjtObj.mjOBJ_XBODY
    position, axis = mujoco.mjtSensor.mjSENS_FRAMEPOS, mujoco.mjtSensor.mjSENS_FRAMEZAXIS
    rotation = mujoco.mjtSensor.mjSENS_FRAMEQUAT
    wrist = "robot0:gripper_link"
    for kind, what, name in (
        (position, site, "robot0:grip"),
        (position, site, "object0"),
        (axis, site, "object0"),
        (position, body, wrist),
        (rotation, body, wrist),
    ):
        spec.add_sensor(type=kind, objtype=what, objname=name)
    model = spec.compile()
    model.eq_data[:, :7] = (0, 0, 0, 0, 0, 0, 1)  # the weld joins the frames without an offset
    return model


def settle(model: mujoco.MjModel, task: str) -> Start:
    """Moves the gripper to its start, in C MuJoCo; the object drops onto the table meanwhile.

    The gripper's place is read off as gymnasium-robotics does, a substep before the last.
    """
    data = mujoco.MjData(model)
    for name, value in {**BASE, OBJECT: OBJECT_START}.items():
        data.joint(name).qpos = value
    mujoco.mj_forward(model, data)
    target = np.array(TO_START) + (0.0, 0.0, EXTRA_HEIGHTS[task])
    data.mocap_pos[0] = target + split_poses(data.sensordata).grip
    data.mocap_quat[0] = DOWN
    mujoco.mj_step(model, data, nstep=SETTLING * SUBSTEPS)
    last = split_poses(data.sensordata.copy())
    mujoco.mj_forward(model, data)
    poses = split_poses(data.sensordata.copy())
    return Start(data.qpos.copy(), data.qvel.copy(), poses, last.grip, float(last.object[2]))

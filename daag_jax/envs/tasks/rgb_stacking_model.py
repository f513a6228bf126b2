"""The body of the RGB stacking world: MJCF, cameras, and the scene that the renderer draws.

Three cubes on a floor and a Cartesian gripper: three slides (x, y, z), a yaw hinge, two finger slides.  The arm of the
original (a Sawyer with a Robotiq 2F-85) is dropped: its task is solved in Cartesian space, and a joint chain costs
time without changing what is seen or learnt.  Fingers are capsules, because capsule-box contacts are cheap in MJX.

qpos: gripper x, y, z [m], yaw [rad], left and right finger [m], then per cube position [m] and quaternion.
The world is centred on the workspace (the original's centre is at x = 0.6 m).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float, Int

from daag_jax.envs.cameras import Camera, look_at, stack
from daag_jax.envs.palette import rgb_of
from daag_jax.envs.renderer import Light, Scene, sun

NUM_OBJECTS = 3
CUBE = 0.025  # half side [m]
WORKSPACE = 0.125  # half side of the square that objects start in and primitives reach [m]
FINGER_RADIUS = 0.008  # [m]
FINGER_HALF = 0.022  # half length of a finger's cylinder [m]
FINGER_OPEN = 0.048  # distance of a finger's axis from the palm's centre when open [m]
FINGER_CLOSED = 0.010
TIP = 0.075  # from the gripper's origin (the palm) down to the lower end of the fingers [m]
GRIPPER_DOFS = 6
MAX_CONTACTS = 16  # 4 under each cube and 2 at each finger
MAX_PAIRS = 4  # of one kind: a finger meets at most two cubes
ROBOT = 4  # its instance; 0 is background, 1..3 are the cubes
ROBOT_COLOR = (0.25, 0.26, 0.29)
FLOOR_COLOR = (0.72, 0.70, 0.66)
CAMERAS: dict[str, tuple[float, float, float]] = {  # positions; all look at TARGET
    "front_left": (0.44, -0.36, 0.40),
    "front_right": (0.44, 0.36, 0.40),
    "back_left": (-0.44, -0.36, 0.40),
}
TARGET = (0.0, 0.0, 0.05)
FOVY = 30.0  # [deg], the original's


class Geoms(NamedTuple):
    """The visible geoms in the order of the scene: what they are, how large [m], and whose."""

    kinds: tuple[str, ...]
    sizes: np.ndarray
    instances: np.ndarray


def mjcf(timestep: float = 0.005, iterations: int = 1, ls_iterations: int = 4) -> str:
    """The model as MJCF.  Contacts are explicit pairs: nothing else can touch.

    MJX keeps the MAX_CONTACTS deepest points of the MAX_PAIRS nearest pairs of each kind, which holds whatever cubes
    resting on one thing each and a closed gripper can make; without the caps a step costs 1.6 times as much.  Two
    points of a capsule, one above the other, resist twisting, so that contacts need no torsional friction (condim 3).
    """
    cubes = "".join(
        f"""
      <body name="object{i}" pos="{0.08 * (i - 1)} 0 {CUBE}">
        <freejoint/>
        <geom name="object{i}" type="box" size="{CUBE} {CUBE} {CUBE}" mass="0.06"/>
      </body>"""
        for i in range(NUM_OBJECTS)
    )
    pairs = []
    for i in range(NUM_OBJECTS):
        pairs.append((f"object{i}", "floor"))
        pairs += [(f"object{i}", finger) for finger in ("left", "right")]
        pairs += [(f"object{i}", f"object{j}") for j in range(i + 1, NUM_OBJECTS)]
    contact = "".join(
        f'<pair geom1="{a}" geom2="{b}" condim="3" friction="1.2 1.2 0.02 0.001 0.001"/>'
        for a, b in pairs
    )
    return f"""
<mujoco model="rgb_stacking">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{timestep}" iterations="{iterations}" ls_iterations="{ls_iterations}" solver="Newton"
          cone="pyramidal" integrator="Euler">
    <flag eulerdamp="disable"/>
  </option>
  <custom>
    <numeric name="max_contact_points" data="{MAX_CONTACTS}"/>
    <numeric name="max_geom_pairs" data="{MAX_PAIRS}"/>
  </custom>
  <default><geom solref="0.015 1" solimp="0.95 0.99 0.001"/></default>
  <worldbody>
    <geom name="floor" type="plane" size="2 2 0.1" rgba="{" ".join(map(str, FLOOR_COLOR))} 1"
          contype="0" conaffinity="0"/>
    <body name="gripper" pos="0 0 0" gravcomp="1">
      <joint name="x" type="slide" axis="1 0 0" damping="20" armature="0.5"/>
      <joint name="y" type="slide" axis="0 1 0" damping="20" armature="0.5"/>
      <joint name="z" type="slide" axis="0 0 1" damping="20" armature="0.5"/>
      <joint name="yaw" type="hinge" axis="0 0 1" damping="0.1" armature="0.01"/>
      <geom name="palm" type="box" size="0.020 0.060 0.012" mass="0.2" contype="0" conaffinity="0"/>
      <body name="left" pos="0 0 {-(TIP - FINGER_HALF - FINGER_RADIUS)}" gravcomp="1">
        <joint name="left" type="slide" axis="0 1 0" damping="5" armature="0.05"/>
        <geom name="left" type="capsule" size="{FINGER_RADIUS} {FINGER_HALF}" mass="0.03"
              contype="0" conaffinity="0"/>
      </body>
      <body name="right" pos="0 0 {-(TIP - FINGER_HALF - FINGER_RADIUS)}" gravcomp="1">
        <joint name="right" type="slide" axis="0 -1 0" damping="5" armature="0.05"/>
        <geom name="right" type="capsule" size="{FINGER_RADIUS} {FINGER_HALF}" mass="0.03"
              contype="0" conaffinity="0"/>
      </body>
    </body>{cubes}
  </worldbody>
  <contact>{contact}</contact>
  <actuator>
    <position joint="x" kp="400" kv="30"/><position joint="y" kp="400" kv="30"/><position joint="z" kp="400" kv="30"/>
    <position joint="yaw" kp="4" kv="0.4"/>
    <position joint="left" kp="150" kv="8" forcerange="-6 6"/>
    <position joint="right" kp="150" kv="8" forcerange="-6 6"/>
  </actuator>
</mujoco>"""


PALM_SIZE = (0.020, 0.060, 0.012)
GEOMS = Geoms(
    kinds=("plane", *("box",) * NUM_OBJECTS, "box", "capsule", "capsule"),
    sizes=np.array(
        [(2, 2, 0.1)]
        + [(CUBE,) * 3] * NUM_OBJECTS
        + [PALM_SIZE]
        + [(FINGER_RADIUS, FINGER_HALF, 0)] * 2,
        np.float32,
    ),
    instances=np.array([0, 1, 2, 3, ROBOT, ROBOT, ROBOT], np.int32),
)


@functools.cache
def load_model(timestep: float = 0.005, iterations: int = 1, ls_iterations: int = 4):
    """The compiled C model."""
    return mujoco.MjModel.from_xml_string(mjcf(timestep, iterations, ls_iterations))


def rotation_of(quaternion: Float[Array, "*N 4"]) -> Float[Array, "*N 3 3"]:
    """Rotation matrices of unit quaternions (w, x, y, z)."""
    w, x, y, z = jnp.moveaxis(quaternion, -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def cube_positions(qpos: Float[Array, "*B Q"]) -> Float[Array, "*B 3 3"]:
    """Positions of the three cubes [m]."""
    return qpos[..., GRIPPER_DOFS:].reshape(*qpos.shape[:-1], NUM_OBJECTS, 7)[..., :3]


def scene_at(qpos: Float[Array, "Q"], colors: Int[Array, "3"]) -> Scene:
    """The drawn geoms at a configuration, the cubes in the given palette colours; no physics needed."""
    cubes = qpos[GRIPPER_DOFS:].reshape(NUM_OBJECTS, 7)
    palm, yaw = qpos[:3], qpos[3]
    c, s, o, i = jnp.cos(yaw), jnp.sin(yaw), jnp.zeros(()), jnp.ones(())
    turn = jnp.stack([jnp.stack([c, -s, o]), jnp.stack([s, c, o]), jnp.stack([o, o, i])])
    drop = -(TIP - FINGER_HALF - FINGER_RADIUS)
    left = palm + turn @ jnp.stack([o, qpos[4], o + drop])
    right = palm + turn @ jnp.stack([o, -qpos[5], o + drop])
    positions = [jnp.zeros((1, 3)), cubes[:, :3], jnp.stack([palm, left, right])]
    rotations = [jnp.eye(3)[None], rotation_of(cubes[:, 3:]), jnp.stack([turn] * 3)]
    paint = [
        jnp.asarray(FLOOR_COLOR)[None],
        rgb_of(colors),
        jnp.tile(jnp.asarray(ROBOT_COLOR)[None], (3, 1)),
    ]
    return Scene(
        jnp.concatenate(positions),
        jnp.concatenate(rotations),
        jnp.asarray(GEOMS.sizes),
        jnp.concatenate(paint),
        jnp.asarray(GEOMS.instances),
    )


def cameras_of(names: tuple[str, ...]) -> Camera:
    """The named cameras, stacked: leading axis V.

    Raises:
        ValueError: a name is not one of CAMERAS.
    """
    for name in names:
        if name not in CAMERAS:
            raise ValueError(f"camera {name!r} does not exist; use some of {tuple(CAMERAS)}.")
    return stack([look_at(CAMERAS[name], TARGET, float(np.deg2rad(FOVY))) for name in names])


def light() -> Light:
    """The one light of the world."""
    return sun()

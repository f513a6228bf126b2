"""A ball that is pushed through a maze of square walls: MuJoCo's contact model, solved in closed form.

The model is D4RL's PointMaze (arXiv 2004.07219): two slides with damping, a motor each, frictionless contacts.  With
walls w in reach, MuJoCo's acceleration is the minimum of

    1/2 m |a - a0|^2 + sum_w 1/(2 R_w) min(0, n_w a - aref_w)^2,   aref_w = -B (n_w v) - K d(r_w) r_w         (1)

over two numbers, which a few Newton steps find exactly.  A step agrees with C MuJoCo on ``mjcf`` to float32, and with
MJX where the margin is 0: MJX's contacts of spheres with boxes begin only when they touch (tests/envs/test_maze.py).
No other geometry is looked at than the three cells next to the ball.  Coefficients: MuJoCo's documentation,
"Computation", at the default solref and solimp.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from daag_jax.envs.physics import PhysicsState, at_rest

TIMESTEP = 0.01  # [s]
RADIUS = 0.1  # of the ball [m]
DENSITY = 1000.0  # [kg/m^3]
DAMPING = 1.0  # of a slide [N s/m]
GEAR = 100.0  # force at action 1 [N]
MARGIN = 0.002  # of the walls: contacts begin before they touch [m]
MAX_SPEED = 5.0  # along an axis, before each step [m/s]
ORIGIN = 1.2  # the ball's place at qpos 0; the cell (i, j) is centred at (i + 1, j + 1) [m]
MASS = DENSITY * 4.0 / 3.0 * np.pi * RADIUS**3
NEWTON_STEPS = 4

# MuJoCo's defaults: solref (0.02, 1) and solimp (0.9, 0.95, 0.001, 0.5, 2)
TIME_CONSTANT, DAMP_RATIO = 0.02, 1.0
IMPEDANCE_LOW, IMPEDANCE_HIGH, IMPEDANCE_WIDTH = 0.9, 0.95, 0.001
STIFFNESS = 1.0 / (IMPEDANCE_HIGH * TIME_CONSTANT * DAMP_RATIO) ** 2
RESISTANCE = 2.0 / (IMPEDANCE_HIGH * TIME_CONSTANT)
INVERSE_WEIGHT = 1.0 / MASS  # MuJoCo's body_invweight0


class Contacts(NamedTuple):
    """Walls in reach: outward normals, distances, and whether they count."""

    normals: Float[Array, "3 2"]
    distances: Float[Array, "3"]
    is_near: Array  # [3]


def mjcf(walls: np.ndarray, margin: float = MARGIN) -> str:
    """The same world for MuJoCo."""
    boxes = "".join(
        f'<geom type="box" pos="{i + 1} {j + 1} 0" size="0.5 0.5 0.2" margin="{margin}"/>'
        for i, j in zip(*np.nonzero(walls), strict=True)
    )
    slides = "".join(
        f'<joint name="{axis}" type="slide" axis="{direction}" damping="{DAMPING}"/>'
        for axis, direction in (("x", "1 0 0"), ("y", "0 1 0"))
    )
    motors = "".join(
        f'<motor joint="{axis}" gear="{GEAR}" ctrllimited="true" ctrlrange="-1 1"/>'
        for axis in ("x", "y")
    )
    return f"""
<mujoco model="maze">
  <option timestep="{TIMESTEP}" gravity="0 0 0" integrator="Euler"/>
  <default>
    <geom density="{DENSITY}" condim="1" contype="2" conaffinity="1"/>
  </default>
  <worldbody>
    {boxes}
    <body pos="{ORIGIN} {ORIGIN} 0">
      {slides}
      <geom type="sphere" size="{RADIUS}" contype="1" conaffinity="2"/>
    </body>
  </worldbody>
  <actuator>{motors}</actuator>
</mujoco>"""


class PointMass:
    """The verbs of :class:`daag_jax.envs.physics.Physics` for one maze.  Pure, and meant for ``jax.vmap``."""

    timestep = TIMESTEP

    def __init__(self, walls: np.ndarray, margin: float = MARGIN):
        self.margin = margin
        self.walls = np.pad(np.asarray(walls, bool), 1, constant_values=True)

    def start(self, qpos: Float[Array, "2"], ctrl: Float[Array, "2"]) -> PhysicsState:
        """A state at rest."""
        return at_rest(qpos, ctrl, 2)

    def step(self, state: PhysicsState, ctrl: Float[Array, "2"]) -> PhysicsState:
        """One step under the given controls; damping is implicit, as in MuJoCo's Euler integrator."""
        ctrl = jnp.clip(ctrl, -1.0, 1.0)
        force = GEAR * ctrl - DAMPING * state.qvel
        acceleration = constrained(force / MASS, state.qvel, self.contacts(state.qpos), self.margin)
        qvel = state.qvel + TIMESTEP * MASS * acceleration / (MASS + TIMESTEP * DAMPING)
        return PhysicsState(state.qpos + TIMESTEP * qvel, qvel, ctrl, acceleration)

    def contacts(self, qpos: Float[Array, "2"]) -> Contacts:
        """The three cells next to the ball's own, in the direction in which it is off its cell's centre."""
        place = qpos + ORIGIN
        cell = jnp.floor(place - 0.5)  # the cell (i, j) reaches from i + 0.5 to i + 1.5
        side = jnp.where(place - cell - 1.0 < 0, -1.0, 1.0)
        cells = cell[None] + jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]) * side[None]
        index = jnp.clip(cells.astype(jnp.int32) + 1, 0, np.array(self.walls.shape)[None] - 1)
        is_wall = jnp.asarray(self.walls)[index[:, 0], index[:, 1]]
        offset = place[None] - jnp.clip(place[None], cells + 0.5, cells + 1.5)
        length = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(offset), axis=1), 1e-12))
        distances = length - RADIUS
        return Contacts(offset / length[:, None], distances, is_wall & (distances < self.margin))


def constrained(
    free: Float[Array, "2"], velocity: Float[Array, "2"], contacts: Contacts, margin: float
) -> Float[Array, "2"]:
    """The minimum of (1) by Newton's method from the free acceleration."""
    depth = contacts.distances - margin
    impedance = impedance_at(depth)
    resistance = (1.0 - impedance) / impedance * INVERSE_WEIGHT
    approach = contacts.normals @ velocity
    wanted = -RESISTANCE * approach - STIFFNESS * impedance * depth

    def newton(a: Array, _: None) -> tuple[Array, None]:
        gap = contacts.normals @ a - wanted
        weight = jnp.where(contacts.is_near & (gap < 0), 1.0 / resistance, 0.0)
        gradient = MASS * (a - free) + contacts.normals.T @ (weight * gap)
        outer = jnp.sum(weight * contacts.normals[:, 0] * contacts.normals[:, 1])
        xx, yy = MASS + weight @ jnp.square(contacts.normals)
        determinant = xx * yy - outer**2
        step = jnp.stack(
            [yy * gradient[0] - outer * gradient[1], xx * gradient[1] - outer * gradient[0]]
        )
        return a - step / determinant, None

    return jax.lax.scan(newton, free, None, length=NEWTON_STEPS, unroll=True)[0]


def impedance_at(depth: Float[Array, "3"]) -> Float[Array, "3"]:
    """d(r) of MuJoCo at the default solimp: two parabolas between its ends."""
    x = jnp.clip(jnp.abs(depth) / IMPEDANCE_WIDTH, 0.0, 1.0)
    y = jnp.where(x < 0.5, 2.0 * jnp.square(x), 1.0 - 2.0 * jnp.square(1.0 - x))
    return IMPEDANCE_LOW + y * (IMPEDANCE_HIGH - IMPEDANCE_LOW)

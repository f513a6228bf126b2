"""The demonstrator of the mazes: from cell to cell along the shortest way (specs/dbc.md section 6.1).

    a = clip(10 (w - x) - v),   executed and recorded: clip(a + 0.5 N(0, I))

Waypoints w are the cells of the way, each but the last moved by -U(0, 0.2) along both axes; the next one counts within
0.1 m.  A demonstration ends within 0.1 m of the goal's cell and lasts between 76 and 599 steps.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from daag_jax.envs.env import State
from daag_jax.envs.experts.expert import Expert
from daag_jax.envs.tasks.maze import Maze
from daag_jax.types import Key

POSITION_GAIN, VELOCITY_GAIN = 10.0, 1.0
ACTION_NOISE = 0.5
MAX_SHIFT = 0.2  # of a waypoint [m]
REACHED = 0.1  # [m]
MIN_STEPS, MAX_STEPS = 76, 599


class Route(NamedTuple):
    """Where the expert is heading."""

    cell: Int[Array, ""]  # of the present waypoint
    goal: Int[Array, ""]
    waypoint: Float[Array, "2"]


def next_cells(cells: np.ndarray) -> np.ndarray:
    """[from, goal]: the next cell (by index) of a shortest way; breadth first from every goal."""
    index = {tuple(cell): i for i, cell in enumerate(cells.astype(int))}
    table = np.tile(np.arange(len(cells))[:, None], (1, len(cells)))
    for goal in index:
        queue, seen = deque([goal]), {goal}
        while queue:
            i, j = cell = queue.popleft()
            for neighbour in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                if neighbour in index and neighbour not in seen:
                    seen.add(neighbour)
                    table[index[neighbour], index[goal]] = index[cell]
                    queue.append(neighbour)
    return table


def waypoints(env: Maze, noise: float = ACTION_NOISE) -> Expert:
    """The noisy waypoint controller of one maze."""
    cells, table = jnp.asarray(env.cells), jnp.asarray(next_cells(env.cells), jnp.int32)
    nearest = lambda place: jnp.argmin(jnp.sum(jnp.square(cells - place[None]), axis=1))

    def head_to(cell: Array, goal: Array, key: Key) -> Route:
        shift = -jax.random.uniform(key, (2,), maxval=MAX_SHIFT)
        return Route(cell, goal, cells[cell] + jnp.where(cell == goal, 0.0, shift))

    def start(state: State, key: Key) -> Route:
        cell, goal = nearest(state.pipeline_state.qpos), nearest(state.info["goal"])
        return head_to(table[cell, goal], goal, key)

    def act(route: Route, state: State, key: Key) -> tuple[Array, Route]:
        shift_key, noise_key = jax.random.split(key)
        qpos, qvel = state.pipeline_state.qpos, state.pipeline_state.qvel
        is_reached = jnp.linalg.norm(qpos - route.waypoint) < REACHED
        following = head_to(table[route.cell, route.goal], route.goal, shift_key)
        route = jax.tree.map(lambda a, b: jnp.where(is_reached, a, b), following, route)
        wanted = POSITION_GAIN * (route.waypoint - qpos) - VELOCITY_GAIN * qvel
        action = jnp.clip(wanted, -1.0, 1.0) + noise * jax.random.normal(noise_key, (2,))
        return jnp.clip(action, -1.0, 1.0), route

    def is_finished(route: Route, state: State) -> Array:
        return jnp.linalg.norm(state.pipeline_state.qpos - cells[route.goal]) < REACHED

    return Expert(start, act, is_finished, MAX_STEPS, MIN_STEPS)

"""The demonstrator of the mazes: from cell to cell along the shortest way (D4RL; arXiv 2302.13335).

    a = clip(10 (w - x) - v),   executed and recorded: clip(a + 0.5 N(0, I))

``wander`` makes D4RL's data with the same controller: from goal to goal, without a pause.

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
from daag_jax.types import Episode, Key

POSITION_GAIN, VELOCITY_GAIN = 10.0, 1.0
ACTION_NOISE = 0.5
RUN_STEPS = 4000  # of one run, past many goals
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


def straight(env: Maze) -> Expert:
    """Steers at the goal whatever stands between: D4RL's controller from its second episode on.

    D4RL's reference script never resets its controller, so that the returns which normalise its scores (Maze2D's "100")
    are probably those of this one: 162, 277, 274 there, 171, 249, 298 here.
    """

    def act(memory: tuple, state: State, key: Key) -> tuple[Array, tuple]:
        place, speed = state.pipeline_state.qpos, state.pipeline_state.qvel
        wanted = POSITION_GAIN * (jnp.round(state.info["goal"]) - place) - VELOCITY_GAIN * speed
        return jnp.clip(wanted, -1.0, 1.0), memory

    never = lambda memory, state: jnp.zeros((), bool)
    return Expert(lambda state, key: (), act, never, env.horizon)


def wander(env: Maze, key: Key, num: int, steps: int = RUN_STEPS, noise: float = 0.0) -> Episode:
    """``num`` runs of ``steps`` steps from one random goal to the next, as D4RL's Maze2D data are made.

    A new goal is drawn within 0.1 m of the last one's cell, or when it was not reached within ``env.horizon`` steps;
    the world is never reset.  Rewards are those of the world's own goal, not of the goals on the way.

    Raises:
        ValueError: the goal is part of the observations, which would tell where the controller is heading.
    """
    if env.config.observes_goal:
        raise ValueError(
            "observes_goal=True would show the goals on the way; try observes_goal=False."
        )
    expert, places = waypoints(env, noise), jnp.asarray(env.cells)
    reset_key, start_key, step_key = jax.random.split(key, 3)

    def heading(state: State, key: Key) -> tuple[Array, Route]:
        cell_key, near_key, start_key = jax.random.split(key, 3)
        near = jax.random.uniform(near_key, (2,), minval=-0.1, maxval=0.1)
        goal = places[jax.random.randint(cell_key, (), 0, places.shape[0])] + near
        return goal, expert.start(toward(state, goal), start_key)

    def toward(state: State, goal: Array) -> State:
        return state.replace(info={**state.info, "goal": goal})

    def step(carry: tuple, n: Array, key: Key) -> tuple[tuple, tuple]:
        state, goal, route, age = carry
        act_key, goal_key = jax.random.split(jax.random.fold_in(key, n))
        action, route = expert.act(route, toward(state, goal), act_key)
        after = env.step(state, action)
        is_over = expert.is_finished(route, after) | (age + 1 >= env.horizon)
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(is_over, a, b), new, old)
        goal, route = keep(heading(after, goal_key), (goal, route))
        return (after, goal, route, jnp.where(is_over, 0, age + 1)), (
            after.obs,
            action,
            after.reward,
        )

    def one(reset_key: Key, start_key: Key, step_key: Key) -> tuple:
        state = env.reset(reset_key)
        goal, route = heading(state, start_key)
        carry = (state, goal, route, jnp.zeros((), jnp.int32))
        walk = lambda carry, n: step(carry, n, step_key)
        return state, jax.lax.scan(walk, carry, jnp.arange(steps))[1]

    split = lambda key: jax.random.split(key, num)
    state, (observations, actions, rewards) = jax.vmap(one)(
        *map(split, (reset_key, start_key, step_key))
    )
    return Episode(
        jnp.concatenate([state.obs[:, None], observations], axis=1),
        jnp.zeros((num, steps + 1, 0, 0, 0, 3), jnp.uint8),
        actions,
        rewards,
        jnp.full(num, steps, jnp.int32),
        {"qpos": state.pipeline_state.qpos},
    )

"""PointMaze: a ball is pushed to a goal through a maze (D4RL, arXiv 2004.07219).

    observation   x, y [m], vx, vy [m/s], goal x, goal y [m];  action   force along x and y in [-1, 1], 100 N at 1

Every step within ``success_radius`` of the goal has reward 1.  Two protocols:

    Diffusion-BC   the goal is observed, and an episode ends at success
    D4RL           ``ends_at_success=False, observes_goal=False``: x, y, vx, vy are observed, the goal is the task
                   (``spec.task_dim`` 2), and an episode lasts 300, 600 or 800 steps.  Maze2D has the layout's one goal,
                   Multi2D any (``single_goal``)

Cells are counted from 0, row by row of the layout, and the ball's position at the cell (i, j) is about (i, j).

Differs from D4RL: physics in closed form instead of a simulator's (``envs/point_mass.py``; the two agree to float32).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from daag_jax.envs.env import State
from daag_jax.envs.physics import PhysicsState
from daag_jax.envs.point_mass import MAX_SPEED, PointMass
from daag_jax.names import check_name
from daag_jax.types import Key, Spec

LAYOUTS: dict[str, tuple[str, ...]] = {  # rows along x; G is D4RL's single goal
    "open": ("#######", *("#OOOOO#",) * 5, "#######"),  # of Diffusion-BC's toy experiments
    "umaze": ("#####", "#GOO#", "###O#", "#OOO#", "#####"),
    "medium": (
        "########",
        "#OO##OO#",
        "#OO#OOO#",
        "##OOO###",
        "#OO#OOO#",
        "#O#OO#O#",
        "#OOO#OG#",
        "########",
    ),
    "large": (
        "############",
        "#OOOO#OOOOO#",
        "#O##O#O#O#O#",
        "#OOOOOO#OOO#",
        "#O####O###O#",
        "#OO#O#OOOOO#",
        "##O#O#O#O###",
        "#OO#OOO#OGO#",
        "############",
    ),
}
COVERAGE_SEEDS = (123, 124)  # of the order in which cells are taken as starts and as goals


@dataclass(frozen=True)
class MazeConfig:
    """The world's choices, after Diffusion-BC's Maze."""

    layout: str = "medium"
    horizon: int = 400  # steps of 0.01 s
    success_radius: float = 0.5  # [m]
    noise: float = 1.0  # scales the start: position U(-0.1, 0.1) [m], velocity N(0, 0.1) [m/s]
    goal_noise: float = 1.0  # scales the goal: U(-0.1, 0.1) [m]
    coverage: float = 1.0  # share of the free cells that starts, and that goals are drawn from
    starts: tuple[tuple[float, float], ...] = ()  # in place of cells
    goals: tuple[tuple[float, float], ...] = ()
    single_goal: bool = False  # the layout's own, in place of ``goals``
    ends_at_success: bool = True
    observes_goal: bool = True

    def __post_init__(self):
        check_name("layout", self.layout, LAYOUTS)
        if self.single_goal and self.goals:
            raise ValueError(
                f"single_goal=True and goals={self.goals}: a world has one or the other."
            )
        if not 0.0 < self.coverage <= 1.0:
            raise ValueError(f"coverage={self.coverage} is no share of the cells; try 0.5.")
        for field in ("horizon", "success_radius"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field}={getattr(self, field)} is not positive.")
        for field in ("noise", "goal_noise"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field}={getattr(self, field)} is negative; 0 switches it off.")


def walls_of(layout: str) -> np.ndarray:
    """True where a layout has a wall."""
    return np.array([[mark == "#" for mark in row] for row in LAYOUTS[layout]])


def goal_of(layout: str) -> tuple[float, float]:
    """The cell of D4RL's single goal.

    Raises:
        ValueError: the layout has none.
    """
    for i, row in enumerate(LAYOUTS[layout]):
        if "G" in row:
            return float(i), float(row.index("G"))
    raise ValueError(f"layout {layout!r} has no single goal; try 'umaze'.")


class Maze:
    """One maze; methods are pure, for one world, and meant for ``jax.vmap``."""

    def __init__(self, config: MazeConfig = MazeConfig()):
        self.config = config
        self.horizon = config.horizon
        is_seen = config.observes_goal
        self.spec = Spec(6 if is_seen else 4, action_dim=2, task_dim=0 if is_seen else 2)
        self.walls = walls_of(config.layout)
        self.cells = np.argwhere(~self.walls).astype(np.float32)
        self.physics = PointMass(self.walls)
        goals = (goal_of(config.layout),) if config.single_goal else config.goals
        self._starts, self._goals = (
            np.array(given, np.float32) if given else self._covered(seed)
            for given, seed in zip((config.starts, goals), COVERAGE_SEEDS, strict=True)
        )
        free = {tuple(cell) for cell in self.cells.tolist()}
        for field, places in (("starts", config.starts), ("goals", config.goals)):
            for place in places:
                if tuple(np.round(place).tolist()) not in free:
                    raise ValueError(
                        f"{field} name {place}, which lies in no free cell of {config.layout!r}; "
                        f"try {tuple(self.cells[0].tolist())}."
                    )

    def _covered(self, seed: int) -> np.ndarray:
        count = max(1, int(self.config.coverage * len(self.cells)))
        return self.cells[np.random.RandomState(seed).permutation(len(self.cells))[:count]]

    def reset(self, key: Key) -> State:
        """A start and a goal, each near a cell."""
        start_key, goal_key, velocity_key, near_key, goal_near_key = jax.random.split(key, 5)
        draw = lambda key, places: places[jax.random.randint(key, (), 0, places.shape[0])]
        near = lambda key: jax.random.uniform(key, (2,), minval=-0.1, maxval=0.1)
        start = draw(start_key, jnp.asarray(self._starts))
        qpos = start + self.config.noise * near(near_key)
        goal = draw(goal_key, jnp.asarray(self._goals))
        goal = goal + self.config.goal_noise * near(goal_near_key)
        qvel = 0.1 * self.config.noise * jax.random.normal(velocity_key, (2,))
        physics = self.physics.start(qpos, jnp.zeros(2))._replace(qvel=qvel)
        zero = jnp.zeros(())
        info = {"goal": goal, "steps": jnp.zeros((), jnp.int32)}
        return State(physics, self._observed(physics, goal), zero, zero, {"success": zero}, info)

    def step(self, state: State, action: Float[Array, "2"]) -> State:
        """The state 0.01 s later."""
        before, goal = state.pipeline_state, state.info["goal"]
        slowed = before._replace(qvel=jnp.clip(before.qvel, -MAX_SPEED, MAX_SPEED))
        physics = self.physics.step(slowed, action)
        success = jnp.linalg.norm(physics.qpos - goal) <= self.config.success_radius
        success, steps = success.astype(jnp.float32), state.info["steps"] + 1
        ends = success * self.config.ends_at_success
        return state.replace(
            pipeline_state=physics,
            obs=self._observed(physics, goal),
            reward=success,
            done=jnp.maximum(ends, (steps >= self.horizon).astype(jnp.float32)),
            metrics={**state.metrics, "success": success},
            info={**state.info, "steps": steps},
        )

    def _observed(self, physics: PhysicsState, goal: Float[Array, "2"]) -> Float[Array, "O"]:
        seen = [goal] if self.config.observes_goal else []
        return jnp.concatenate([physics.qpos, physics.qvel, *seen])

"""What each loss does near a manifold: the toy experiments of Diffusion-BC (arXiv 2302.13335).

    python -m experiments.dbc.manifold                     # about an hour on two cores, ten seeds
    python -m experiments.dbc.manifold --preset smoke      # minutes

Three worlds, each with BC, DBC and the model's term alone:

    goals      an open maze, one start, goals in a row of which a part is shown: what does conditioning generalise to?
    loop       noise-free, open-loop demonstrations of one square: a curve of one dimension in eight
    modes      pairs (s, a) with a = +1 or -1 at random: BC's answer is the mean; is the model's a mode?

"loop" is repeated with noise on the demonstrated pairs.  Expect the model alone to fail on both; DBC at the release's
weight to fall behind BC where the pairs lie on a thin curve, and to pass it at noise 0.1; on modes the term alone leads
near the mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from daag_jax.data.datasets import transitions
from daag_jax.envs.experts.maze import waypoints
from daag_jax.envs.tasks.maze import Maze, MazeConfig
from daag_jax.evaluation.outcomes import demonstrations
from daag_jax.evaluation.studies import estimate
from daag_jax.types import Context, Episode
from experiments.dbc.arms import Arm, Run, bc_arm, dbc_arm, run_arms, train_arm
from experiments.dbc.problems import SMOKE, Loaded, Problem, Sizes, with_episodes
from experiments.dbc.study import Options, Results, write

SIZES = {
    "cpu": Sizes((256, 256), 5_000, 3e-4, 128, 20_000, 1e-3, seeds=10),
    "smoke": SMOKE,
    "paper": Sizes((256, 256), 100_000, 1e-4, 128, 400_000, 1e-4, seeds=10),
}
WEIGHT = 30.0  # of Maze in the release
START, SHOWN = (5.0, 3.0), (1.0, 3.0, 5.0)  # of "goals": columns of the row x = 1
HELD_OUT = (2.0, 4.0)
# of "loop": actions and how often each
LOOP = ((40, (0.5, 0.0)), (40, (0.0, 0.5)), (40, (-0.7, 0.0)), (41, (0.0, -0.7)))


@dataclass(frozen=True)
class Config(Options):
    """Which toys, and the noise of "loop"."""

    toys: tuple[str, ...] = ("goals", "loop", "modes")
    noises: tuple[float, ...] = (0.0, 0.01, 0.05, 0.1)


def arms(sizes: Sizes) -> Mapping[str, Arm]:
    """The three ways to learn."""
    weight = WEIGHT if sizes.weight is None else sizes.weight
    return {
        "BC": bc_arm(sizes),
        "DBC": dbc_arm(sizes, weight),
        "model alone": dbc_arm(sizes, weight, bc_weight=0.0),
    }


def loaded_of(name: str, env: Maze, episodes: Episode, sizes: Sizes) -> Loaded:
    """A toy in the form of a problem."""
    problem = Problem("maze2d-medium", len(episodes.length), 0, {}, WEIGHT)
    return with_episodes(Loaded(name, problem, sizes, env, episodes, None), episodes)


def goals(sizes: Sizes, num_demonstrations: int) -> tuple[Loaded, dict[str, Maze]]:
    """Shown goals to learn from; worlds with shown and with held-out ones."""
    place = lambda columns: MazeConfig(
        "open",
        horizon=200,
        success_radius=0.1,
        starts=(START,),
        goals=tuple((1.0, column) for column in columns),
        goal_noise=0.0,  # the expert aims at the cell
    )
    env = Maze(place(SHOWN))
    expert = waypoints(env)._replace(min_steps=1)
    shown = demonstrations(env, expert, 0, num_demonstrations, 16)
    worlds = {"goals shown": env, "goals held out": Maze(place(HELD_OUT))}
    return loaded_of("goals", env, shown, sizes), worlds


def loop(sizes: Sizes, noise: float) -> tuple[Loaded, dict[str, Maze]]:
    """Demonstrations of a square, driven without looking; ``noise`` disturbs the stored pairs, not the motion."""
    place = (1.0, 1.0), (2.927, 3.938)
    config = MazeConfig(
        "open", horizon=200, success_radius=0.1, noise=0.1, starts=place[:1], goals=place[1:]
    )
    env = Maze(replace(config, goal_noise=0.0))
    script = jnp.asarray(np.concatenate([np.tile(a, (n, 1)) for n, a in LOOP]), jnp.float32)

    def drive(key):
        def step(state, action):
            after = env.step(state, action)
            return after, after.obs

        state = env.reset(key)
        return jnp.concatenate([state.obs[None], jax.lax.scan(step, state, script)[1]])

    num, random = 8, np.random.default_rng(0)
    observations = np.array(jax.jit(jax.vmap(drive))(jax.random.split(jax.random.key(0), num)))
    ends = observations[:, -1, :2].mean(axis=0)
    observations[..., 4:] = ends  # where it is evaluated
    actions = np.tile(np.asarray(script), (num, 1, 1))
    disturb = lambda x: (np.asarray(x) + noise * random.normal(size=x.shape)).astype(np.float32)
    blank = np.zeros((num, len(script) + 1, 0, 0, 0, 3), np.uint8)
    rewards, length = np.zeros(actions.shape[:2], np.float32), np.full(num, len(script))
    episodes = Episode(disturb(observations), blank, disturb(actions), rewards, length)
    env = Maze(replace(env.config, goals=(tuple(ends.tolist()),)))
    return loaded_of(f"loop, noise {noise:g}", env, episodes, sizes), {"end of the loop": env}


def modes(sizes: Sizes, run: Run) -> dict[str, dict]:
    """The distance of each way's answer to the nearest of two modes; s uniform, a = +1 or -1, one dimension of two."""
    random = np.random.default_rng(0)
    count = 2000
    states = random.uniform(-1, 1, (count, 2, 6)).astype(np.float32)
    sign = random.choice([-1.0, 1.0], (count, 1, 1))
    actions = np.concatenate([sign, 0.5 * states[:, :1, :1]], axis=-1).astype(np.float32)
    blank, zeros = np.zeros((count, 2, 0, 0, 0, 3), np.uint8), np.zeros((count, 1), np.float32)
    episodes = Episode(states, blank, actions, zeros, np.ones(count, int))
    loaded = loaded_of("modes", Maze(), episodes, sizes)
    seen = jnp.asarray(transitions(episodes)[0][:256, None])
    found = {}
    for name, arm in arms(sizes).items():
        algorithm, trained = train_arm(loaded, arm, run)
        act = lambda state, algorithm=algorithm: algorithm.act(
            state, Context(seen), jax.random.key(0)
        )
        answer = np.asarray(jax.jit(jax.vmap(act))(trained.states))[:, :, 0, 0]
        error = np.minimum(np.abs(answer - 1), np.abs(answer + 1)).mean(axis=1)
        found[name] = {"scores": {"distance to a mode": error.tolist()}, "score": "distance"}
        print(f"modes: {name} {estimate(error.tolist())}", flush=True)
    return found


def main(config: Config) -> Results:
    sizes = config.resize(SIZES[config.preset])
    directory = f"{config.directory}/{config.preset}"
    run = config.run(sizes)
    results: Results = {}
    num = 6 if config.preset == "smoke" else 60
    cases = [goals(sizes, num)] if "goals" in config.toys else []
    cases += [loop(sizes, noise) for noise in config.noises] if "loop" in config.toys else []
    for loaded, worlds in cases:
        results[loaded.name] = run_arms(loaded, arms(sizes), run, worlds)
    if "modes" in config.toys:
        results["modes"] = modes(sizes, run)
    write(results, "manifold", Path(directory) / "manifold")
    print(json.dumps({"toys": list(results)}))
    return results


if __name__ == "__main__":
    main(tyro.cli(Config))

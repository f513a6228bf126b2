"""Trains the demonstrator of a world, and writes ``daag_jax/assets/expert_WORLD.safetensors`` with its card.

    python -m experiments.pretrain.experts hopper
    python -m experiments.pretrain.experts walker2d --steps 1200000 --evaluations 60 --sac.learning-rate 3e-4
    python -m experiments.pretrain.experts halfcheetah --preset smoke   # a minute; writes into the run folder only
    python -m experiments.pretrain.experts hopper --stage medium --evaluations 200

The whole command of each shipped expert is in its card.  ``--stage medium`` stops at a third of D4RL's reference, and
writes the policies met until then, of which D4RL's medium and medium-replay data are made
(``evaluation/offline_data.py``), as ``learning_WORLD.safetensors``.

The trainer is brax's soft actor-critic, unchanged, on the world itself behind a small adapter.  On a CPU it beats PPO:
C MuJoCo gives some 10^4 steps a second, and PPO wants 10^7 of them.  The best policy so far (by its mean action) is
kept in the run folder at every evaluation, and takes the place of the shipped one at the end, or where the training is
interrupted.  It stops by itself at D4RL's reference, or where 99 % of an evaluation's episodes reach the goal
(AntReach) or 95 % (HandRotate).  (The demonstrations of Diffusion-BC, arXiv 2302.13335, have 4758 on HalfCheetah and
7021 on Walker2d.)
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from brax.training.agents.sac import checkpoint, networks
from brax.training.agents.sac import train as sac

from daag_jax.assets import ASSETS
from daag_jax.envs.env import Env
from daag_jax.envs.experts.trained import Weights, load, mean_action
from daag_jax.envs.worlds import make_world
from daag_jax.evaluation.outcomes import evaluate_policy
from daag_jax.evaluation.scores import D4RL_RETURNS
from daag_jax.names import check_name
from daag_jax.networks.tensor_file import write
from daag_jax.types import Key
from experiments.pretrain.brax_worlds import Adapter, as_weights, first_states, wrapped
from experiments.pretrain.cards import command_of, write_card

# success and return at which a training stops: D4RL's reference, which normalises its scores
ENOUGH = {world: (0.0, D4RL_RETURNS[world][1]) for world in ("halfcheetah", "walker2d", "hopper")}
ENOUGH |= {"ant-reach": (0.99, -100.0), "hand-rotate": (0.95, -100.0)}
# what a training is rewarded for making smaller, in the worlds that have a goal: metres, and radians
DISTANCES = {"ant-reach": "distance", "hand-rotate": "rotation_error"}
BANKS = {"hand-rotate": 2048}  # first states of a training, where each takes long to settle
MAX_MET = 10  # policies of a training that are kept
FOREVER = 2**30  # steps; brax cuts the episodes of training, and knows that this is no end


@dataclass(frozen=True)
class SacConfig:
    """Soft actor-critic (arXiv 1812.05905) of brax; sizes are chosen for one CPU core."""

    width: int = 128  # of two hidden layers, of policy and critics
    batch: int = 128
    learning_rate: float = 5e-4
    discount: float = 0.99
    reward_scale: float = 1.0
    num_envs: int = 16
    updates_per_step: int = 16  # of num_envs transitions: one for each
    first_updates_at: int = 10_000  # transitions


@dataclass(frozen=True)
class Config:
    """What to train and for how long."""

    world: Annotated[
        Literal["halfcheetah", "walker2d", "hopper", "ant-reach", "hand-rotate"],
        tyro.conf.Positional,
    ] = "halfcheetah"
    preset: Literal["full", "smoke"] = "full"
    stage: Literal["expert", "medium"] = "expert"  # where to stop, and what to write
    steps: int = 600_000  # of the world, at most
    evaluations: int = 40  # during training
    episodes: int = 16  # of an evaluation
    final_episodes: int = 100  # that the card tells of
    seed: int = 0
    directory: str = "runs/pretrain/experts"
    progress: float = 10.0  # reward of a metre or radian nearer to the goal, while training
    spawn_noise: float = 0.05  # ant-reach: while training
    sac: SacConfig = field(default_factory=SacConfig)


def measure(env: Env, num: int):
    """A function of weights and a key: success, return and length of ``num`` episodes."""

    def act(weights: Weights, context: Any, key: Key) -> jax.Array:
        return mean_action(weights, context.observations[:, -1])[:, None]

    @jax.jit
    def run(weights: Weights, key: Key) -> dict[str, jax.Array]:
        found = evaluate_policy(env, act, weights, key, num)
        return {
            "success": jnp.mean(found.success),
            "return": jnp.mean(found.returns),
            "return/std": jnp.std(found.returns),
            "length": jnp.mean(found.length),
        }

    return run


def third(world: str) -> float:
    """The return a third of the way from D4RL's random policy to its reference.

    Raises:
        ValueError: D4RL has no such world.
    """
    low, high = D4RL_RETURNS[check_name("world of D4RL", world, D4RL_RETURNS)]
    return low + (high - low) / 3


class Enough(Exception):
    """The policy is as good as it is meant to be."""


class Kept(Protocol):
    """What becomes of the policies of a training."""

    enough: tuple[float, float]  # success and return at which it stops

    def keep(self, step: int, params: tuple, score: tuple[float, float]) -> None:
        """Keeps a policy, or does not."""

    def finish(self, minutes: float) -> None:
        """Writes what is left to write, and the card."""


class Best:
    """The best policy: in the run folder as soon as it is met, in ``folder`` at the end."""

    def __init__(self, config: Config, folder: Path):
        self.config, self.enough = config, ENOUGH[config.world]
        name = f"expert_{config.world}.safetensors"
        self.met, self.path = Path(config.directory) / "best" / name, folder / name
        self.score, self.best_step, self.last_step = (-1.0, -np.inf), 0, 0

    def keep(self, step: int, params: tuple, score: tuple[float, float]) -> None:
        self.last_step = step
        if score > self.score:
            self.score, self.best_step = score, step
            write(as_weights(params), self.met)

    def finish(self, minutes: float) -> None:
        """Puts the policy into its place, measures it on other episodes, and writes its card.

        Raises:
            ValueError: there is none.
        """
        config = self.config
        if not self.best_step:
            raise ValueError("the training ended before its first evaluation; nothing was written.")
        write(load(self.met), self.path)
        ends = {"ends_at_success": True} if config.world == "ant-reach" else {}
        env = make_world(config.world, **ends)  # so that a length is the time to the goal
        run = measure(env, config.final_episodes)
        scores = jax.device_get(run(load(self.path), jax.random.key(config.seed + FOREVER)))
        write_card(
            self.path,
            f"The demonstrator of the world `{config.world}`: the mean of a policy of soft actor-critic (brax), the "
            f"best of the evaluations, after {self.best_step} steps of the world; training ended after "
            f"{self.last_step} steps and {minutes:.0f} minutes.",
            command_of("experiments.pretrain.experts", config, "world"),
            config,
            scores,
            f"measured on {config.final_episodes} other episodes of the world",
            data="none but the world's own steps",
        )
        print(scores)


class Met:
    """Every policy with its deviations, up to a third of D4RL's reference."""

    def __init__(self, config: Config, folder: Path):
        self.config, self.enough = config, (0.0, third(config.world))
        self.path = folder / f"learning_{config.world}.safetensors"
        self.policies: list[dict[str, np.ndarray]] = []

    def keep(self, step: int, params: tuple, score: tuple[float, float]) -> None:
        place = {"steps": np.float32(step), "returns": np.float32(score[1])}
        self.policies.append(as_weights(params, with_deviations=True) | place)

    def finish(self, minutes: float) -> None:
        """Writes policies evenly spaced over the training, the last one included, and their card.

        Raises:
            ValueError: the training ended before it was as good as asked, or measured at all.
        """
        del minutes
        if not self.policies:
            raise ValueError("the training ended before its first evaluation; nothing was written.")
        config, last = self.config, self.policies[-1]
        if config.preset != "smoke" and last["returns"] < self.enough[1]:
            raise ValueError(
                f"the last return {last['returns']:.0f} is below {self.enough[1]:.0f}; try more --steps."
            )
        rows = np.unique(np.round(np.linspace(0, len(self.policies) - 1, MAX_MET)).astype(int))
        stacked = jax.tree.map(lambda *x: np.stack(x), *(self.policies[row] for row in rows))
        write(stacked, self.path)
        told = {
            f"return after {s:.0f} steps": r
            for s, r in zip(stacked["steps"], stacked["returns"], strict=True)
        }
        write_card(
            self.path,
            f"Policies that soft actor-critic (brax) met in the world `{config.world}` until its mean return was a "
            f"third of D4RL's reference ({self.enough[1]:.0f}), with their deviations: of them "
            f"`{config.world}-medium-ours` and `{config.world}-medium-replay-ours` are made.",
            command_of("experiments.pretrain.experts", config, "world"),
            config,
            told,
            f"measured on {config.episodes} episodes of the world, acting with the mean",
            data="none but the world's own steps",
        )
        print(told)


def reporter(config: Config, env: Env, kept: Kept, checkpoints: Path, begun: float):
    """Brax's ``progress_fn``: measures the newest policy, prints a line, keeps it, and raises :class:`Enough`."""
    run = measure(env, config.episodes)

    def report(step: int, metrics: Mapping[str, Any]) -> None:
        saved = checkpoints / f"{step:012d}"
        if not saved.exists():  # the evaluation before training has none
            return
        params = checkpoint.load(saved)
        shutil.rmtree(saved)
        scores = run(as_weights(params), jax.random.key(config.seed + step))
        scores = {name: round(float(value), 3) for name, value in scores.items()}
        alpha = float(metrics.get("training/alpha", np.nan))
        print(
            f"{time.time() - begun:6.0f} s  {step:8d} steps  alpha {alpha:.3f}  {scores}",
            flush=True,
        )
        score = (scores["success"], scores["return"])
        kept.keep(step, params, score)
        if score >= kept.enough:
            raise Enough

    return report


def train(
    config: Config,
    training_env: Adapter,
    episode_length: int,
    report: Callable,
    checkpoints: Path,
) -> None:
    """Runs brax's trainer to its end."""
    if not hasattr(jax, "device_put_replicated"):  # gone from jax, which this brax does not know
        jax.device_put_replicated = lambda tree, devices: jax.tree.map(
            lambda x: jnp.stack([x] * len(devices)), tree
        )
    settings, num = config.sac, BANKS.get(config.world, 0)
    bank = first_states(training_env, num, config.seed) if num else None
    checkpoints.mkdir(parents=True, exist_ok=True)
    sac.train(
        training_env,
        num_timesteps=config.steps,
        episode_length=episode_length,
        wrap_env_fn=functools.partial(wrapped, bank=bank),
        num_envs=settings.num_envs,
        num_eval_envs=1,  # the reporter measures
        num_evals=config.evaluations + 1,
        learning_rate=settings.learning_rate,
        discounting=settings.discount,
        reward_scaling=settings.reward_scale,
        batch_size=settings.batch,
        grad_updates_per_step=settings.updates_per_step,
        min_replay_size=settings.first_updates_at,
        normalize_observations=True,
        deterministic_eval=True,
        seed=config.seed,
        network_factory=functools.partial(
            networks.make_sac_networks, hidden_layer_sizes=(settings.width,) * 2
        ),
        progress_fn=report,
        checkpoint_logdir=str(checkpoints),
    )


def main(config: Config) -> None:
    if config.preset == "smoke":
        small = replace(config.sac, first_updates_at=500, width=32, batch=32)
        config = replace(config, steps=2000, evaluations=2, episodes=2, final_episodes=4, sac=small)
    folder = ASSETS if config.preset == "full" else Path(config.directory) / "smoke"
    env, begun = make_world(config.world), time.time()
    kept = Best(config, folder) if config.stage == "expert" else Met(config, folder)
    checkpoints = Path(config.directory).resolve() / f"{config.world}-{config.stage}"
    changes = {"spawn_noise": config.spawn_noise} if config.world == "ant-reach" else {}
    world = make_world(config.world, horizon=FOREVER, **changes)
    training_env = Adapter(world, DISTANCES.get(config.world), config.progress)
    report = reporter(config, env, kept, checkpoints, begun)
    with contextlib.suppress(Enough, KeyboardInterrupt):
        train(config, training_env, env.horizon, report, checkpoints)
    kept.finish((time.time() - begun) / 60)


if __name__ == "__main__":
    main(tyro.cli(Config))

"""Arms of an experiment: an algorithm each, all seeds trained and evaluated as one program, stored when done.

An arm's result is one JSON file; an experiment that is called again trains only what is missing.  Seeds are paired:
seed s sees the same batches in every arm, and is evaluated on the same episodes; initial weights are an arm's own.
Models of expert pairs are trained once for all arms that share their configuration and data, and kept beside the
results.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from daag_jax.algorithms.bc import BcConfig, bc, paper_policy
from daag_jax.algorithms.dbc import DbcConfig, dbc, density
from daag_jax.algorithms.parts.combinators import normalized
from daag_jax.algorithms.parts.density import DensityConfig
from daag_jax.algorithms.parts.trainable import Trainable
from daag_jax.data.windows import draw_windows, episode_data
from daag_jax.envs.env import Env
from daag_jax.evaluation.outcomes import Outcomes, evaluate_policy
from daag_jax.training import checkpoint
from daag_jax.training.fit import Sampler
from daag_jax.training.keys import key_at
from daag_jax.training.seeds import Trained, fit_seeds, init_seeds, roots_of
from daag_jax.types import Algorithm, Batch, Context, State
from experiments.dbc.problems import Loaded, Sizes, held_out, num_transitions
from experiments.records import mark_of, write_json

BATCH = 128
HELD_OUT_BATCH = 1024  # pairs that early stopping looks at
VERSION = 1  # of the code: a change of what an arm computes makes stored results stale
EVALUATION_SEED = 10_000  # the root of evaluation is that of seed + this


class Arm(NamedTuple):
    """``make(spec) -> Algorithm`` in the units of the data, and how long it learns; ``key`` identifies it."""

    make: Callable[..., Algorithm]
    steps: int
    key: Any  # a configuration: what the result depends on
    guide: DbcConfig | None = None  # whose model is trained first and put into the state
    validate: Callable[[Algorithm, State, Batch], jax.Array] | None = (
        None  # early stopping, by its loss
    )


@dataclass(frozen=True)
class Run:
    """What all arms of an experiment share."""

    seeds: tuple[int, ...]
    episodes: int  # of evaluation, per seed
    directory: str
    model_seed: int | None = None  # of one model that guides all seeds; None: each has its own
    progress: bool = True


def bc_config(sizes: Sizes, **changes: Any) -> BcConfig:
    """The policy of a problem."""
    config = paper_policy(sizes.policy_dims, sizes.policy_rate, sizes.policy_steps)
    return replace(config, **{"observation_noise": sizes.observation_noise, **changes})


def dbc_config(sizes: Sizes, weight: float, policy: Mapping = {}, **changes: Any) -> DbcConfig:
    """Diffusion-BC of a problem; ``changes`` are of the model, or of ``DbcConfig`` (clip, bc_weight)."""
    own = {k: changes.pop(k) for k in ("clip", "bc_weight") if k in changes}
    model = DensityConfig(
        width=sizes.density_width,
        learning_rate=sizes.density_rate,
        decay_steps=sizes.density_steps if sizes.density_decays else 0,
    )
    model = replace(model, **changes)
    return DbcConfig(bc_config(sizes, **policy), model, weight, pretrain_steps=0, **own)


def bc_arm(sizes: Sizes, stops_early: bool = False, **changes: Any) -> Arm:
    """Behaviour cloning; stopped early it keeps the policy that errs least on a tenth of the demonstrations."""
    config = bc_config(sizes, **changes)
    make = lambda spec: bc(config, spec)
    if not stops_early:
        return Arm(make, sizes.policy_steps, ("bc", config))
    return Arm(make, sizes.policy_steps, ("bc, stopped early", config), validate=held_out_error)


def held_out_error(algorithm: Algorithm, state: State, batch: Batch) -> jax.Array:
    """The mean squared error of the first action, in the units of the data's deviations."""
    first = algorithm.window.history - 1
    decided = algorithm.act(state, Context(batch.observations[:, : first + 1]), jax.random.key(0))
    spread = jnp.std(batch.actions[:, first], axis=0, keepdims=True) + 1e-6
    return jnp.mean(jnp.square((decided[:, 0] - batch.actions[:, first]) / spread))


def dbc_arm(sizes: Sizes, weight: float, policy: Mapping = {}, **changes: Any) -> Arm:
    """Diffusion-BC, with a model that was trained before."""
    config = dbc_config(sizes, weight, policy, **changes)
    guide = None if config.density.kind == "gan" else config
    # a rate that falls has the length of the model's training in its configuration
    key = ("dbc", config) if sizes.density_decays else ("dbc", config, sizes.density_steps)
    return Arm(lambda spec: dbc(config, spec), sizes.policy_steps, key, guide)


def sampler_of(loaded: Loaded, algorithm: Algorithm, batch: int = BATCH) -> Sampler:
    """Batches of windows of the demonstrations."""
    window = algorithm.window
    data = jax.tree.map(jnp.asarray, episode_data(loaded.episodes, window))
    return Sampler(data, lambda data, key, n: draw_windows(data, window, batch, key))


def in_units(loaded: Loaded, algorithm: Algorithm) -> Algorithm:
    """The algorithm as it sees the data of a problem."""
    if loaded.stats is None:
        if loaded.sizes.observation_limit:
            raise ValueError(
                f"observation_limit={loaded.sizes.observation_limit} is in deviations, and {loaded.name} is learnt "
                "in the world's units; leave it out."
            )
        return algorithm
    return normalized(algorithm, loaded.stats, loaded.sizes.observation_limit)


def train_guides(loaded: Loaded, config: DbcConfig, run: Run) -> Trainable:
    """The models of expert pairs, one per seed, leading axis S; from disk where they lie there."""
    if run.model_seed is not None:
        one = train_guides(loaded, config, replace(run, seeds=(run.model_seed,), model_seed=None))
        return jax.tree.map(lambda x: jnp.repeat(x, len(run.seeds), axis=0), one)
    algorithm = in_units(loaded, density(config, loaded.env.spec))
    mark = digest(
        loaded, replace(config.density, **POLICY_STAGE), run.seeds, loaded.sizes.density_steps
    )
    folder = Path(run.directory) / "models" / mark
    like = init_seeds(algorithm, run.seeds)
    if checkpoint.latest(folder) is not None:
        return checkpoint.restore(folder, like).state
    print(
        f"{loaded.name}: a {config.density.kind} model of {config.density.target} pairs", flush=True
    )
    trained = fit_seeds(
        algorithm,
        sampler_of(loaded, algorithm),
        loaded.sizes.density_steps,
        run.seeds,
        name=f"{loaded.name}, model",
        progress=run.progress,
    )
    checkpoint.save(folder, loaded.sizes.density_steps, trained.states)
    return trained.states


# fields that matter to the policy's stage alone: models that differ in them are the same
POLICY_STAGE = {
    "policy_schedule": "",
    "time_range": (0.0, 1.0),
    "weighting": "uniform",
    "gradient": "full",
}


def train_arm(loaded: Loaded, arm: Arm, run: Run) -> tuple[Algorithm, Trained]:
    """The algorithm, and its trained states (leading axis S)."""
    algorithm = in_units(loaded, arm.make(loaded.env.spec))
    states = validate = None
    if arm.validate is not None:
        loaded, unseen = held_out(loaded, 0.1)
        batch = sampler_of(unseen, algorithm, HELD_OUT_BATCH)
        batch = batch.draw(batch.data, jax.random.key(0), 0)
        validate = jax.jit(jax.vmap(lambda state: arm.validate(algorithm, state, batch)))
    if arm.guide is not None:
        states = init_seeds(algorithm, run.seeds)._replace(
            density=train_guides(loaded, arm.guide, run)
        )
    trained = fit_seeds(
        algorithm,
        sampler_of(loaded, algorithm),
        arm.steps,
        run.seeds,
        states=states,
        validate=validate,
        validate_every=max(1, arm.steps // 50),
        name=loaded.name,
        progress=run.progress,
    )
    return algorithm, trained


def evaluate_arm(env: Env, algorithm: Algorithm, states: State, run: Run) -> Outcomes:
    """Outcomes [S, B] of all seeds, on the same episodes for every arm."""
    roots = roots_of([seed + EVALUATION_SEED for seed in run.seeds])
    one = lambda state, root: evaluate_policy(
        env, algorithm.act, state, key_at(root, "evaluate", 0), run.episodes, algorithm.window
    )
    return jax.device_get(jax.jit(jax.vmap(one))(states, roots))


def digest(loaded: Loaded, *parts: Any) -> str:
    """A short mark of the data and of whatever else a result depends on, but the worlds of evaluation."""
    episodes, problem = loaded.episodes, loaded.problem
    units = problem.is_normalized, loaded.sizes.observation_limit
    text = repr((VERSION, problem.world, units, problem.score, BATCH, *parts))
    return mark_of(text, episodes.length, episodes.observations, episodes.actions)


def run_arm(
    loaded: Loaded, name: str, arm: Arm, run: Run, worlds: Mapping[str, Env] | None = None
) -> dict[str, Any]:
    """Trains and evaluates, or reads what an earlier call stored.

    Args:
        worlds: to evaluate in, by name; None is the problem's own, named "".

    Returns:
        "scores": per world a list over seeds; "lengths": means over all episodes; the last metrics of training.
    """
    worlds = {"": loaded.env} if worlds is None else worlds
    guided_by = () if arm.guide is None or run.model_seed is None else (run.model_seed,)
    mark = digest(loaded, arm.key, arm.steps, run.seeds, *guided_by)
    path = Path(run.directory) / loaded.name / f"{mark}.json"
    stored = json.loads(path.read_text()) if path.is_file() else {"worlds": {}}
    marks = {
        world: repr((env.config, run.episodes, EVALUATION_SEED)) for world, env in worlds.items()
    }
    if any(stored["worlds"].get(mark) is None for mark in marks.values()):
        print(f"{loaded.name}: {name}", flush=True)
        began = time.monotonic()
        algorithm, trained = train_arm(loaded, arm, run)
        stored |= {"config": repr(arm.key), "steps": arm.steps, "seeds": list(run.seeds)}
        stored |= {"transitions": num_transitions(loaded.episodes), "last": trained.history[-1]}
        stored["training_seconds"] = time.monotonic() - began
        for world, env in worlds.items():
            found = evaluate_arm(env, algorithm, trained.states, run)
            scores = found.success if loaded.problem.score == "success" else found.returns
            stored["worlds"][marks[world]] = {
                "scores": np.mean(scores, axis=1, dtype=float).tolist(),
                "length": float(np.mean(found.length)),
            }
            print(f"  {world or loaded.problem.world}: {np.mean(scores):.4g}", flush=True)
        write_json(path, stored)
    seen = {world: stored["worlds"][mark] for world, mark in marks.items()}
    rest = {key: value for key, value in stored.items() if key != "worlds"}
    return rest | {
        "arm": name,
        "score": loaded.problem.score,
        "scores": {world: found["scores"] for world, found in seen.items()},
        "lengths": {world: found["length"] for world, found in seen.items()},
    }


def run_arms(
    loaded: Loaded, arms: Mapping[str, Arm], run: Run, worlds: Mapping[str, Env] | None = None
) -> dict[str, dict[str, Any]]:
    """All arms, one after the other."""
    return {name: run_arm(loaded, name, arm, run, worlds) for name, arm in arms.items()}

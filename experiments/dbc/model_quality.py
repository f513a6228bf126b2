"""How good is the diffusion model?  Telling the expert's actions from perturbed ones, on pairs it has not seen.

    python -m experiments.dbc.model_quality                     # a quarter of an hour on one core
    python -m experiments.dbc.model_quality --preset smoke      # minutes

A pair's score is its loss, averaged over ``draws`` times and noises that all pairs share.  AUC is the probability that
a perturbed pair has the higher score than the expert's pair (0.5: the model cannot tell); "paired" compares the two
actions of one state.  Perturbations are Gaussian in standard deviations of the action, an action of another state, and
the mean action.  One fifth of the demonstrations is held out.  Expect the joint model to tell 0.5 deviations in most
pairs and 0.1 in few, and early times to carry nearly all of it.  On Maze the model of actions alone tells Gaussian
errors as well (it knows the bounds, where many actions lie), but not an action of another state.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float
from rich.console import Console
from rich.table import Table

from daag_jax.algorithms.dbc import DbcConfig, model_of
from daag_jax.algorithms.parts.combinators import standardize
from daag_jax.algorithms.parts.trainable import Trainable, averaged
from daag_jax.data.datasets import transitions
from daag_jax.evaluation import figures, html
from daag_jax.evaluation.studies import estimate
from experiments.dbc.arms import dbc_config, train_guides
from experiments.dbc.problems import Loaded, held_out
from experiments.dbc.study import Options
from experiments.records import provenance, write_json

SIGMAS = (0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Config(Options):
    """Models and what is scored."""

    targets: tuple[str, ...] = ("joint", "conditional", "action")
    ranges: tuple[tuple[float, float], ...] = ((0.0, 1.0), (0.0, 0.1), (0.4, 1.0))
    draws: int = 256
    pairs: int = 512


def pairs_of(loaded: Loaded, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Some states and actions in the units of the learner."""
    states, actions = (jnp.asarray(x) for x in transitions(loaded.episodes))
    if loaded.stats is not None:
        states = standardize(states, loaded.stats.observation_mean, loaded.stats.observation_std)
        if limit := loaded.sizes.observation_limit:
            states = jnp.clip(states, -limit, limit)
        actions = standardize(actions, loaded.stats.action_mean, loaded.stats.action_std)
    rows = np.random.default_rng(0).permutation(len(states))[:num]
    return np.asarray(states)[rows], np.asarray(actions)[rows]


def perturbed(actions: np.ndarray, is_normalized: bool) -> dict[str, np.ndarray]:
    """The actions, disturbed in several ways, by shares of their deviations."""
    random = np.random.default_rng(1)
    noise = random.normal(size=actions.shape).astype(np.float32)
    mean, spread = (0.0, 1.0) if is_normalized else (actions.mean(axis=0), actions.std(axis=0))
    out = {f"sigma {s:g}": actions + s * spread * noise for s in SIGMAS}
    others = {
        "of another state": np.roll(actions, 1, axis=0),
        "mean": np.full_like(actions, mean),
    }
    return out | others


def scores(
    config: DbcConfig, loaded: Loaded, model: Trainable, states: Array, actions: Array, draws: int
) -> Float[np.ndarray, "S N"]:
    """The loss of each pair by the model of each seed, averaged over times and noises that pairs share."""
    network = model_of(config, loaded.env.spec)

    def one(params, key):
        # a single pair repeated: antithetic times and independent noises, the same for every pair
        def of_pair(state, action):
            tiled = [jnp.broadcast_to(x[None], (draws, x.shape[0])) for x in (state, action)]
            return jnp.mean(network.losses(params, *tiled, tiled[1], key)[0])

        return jax.lax.map(lambda pair: of_pair(*pair), (states, actions), batch_size=32)

    run = jax.jit(jax.vmap(one, in_axes=(0, None)))
    return np.asarray(run(averaged(model), jax.random.key(0)))


def auc(expert: Float[np.ndarray, "N"], other: Float[np.ndarray, "M"]) -> float:
    """The probability that ``other`` scores higher; ties count half (Mann and Whitney 1947)."""
    expert = np.sort(expert)
    low, high = np.searchsorted(expert, other, "left"), np.searchsorted(expert, other, "right")
    return float(np.mean(low + high) / (2 * len(expert)))


def main(config: Config) -> dict:
    if config.model_seed is not None:
        raise ValueError(
            f"model_seed={config.model_seed}: intervals are over models; name --seeds instead."
        )
    rows = []
    directory = f"{config.directory}/{config.preset}"
    num, draws = (16, 8) if config.preset == "smoke" else (config.pairs, config.draws)
    for name in config.problems:
        seen, unseen = held_out(config.load(name))
        run = config.run(seen.sizes)
        pairs = pairs_of(unseen, num)
        for target in config.targets:
            base = dbc_config(seen.sizes, 1.0, target=target)
            model = train_guides(seen, base, run)
            for times in config.ranges:
                own = replace(base, density=replace(base.density, time_range=times))
                head = {"problem": name, "model": target, "times": list(times)}
                rows += [head | row for row in told_apart(own, seen, model, pairs, draws)]
    report(rows, Path(directory) / "model_quality")
    return {"rows": rows}


def told_apart(
    config: DbcConfig, loaded: Loaded, model: Trainable, pairs: tuple, draws: int
) -> list[dict]:
    """AUC and paired share of every perturbation, estimated over seeds."""
    states, actions = pairs
    expert, rows = scores(config, loaded, model, states, actions, draws), []
    for kind, other in perturbed(actions, loaded.stats is not None).items():
        found = scores(config, loaded, model, states, other, draws)
        both = list(zip(expert, found, strict=True))
        rows.append(
            {
                "perturbation": kind,
                "auc": list(estimate([auc(e, o) for e, o in both])),
                "paired": list(estimate([float(np.mean(o > e)) for e, o in both])),
            }
        )
    return rows


def report(rows: list[dict], folder: Path) -> None:
    """The table, ``results.json`` and a page with matrices of AUC."""
    write_json(folder / "results.json", {"rows": rows, "made": provenance()})
    table = Table("problem", "model", "times", "perturbation", "AUC", "95 %", "paired")
    for row in rows:
        times = "{:g} to {:g}".format(*row["times"])
        interval = "[{:.2f}, {:.2f}]".format(*row["auc"][1:])
        head = (row["problem"], row["model"], times, row["perturbation"])
        table.add_row(*head, f"{row['auc'][0]:.2f}", interval, f"{row['paired'][0]:.2f}")
    Console(width=120).print(table)
    drawn = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        own = [row for row in rows if row["problem"] == problem]
        kinds = list(dict.fromkeys(row["perturbation"] for row in own))
        label = lambda row: "{}, t {:g} to {:g}".format(row["model"], *row["times"])
        models = list(dict.fromkeys(label(row) for row in own))
        values = np.array(
            [
                [
                    next(r["paired"][0] for r in own if label(r) == m and r["perturbation"] == k)
                    for k in kinds
                ]
                for m in models
            ]
        )
        caption = "Share of states in which the perturbed action has the higher loss."
        drawn.append(html.figure(figures.matrix(values, models, kinds, problem, 0.5, 1.0), caption))
    page = html.Page("How good is the diffusion model?", [html.Section("Held-out pairs", drawn)])
    html.write(page, folder / "report.html")
    print(json.dumps(rows))


if __name__ == "__main__":
    main(tyro.cli(Config))

"""What the experiments of Diffusion-BC share: options, and a study of arms with its table, figures and page.

``results.json`` holds every seed's score; the page and the table are functions of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from daag_jax.envs.env import Env
from daag_jax.evaluation.studies import rows_of
from experiments.dbc.arms import Arm, Run, run_arms
from experiments.dbc.problems import Loaded, Sizes, load
from experiments.records import write_study

Results = dict[str, dict[str, dict[str, Any]]]  # problem -> arm -> what run_arm gives


@dataclass(frozen=True)
class Options:
    """Common options; seeds and sizes that are not given are those of the preset."""

    preset: Literal["paper", "cpu", "smoke"] = "cpu"
    problems: tuple[str, ...] = ("maze",)
    seeds: tuple[int, ...] = ()
    model_seed: int | None = None  # one model guides all seeds, as in the release
    directory: str = "runs/experiments/dbc"
    policy_dims: tuple[int, ...] = ()
    policy_steps: int | None = None
    policy_rate: float | None = None
    density_width: int | None = None
    density_steps: int | None = None
    density_rate: float | None = None
    weight: float | None = None  # lambda_DM; ``.weight`` has several instead
    observation_noise: float | None = None  # of BC and DBC
    observation_limit: float | None = None  # deviations at which observations are cut
    episodes: int | None = None  # of evaluation, per seed

    def resize(self, preset: Sizes) -> Sizes:
        """The preset's sizes with what is given here instead."""
        names = {field.name for field in fields(Sizes)} - {"seeds"}
        given = {name: value for name, value in vars(self).items() if name in names}
        return replace(preset, **{n: v for n, v in given.items() if v not in (None, ())})

    def run(self, sizes: Sizes) -> Run:
        """What all arms share; the seeds of the preset where none are named."""
        seeds = tuple(self.seeds) or tuple(range(sizes.seeds))
        directory = str(Path(self.directory) / self.preset)
        return Run(seeds, sizes.episodes, directory, self.model_seed)

    def load(self, name: str, **changes: Any) -> Loaded:
        """The problem at these sizes; ``changes`` replace fields of it."""
        loaded = load(name, self.preset, **changes)
        return loaded._replace(sizes=self.resize(loaded.sizes))


def study(
    options: Options,
    title: str,
    arms_of: Callable[[Loaded], Mapping[str, Arm]],
    worlds_of: Callable[[Loaded], Mapping[str, Env]] | None = None,
    baseline: str = "BC",
) -> Results:
    """Runs the arms of every problem and writes ``results.json`` and ``report.html`` in a folder named by the title.

    Models and arms that another study has trained already, with the same data and configuration, are used again.
    """
    results: Results = {}
    for name in options.problems:
        loaded = options.load(name)
        run = options.run(loaded.sizes)
        worlds = None if worlds_of is None else worlds_of(loaded)
        results[name] = run_arms(loaded, arms_of(loaded), run, worlds)
    write(results, title, Path(options.directory) / options.preset / title, baseline)
    return results


def write(results: Results, title: str, folder: Path, baseline: str = "BC") -> None:
    """Prints the table and writes ``results.json`` and ``report.html``."""
    rows = []
    for problem, arms in results.items():
        scores = {arm: found["scores"] for arm, found in arms.items()}
        rows += rows_of(problem, scores, baseline, next(iter(arms.values()))["score"])
    write_study(rows, title, folder, baseline, {"results": results})

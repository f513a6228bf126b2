"""``daag evaluate``: how well a trained policy does."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import tyro

from daag_jax.commands.episodes import make_world, write_videos
from daag_jax.commands.policies import load_policy

Positional = tyro.conf.Positional


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Success rate of a trained policy, with Wilson's interval, and videos of some episodes."""

    run: Positional[Path]
    episodes: int = 64
    seed: int = 1
    world: str = ""  # where policy.json does not say it: one without pixels
    task: str = ""  # another than it was trained for; this and below: rgb_stacking
    videos: int = 4
    best: bool = False  # the state that --fit.best kept, in place of the last


def evaluate(options: Evaluate) -> None:
    """Runs :class:`Evaluate`."""
    from daag_jax.evaluation.html import report_of_run

    card, algorithm, policy = load_policy(options.run, "best" if options.best else "checkpoints")
    evaluated = _evaluate_pixels if "mode" in card["world"] else _evaluate_world
    results, said = evaluated(options, card, algorithm, policy)
    (options.run / "results.json").write_text(json.dumps(results, indent=1))
    print(f"{said} over {options.episodes} episodes; {report_of_run(options.run)}")


def _evaluate_world(
    options: Evaluate, card: dict[str, Any], algorithm: Any, policy: Any
) -> tuple[dict[str, Any], str]:
    """Results, and a line of them, in a world without pixels."""
    import jax
    import numpy as np

    from daag_jax.envs import worlds
    from daag_jax.evaluation.outcomes import evaluate_policy
    from daag_jax.evaluation.scores import success_rate

    name, num, window = options.world or card["world"]["name"], options.episodes, algorithm.window
    if not name:
        raise ValueError(f"{options.run / 'policy.json'} does not say its world; give --world.")
    if options.task:
        raise ValueError(f"world {name!r} has one task; leave --task out.")
    env = worlds.make_world(name)
    for field in ("observation_dim", "action_dim"):
        if getattr(env.spec, field) != card["spec"][field]:
            raise ValueError(
                f"the policy has {field}={card['spec'][field]} and world {name!r} "
                f"{getattr(env.spec, field)}; evaluate it in its own world."
            )
    run = jax.jit(lambda policy, key: evaluate_policy(env, algorithm.act, policy, key, num, window))
    found = jax.device_get(run(policy, jax.random.key(options.seed)))
    rate, returns = success_rate(int(found.success.sum()), num), found.returns
    results = {"world": name, "episodes": num, "seed": options.seed}
    results |= {"success": rate.value, "success low": rate.low, "success high": rate.high}
    results |= {"return": float(np.mean(returns)), "return std": float(np.std(returns))}
    results["length"] = float(np.mean(found.length))
    return results, f"success {rate}, return {results['return']:.4g}"


def _evaluate_pixels(
    options: Evaluate, card: dict[str, Any], algorithm: Any, policy: Any
) -> tuple[dict[str, Any], str]:
    """Results, and a line of them, in rgb_stacking; writes videos."""
    import jax

    from daag_jax.evaluation.rollout import rollout
    from daag_jax.evaluation.scores import success_rate

    if options.world:
        raise ValueError(
            f"the policy is of rgb_stacking, not of {options.world!r}; leave --world out."
        )
    world = card["world"] | ({"task": options.task} if options.task else {})
    env = make_world(**world)

    @jax.jit
    def run(policy, key):
        num, window = options.episodes, algorithm.window
        return rollout(env, algorithm.act, policy, key, num, explore=0.0, window=window)

    episodes = jax.device_get(run(policy, jax.random.key(options.seed)))
    rate = success_rate(int(episodes.extras["success"].sum()), options.episodes)
    results = {"task": world["task"], "episodes": options.episodes, "seed": options.seed}
    results |= {"success": rate.value, "success low": rate.low, "success high": rate.high}
    write_videos(options.run, episodes, options.videos)
    return results, f"success {rate}"

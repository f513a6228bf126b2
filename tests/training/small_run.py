"""A small training run as a process of its own, to be killed: ``small_run.py DIRECTORY STEPS [checkpoint_every]``.

With a fourth word it is watched: a trace is taken, and the state of the least error is kept.  With a fifth, the batches
are read from that folder of blocks.  With SMALL_RUN_BY=orbax Orbax writes the checkpoints, as if the state were large.
"""

import dataclasses
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from daag_jax.data.feeding import window_feed
from daag_jax.training import one_file
from daag_jax.training.fit import FitConfig, fit
from daag_jax.training.processes import gathered, is_main, join
from daag_jax.types import Algorithm, Batch, Window


def linear_regression(learning_rate: float = 1e-2) -> Algorithm:
    """Fits actions = 2 observations with a noisy update, so that every key matters."""
    optimizer = optax.adam(learning_rate)

    def init(key):
        weights = jax.random.normal(key, (8, 8))
        ballast = jax.random.normal(jax.random.fold_in(key, 1), (5000,))
        opt = optimizer.init(weights)
        return {"weights": weights, "opt": opt, "step": jnp.int32(0), "ballast": ballast}

    def update(state, batch, key):
        def loss_of(weights):
            return jnp.mean((batch.observations[:, 0] @ weights - batch.actions[:, 0]) ** 2)

        loss, gradient = jax.value_and_grad(loss_of)(state["weights"])
        updates, opt = optimizer.update(gradient, state["opt"], state["weights"])
        noise = 1e-3 * jax.random.normal(key, (8, 8))
        weights = optax.apply_updates(state["weights"], updates) + noise
        after = state | {"weights": weights, "opt": opt, "step": state["step"] + 1}
        return after, {"loss/fit": loss}

    return Algorithm(Window(), init, update)


def doubled(key, n, size: int = 16) -> Batch:
    """A batch of random observations, and actions twice as large."""
    observations = jax.random.normal(key, (size, 1, 8))
    rewards = jnp.zeros((size, 1))
    return Batch(observations, 2 * observations, rewards, jnp.ones((size, 1), bool))


if __name__ == "__main__":
    if os.environ.get("SMALL_RUN_BY") == "orbax":
        one_file.LARGEST = 0
    join()
    directory, steps = sys.argv[1], int(sys.argv[2])
    every = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    config = FitConfig(
        steps, directory=directory, log_every=10, checkpoint_every=every, tensorboard=False
    )
    evaluate, batches = None, doubled
    if len(sys.argv) > 4:
        config = dataclasses.replace(config, best="quality", evaluate_every=10, profile=True)
        evaluate = lambda state, key: {"quality": -abs(float(state["step"]) - 20.0)}
    if len(sys.argv) > 5:
        batches = window_feed(sys.argv[5], Window(), 16, seed=0)
    result = fit(linear_regression(), batches, config, evaluate=evaluate)
    print("warnings", sum(result.warnings.values()), flush=True)
    leaves = gathered(jax.tree.leaves(result.state))
    if is_main():
        np.savez(f"{directory}/final.npz", *leaves)

"""Many seeds as one program: each is what ``fit`` would make of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.algorithms.bc import BcConfig, bc
from daag_jax.training.fit import Diverged, FitConfig, Sampler, fit
from daag_jax.training.seeds import better, fit_seeds
from daag_jax.types import Batch, Spec

ALGORITHM = bc(BcConfig((8,), learning_rate=1e-2), Spec(3, 2))


def draw(data, key, n):
    rows = jax.random.randint(key, (16,), 0, data.shape[0])
    seen = data[rows][:, None]
    return Batch(seen, 0.5 * seen[..., :2], jnp.zeros((16, 1)), jnp.ones((16, 1), bool))


DATA = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (100, 3)), jnp.float32)


@pytest.mark.parametrize("in_turn", [False, True])
def test_a_seed_learns_what_fit_learns(in_turn):
    sampler = Sampler(DATA, draw)
    trained = fit_seeds(ALGORITHM, sampler, 30, (4, 7), in_turn=in_turn, progress=False)
    alone = fit(ALGORITHM, Sampler(DATA, draw), FitConfig(30, seed=7, progress=False))
    for a, b in zip(jax.tree.leaves(trained.states), jax.tree.leaves(alone.state), strict=True):
        np.testing.assert_allclose(a[1], b, atol=1e-5)
    assert trained.history[-1]["step"] == 30 and len(trained.history[-1]["loss/policy"]) == 2
    places = {leaf.sharding.num_devices for leaf in jax.tree.leaves(trained.states)}
    assert places == {2}  # each seed on a device of its own


def test_how_often_it_is_looked_at_changes_nothing():
    plain = fit_seeds(ALGORITHM, Sampler(DATA, draw), 12, (0, 1), progress=False)
    looks = []

    def falling(states):  # the last look is the best
        looks.append(len(looks))
        return -jnp.full(2, float(len(looks)))

    watched = fit_seeds(
        ALGORITHM,
        Sampler(DATA, draw),
        12,
        (0, 1),
        validate=falling,
        validate_every=5,
        progress=False,
    )
    jax.tree.map(np.testing.assert_array_equal, plain.states, watched.states)
    rows = [row for row in watched.history if "validation" in row]
    assert [row["step"] for row in rows] == [5, 10, 12] and rows[-1]["validation"] == [-3, -3]


def test_a_seed_stops_where_it_validated_best():
    losses = iter([[3.0, 1.0], [2.0, 2.0], [5.0, 3.0]])  # seed 0 is best at 10, seed 1 at 5
    fitted = fit_seeds(
        ALGORITHM,
        Sampler(DATA, draw),
        15,
        (0, 1),
        validate=lambda states: jnp.array(next(losses)),
        validate_every=5,
        progress=False,
    )
    for seed, steps in ((0, 10), (1, 5)):
        short = fit_seeds(ALGORITHM, Sampler(DATA, draw), steps, (0, 1), progress=False)
        pairs = zip(jax.tree.leaves(fitted.states), jax.tree.leaves(short.states), strict=True)
        for stopped, alone in pairs:
            np.testing.assert_array_equal(stopped[seed], alone[seed])


@pytest.mark.nan_is_an_answer
def test_a_seed_that_diverges_is_named():
    bad = Sampler(DATA.at[0, 0].set(jnp.nan), draw)
    with pytest.raises(Diverged, match="loss/policy of seed \\d is not finite before step"):
        fit_seeds(ALGORITHM, bad, 40, (3, 5), progress=False)


def test_seeds_must_differ():
    with pytest.raises(ValueError, match="seeds \\(1, 1\\) must be different"):
        fit_seeds(ALGORITHM, Sampler(DATA, draw), 1, (1, 1))


@pytest.mark.nan_is_an_answer
def test_a_validation_that_is_not_a_number_is_never_the_best():
    best, least = better(
        jnp.array([jnp.nan, 2.0]), jnp.ones(2), jnp.array([3.0, 3.0]), jnp.zeros(2)
    )
    np.testing.assert_array_equal(best, [0.0, 1.0])
    np.testing.assert_array_equal(least, [3.0, 2.0])

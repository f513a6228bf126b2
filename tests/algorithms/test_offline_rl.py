"""Baselines of offline reinforcement learning in probe worlds whose best actions and values are known.

The fork: at state 0 one action, in [-1, 1], is taken.  Below 0 it earns 0.3 and leads to state -1, where the episode
ends with 0; from 0 on it earns nothing and leads to state 1, where it ends with 1.  Of the data 70 % take -0.5 and 30 %
take +0.5, so that the mean action is wrong, and so is what earns most at once: the value of the next state is needed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.algorithms import config_class, make
from daag_jax.algorithms.decision_transformer import has_begun
from daag_jax.algorithms.parts.action_head import action_head
from daag_jax.algorithms.parts.combinators import normalized
from daag_jax.algorithms.parts.critics import (
    advantage_weights,
    expectile_loss,
    td_target,
    transitions,
)
from daag_jax.data.normalize import Stats
from daag_jax.data.windows import draw_windows, episode_data
from daag_jax.networks.critics import Critic, apply_ensemble
from daag_jax.types import Batch, Context, Episode, Spec

DISCOUNT, BATCH = 0.9, 64
LINE = Spec(1, 1)
DIMS = (32, 32)
SHARED = {
    "hidden_dims": DIMS,
    "discount": DISCOUNT,
    "target_decay": 0.95,
    "learning_rate": 3e-3,
}
LEARNERS = {
    "td3_bc": {"alpha": 5.0},
    "iql": {"beta": 10.0, "expectile": 0.8},
    "cql": {"actor_dims": DIMS, "weight": 0.1, "num_actions": 4, "actor_learning_rate": 3e-3},
    "awac": {"actor_dims": DIMS, "temperature": 0.1},
}
STEPS = 600
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def episodes_of(observations, actions, rewards, terminal=None, length=None) -> Episode:
    """Episodes of one-dimensional states [B, T + 1] and actions [B, T]."""
    rows, steps = np.shape(actions)
    column = lambda x: np.asarray(x, np.float32)[..., None]
    extras = {} if terminal is None else {"terminal": np.asarray(terminal, bool)}
    blank = np.zeros((rows, steps + 1, 0, 0, 0, 3), np.uint8)
    length = np.full(rows, steps) if length is None else np.asarray(length)
    rewards = np.asarray(rewards, np.float32)
    return Episode(column(observations), blank, column(actions), rewards, length, extras)


def fork(num: int = 200) -> Episode:
    """The world of this file's first lines."""
    random = np.random.default_rng(0)
    first = np.where(np.arange(num) < 0.3 * num, 0.5, -0.5) + 0.1 * random.normal(size=num)
    first, second = np.clip(first, -1, 1), random.uniform(-1, 1, num)
    side, zero = np.where(first < 0, -1.0, 1.0), np.zeros(num)
    rewards = np.stack([np.where(first < 0, 0.3, 0.0), np.maximum(side, 0.0)], axis=1)
    ends = np.tile([False, True], (num, 1))
    states = np.stack([zero, side, side], axis=1)
    return episodes_of(states, np.stack([first, second], axis=1), rewards, ends)


def trained(algorithm, episodes: Episode, steps: int = STEPS, seed: int = 0):
    """The state after ``steps`` updates, and the metrics of all of them."""
    data = jax.tree.map(jnp.asarray, episode_data(episodes, algorithm.window))

    def step(state, key):
        draw_key, update_key = jax.random.split(key)
        batch = draw_windows(data, algorithm.window, BATCH, draw_key)
        return algorithm.update(state, batch, update_key)

    init_key, root = jax.random.split(jax.random.key(seed))
    run = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys), compiler_options=QUICK)
    return run(algorithm.init(init_key), jax.random.split(root, steps))


def action_at(algorithm, state, place: float, **extras) -> float:
    """What is done where this was observed all along."""
    seen = jnp.full((1, algorithm.window.history, 1), place)
    action = algorithm.act(state, Context(seen, extras), jax.random.key(0))
    assert action.shape == (1, 1, 1)
    return float(action[0, 0, 0])


def values_at(state, places, actions) -> np.ndarray:
    """The mean of the critics."""
    column = lambda x: jnp.asarray(x, jnp.float32)[:, None]
    found = apply_ensemble(Critic(DIMS), state.critic.params, column(places), column(actions))
    return np.asarray(jnp.mean(found, axis=0))


def learner(name: str, spec: Spec = LINE, **changes):
    return make(name, config_class(name)(**(SHARED | LEARNERS.get(name, {}) | changes)), spec)


def test_the_data_of_the_fork_mislead_cloning():
    actions = fork().actions[:, 0, 0]
    assert actions.mean() < -0.1 and np.mean(actions < 0) > 0.6


@pytest.mark.parametrize("name", LEARNERS)
def test_the_fork_is_taken_for_what_comes_after_it(name):
    algorithm = learner(name)
    state, _ = trained(algorithm, fork())
    assert 0.2 < action_at(algorithm, state, 0.0) <= 1.0
    left, right, end = values_at(state, [0.0, 0.0, 1.0], [-0.5, 0.5, 0.0])
    # a terminal stops bootstrapping: 1 and not 1 / (1 - discount)
    assert abs(end - 1.0) < 0.15 and abs(right - DISCOUNT) < 0.2 and abs(left - 0.3) < 0.2


@pytest.mark.parametrize("name", ("td3_bc", "iql"))
def test_what_comes_after_does_not_matter_without_a_discount_of_it(name):
    algorithm = learner(name, discount=0.0)
    state, _ = trained(algorithm, fork())
    assert action_at(algorithm, state, 0.0) < -0.2


def one_step(terminal: bool, mask: bool, reward: float = 1.0) -> Batch:
    """Windows at the last step of an episode, or before it."""
    column = lambda value: jnp.full((BATCH, 2, 1), value)
    return Batch(
        column(0.5),
        column(0.1),
        jnp.full((BATCH, 2), reward),
        jnp.tile(jnp.array([[True, mask]]), (BATCH, 1)),
        {"terminal": jnp.tile(jnp.array([[terminal, False]]), (BATCH, 1))},
    )


def test_what_follows_is_asked_of_a_real_step_alone():
    head = action_head(LINE)
    target = lambda batch: td_target(transitions(batch, head, LINE), jnp.full(BATCH, 10.0), 0.9)
    weight = lambda batch: transitions(batch, head, LINE).weight
    going_on, ended, cut = one_step(False, True), one_step(True, False), one_step(False, False)
    np.testing.assert_allclose(target(going_on), 10.0)
    np.testing.assert_allclose(target(ended), 1.0)
    assert weight(going_on).all() and weight(ended).all() and not weight(cut).any()


@pytest.mark.parametrize("name", LEARNERS)
def test_the_last_step_before_a_time_limit_teaches_nothing(name):
    algorithm = learner(name, **({"action_gap": 1.0} if name == "cql" else {}))
    state = algorithm.init(jax.random.key(0))
    after, _ = jax.jit(algorithm.update)(
        state, one_step(False, False, reward=1e6), jax.random.key(1)
    )
    still = state.critic.params
    jax.tree.map(np.testing.assert_array_equal, after.critic.params, still)
    after, _ = jax.jit(algorithm.update)(
        state, one_step(True, False, reward=1e6), jax.random.key(1)
    )
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), after.critic.params, still)
    assert any(jax.tree.leaves(moved))


def test_terminals_come_from_the_episodes():
    ends = [[False, False, True], [False, False, False]]
    episodes = episodes_of(np.zeros((2, 4)), np.zeros((2, 3)), np.zeros((2, 3)), ends)
    window = learner("iql").window
    data = episode_data(episodes, window)
    np.testing.assert_array_equal(data["terminal"], ends)
    batch = draw_windows(jax.tree.map(jnp.asarray, data), window, 256, jax.random.key(0))
    ended, cut = batch.extras["terminal"][:, 0], ~batch.mask[:, 1]
    assert ended.any() and not (ended & ~cut).any() and (cut & ~ended).any()
    told = episodes._replace(
        extras={"terminated": np.array([True, False])}, length=np.array([2, 3])
    )
    np.testing.assert_array_equal(
        episode_data(told, window)["terminal"], [[False, True, False], [False] * 3]
    )
    assert not episode_data(episodes._replace(extras={}), window)["terminal"].any()
    with pytest.raises(ValueError, match=r'"terminal".* has shape \(2,\)'):
        episode_data(episodes._replace(extras={"terminal": np.zeros(2, bool)}), window)


def test_the_minimum_of_the_expectile_loss_is_the_expectile():
    samples, guesses = jnp.array([0.0, 0.0, 0.0, 1.0]), jnp.linspace(0.0, 1.0, 1001)
    cost = lambda tau: jax.vmap(lambda m: jnp.mean(expectile_loss(samples - m, tau)))(guesses)
    # tau (1 - m) / 4 = (1 - tau) m 3 / 4
    for tau, expected in ((0.5, 0.25), (0.75, 0.5), (0.9, 0.75)):
        assert abs(float(guesses[jnp.argmin(cost(tau))]) - expected) < 2e-3


def test_weights_of_advantages_are_cut_and_do_not_overflow():
    weights = advantage_weights(jnp.array([-1e6, 0.0, 1.0, 1e6]), 3.0, 100.0)
    np.testing.assert_allclose(weights, [0.0, 1.0, np.exp(3.0), 100.0], rtol=1e-5)


def flat(num: int = 200) -> Episode:
    """Every action earns 1 and ends the episode; the data hold those within 0.2 of 0."""
    actions = np.random.default_rng(0).uniform(-0.2, 0.2, (num, 1))
    return episodes_of(np.zeros((num, 2)), actions, np.ones((num, 1)), np.ones((num, 1)))


def test_cql_is_below_the_truth_outside_of_the_data():
    outside, inside = [-0.9, -0.7, 0.7, 0.9], [-0.1, 0.0, 0.1]
    careful, _ = trained(learner("cql", weight=0.5), flat())
    naive, _ = trained(learner("cql", weight=0.0), flat())
    assert np.all(values_at(careful, np.zeros(4), outside) < 0.7)
    assert np.all(values_at(naive, np.zeros(4), outside) > 0.8)
    assert np.all(np.abs(values_at(naive, np.zeros(3), inside) - 1.0) < 0.1)
    known = values_at(careful, np.zeros(3), inside).mean()
    assert known > values_at(careful, np.zeros(4), outside).max() + 0.3


@pytest.mark.parametrize("gap, grows", [(-50.0, True), (50.0, False)])
def test_the_multiplier_of_cql_grows_while_the_gap_is_too_large(gap, grows):
    _, metrics = trained(learner("cql", weight=1.0, action_gap=gap), flat(), steps=50)
    assert metrics["weight"][0] == 1.0
    assert (metrics["weight"][-1] > 1.05) if grows else (metrics["weight"][-1] < 0.95)


def test_td3_bc_moves_its_actor_every_second_update():
    algorithm = learner("td3_bc")
    states = [algorithm.init(jax.random.key(0))]
    update = jax.jit(algorithm.update)
    for n in range(2):
        states.append(update(states[-1], one_step(True, False), jax.random.key(n))[0])
    same = lambda a, b: all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b)))
    assert same(states[0].actor.params, states[1].actor.params)
    assert same(states[0].critic_target, states[1].critic_target)
    assert not same(states[0].critic.params, states[1].critic.params)
    assert not same(states[1].actor.params, states[2].actor.params)
    assert not same(states[1].critic_target, states[2].critic_target)


@pytest.mark.parametrize("name", LEARNERS)
def test_actions_are_in_the_units_of_the_world(name):
    wide, seen = Spec(1, 1, (10.0,), (30.0,)), one_step(True, False)
    scaled = seen._replace(actions=20.0 + 10.0 * seen.actions)
    ours, theirs = (
        transitions(batch, action_head(spec), spec)
        for batch, spec in ((scaled, wide), (seen, LINE))
    )
    np.testing.assert_allclose(ours.actions, theirs.actions, atol=1e-6)
    state = learner(name).init(jax.random.key(0))
    ours, theirs = (action_at(learner(name, spec), state, 5.0) for spec in (wide, LINE))
    assert theirs != 0.0 and abs(ours - (20.0 + 10.0 * theirs)) < 1e-4


SEQUENCES = {
    "history": 2,
    "width": 32,
    "depth": 1,
    "dropout": 0.0,
    "return_scale": 1.0,
    "learning_rate": 3e-3,
    "warmup_steps": 50,
}


def sequence_learner(**changes):
    name = "decision_transformer"
    return make(name, config_class(name)(**(SEQUENCES | changes)), LINE)


def slopes(num: int = 400) -> Episode:
    """Two steps, each of which earns its action: the state counts them."""
    actions = np.random.default_rng(0).uniform(-1, 1, (num, 2))
    return episodes_of(np.tile([0.0, 1.0, 2.0], (num, 1)), actions, actions)


@pytest.fixture(scope="module")
def decided():
    algorithm = sequence_learner(target_return=0.6)
    return algorithm, trained(algorithm, slopes(), 1000)[0]


def test_a_decision_transformer_gives_the_return_that_is_asked_for(decided):
    algorithm, state = decided
    act = jax.jit(algorithm.act)

    def last(history, *returns) -> float:  # the second action, after one of -0.5 that was done
        extras = {
            "returns": jnp.array([returns]),
            "actions": jnp.array([[[history], [0.0]]]),
        }
        context = Context(jnp.array([[[0.0], [1.0]]]), extras)
        return float(act(state, context, jax.random.key(0))[0, 0, 0])

    assert abs(last(-0.5, 0.3, 0.8) - 0.8) < 0.2
    assert abs(last(-0.5, -1.3, -0.8) + 0.8) < 0.2
    high = action_at(algorithm, state, 0.0, returns=jnp.full((1, 2), 1.4))
    low = action_at(algorithm, state, 0.0, returns=jnp.full((1, 2), -1.4))
    # of a sum of two uniform numbers each is half
    assert abs(high - 0.7) < 0.2 and abs(low + 0.7) < 0.2


def test_a_decision_transformer_has_a_target_of_its_own(decided):
    algorithm, state = decided
    asked = action_at(algorithm, state, 0.0, returns=jnp.full((1, 2), 0.6))
    middle = jnp.zeros((1, 2, 1))
    assert action_at(algorithm, state, 0.0) == asked
    assert action_at(algorithm, state, 0.0, actions=middle) == asked
    earned = jnp.full((1, 2), -0.8)  # a target of 0.6 leaves 1.4 to be earned
    high = action_at(algorithm, state, 0.0, returns=jnp.full((1, 2), 1.4))
    assert abs(action_at(algorithm, state, 0.0, earned=earned) - high) < 1e-5
    assert abs(asked - 0.3) < 0.2


def test_what_is_before_the_start_and_the_present_action_are_not_read(decided):
    algorithm, state = decided
    one = action_at(algorithm, state, 0.0, returns=jnp.array([[9.0, 0.6]]))
    actions = jnp.array([[[0.9], [0.0]]])
    two = action_at(algorithm, state, 0.0, returns=jnp.array([[-9.0, 0.6]]), actions=actions)
    assert one == two
    seen = jnp.array([[[0.0], [1.0]]])
    answers = [
        algorithm.act(state, Context(seen, {"actions": actions}), jax.random.key(0))
        for actions in (jnp.array([[[0.2], [-1.0]]]), jnp.array([[[0.2], [1.0]]]))
    ]
    np.testing.assert_array_equal(*answers)


def test_past_actions_are_normalised_with_the_others(decided):
    algorithm, state = decided
    stats = Stats(jnp.array([4.0]), jnp.array([2.0]), jnp.array([5.0]), jnp.array([10.0]))
    context = lambda seen, past: Context(
        jnp.array(seen)[None, :, None], {"actions": jnp.array(past)[None, :, None]}
    )
    inner, outer = context([0.0, 1.0], [0.5, 0.0]), context([4.0, 6.0], [10.0, 5.0])
    expected = algorithm.act(state, inner, jax.random.key(0))
    found = normalized(algorithm, stats).act(state, outer, jax.random.key(0))
    np.testing.assert_allclose(found, 5.0 + 10.0 * expected, rtol=1e-5)


def test_an_episode_begins_where_its_observations_start_to_change():
    rows = jnp.array(
        [[0.0, 0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0, 2.0], [0.0, 1.0, 1.0, 2.0, 3.0]]
    )
    expected = [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
    np.testing.assert_array_equal(has_begun(rows[..., None]), np.array(expected, bool))


@pytest.mark.parametrize(
    "name, field, value",
    [
        ("td3_bc", "alpha", -1.0),
        ("td3_bc", "actor_every", 0),
        ("td3_bc", "hidden_dims", ()),
        ("iql", "expectile", 1.0),
        ("iql", "beta", -3.0),
        ("iql", "discount", 1.5),
        ("iql", "learning_rate", 0.0),
        ("cql", "weight", -5.0),
        ("cql", "num_actions", 0),
        ("cql", "target_decay", 1.0),
        ("cql", "initial_temperature", 0.0),
        ("awac", "temperature", 0.0),
        ("awac", "num_critics", 0),
        ("awac", "actor_dims", ()),
        ("decision_transformer", "history", 0),
        ("decision_transformer", "num_heads", 3),
        ("decision_transformer", "dropout", 1.0),
        ("decision_transformer", "return_scale", 0.0),
    ],
)
def test_bad_configurations_are_refused_by_name(name, field, value):
    with pytest.raises(ValueError, match=f"{field}.*try|{field}.*0 "):
        config_class(name)(**{field: value})


def test_a_multiplier_cannot_start_at_nothing():
    with pytest.raises(ValueError, match="weight=0 is no start of a multiplier"):
        config_class("cql")(weight=0.0, action_gap=5.0)

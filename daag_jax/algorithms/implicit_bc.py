"""Implicit behavioural cloning (Florence et al. 2021, arXiv 2109.00137): act by argmin_a E(o, a).

    loss = -log exp(-E(o, a)) / (exp(-E(o, a)) + sum_j exp(-E(o, a_j)))                   (InfoNCE, their section 2)
         + w mean_j max(0, max_i |dE(o, a_j) / da_i| - M)^2                               (appendix B.3.1, Langevin)

The negatives a_j are uniform in the box of the actions, or the ends of Langevin chains that start there.

    derivative_free   resample by softmax(-E), add noise, shrink it, repeat; then the best    (algorithm 1)
    langevin          a <- a - s (dE/da / 2 + noise), s falling as a polynomial; then the best  (appendix B.3)

**The box** decides what can be done at all: no action outside of it is ever considered.  ``action_low`` and
``action_high`` are in the units that the algorithm sees, so in z-units inside ``normalized``: pass those of
:func:`action_box` of the (standardised) demonstrations.  The implicit baseline in the code of Diffusion-BC keeps
[-1, 1] although its actions are z-scored: 87 % of the demonstrated actions of HalfCheetah and 81 % of Walker2d lie
outside, and no energy can bring them back.  Leaving the bounds empty takes those of ``spec``.  All scales below (noise,
steps, gradients) are in half-ranges of the box.

Differs from the paper: the first layer's share of the observation is computed once for all candidates, and resampling
inverts the cumulative distribution; the chains of Langevin stop the gradient, as released, and the penalty is on their
ends alone; 25 steps of a chain (the release's function; 50 and 100 in its experiments); plain ReLU layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from daag_jax.algorithms.bc import flat_inputs
from daag_jax.algorithms.parts.action_head import action_head, from_unit, to_unit
from daag_jax.algorithms.parts.trainable import (
    Trainable,
    apply_gradients,
    averaged,
    check_training,
    create,
    make_optimizer,
)
from daag_jax.rows import in_parts
from daag_jax.types import Actions, Algorithm, Batch, Context, Key, Metrics, Spec, Window

INFERENCES = ("derivative_free", "langevin")
# numbers of one layer that are held at a time (one observation's at least): 2 MiB stay in a core's cache, and an update
# of width 1024 with 64 negatives took 33 instead of 137 ms
HELD = 2**19
Energy = Callable[[Array], Array]  # actions [.., N, A] in [-1, 1] -> energies [.., N]


@dataclass(frozen=True)
class ImplicitBcConfig:
    """Fields of the energy, its training and its minimisation; defaults are of the baseline of Diffusion-BC."""

    hidden_dims: tuple[int, ...] = (1024,)
    action_low: tuple[float, ...] = ()  # of the box, in the units seen; () takes the spec's
    action_high: tuple[float, ...] = ()
    num_negatives: int = 64
    inference: str = "derivative_free"  # or "langevin", which then makes the negatives as well
    num_samples: int = 1024  # candidates when deciding
    iterations: int = 3  # of derivative_free
    noise: float = 0.33  # of its first resampling
    shrink: float = 0.5  # of the noise, each time
    langevin_iterations: int = 25
    langevin_step: float = 0.1
    langevin_final_step: float = 1e-5
    langevin_power: float = 2.0  # of the fall from the one to the other
    langevin_noise: float = 1.0
    langevin_clip: float = 0.1  # of one step in one dimension
    penalty: float = 1.0  # weight of the gradient's penalty, of langevin alone
    gradient_margin: float = 1.0  # M
    history: int = 1
    learning_rate: float = 1e-4
    decay_steps: int = 0  # updates in which the rate falls to 0 on a line; 0: constant
    weight_decay: float = 0.0
    max_grad_norm: float = 0.0  # 0: no clip
    ema_decay: float = 0.0  # 0: no average

    def __post_init__(self):
        if self.inference not in INFERENCES:
            raise ValueError(f"inference {self.inference!r} is unknown; use one of {INFERENCES}.")
        if not self.hidden_dims:
            raise ValueError("hidden_dims is empty; an energy needs a hidden layer, try (1024,).")
        if bool(self.action_low) != bool(self.action_high):
            raise ValueError(
                f"action_low={self.action_low} and action_high={self.action_high}: give both, or none."
            )
        check_training(self)
        for field in ("num_negatives", "num_samples", "iterations", "history"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} is not positive; try 1.")
        if self.langevin_iterations < 2:
            raise ValueError(
                f"langevin_iterations={self.langevin_iterations}: its steps fall between two ends; "
                "try 25."
            )


class EnergyMlp(nn.Module):
    """E(o, a) of many actions per observation: ReLU layers, of which the first is a sum of two shares."""

    hidden_dims: tuple[int, ...]
    observed_dim: int
    action_dim: int

    def setup(self):
        total, width = self.observed_dim + self.action_dim, self.hidden_dims[0]

        def share(size: int, use_bias: bool) -> nn.Dense:  # starts as that part of one layer would
            init = nn.initializers.variance_scaling(size / total, "fan_in", "truncated_normal")
            return nn.Dense(width, use_bias=use_bias, kernel_init=init)

        self.observed, self.acted = share(self.observed_dim, True), share(self.action_dim, False)
        self.hidden = [nn.Dense(width) for width in self.hidden_dims[1:]]
        self.out = nn.Dense(1)

    def __call__(
        self, observed: Float[Array, "*B O"], actions: Float[Array, "*B N A"]
    ) -> Float[Array, "*B N"]:
        return self.energies(self.observe(observed), actions)

    def observe(self, observed: Float[Array, "*B O"]) -> Float[Array, "*B H"]:
        """The observation's share of the first layer."""
        return self.observed(observed)

    def energies(
        self, share: Float[Array, "*B H"], actions: Float[Array, "*B N A"]
    ) -> Float[Array, "*B N"]:
        """Energies of actions, given that share."""
        x = jax.nn.relu(self.acted(actions) + share[..., None, :])
        for layer in self.hidden:
            x = jax.nn.relu(layer(x))
        return self.out(x)[..., 0]


def implicit_bc(config: ImplicitBcConfig, spec: Spec) -> Algorithm:
    """Observations [B, K, O] (and, where ``spec.task_dim`` > 0, ``extras["task"]`` [B, D]) to actions in the box."""
    box = spec
    if config.action_low:
        box = spec._replace(action_low=config.action_low, action_high=config.action_high)
    head = action_head(box)
    observed_dim = config.history * spec.observation_dim + spec.task_dim
    net = EnergyMlp(config.hidden_dims, observed_dim, spec.action_dim)
    optimizer = make_optimizer(
        config.learning_rate, config.max_grad_norm, config.weight_decay, config.decay_steps
    )

    def observe(params, data: Batch | Context) -> Float[Array, "B H"]:
        return net.apply(params, flat_inputs(data, config.history, spec), method="observe")

    def energy_of(params, share: Array) -> Energy:
        return lambda actions: net.apply(params, share, actions, method="energies")

    def init(key: Key) -> Trainable:
        blank = jnp.zeros((1, observed_dim)), jnp.zeros((1, 1, spec.action_dim))
        return create(net.init(key, *blank), optimizer, ema=config.ema_decay > 0)

    def update(state: Trainable, batch: Batch, key: Key) -> tuple[Trainable, Metrics]:
        last = config.history - 1
        expert = to_unit(head, batch.actions[:, last : last + 1])
        weight = batch.mask[:, last].astype(jnp.float32)
        share = observe(state.params, batch)

        def draw(row: Array, share: Array) -> Float[Array, "N A"]:
            energy = energy_of(state.params, share)
            return negatives(config, energy, spec.action_dim, jax.random.fold_in(key, row))

        rows = jnp.arange(share.shape[0])
        others = in_chunks(config, config.num_negatives, jax.vmap(draw), rows, share)
        candidates = jnp.concatenate([expert, others], axis=1)

        def loss_fn(params):
            costs = lambda share, actions: row_costs(config, energy_of(params, share), actions)
            costs = jax.checkpoint(costs)  # what is recomputed costs less than what would be kept
            shares, num = observe(params, batch), candidates.shape[1]
            return loss(config, in_chunks(config, num, costs, shares, candidates), weight)

        gradients, metrics = jax.grad(loss_fn, has_aux=True)(state.params)
        return apply_gradients(state, gradients, optimizer, config.ema_decay), metrics

    def act(state: Trainable, context: Context, key: Key) -> Actions:
        params = averaged(state)

        def decide(row: Array, share: Array) -> Float[Array, "A"]:
            energy = energy_of(params, share)
            return minimize(config, energy, spec.action_dim, jax.random.fold_in(key, row))

        share = observe(params, context)
        rows = jnp.arange(share.shape[0])
        unit = in_chunks(config, config.num_samples, jax.vmap(decide), rows, share)
        return from_unit(head, unit[:, None])

    fields = ("task",) if spec.task_dim else ()
    return Algorithm(Window(config.history, config.history, 1, fields), init, update, act)


def in_chunks(
    config: ImplicitBcConfig, num: int, function: Callable, *arrays: Shaped[Array, "B ..."]
) -> Any:
    """``function(*arrays)``, a few rows at a time where ``num`` actions a row would be too much at once."""
    rows, cost = arrays[0].shape[0], num * max(config.hidden_dims)
    parts = next(
        n for n in range(1, rows + 1) if n == rows or not rows % n and rows // n * cost <= HELD
    )
    return function(*arrays) if parts == 1 else in_parts(function, parts, *arrays)


class RowCosts(NamedTuple):
    """What each row of a batch costs."""

    contrast: Float[Array, "B"]
    penalty: Float[Array, "B"]
    is_best: Float[Array, "B"]  # whether the expert's action has the least energy of all


def row_costs(
    config: ImplicitBcConfig, energy: Energy, candidates: Float[Array, "B N1 A"]
) -> RowCosts:
    """InfoNCE with the expert's action as the first candidate, and the penalty of steep energies."""
    energies = energy(candidates)
    contrast = -jax.nn.log_softmax(-energies, axis=-1)[:, 0]
    is_best = (jnp.argmin(energies, axis=-1) == 0).astype(jnp.float32)
    if not has_penalty(config):
        return RowCosts(contrast, jnp.zeros_like(contrast), is_best)
    steepest = jnp.max(jnp.abs(slope(energy, candidates[:, 1:])), axis=-1)
    excess = jnp.square(jax.nn.relu(steepest - config.gradient_margin))
    return RowCosts(contrast, jnp.mean(excess, axis=-1), is_best)


def loss(
    config: ImplicitBcConfig, costs: RowCosts, weight: Float[Array, "B"]
) -> tuple[Float[Array, ""], Metrics]:
    """The weighted means over the batch."""
    total = jnp.maximum(jnp.sum(weight), 1.0)
    contrast, penalty, accuracy = (jnp.sum(weight * cost) / total for cost in costs)
    metrics = {"loss/contrast": contrast, "accuracy": accuracy}
    if not has_penalty(config):
        return contrast, metrics
    return contrast + config.penalty * penalty, metrics | {"loss/penalty": penalty}


def has_penalty(config: ImplicitBcConfig) -> bool:
    """Whether the slope of the energy costs anything."""
    return config.inference == "langevin" and config.penalty > 0


def slope(energy: Energy, actions: Float[Array, "*B N A"]) -> Float[Array, "*B N A"]:
    """dE / da of every action."""
    return jax.grad(lambda actions: jnp.sum(energy(actions)))(actions)


def langevin(
    config: ImplicitBcConfig, energy: Energy, actions: Float[Array, "*B N A"], key: Key
) -> Float[Array, "*B N A"]:
    """Walks down the energy with noise, inside the box [-1, 1]."""
    last = config.langevin_iterations - 1

    def step(index: Array, actions: Array) -> Array:
        left = (1.0 - index / last) ** config.langevin_power
        gap = config.langevin_step - config.langevin_final_step
        size = config.langevin_final_step + gap * left
        noise = jax.random.normal(jax.random.fold_in(key, index), actions.shape)
        change = size * (0.5 * slope(energy, actions) + config.langevin_noise * noise)
        limit = config.langevin_clip
        return jnp.clip(actions - jnp.clip(change, -limit, limit), -1.0, 1.0)

    return jax.lax.fori_loop(0, config.langevin_iterations, step, actions)


def negatives(
    config: ImplicitBcConfig, energy: Energy, action_dim: int, key: Key
) -> Float[Array, "N A"]:
    """The negatives of one observation."""
    start_key, walk_key = jax.random.split(key)
    actions = jax.random.uniform(start_key, (config.num_negatives, action_dim), minval=-1.0)
    if config.inference == "langevin":
        return langevin(config, energy, actions, walk_key)
    return actions


def minimize(
    config: ImplicitBcConfig, energy: Energy, action_dim: int, key: Key
) -> Float[Array, "A"]:
    """The action in [-1, 1] of least energy for one observation."""
    start_key, walk_key = jax.random.split(key)
    actions = jax.random.uniform(start_key, (config.num_samples, action_dim), minval=-1.0)
    search = langevin if config.inference == "langevin" else resampled
    actions = search(config, energy, actions, walk_key)
    return actions[jnp.argmin(energy(actions))]


def resampled(
    config: ImplicitBcConfig, energy: Energy, actions: Float[Array, "N A"], key: Key
) -> Float[Array, "N A"]:
    """All but the last round of the derivative-free search: draw by softmax(-E), add noise, shrink it."""

    def step(index: Array, actions: Array) -> Array:
        draw_key, noise_key = jax.random.split(jax.random.fold_in(key, index))
        share = jnp.cumsum(jax.nn.softmax(-energy(actions)))
        level = share[-1] * jax.random.uniform(draw_key, (actions.shape[0],))
        chosen = jnp.minimum(jnp.searchsorted(share, level, side="right"), actions.shape[0] - 1)
        scale = config.noise * config.shrink**index
        noise = scale * jax.random.normal(noise_key, actions.shape)
        return jnp.clip(actions[chosen] + noise, -1.0, 1.0)

    return jax.lax.fori_loop(0, config.iterations - 1, step, actions)


def action_box(
    actions: Float[np.ndarray, "*B A"], margin: float = 0.05
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """``action_low`` and ``action_high`` of demonstrations: their ends, moved out by a share of the range.

    Their release moves them by 0.05 in all (``uniform_boundary_buffer``).  Pass actions in the units that the
    algorithm sees, without padding.
    """
    flat = np.asarray(actions, np.float64).reshape(-1, np.shape(actions)[-1])
    low, high = flat.min(axis=0), flat.max(axis=0)
    room = np.maximum(margin * (high - low), 1e-3)  # a dimension that never varies keeps a range
    return tuple((low - room).tolist()), tuple((high + room).tolist())

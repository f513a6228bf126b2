"""Generative models of expert pairs (s, a), as guides of a policy: how much less likely is what it does?

Each has ``learn``, one step of training on expert pairs, and ``losses``, of the policy's and of the expert's actions,
whose difference falls as the policy's become more likely (arXiv 2302.13335):

    diffusion   L(s, a) = |noise - network(alpha [s; a] + sigma noise, t)|^2     L(s, pi) - L(s, a)
    flow        the same with x0 and noise joined by a straight line (Liu et al. 2022); network predicts the velocity
    ebm         E by InfoNCE over uniform actions                                  |E(s, pi) - E(s, a)|
    vae         reconstruction                                                     R(s, pi) - R(s, a)
    gan         D learns on line to tell (s, a) from (s, pi)                       -log D(s, pi)

The diffusion model is of p(s, a), of p(a | s) or of p(a): ``target``.  Only entries that are noised count in its loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from daag_jax.algorithms.parts.trainable import (
    Trainable,
    apply_gradients,
    check_training,
    create,
    make_optimizer,
)
from daag_jax.diffusion import schedules
from daag_jax.diffusion.losses import WEIGHTINGS, diffusion_loss, draw_times, weight_of
from daag_jax.diffusion.process import GaussianProcess, like
from daag_jax.names import check_name
from daag_jax.networks.mlp import DenoisingMlp, Mlp, StepMlp, VariationalMlp
from daag_jax.types import Key, Metrics, Params

KINDS = ("diffusion", "flow", "ebm", "vae", "gan")
TARGETS = ("joint", "conditional", "action")
GRADIENTS = ("full", "distillation")
TIME_EMBEDDINGS = ("step", "sinusoidal")
OF_DIFFUSION = ("schedule", "policy_schedule", "num_steps", "time_embedding")
OF_DENOISERS = (*OF_DIFFUSION, "target", "time_range", "weighting", "gradient")
UNUSED = {  # fields of the diffusion model, and of all, that a kind does not read
    "flow": OF_DIFFUSION,
    "ebm": OF_DENOISERS,
    "vae": OF_DENOISERS,
    "gan": (*OF_DENOISERS, "ema_decay"),
}


@dataclass(frozen=True)
class DensityConfig:
    """A generative model of expert pairs; of the kind "diffusion" as in Diffusion-BC's release, unless said otherwise.

    Widths of the other kinds, and the VAE's latent, are ours.
    """

    kind: str = "diffusion"
    target: str = "joint"  # or "conditional", "action"
    width: int = 128
    depth: int = 3  # hidden layers in use
    time_embedding: str = "step"  # a learnt vector per step; "sinusoidal" is ours
    num_steps: int = 1000  # T
    schedule: str = "sigmoid_betas"
    policy_schedule: str = (
        ""  # of the policy's stage; "" the same (the code before August 2024: cosine)
    )
    time_range: tuple[float, float] = (0.0, 1.0)  # of the policy's stage, as shares of T
    weighting: str = "uniform"  # of the policy's stage
    gradient: str = "full"  # or without the network's Jacobian (score distillation)
    learning_rate: float = 1e-4
    decay_steps: int = 0  # 0: constant
    max_grad_norm: float = 0.5
    ema_decay: float = 0.0
    num_negatives: int = 64  # of the energy model
    action_limit: float = 3.0  # of its negatives, in units of the actions
    latent_dim: int = 32  # of the VAE
    kl_weight: float = 1e-3

    def __post_init__(self):
        check_name("kind of density", self.kind, KINDS)
        check_name("target", self.target, TARGETS)
        check_name("gradient", self.gradient, GRADIENTS)
        check_name("time_embedding", self.time_embedding, TIME_EMBEDDINGS)
        check_name("schedule", self.schedule, schedules.BY_NAME)
        check_name("weighting", self.weighting, WEIGHTINGS)
        check_name("policy_schedule", self.policy_schedule or self.schedule, schedules.BY_NAME)
        low, high = self.time_range
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(
                f"time_range={self.time_range} is no range inside (0, 1); try (0.0, 0.4)."
            )
        for field in ("width", "depth", "num_steps", "num_negatives", "latent_dim"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} is not positive; try 128.")
        check_training(self)
        for field in UNUSED.get(self.kind, ()):
            usual = getattr(DensityConfig, field)
            if getattr(self, field) != usual:
                raise ValueError(
                    f"{field}={getattr(self, field)!r} changes nothing in a model of the kind {self.kind!r}; "
                    f"leave it at {usual!r}, or take kind='diffusion'."
                )


class Density(NamedTuple):
    """A model of expert pairs; ``is_online``: it learns beside the policy, from its actions."""

    init: Callable[[Key], Trainable]
    # (model, states, actions, key[, decided]); an online model needs what the policy decided
    learn: Callable[..., tuple[Trainable, Metrics]]
    losses: Callable[
        [Params, Array, Array, Array, Key], tuple[Array, Array]
    ]  # agent's, expert's [B]
    is_online: bool = False


def make_density(config: DensityConfig, state_dim: int, action_dim: int) -> Density:
    """The model of a configuration for states [B, S] and actions [B, A]."""
    makers = {"ebm": ebm, "vae": vae, "gan": gan}
    return makers.get(config.kind, diffusion)(config, state_dim, action_dim)


def optimizer_of(config: DensityConfig) -> optax.GradientTransformation:
    """Adam with a clip, its rate constant or falling to 0."""
    return make_optimizer(
        config.learning_rate, config.max_grad_norm, decay_steps=config.decay_steps
    )


def trainable_parts(config: DensityConfig, init: Callable[[Key], Params], loss: Callable) -> tuple:
    """``init`` and ``learn`` of a model that is trained by a loss of (params, states, actions, key)."""
    optimizer = optimizer_of(config)

    def start(key: Key) -> Trainable:
        return create(init(key), optimizer, ema=config.ema_decay > 0)

    def learn(model: Trainable, states, actions, key: Key, decided=None):
        del decided
        value, gradients = jax.value_and_grad(loss)(model.params, states, actions, key)
        model = apply_gradients(model, gradients, optimizer, config.ema_decay)
        return model, {"loss/density": value}

    return start, learn


def diffusion(config: DensityConfig, state_dim: int, action_dim: int) -> Density:
    """A denoising model; kind "flow" is the same with straight paths, continuous time and velocities."""
    is_flow, steps = config.kind == "flow", config.num_steps
    noised_dim = action_dim + (state_dim if config.target == "joint" else 0)
    if is_flow:
        learnt = used = GaussianProcess(schedules.rectified_flow(), "velocity")
    else:
        learnt = GaussianProcess(schedules.BY_NAME[config.schedule](steps))
        used = GaussianProcess(schedules.BY_NAME[config.policy_schedule or config.schedule](steps))
    if is_flow or config.time_embedding == "sinusoidal":
        net = DenoisingMlp((config.width,) * config.depth, activation=jax.nn.relu)
        position = lambda time: time
    else:
        net = StepMlp(config.width, steps, config.depth)
        position = lambda time: schedules.step_of(learnt.schedule, time)

    def network(params: Params, states: Array) -> Callable[[Array, Array], Array]:
        condition = states if config.target == "conditional" else None
        return lambda xt, time: net.apply(params, xt, position(time), condition)

    def joined(states: Array, actions: Array) -> Array:
        return jnp.concatenate([states, actions], axis=-1) if config.target == "joint" else actions

    def init(key: Key) -> Params:
        blank = jnp.zeros((1, state_dim)) if config.target == "conditional" else None
        return net.init(key, jnp.zeros((1, noised_dim)), jnp.zeros(1), blank)

    def loss(params: Params, states: Array, actions: Array, key: Key) -> Array:
        time_key, noise_key = jax.random.split(key)
        time = draw_times(time_key, states.shape[0], learnt.schedule, is_antithetic=True)
        x0 = joined(states, actions)
        return jnp.mean(
            diffusion_loss(learnt, network(params, states), x0, time, noise_key, "target")
        )

    def losses(params, states, decided, demonstrated, key):
        time_key, noise_key = jax.random.split(key)
        time = draw_times(time_key, states.shape[0], learnt.schedule, True, config.time_range)
        noise = jax.random.normal(noise_key, (states.shape[0], noised_dim))
        weighting = "target" if config.weighting == "uniform" else config.weighting
        value = lambda x0: diffusion_loss(
            used, network(params, states), x0, time, None, weighting, noise=noise
        )
        expert = value(joined(states, demonstrated))
        x0 = joined(states, decided)
        if config.gradient == "full":
            return value(x0), expert
        return distilled(used, network(params, states), x0, noise, time, weighting), expert

    return Density(*trainable_parts(config, init, loss), losses)


def distilled(
    process: GaussianProcess,
    network: Callable,
    x0: Array,
    noise: Array,
    time: Array,
    weighting: str,
) -> Float[Array, "B"]:
    """The loss of x0, with the gradient 2 w alpha (prediction - target): no Jacobian (Poole et al. 2022)."""
    target = process.target(x0, noise, time)
    residual = network(process.corrupt(x0, noise, time), time) - target
    weight = like(weight_of(process, time, weighting), x0)
    slope = 2.0 * weight * residual * like(process.schedule.alpha(time), x0)
    slope, value = jax.lax.stop_gradient((slope, jnp.mean(weight * residual**2, axis=-1)))
    pull = jnp.mean(slope * x0, axis=-1)
    return value + pull - jax.lax.stop_gradient(pull)


def pairs(states: Array, actions: Array) -> Array:
    """[s; a]."""
    return jnp.concatenate([states, actions], axis=-1)


def ebm(config: DensityConfig, state_dim: int, action_dim: int) -> Density:
    """An energy learnt by InfoNCE; negatives are uniform within ``action_limit``."""
    net = Mlp((config.width,) * config.depth, 1, layer_norm=False, activation=jax.nn.relu)
    energy = lambda params, states, actions: net.apply(params, pairs(states, actions))[..., 0]
    init = lambda key: net.init(key, jnp.zeros((1, state_dim + action_dim)))

    def loss(params: Params, states: Array, actions: Array, key: Key) -> Array:
        shape = (states.shape[0], config.num_negatives, action_dim)
        limit = config.action_limit
        negatives = jax.random.uniform(key, shape, minval=-limit, maxval=limit)
        everyone = jnp.concatenate([actions[:, None], negatives], axis=1)
        tiled = jnp.broadcast_to(states[:, None], (*everyone.shape[:2], state_dim))
        return -jnp.mean(jax.nn.log_softmax(-energy(params, tiled, everyone), axis=1)[:, 0])

    def losses(params, states, decided, demonstrated, key):
        del key
        gap = energy(params, states, decided) - energy(params, states, demonstrated)
        return jnp.abs(gap), jnp.zeros_like(gap)

    return Density(*trainable_parts(config, init, loss), losses)


def vae(config: DensityConfig, state_dim: int, action_dim: int) -> Density:
    """Reconstruction error of [s; a] by a variational autoencoder."""
    net = VariationalMlp(config.width, config.depth, config.latent_dim, state_dim + action_dim)

    def init(key: Key) -> Params:
        return net.init(
            key, jnp.zeros((1, state_dim + action_dim)), jnp.zeros((1, config.latent_dim))
        )

    def terms(params: Params, x: Array, noise: Array) -> tuple[Array, Array]:
        found, divergence = net.apply(params, x, noise)
        return jnp.mean(jnp.square(found - x), axis=-1), divergence

    def loss(params: Params, states: Array, actions: Array, key: Key) -> Array:
        noise = jax.random.normal(key, (states.shape[0], config.latent_dim))
        error, divergence = terms(params, pairs(states, actions), noise)
        return jnp.mean(error + config.kl_weight * divergence)

    def losses(params, states, decided, demonstrated, key):
        noise = jax.random.normal(key, (states.shape[0], config.latent_dim))
        error = lambda actions: terms(params, pairs(states, actions), noise)[0]
        return error(decided), error(demonstrated)

    return Density(*trainable_parts(config, init, loss), losses)


def gan(config: DensityConfig, state_dim: int, action_dim: int) -> Density:
    """A discriminator that learns beside the policy; the policy pays -log D(s, pi)."""
    net = Mlp((config.width,) * config.depth, 1, layer_norm=False, activation=jax.nn.relu)
    logit = lambda params, states, actions: net.apply(params, pairs(states, actions))[..., 0]
    optimizer = optimizer_of(config)

    def init(key: Key) -> Trainable:
        return create(net.init(key, jnp.zeros((1, state_dim + action_dim))), optimizer)

    def learn(model: Trainable, states, actions, key: Key, decided):
        del key
        fakes = jax.lax.stop_gradient(decided)

        def loss(params):
            real, fake = logit(params, states, actions), logit(params, states, fakes)
            return jnp.mean(jax.nn.softplus(-real) + jax.nn.softplus(fake))

        value, gradients = jax.value_and_grad(loss)(model.params)
        return apply_gradients(model, gradients, optimizer), {"loss/density": value}

    def losses(params, states, decided, demonstrated, key):
        del demonstrated, key
        cost = jax.nn.softplus(-logit(params, states, decided))
        return cost, jnp.zeros_like(cost)

    return Density(init, learn, losses, is_online=True)

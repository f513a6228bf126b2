"""Diffusion policies: actions drawn from p(actions | observations) by denoising.

    loss = E_{t, noise} |noise - net(xt, t, o)|^2,   xt = alpha x0 + sigma noise,   x0 = the actions of the horizon

Two forms, told apart by the fields of one configuration:

    Chi et al. 2023 (arXiv 2303.04137)   the default: of ``horizon`` = 16 actions from the first of ``history`` = 2
                                         observed steps on, ``execute`` = 8 are carried out, starting with the present
                                         one; a temporal U-Net modulated by FiLM, or a causal transformer
    the baseline of Diffusion-BC         :func:`single_step`: an MLP of (action, time, observation), one action at a
    (2302.13335)                         time, all 1000 ancestral steps, no average of the weights

**Bounds.**  With ``action_low`` and ``action_high`` (in the units that the algorithm sees: z-units inside
``normalized``; ``implicit_bc.action_box`` gives those of demonstrations) actions are learnt in [-1, 1], and every
estimate of x0 is clipped to it, as in Chi et al.  Without bounds nothing is scaled or clipped, as in Diffusion-BC.
Then take many steps: where alpha(1) is nearly 0, as in "cosine", a long first step multiplies what the network errs.

Differs from the papers: betas of AdamW are (0.9, 0.999); steps past an episode's end do not count; the MLP hears time
through sinusoids instead of a table of learnt vectors; an instruction's embedding joins the observations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from daag_jax.algorithms.parts.action_head import action_head, from_unit, to_unit
from daag_jax.algorithms.parts.trainable import (
    Trainable,
    apply_gradients,
    averaged,
    create,
    make_optimizer,
)
from daag_jax.data.windows import recent
from daag_jax.diffusion import guidance, losses, samplers, schedules
from daag_jax.diffusion.process import PARAMETERISATIONS, GaussianProcess
from daag_jax.networks.mlp import DenoisingMlp
from daag_jax.networks.transformer import DenoisingTransformer
from daag_jax.networks.unet1d import UNet1D, check_horizon
from daag_jax.types import Actions, Algorithm, Batch, Context, Key, Metrics, Spec, Window

NETWORKS = ("mlp", "unet", "transformer")


@dataclass(frozen=True)
class DiffusionPolicyConfig:
    """Fields of the policy; defaults are those of Chi et al. for observations without pixels."""

    network: str = "unet"  # or "transformer", "mlp"
    history: int = 2
    horizon: int = 16  # actions denoised together, from the first observed step on
    execute: int = 8
    action_low: tuple[float, ...] = ()  # in the units seen; () leaves actions unscaled, unclipped
    action_high: tuple[float, ...] = ()
    schedule: str = "cosine"  # their squaredcos_cap_v2; also "linear", "sigmoid_betas"
    num_steps: int = 100  # of the schedule
    parameterisation: str = "noise"  # what the network predicts
    sampler: str = "ddpm"  # ancestral; also "ddim", "dpm_solver_2m", ..
    num_inference_steps: int = 100
    hidden_dims: tuple[int, ...] = (1200, 1200, 1200, 1200)  # of "mlp"
    widths: tuple[int, ...] = (256, 512, 1024)  # of "unet"
    num_groups: int = 8  # of "unet"
    time_dim: int = 256  # of "mlp" and "unet"
    width: int = 256  # of "transformer", as all that follow
    depth: int = 8
    num_heads: int = 4
    dropout: float = 0.3
    is_causal: bool = True
    learning_rate: float = 1e-4
    warmup_steps: int = 500
    decay_steps: int = (
        0  # updates, with the warm-up, in which the rate falls to 0 as a cosine; 0: never
    )
    weight_decay: float = 1e-6  # of the transformer 1e-3
    max_grad_norm: float = 0.0  # 0: no clip
    ema_decay: float = 0.9999  # at most; 0: no average
    ema_power: float = 0.75  # after n updates the decay is 1 - (1 + n)^-power

    def __post_init__(self):
        known = {
            "network": NETWORKS,
            "schedule": tuple(schedules.BY_NAME),
            "parameterisation": PARAMETERISATIONS,
            "sampler": samplers.METHODS,
        }
        for field, names in known.items():
            if getattr(self, field) not in names:
                raise ValueError(
                    f"{field} {getattr(self, field)!r} is unknown; use one of {names}."
                )
        for field in ("history", "execute", "num_steps", "num_inference_steps"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} is not positive; try 1.")
        if self.horizon < self.history - 1 + self.execute:
            raise ValueError(
                f"horizon={self.horizon} ends before execute={self.execute} actions from step "
                f"history - 1 = {self.history - 1} on; try {self.history - 1 + self.execute}."
            )
        if bool(self.action_low) != bool(self.action_high):
            raise ValueError(
                f"action_low={self.action_low} and action_high={self.action_high}: give both, or none."
            )
        if self.network == "unet":
            check_horizon(self.horizon, len(self.widths))
        if 0 < self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"decay_steps={self.decay_steps} ends within warmup_steps={self.warmup_steps}; "
                "give the number of all updates."
            )


def single_step(**changes: Any) -> DiffusionPolicyConfig:
    """The baseline of Diffusion-BC: Maze 4 x 256 (rate 2e-4), HandRotate 4 x 2100, others 4 x 1200 (1e-4, 1e-5)."""
    baseline = {
        "network": "mlp",
        "history": 1,
        "horizon": 1,
        "execute": 1,
        "num_steps": 1000,
        "num_inference_steps": 1000,
        "time_dim": 32,
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 0.5,
        "ema_decay": 0.0,
    }
    return DiffusionPolicyConfig(**(baseline | changes))


class DiffusionPolicyState(NamedTuple):
    """The network, and how often it was updated."""

    net: Trainable
    step: Int[Array, ""]


class FlatNet(nn.Module):
    """A denoising network of sequences that reads its condition as one vector."""

    config: DiffusionPolicyConfig

    @nn.compact
    def __call__(
        self,
        xt: Float[Array, "B T A"],
        time: Float[Array, "B"],
        condition: Float[Array, "B K C"],
        is_training: bool = False,
    ) -> Float[Array, "B T A"]:
        del is_training
        c, flat = self.config, condition.reshape(condition.shape[0], -1)
        if c.network == "unet":
            return UNet1D(c.widths, c.time_dim, num_groups=c.num_groups, name="unet")(
                xt, time, flat
            )
        net = DenoisingMlp(c.hidden_dims, c.time_dim, activation=jax.nn.relu, name="denoiser")
        return net(xt.reshape(xt.shape[0], -1), time, flat).reshape(xt.shape)


def diffusion_policy(config: DiffusionPolicyConfig, spec: Spec) -> Algorithm:
    """Observations [B, K, O] (and, where ``spec.task_dim`` > 0, ``extras["task"]`` [B, D]) to a chunk of actions."""
    net, optimizer = make_network(config), make_policy_optimizer(config)
    schedule = schedules.BY_NAME[config.schedule](config.num_steps)
    process = GaussianProcess(schedule, config.parameterisation)
    inward, outward = scaling(config, spec)
    times = schedules.uniform_times(config.num_inference_steps)
    first = config.history - 1

    def condition_of(data: Batch | Context) -> Float[Array, "B K C"]:
        seen = recent(data, data.observations, config.history)
        if not spec.task_dim:
            return seen
        task = jnp.repeat(data.extras["task"][:, None], config.history, axis=1)
        return jnp.concatenate([seen, task], axis=-1)

    def init(key: Key) -> DiffusionPolicyState:
        actions = jnp.zeros((1, config.horizon, spec.action_dim))
        condition = jnp.zeros((1, config.history, spec.observation_dim + spec.task_dim))
        params = net.init(key, actions, jnp.ones((1,)), condition)
        trainable = create(params, optimizer, ema=config.ema_decay > 0)
        return DiffusionPolicyState(trainable, jnp.zeros((), jnp.int32))

    def update(
        state: DiffusionPolicyState, batch: Batch, key: Key
    ) -> tuple[DiffusionPolicyState, Metrics]:
        time_key, noise_key, dropout_key = jax.random.split(key, 3)
        x0, condition = inward(batch.actions), condition_of(batch)
        time = losses.draw_times(time_key, x0.shape[0], schedule)
        num_real = jnp.sum(batch.mask, axis=1).astype(jnp.float32)

        def loss_fn(params):
            rngs = {"dropout": dropout_key}
            network = lambda xt, time: net.apply(params, xt, time, condition, True, rngs=rngs)
            cost = losses.diffusion_loss(process, network, x0, time, noise_key, mask=batch.mask)
            loss = jnp.sum(num_real * cost) / jnp.maximum(jnp.sum(num_real), 1.0)
            return loss, {"loss/policy": loss}

        gradients, metrics = jax.grad(loss_fn, has_aux=True)(state.net.params)
        decay = jnp.minimum(config.ema_decay, 1.0 - (1.0 + state.step) ** -config.ema_power)
        trainable = apply_gradients(state.net, gradients, optimizer, decay)
        return DiffusionPolicyState(trainable, state.step + 1), metrics

    def act(state: DiffusionPolicyState, context: Context, key: Key) -> Actions:
        prior_key, sample_key = jax.random.split(key)
        params, condition = averaged(state.net), condition_of(context)
        denoise = process.denoiser(lambda xt, time: net.apply(params, xt, time, condition))
        if config.action_low:
            denoise = guidance.clip(denoise)
        shape = (condition.shape[0], config.horizon, spec.action_dim)
        x = samplers.prior(schedule, prior_key, shape)
        plan = samplers.sample(denoise, schedule, x, times, sample_key, config.sampler)
        return outward(plan[:, first : first + config.execute])

    fields = ("task",) if spec.task_dim else ()
    window = Window(config.history, config.horizon, config.execute, fields)
    return Algorithm(window, init, update, act)


def make_network(config: DiffusionPolicyConfig) -> nn.Module:
    """A network(xt [B, T, A], time [B], condition [B, K, C], is_training) -> prediction [B, T, A]."""
    c = config
    if c.network == "transformer":
        return DenoisingTransformer(c.width, c.depth, c.num_heads, c.dropout, c.is_causal)
    return FlatNet(c)


def make_policy_optimizer(config: DiffusionPolicyConfig) -> optax.GradientTransformation:
    """AdamW whose rate rises during the warm-up, and may then fall."""
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.decay_steps:
        rate = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, config.decay_steps)
    else:
        rate = optax.linear_schedule(0.0, peak, warmup) if warmup else peak
    return make_optimizer(rate, config.max_grad_norm, config.weight_decay)


def scaling(
    config: DiffusionPolicyConfig, spec: Spec
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """From actions to what is diffused, and back: bounds become [-1, 1]; without bounds nothing changes."""
    if not config.action_low:
        return (lambda actions: actions), (lambda actions: actions)
    head = action_head(spec._replace(action_low=config.action_low, action_high=config.action_high))
    return (lambda actions: to_unit(head, actions)), (lambda unit: from_unit(head, unit))

"""Diffusion-BC: cloning, and the loss of a diffusion model of the expert's pairs (arXiv 2302.13335).

First the model learns p(s, a) and is frozen; then the policy learns with one (t, noise) for both pairs:

    L_agent = |noise - network(alpha [s; pi(s)] + sigma noise, t)|^2,   L_expert the same with [s; a]
    L_DM    = max(L_agent - L_expert, 0)                                                       (Eq. 5)
    L       = bc_weight L_BC + weight L_DM                                                     (Eq. 6)

``clip`` says where the maximum stands: "batch" around the means over the batch (the released code; as L_expert has no
gradient in the policy, it is a gate), "sample" inside the expectation (the paper's text), "none" leaves L_expert out.
``DensityConfig`` (parts/density.py) holds the model's choices and alternatives: p(a | s), p(a), flow, EBM, VAE, GAN.

The model's stage is ``density`` as an algorithm of its own, so that one model may guide many policies
(``state._replace(density=model)`` with ``pretrain_steps=0``); or the first ``pretrain_steps`` updates of ``dbc``.

Differs from the paper: batches are drawn with replacement; the model has no dead layer (``networks.mlp.StepMlp``); the
policy's last layer starts near zero; Adam's epsilon is 1e-8; observations are not cut at ten deviations.  Without steps
past the end of an episode, as for ``execute`` 1, the model's loss is the release's; else those pairs count in it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from daag_jax.algorithms.bc import BcConfig, make_policy, noisy, paper_policy
from daag_jax.algorithms.parts.density import Density, DensityConfig, make_density
from daag_jax.algorithms.parts.trainable import Trainable, apply_gradients, averaged, create
from daag_jax.names import check_name
from daag_jax.types import Actions, Algorithm, Batch, Context, Key, Metrics, Spec

CLIPS = ("batch", "sample", "none")


@dataclass(frozen=True)
class DbcConfig:
    """Fields of Diffusion-BC; defaults are those of Maze in the release.

    There ``pretrain_steps`` are 1,160,000 and the policy's rate falls to 0 (``policy.decay_steps``) over its 288,000.
    """

    policy: BcConfig = paper_policy((256, 256, 256), 5e-5, 0)
    density: DensityConfig = DensityConfig()
    weight: float = 30.0  # lambda_DM
    bc_weight: float = 1.0
    clip: str = "batch"  # or "sample", "none"
    pretrain_steps: int = 20_000  # of the model alone; 0: a trained one is put into the state

    def __post_init__(self):
        check_name("clip", self.clip, CLIPS)
        for field in ("weight", "bc_weight", "pretrain_steps"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field}={getattr(self, field)} is negative; 0 switches it off.")
        if self.density.kind == "gan" and self.pretrain_steps:
            raise ValueError(
                f"pretrain_steps={self.pretrain_steps}: a discriminator learns beside the policy; set it to 0."
            )


class Dbc(NamedTuple):
    """State: the number of updates, the model of expert pairs, and the policy."""

    step: Int[Array, ""]
    density: Trainable
    policy: Trainable


def model_of(config: DbcConfig, spec: Spec) -> Density:
    """The model over flattened histories (and instructions) and chunks."""
    history, execute = config.policy.history, config.policy.execute
    state_dim = history * spec.observation_dim + spec.task_dim
    return make_density(config.density, state_dim, execute * spec.action_dim)


def density(config: DbcConfig, spec: Spec) -> Algorithm:
    """The first stage alone; its state is the ``density`` of a :class:`Dbc`.

    Raises:
        ValueError: the model has no stage of its own ("gan").
    """
    if config.density.kind == "gan":
        raise ValueError(
            "kind='gan' has no stage of its own: a discriminator learns beside the policy."
        )
    policy, model = make_policy(config.policy, spec), model_of(config, spec)

    def update(state: Trainable, batch: Batch, key: Key) -> tuple[Trainable, Metrics]:
        return model.learn(state, policy.inputs(batch), demonstrated(config, batch), key)

    return Algorithm(policy.window, model.init, update)


def dbc(config: DbcConfig, spec: Spec) -> Algorithm:
    """Observations [B, K, O] (and, where ``spec.task_dim`` > 0, ``extras["task"]`` [B, D]) to actions."""
    policy, model = make_policy(config.policy, spec), model_of(config, spec)

    def init(key: Key) -> Dbc:
        density_key, policy_key = jax.random.split(key)
        learner = create(policy.init(policy_key), policy.optimizer, ema=config.policy.ema_decay > 0)
        return Dbc(jnp.zeros((), jnp.int32), model.init(density_key), learner)

    def pretrain(state: Dbc, batch: Batch, key: Key) -> tuple[Dbc, Metrics]:
        actions = demonstrated(config, batch)
        trained, metrics = model.learn(state.density, policy.inputs(batch), actions, key)
        return state._replace(density=trained), blank_metrics() | metrics

    def imitate(state: Dbc, batch: Batch, key: Key) -> tuple[Dbc, Metrics]:
        guide_key, noise_key, learn_key = jax.random.split(key, 3)
        states, actions = policy.inputs(batch), demonstrated(config, batch)
        seen = noisy(states, config.policy.observation_noise, noise_key)
        guide = averaged(state.density)
        is_whole = jnp.all(batch.mask, axis=1)

        def loss_fn(params):
            raw = policy.decide(params, seen)
            cloning, metrics = policy.loss(raw, batch)
            decided = policy.actions(raw).reshape(actions.shape)
            agent, expert = model.losses(guide, states, decided, actions, guide_key)
            guiding, measured = guidance(config.clip, agent, expert, is_whole)
            loss = config.bc_weight * cloning + config.weight * guiding
            return loss, (metrics | measured | {"loss/total": loss}, decided)

        gradients, (metrics, decided) = jax.grad(loss_fn, has_aux=True)(state.policy.params)
        learner = apply_gradients(
            state.policy, gradients, policy.optimizer, config.policy.ema_decay
        )
        trained = state.density
        if model.is_online:
            trained, learnt = model.learn(trained, states, actions, learn_key, decided)
            metrics |= learnt
        return Dbc(state.step, trained, learner), blank_metrics() | metrics

    def update(state: Dbc, batch: Batch, key: Key) -> tuple[Dbc, Metrics]:
        if config.pretrain_steps:
            is_early = state.step < config.pretrain_steps
            # as numbers, for vmap turns a branch into a choice, which would count as a second use of the key
            bits, wrap = jax.random.key_data(key), jax.random.wrap_key_data
            state, metrics = jax.lax.cond(
                is_early,
                lambda state, bits: pretrain(state, batch, wrap(bits)),
                lambda state, bits: imitate(state, batch, wrap(bits)),
                state,
                bits,
            )
        else:
            state, metrics = imitate(state, batch, key)
        return state._replace(step=state.step + 1), metrics

    def act(state: Dbc, context: Context, key: Key) -> Actions:
        return policy.act(state.policy, context, key)

    return Algorithm(policy.window, init, update, act)


def demonstrated(config: DbcConfig, batch: Batch) -> Float[Array, "B A"]:
    """The expert's chunks, flattened."""
    first = config.policy.history - 1
    chunk = batch.actions[:, first : first + config.policy.execute]
    return chunk.reshape(chunk.shape[0], -1)


def guidance(
    clip: str, agent: Float[Array, "B"], expert: Float[Array, "B"], is_counted: Array
) -> tuple[Float[Array, ""], Metrics]:
    """L_DM of losses per example, and what they were; only rows that count."""
    weight = is_counted / jnp.maximum(jnp.sum(is_counted), 1)
    mean = lambda x: jnp.sum(weight * x)
    gap = mean(agent) - mean(expert)
    guiding = {
        "batch": lambda: jax.nn.relu(gap),
        "sample": lambda: mean(jax.nn.relu(agent - expert)),
        "none": lambda: mean(agent),
    }[clip]()
    return guiding, {
        "loss/guidance": guiding,
        "guidance/gap": gap,
        "guidance/closed": (gap < 0).astype(jnp.float32),
    }


def blank_metrics() -> Metrics:
    """Zeros for what a stage does not measure, so that both have the same metrics."""
    names = ("loss/policy", "error", "loss/total", "loss/density", "loss/guidance")
    return {n: jnp.zeros(()) for n in (*names, "guidance/gap", "guidance/closed")}

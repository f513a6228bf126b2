"""Self-imitation on the task buffer: the policy of Diffusion Augmented Agents (arXiv 2407.20798) and its predecessor.

    filtered   loss = sum m l(a, pi(o, T)) / sum m            (2307.09668, Algorithm 1: cloning of successes)
    advantage  loss = E[ -log pi(a|o) (R - V)_+  +  beta/2 (R - V)_+^2 ]     (Oh et al. 2018, arXiv 1806.05635, Eq. 1-3)

m is the mask of steps inside an episode; what matters more is drawn more often (``data.buffer.sample_steps``).
Each camera's image goes through one shared ResNet-18 that the instruction's embedding modulates (FiLM); features of
all cameras and frames, proprioception and the instruction meet in an MLP.

Differs from the papers: FiLM, keypoint pooling, random shifts (Yarats et al. 2021) and GroupNorm are our choices, as
the papers give ResNet-18 and an MLP and no more; in "advantage" the actor-critic loss that Oh et al. add is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from daag_jax.algorithms.parts.action_head import (
    ActionHead,
    Exploration,
    action_head,
    best,
    decide,
    negative_log_likelihood,
    to_unit,
)
from daag_jax.algorithms.parts.trainable import (
    Trainable,
    apply_gradients,
    averaged,
    check_training,
    create,
    make_optimizer,
)
from daag_jax.data.windows import recent
from daag_jax.networks.mlp import Mlp
from daag_jax.networks.resnet import ResNet18
from daag_jax.types import Actions, Algorithm, Batch, Context, Key, Metrics, Spec, Window

OBJECTIVES = ("filtered", "advantage")


@dataclass(frozen=True)
class SelfImitationConfig:
    """Fields of the policy and its training; our choice unless a source is named."""

    objective: str = "filtered"  # 2307.09668; "advantage" is Oh et al. 2018
    value_weight: float = 0.01  # beta of Oh et al., who tune it per domain
    width: int = 16  # channels of the first stage; 64 is the standard ResNet-18
    strides: tuple[int, ...] = (1, 2, 2, 1)  # of the stages: 64 px end as 8 x 8
    stem_stride: int = 2
    pool: str = "spatial_softmax"  # or "average", "both"
    hidden_dims: tuple[int, ...] = (256, 256)
    likelihood: str = "squared"  # or "absolute", "gaussian"
    sigma: float | None = None  # of "gaussian", in half-ranges of the action; None: learnt
    binary_dims: tuple[int, ...] = ()  # action dimensions that are two-way decisions
    binary_weight: float = 1.0  # of their logistic loss against the continuous one
    shift: int = 2  # [px] random shifts of each image; they blur positions by as much
    exploration: Exploration = Exploration()
    history: int = 1
    execute: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0  # 0: no average

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective {self.objective!r} is unknown; use one of {OBJECTIVES}.")
        if self.objective == "advantage" and self.likelihood != "gaussian":
            raise ValueError(
                f"objective 'advantage' weighs log-likelihoods and likelihood is {self.likelihood!r}; "
                "use likelihood='gaussian'."
            )
        for field in ("history", "execute"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} is not positive; try 1.")
        if self.shift < 0:
            raise ValueError(f"shift={self.shift} is negative; 0 switches the shifts off.")
        check_training(self)


class PolicyNet(nn.Module):
    """What was seen, felt and asked for, to raw actions [B, k, R] and a value [B]."""

    config: SelfImitationConfig
    out_dim: int

    @nn.compact
    def __call__(
        self,
        observations: Float[Array, "B K O"],
        images: UInt8[Array, "B K V H W C"] | None,
        task: Float[Array, "B D"] | None,
    ) -> tuple[Float[Array, "B k R"], Float[Array, "B"]]:
        c, batch = self.config, observations.shape[0]
        parts = [observations.reshape(batch, -1)]
        if images is not None:
            per_row = images.shape[1] * images.shape[2]
            condition = None if task is None else jnp.repeat(task, per_row, axis=0)
            encoder = ResNet18(c.width, c.strides, c.stem_stride, pool=c.pool, name="encoder")
            seen = encoder(images.reshape(-1, *images.shape[3:]), condition)
            parts.append(seen.reshape(batch, -1))
        if task is not None:
            parts.append(task)
        features = jnp.concatenate(parts, axis=-1)
        out = Mlp(c.hidden_dims, c.execute * self.out_dim, out_scale=0.01, name="policy")(features)
        value = jnp.zeros(batch)
        if c.objective == "advantage":
            value = Mlp(c.hidden_dims, 1, name="value")(features)[:, 0]
        return out.reshape(batch, c.execute, self.out_dim), value


def self_imitation(config: SelfImitationConfig, spec: Spec) -> Algorithm:
    """Images ``extras["image"]`` uint8 [B, T, V, H, W, 3], ``["task"]`` [B, D] and observations [B, T, O] to actions.

    ``spec`` says which of image and task there are; T is history + execute - 1 (see ``bc.py``).  ``act`` reads
    ``extras["explore"]`` [B], where it is given: it multiplies the exploration of each row (0: deterministic).
    """
    head = action_head(spec, config.likelihood, config.binary_dims, config.sigma)
    net = PolicyNet(config, head.out_dim)
    optimizer = make_optimizer(config.learning_rate, config.max_grad_norm, config.weight_decay)

    def inputs(data: Batch | Context) -> tuple:
        of_history = lambda values: recent(data, values, config.history)
        images = of_history(data.extras["image"]) if spec.image_shape else None
        task = data.extras["task"] if spec.task_dim else None
        return of_history(data.observations), images, task

    def init(key: Key) -> Trainable:
        observations = jnp.zeros((1, config.history, spec.observation_dim))
        images = jnp.zeros((1, config.history, *spec.image_shape), jnp.uint8)
        task = jnp.zeros((1, spec.task_dim))
        blank = (
            observations,
            images if spec.image_shape else None,
            task if spec.task_dim else None,
        )
        return create(net.init(key, *blank), optimizer, ema=config.ema_decay > 0)

    def update(state: Trainable, batch: Batch, key: Key) -> tuple[Trainable, Metrics]:
        observations, images, task = inputs(batch)
        if images is not None and config.shift:
            images = shifted(images, key, config.shift)

        def loss_fn(params):
            return loss(config, head, *net.apply(params, observations, images, task), batch)

        gradients, metrics = jax.grad(loss_fn, has_aux=True)(state.params)
        return apply_gradients(state, gradients, optimizer, config.ema_decay), metrics

    def act(state: Trainable, context: Context, key: Key) -> Actions:
        raw, _ = net.apply(averaged(state), *inputs(context))
        return decide(head, raw, key, config.exploration, context.extras.get("explore"))

    wanted = {
        "image": bool(spec.image_shape),
        "task": spec.task_dim > 0,
        "returns": config.objective == "advantage",
    }
    fields = tuple(name for name, is_wanted in wanted.items() if is_wanted)
    horizon = config.history + config.execute - 1
    return Algorithm(Window(config.history, horizon, config.execute, fields), init, update, act)


def loss(
    config: SelfImitationConfig,
    head: ActionHead,
    raw: Float[Array, "B k R"],
    value: Float[Array, "B"],
    batch: Batch,
) -> tuple[Float[Array, ""], Metrics]:
    """The loss of one batch and its metrics; steps past the end of an episode do not count."""
    first = config.history - 1
    actions = batch.actions[:, first : first + config.execute]
    weight = batch.mask[:, first : first + config.execute].astype(jnp.float32)
    total = jnp.maximum(jnp.sum(weight), 1e-6)
    is_binary = jnp.array(head.is_binary)[None, None]
    cost = negative_log_likelihood(head, raw, actions)
    cost = cost * jnp.where(is_binary, config.binary_weight, 1.0)
    gap = jnp.abs(best(head, raw) - to_unit(head, actions))
    per_dim = jnp.sum(weight[..., None] * gap, axis=(0, 1)) / total
    metrics = {f"error/action_{i}": per_dim[i] for i in range(len(head.low))}
    if config.objective == "filtered":
        policy = jnp.sum(weight * jnp.mean(cost, axis=-1)) / total
        return policy, metrics | {"loss/policy": policy}
    advantage = jax.nn.relu(batch.extras["returns"][:, first] - value)
    credit = jax.lax.stop_gradient(advantage)[:, None]
    policy = jnp.sum(weight * credit * jnp.sum(cost, axis=-1)) / total
    rows = jnp.maximum(jnp.sum(weight[:, 0]), 1e-6)
    critic = 0.5 * jnp.sum(weight[:, 0] * jnp.square(advantage)) / rows
    metrics |= {"loss/policy": policy, "loss/value": critic, "advantage": jnp.mean(advantage)}
    return policy + config.value_weight * critic, metrics


def shifted(
    images: UInt8[Array, "B K V H W C"], key: Key, pixels: int
) -> UInt8[Array, "B K V H W C"]:
    """Each image moved by up to ``pixels`` in both directions, its border repeated (DrQ, arXiv 2004.13649).

    The frames of one camera move together, so that the history still shows the true motion.
    """
    batch, _, views = images.shape[:3]
    offsets = jax.random.randint(key, (batch, views, 2), 0, 2 * pixels + 1)
    border = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))

    def crop(frames: Array, offset: Array) -> Array:
        start = (0, offset[0], offset[1], 0)
        return jax.lax.dynamic_slice(jnp.pad(frames, border, mode="edge"), start, frames.shape)

    return jax.vmap(jax.vmap(crop, in_axes=(1, 0), out_axes=1))(images, offsets)

"""Decision Transformer: actions as what comes next in a sequence (Chen et al. 2021, arXiv 2106.01345).

    tokens  R_0 s_0 a_0  R_1 s_1 a_1  ..  R_K-1 s_K-1,   R_t = r_t + r_t+1 + ..  (the return to go)
    loss    mean_t |a_t - pi(R_0 s_0 a_0 .. R_t s_t)|^2

It learns what was done on the way to each return, and is asked for a high one.  ``extras["returns"]`` [B, K] are
returns to go, undiscounted (``episode_data`` with a discount of 1).  When deciding, a context should hold what was
done and earned in its history, as ``evaluate_policy`` gives it: "actions" [B, K, A] (the present one is not read), and
"earned" [B, K] before each step, which is subtracted from ``target_return``, or the "returns" to go [B, K] themselves.
Without, past actions are the middle of their bounds and nothing has been earned, which is unlike what was learnt.

A window that reaches back before the start of an episode repeats its first observation; steps whose observation is
that of the next one, up to the first change, are not read and not learnt.

Differs from the paper: a place counts from the present, not from the start of the episode, as a policy does not know
the time; inputs of a step share one embedding of it; a window starts before its episode as often as at any other step.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from daag_jax.algorithms.parts.action_head import ActionHead, action_head, from_unit, to_unit
from daag_jax.algorithms.parts.trainable import (
    Trainable,
    apply_gradients,
    check_training,
    create,
    make_optimizer,
)
from daag_jax.data.windows import recent
from daag_jax.networks.transformer import PLACE, CausalTransformer
from daag_jax.types import Actions, Algorithm, Batch, Context, Key, Metrics, Spec, Window


@dataclass(frozen=True)
class DecisionTransformerConfig:
    """Defaults are the paper's on OpenAI Gym (its appendix).

    It asks for returns of 6000 on HalfCheetah, 3600 on Hopper and 5000 on Walker.
    """

    history: int = 20  # K
    width: int = 128
    depth: int = 3
    num_heads: int = 1
    dropout: float = 0.1
    target_return: float = 3600.0  # in the world's units
    return_scale: float = 1000.0  # returns are divided by it
    learning_rate: float = 1e-4
    warmup_steps: int = 10_000  # as released; in which the rate rises on a line
    weight_decay: float = 1e-4
    max_grad_norm: float = 0.25

    def __post_init__(self):
        for field in ("history", "width", "depth", "num_heads"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} is not positive; try 1.")
        if self.width % self.num_heads:
            raise ValueError(
                f"width={self.width} is no multiple of num_heads={self.num_heads}; "
                f"try {-(-self.width // self.num_heads) * self.num_heads}."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout} is outside [0, 1); try 0.1.")
        if self.return_scale <= 0:
            raise ValueError(f"return_scale={self.return_scale} is not positive; try 1.0.")
        check_training(self)
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps={self.warmup_steps} is negative; 0 switches it off.")


class SequencePolicy(nn.Module):
    """Returns to go, states and actions of K steps to the action of each step, in [-1, 1]."""

    config: DecisionTransformerConfig

    @nn.compact
    def __call__(
        self,
        returns: Float[Array, "B K"],
        states: Float[Array, "B K I"],
        actions: Float[Array, "B K A"],
        is_real: Bool[Array, "B K"],
        is_training: bool = False,
    ) -> Float[Array, "B K A"]:
        config, (batch, steps, action_dim) = self.config, actions.shape
        place = self.param("places", PLACE, (steps, config.width))
        named = {"returns": returns[..., None], "states": states, "actions": actions}
        parts = [nn.Dense(config.width, name=name)(x) + place[None] for name, x in named.items()]
        tokens = jnp.stack(parts, axis=2).reshape(batch, 3 * steps, config.width)
        net = CausalTransformer(config.depth, config.num_heads, config.dropout, name="transformer")
        tokens = nn.LayerNorm(name="norm")(tokens)
        found = net(tokens, jnp.repeat(is_real, 3, axis=1), is_training)
        found = found.reshape(batch, steps, 3, config.width)[:, :, 1]  # behind each state
        return jnp.tanh(nn.Dense(action_dim, name="out")(found))


def decision_transformer(config: DecisionTransformerConfig, spec: Spec) -> Algorithm:
    """Sequences with their returns to a policy of the last K observations."""
    head, net, num = action_head(spec), SequencePolicy(config), config.history
    rate = config.learning_rate
    if config.warmup_steps:
        rate = optax.linear_schedule(rate / config.warmup_steps, rate, config.warmup_steps)
    optimizer = make_optimizer(rate, config.max_grad_norm, config.weight_decay)

    def init(key: Key) -> Trainable:
        shapes = (), (spec.observation_dim + spec.task_dim,), (spec.action_dim,)
        blank = (jnp.zeros((1, num, *shape)) for shape in shapes)
        return create(net.init(key, *blank, jnp.ones((1, num), bool)), optimizer)

    def inputs(data: Batch | Context, returns: Array, actions: Array) -> tuple[Array, ...]:
        of_history = lambda values: recent(data, values, num)
        states = of_history(data.observations)
        is_real = has_begun(states)
        if spec.task_dim:
            task = data.extras["task"][:, None]
            task = jnp.broadcast_to(task, (*states.shape[:2], spec.task_dim))
            states = jnp.concatenate([states, task], axis=-1)
        return of_history(returns) / config.return_scale, states, of_history(actions), is_real

    def update(state: Trainable, batch: Batch, key: Key) -> tuple[Trainable, Metrics]:
        actions = to_unit(head, batch.actions)
        seen = inputs(batch, batch.extras["returns"], actions)
        weight = (seen[-1] & batch.mask[:, :num]).astype(jnp.float32)

        def loss_fn(params):
            found = net.apply(params, *seen, is_training=True, rngs={"dropout": key})
            errors = jnp.mean(jnp.square(found - seen[2]), axis=-1)
            loss = jnp.sum(weight * errors) / jnp.maximum(jnp.sum(weight), 1.0)
            return loss, {"loss/policy": loss}

        gradients, metrics = jax.grad(loss_fn, has_aux=True)(state.params)
        return apply_gradients(state, gradients, optimizer), metrics

    def act(state: Trainable, context: Context, key: Key) -> Actions:
        seen = inputs(context, *told(config, head, context))
        return from_unit(head, net.apply(state.params, *seen)[:, -1:])

    fields = ("returns", "task") if spec.task_dim else ("returns",)
    return Algorithm(Window(num, num, 1, fields), init, update, act)


def told(
    config: DecisionTransformerConfig, head: ActionHead, context: Context
) -> tuple[Float[Array, "B K"], Float[Array, "B K A"]]:
    """The returns and actions [-1, 1] of a context's history, or what stands for them."""
    shape, extras = context.observations.shape[:2], context.extras
    returns = config.target_return - extras.get("earned", jnp.zeros(shape))
    returns = extras.get("returns", returns)
    if "actions" in extras:
        return returns, to_unit(head, extras["actions"])
    return returns, jnp.zeros((*shape, len(head.low)))


def has_begun(observations: Float[Array, "B K O"]) -> Bool[Array, "B K"]:
    """False on the leading steps whose observation is repeated by the next one."""
    is_left = jnp.any(observations[:, :-1] != observations[:, 1:], axis=-1)
    is_left = jnp.pad(is_left, ((0, 0), (0, 1)), constant_values=True)  # the present counts always
    return jnp.cumsum(is_left, axis=1) > 0

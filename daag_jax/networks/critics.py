"""Values of actions Q(s, a) and of states V(s), and ensembles of them.

An ensemble is one network whose parameters have a leading axis E, mapped by ``vmap``; twin critics are E = 2.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.networks.mlp import Mlp
from daag_jax.types import Key, Params


class Critic(nn.Module):
    """Q(s, a), or V(s) where no action is given: ReLU layers."""

    hidden_dims: tuple[int, ...] = (256, 256)
    layer_norm: bool = False

    @nn.compact
    def __call__(
        self, observations: Float[Array, "*B I"], actions: Float[Array, "*B A"] | None = None
    ) -> Float[Array, "*B"]:
        x = observations
        if actions is not None:
            x = jnp.concatenate([x, actions], axis=-1)
        net = Mlp(self.hidden_dims, 1, self.layer_norm, activation=jax.nn.relu, name="mlp")
        return net(x)[..., 0]


def init_ensemble(net: nn.Module, key: Key, num: int, *inputs: Array) -> Params:
    """Parameters of ``num`` networks that start apart, with a leading axis E."""
    return jax.vmap(lambda key: net.init(key, *inputs))(jax.random.split(key, num))


def apply_ensemble(net: nn.Module, params: Params, *inputs: Array) -> Float[Array, "E ..."]:
    """What each network of the ensemble says of the same inputs."""
    return jax.vmap(lambda one: net.apply(one, *inputs))(params)

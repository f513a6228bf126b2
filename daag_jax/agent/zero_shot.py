"""Rewards of CLIP without finetuning: unit embeddings of frames s and of sentences in, numbers out.

    goal_baseline     r = 1 - |alpha P s + (1 - alpha) s - g|^2 / 2,  P the projection to the line from b to g
                      VLM-RM (Rocamonde et al. 2024, definition 1): what does not separate the goal g from the
                      baseline b ("a table") counts less; alpha = 0 is the cosine
    among_negatives   p = exp(s.g / tau) / (exp(s.g / tau) + sum_k exp(s.n_k / tau)),   r = 1 where p > beta
                      Baumli et al. 2023 (arXiv 2312.09187): the goal against what else might be said of the frame

The finetuned detector with one threshold per caption is ``reward.py``; a sigmoid head needs training to mean anything.

Differs from the papers: nowhere in the formulas; prompts and thresholds are the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from daag_jax.agent.reward import DetectorConfig, in_batches, tokens_of
from daag_jax.editing.prompts import BACKGROUND
from daag_jax.networks.clip.model import make_clip
from daag_jax.types import Params

CLIP_TEMPERATURE = 0.01  # 1 / 100, the logit scale of OpenAI's models


def unit_mean(embeddings: Float[Array, "K D"]) -> Float[Array, "D"]:
    """The direction of several sentences that say the same."""
    mean = embeddings.mean(axis=0)
    return mean / jnp.sqrt(jnp.sum(jnp.square(mean)) + 1e-12)


def goal_baseline(
    states: Float[Array, "B D"], goal: Float[Array, "D"], baseline: Float[Array, "D"], alpha: float
) -> Float[Array, "B"]:
    """VLM-RM's reward, at most 1; ``alpha`` in [0, 1], 0.5 in its examples."""
    line = goal - baseline
    line = line / jnp.sqrt(jnp.sum(jnp.square(line)) + 1e-12)
    offset = states - goal[None]
    along = (offset @ line)[:, None] * line[None]
    projected = alpha * along + (1.0 - alpha) * offset
    return 1.0 - 0.5 * jnp.sum(jnp.square(projected), axis=-1)


def among_negatives(
    states: Float[Array, "B D"],
    goal: Float[Array, "D"],
    negatives: Float[Array, "K D"],
    temperature: float = CLIP_TEMPERATURE,
) -> Float[Array, "B"]:
    """The share of the goal in a softmax over it and its negatives; compare it with a threshold for a reward."""
    said = jnp.concatenate([goal[None], negatives])
    return jax.nn.softmax(states @ said.T / temperature, axis=-1)[:, 0]


def zero_shot_scores(
    config: DetectorConfig,
    params: Params,
    captions: Sequence[str],
    images: UInt8[np.ndarray, "N V H W 3"],
    baseline: str = BACKGROUND,
    alpha: float = 0.5,
    batch: int = 64,
) -> dict[str, Float[np.ndarray, "N M"]]:
    """Rewards of every caption by both rules, the mean over the views of each frame.

    The negatives of a caption are all the others.
    """
    clip = make_clip(config.clip)
    texts = jax.jit(clip.encode_text)(params, tokens_of(config, (*captions, baseline)))
    goals, plain = texts[:-1], texts[-1]
    index = jnp.arange(len(captions))

    @jax.jit
    def rewards(params: Params, images: Array) -> dict[str, Array]:
        seen = clip.encode_image(params, images.reshape(-1, *images.shape[2:]))
        projected = jax.vmap(lambda goal: goal_baseline(seen, goal, plain, alpha))(goals)
        others = lambda i: jnp.roll(goals, -i, axis=0)[1:]
        shares = jax.vmap(lambda i: among_negatives(seen, goals[i], others(i)))(index)
        by_view = lambda x: x.T.reshape(*images.shape[:2], -1).mean(axis=1)
        return {"goal baseline": by_view(projected), "among negatives": by_view(shares)}

    return in_batches(lambda part: rewards(params, part), images, batch)

"""Examples from stored episodes: windows around a decision, drawn on the device.

An example of a window (K, T) at decision time t holds the steps t - K + 1 .. t - K + T.  Before the start the first
step is repeated; past the end the last one is, with ``mask`` False.  Every decision of every episode is equally likely.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from daag_jax.data.blocks import happened
from daag_jax.types import Batch, Context, Episode, Key, Window


def recent(
    data: Batch | Context, values: Shaped[Array, "B T *D"], history: int
) -> Shaped[Array, "B K *D"]:
    """The K steps up to the decision: a window begins with them; a context ends with them, and may be longer."""
    return values[:, -history:] if isinstance(data, Context) else values[:, :history]


def episode_data(episodes: Episode, window: Window, discount: float = 1.0) -> dict[str, Any]:
    """What :func:`draw_windows` needs of episodes [B, ...], as arrays to be put on the device once.

    Raises:
        ValueError: no episode has a step, or the window asks for a field that episodes do not hold.
    """
    length = np.asarray(episodes.length)
    if length.sum() == 0:
        raise ValueError(f"none of the {length.size} episodes has a step; collect again.")
    place = np.concatenate([np.full(n, i) for i, n in enumerate(length)])
    time = np.concatenate([np.arange(n) for n in length])
    data = {
        "place": place.astype(np.int32),
        "time": time.astype(np.int32),
        "length": length.astype(np.int32),
        "observations": np.asarray(episodes.observations, np.float32),
        "actions": np.asarray(episodes.actions, np.float32),
        "rewards": np.asarray(episodes.rewards, np.float32),
    }
    known = {
        "image": episodes.images,
        "returns": None,
        "task": episodes.extras.get("task"),
        "terminal": terminals(episodes),
    }
    for field in window.fields:
        is_missing = field in known and field != "returns" and not np.size(known[field])
        if field not in known or is_missing or (field == "task" and known[field] is None):
            raise ValueError(
                f"the window asks for {field!r}, which these episodes do not hold; "
                "use another algorithm, or a spec without it."
            )
        if field == "returns":
            earned = np.where(happened(episodes), data["rewards"], np.float32(0))
            data[field] = returns(earned, discount)
        else:
            data[field] = known[field]
    return data


def terminals(episodes: Episode) -> np.ndarray:
    """Which steps [B, T] end their episode for good: a time limit does not.

    They are ``extras["terminal"]`` [B, T], or the last steps of the episodes that ``terminated`` [B]; or none.
    """
    shape = np.asarray(episodes.rewards).shape
    if "terminal" in episodes.extras:
        found = np.asarray(episodes.extras["terminal"], bool)
        if found.shape != shape:
            raise ValueError(
                f'extras["terminal"] has shape {found.shape}; give one per step, {shape}.'
            )
        return found
    is_last = np.arange(shape[1])[None] == np.asarray(episodes.length)[:, None] - 1
    terminated = np.asarray(episodes.extras.get("terminated", np.zeros(shape[0])), bool)
    return is_last & terminated[:, None]


def returns(rewards: np.ndarray, discount: float) -> np.ndarray:
    """sum_n discount^n r[t + n], for every step."""
    total, result = np.zeros(len(rewards), np.float32), np.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        total = rewards[:, t] + discount * total
        result[:, t] = total
    return result


def draw_windows(data: dict[str, Any], window: Window, batch: int, key: Key) -> Batch:
    """A batch of windows; pure, for ``jit``."""
    row = jax.random.randint(key, (batch,), 0, data["place"].shape[0])
    episode, time = data["place"][row], data["time"][row]
    step = time[:, None] - window.history + 1 + jnp.arange(window.horizon)[None]
    last = data["length"][episode][:, None] - 1
    mask, step = step <= last, jnp.clip(step, 0, last)
    take = lambda values: values[episode[:, None], step]
    extras = {name: take(data[name]) for name in ("image", "returns", "terminal") if name in data}
    if "task" in data:
        extras["task"] = data["task"][episode]
    return Batch(
        take(data["observations"]), take(data["actions"]), take(data["rewards"]), mask, extras
    )

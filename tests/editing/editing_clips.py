"""Small clips of the stacking world for the tests of editing, and a jit that compiles quickly rather than well."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from daag_jax.editing.consistency import compare
from daag_jax.editing.corruptions import LEVELS, corrupt_edit
from daag_jax.editing.truth import Truth, stacking_truth
from daag_jax.envs.tasks import rgb_stacking_model as body

FRAMES, SIZE = 5, 64
COLORS, TARGETS = (0, 1, 2), (3, 1, 2)  # red becomes yellow; green and blue stay
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
spoil = jit(corrupt_edit, static_argnums=0)


@functools.cache
def camera():
    """The world's first camera."""
    with jax.ensure_compile_time_eval():  # may be asked for inside a trace first
        return jax.tree.map(lambda x: x[0], body.cameras_of(("front_left",)))


@functools.cache
def truth_at():
    """The jitted truth of an episode: (qpos, colors, targets) -> Truth."""
    return jit(lambda qpos, colors, targets: stacking_truth(qpos, colors, targets, camera(), SIZE))


def sliding_qpos() -> jax.Array:
    """Object 0 slides and turns in front of a stack of object 2 on object 1; the open gripper follows behind it."""
    time = np.linspace(0, 1, FRAMES)
    place = np.stack([0.03 + 0 * time, -0.06 + 0.06 * time, 0.025 + 0 * time], -1)
    qpos = np.zeros((FRAMES, 27), np.float32)
    qpos[:, 6:9], qpos[:, 9], qpos[:, 12] = place, np.cos(0.2 * time), np.sin(0.2 * time)
    qpos[:, 13:17] = [-0.07, 0.06, 0.025, 1]
    qpos[:, 20:24] = [-0.07, 0.065, 0.075, 1]
    qpos[:, :3], qpos[:, 4:6] = place + [0.02, 0.06, 0.16], body.FINGER_OPEN
    return jnp.asarray(qpos)


@functools.cache
def clip() -> Truth:
    """The truth of the sliding episode."""
    return truth_at()(sliding_qpos(), jnp.array(COLORS), jnp.array(TARGETS))


@functools.cache
def comparer():
    """The jitted ``compare`` of one video of the clip."""
    return jit(compare)


@functools.cache
def measured(video: str, level: int = 0) -> dict[str, float]:
    """The numbers of the source, the oracle, or a corruption of it at some level."""
    truth = clip()
    if video in ("source", "oracle"):
        frames = getattr(truth, video)
    else:
        frames = spoil(video, truth, jnp.int32(level), jax.random.key(3))
    return {name: float(x) for name, x in comparer()(frames, truth).items()}


def dose_response(corruption: str, metric: str) -> np.ndarray:
    """A metric at all levels of a corruption."""
    return np.array([measured(corruption, level)[metric] for level in range(LEVELS)])

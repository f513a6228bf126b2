"""The programs of ``daag compile``: ``(mesh, items per chip) -> lowered``, from shapes alone.

    finetuning   a step of a new ControlNet on a frozen Stable Diffusion 1.5, 512 px, remat; the state is split
    planner      a step of Diffuser at the sizes of its release on the large maze; the state is on every chip
    rollout      whole episodes of RGB stacking: MJX, two cameras, a ResNet-18 of the standard width; shard_map
    editor       an edit of a clip at 512 px, ControlNets for depth, normals and edges; the weights are on every chip

The items are frames, trajectories, worlds and clips.  Sizes differ from those of the papers nowhere else: the planner's
batch of 64, which its release has on one device, is that of a chip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Lowered

from daag_jax.agent.daag_config import DaagConfig
from daag_jax.algorithms.denoiser_finetuning import (
    SD15_TRAINING,
    DenoiserFinetuningConfig,
    denoiser_finetuning,
)
from daag_jax.algorithms.diffuser import DiffuserConfig, diffuser
from daag_jax.algorithms.parts.trajectories import DrawingConfig, TrajectoryConfig
from daag_jax.algorithms.self_imitation import self_imitation
from daag_jax.editing.editor import make_editor
from daag_jax.editing.editor_config import Clip, EditorConfig, EditorParams, EditorSpec, Prompts
from daag_jax.envs.tasks.rgb_stacking import RgbStacking
from daag_jax.envs.worlds import make_world
from daag_jax.evaluation.rollout import grouped_rollout, rollout
from daag_jax.networks.stable_diffusion import weights
from daag_jax.networks.stable_diffusion.config import SD15_CONTROLNET, SD15_UNET, SD15_VAE
from daag_jax.training.devices import over_all, placed_shapes, shardings
from daag_jax.types import Algorithm, Batch

SIZE, OBJECTS, TOKENS = 512, 3, 77  # [px]; of a scene; of a prompt
GROUP = 16  # worlds that share a key, as in the agent's loop
EDITED = EditorSpec(
    SD15_VAE,
    SD15_UNET,
    tuple((kind, SD15_CONTROLNET) for kind in ("depth", "normals", "edges")),
    "noise",
    OBJECTS,
)
EDIT = EditorConfig(steps=20, method="dpm_solver_2m", guidance=7.5, dtype="bfloat16", chunk=16)


class Program(NamedTuple):
    """How a program is lowered, and what it does on a chip unless it is told otherwise."""

    lower: Callable[..., Lowered]
    items: int  # per chip
    fsdp: int  # slices of the state


def lower_finetuning(mesh: Mesh, items: int) -> Lowered:
    """A step of training of a new ControlNet."""
    contexts = jnp.zeros((2, TOKENS, SD15_UNET.cross_attention_dim))
    training = replace(SD15_TRAINING, num_regions=1 + OBJECTS)
    algorithm = denoiser_finetuning(DenoiserFinetuningConfig(training), contexts, contexts[0])
    num, side, shape = items * mesh.size, training.latent_size, jax.ShapeDtypeStruct
    extras = {
        "latents": shape((num, side, side, 4), jnp.float32),
        "regions": shape((num, 1 + OBJECTS, side, side), jnp.float32),
        "controls": shape((num, SIZE, SIZE, 3), jnp.uint8),
        "prompts": shape((num, 1 + OBJECTS), jnp.int32),
    }
    none = shape((num, 1, 0), jnp.float32)
    batch = Batch(none, none, shape((num, 1), jnp.float32), shape((num, 1), jnp.bool_), extras)
    return lower_update(algorithm, batch, mesh)


def lower_planner(mesh: Mesh, items: int) -> Lowered:
    """A step of training of Diffuser: 384 states and actions of Maze2D, 256 levels of noise, no value."""
    form = TrajectoryConfig(384, goal_dims=(0, 1), velocity_dims=(2, 3))
    drawing = DrawingConfig(num_inference_steps=256)
    config = DiffuserConfig(form, drawing, widths=(32, 128, 256), num_steps=256)
    spec, rows = make_world("maze2d-large-v1").spec, (items * mesh.size, form.horizon)
    shape = jax.ShapeDtypeStruct
    batch = Batch(
        shape((*rows, spec.observation_dim), jnp.float32),
        shape((*rows, spec.action_dim), jnp.float32),
        shape(rows, jnp.float32),
        shape(rows, jnp.bool_),
    )
    return lower_update(diffuser(config, spec), batch, mesh)


def lower_update(algorithm: Algorithm, batch: Batch, mesh: Mesh) -> Lowered:
    """A step of training, the state placed by the rule of ``training.devices``, the batch over the whole mesh."""
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    places = shardings(state, mesh)
    whole, split = places_of(mesh)
    step = jax.jit(
        algorithm.update,
        in_shardings=(places, split, whole),
        out_shardings=(places, whole),
        donate_argnums=0,
    )
    return step.lower(state, batch, key_shape())


def lower_rollout(mesh: Mesh, items: int) -> Lowered:
    """Episodes of the agent's loop, in groups of worlds: 4 motions, each of 200 steps of physics and one look.

    Raises:
        ValueError: the worlds of a chip are no whole groups.
    """
    if items % GROUP:
        raise ValueError(f"items={items} worlds a chip are not groups of {GROUP}; try {GROUP}.")
    env = RgbStacking()
    algorithm = self_imitation(replace(DaagConfig().policy, width=64), env.spec)
    groups = items // GROUP * mesh.size
    whole, split = places_of(mesh)

    def run(shared: Any, key: jax.Array, scales: jax.Array) -> Any:
        policy, task = shared
        return rollout(
            env, algorithm.act, policy, key, GROUP, task, env.default_colors, explore=scales
        )

    policy = jax.eval_shape(algorithm.init, jax.random.key(0))
    shared = placed_shapes((policy, jax.eval_shape(lambda: env.default_task)), whole)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), groups))
    scales = jax.ShapeDtypeStruct((groups, GROUP, env.horizon), jnp.float32)
    return grouped_rollout(run, mesh).lower(
        shared, placed_shapes(keys, split), placed_shapes(scales, split)
    )


def lower_editor(
    mesh: Mesh, items: int, attention: str = EDIT.attention, frames: int = EDIT.chunk
) -> Lowered:
    """An edit of a clip; ``attention`` across its ``frames``."""
    num = items * mesh.size
    whole, split = places_of(mesh)
    params = EditorParams(
        weights.vae_shapes(EDITED.vae),
        weights.unet_shapes(EDITED.unet),
        tuple(weights.controlnet_shapes(size) for _, size in EDITED.controlnets),
    )
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), params)
    shape, pixels = jax.ShapeDtypeStruct, (num, frames, SIZE, SIZE)
    width = EDITED.unet.cross_attention_dim
    clip = Clip(
        shape((*pixels, 3), jnp.uint8),
        shape(pixels, jnp.float32),
        shape((*pixels, 3), jnp.float16),
        shape(pixels, jnp.int8),
    )
    said = Prompts(
        shape((num, 1 + OBJECTS, TOKENS, width), jnp.float32), shape((TOKENS, width), jnp.float32)
    )
    edit = jax.jit(
        make_editor(replace(EDIT, attention=attention), EDITED),
        in_shardings=(whole, split, Prompts(split, whole), split, whole),
        out_shardings=split,
    )
    return edit.lower(params, clip, said, shape((num, OBJECTS), jnp.bool_), key_shape())


def places_of(mesh: Mesh) -> tuple[NamedSharding, NamedSharding]:
    """On every chip; split over all of them."""
    return NamedSharding(mesh, PartitionSpec()), over_all(mesh)


def key_shape() -> jax.ShapeDtypeStruct:
    """A random key."""
    return jax.eval_shape(lambda: jax.random.key(0))


PROGRAMS = {
    "finetuning": Program(lower_finetuning, 1, 8),
    "planner": Program(lower_planner, 64, 1),
    "rollout": Program(lower_rollout, 64, 1),
    "editor": Program(lower_editor, 1, 1),
}

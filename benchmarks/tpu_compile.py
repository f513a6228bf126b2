"""Ahead-of-time compilation for TPU v5e on a CPU machine: does the editor, and its finetuning, fit a chip's 16 GB?

    pip install 'libtpu==0.0.42.*'          # the compiler; no TPU is needed
    python -m benchmarks.tpu_compile        # every program for 1, 8 and 256 chips
    python -m benchmarks.tpu_compile --programs editor --chips 1 --frames 16 128 --attention off first all

Programs, all at 512 px with the sizes of Stable Diffusion 1.5:

    editor       one clip of 16 frames a chip; ControlNets for depth, normals and edges; guidance; 20 steps; bfloat16
    finetuning   a new ControlNet on a frozen UNet, one frame a chip, state split over up to 8 chips (fsdp), remat

Every figure is the compiler's own: bytes of arguments, outputs and temporaries of one chip, and its count of FLOP (of
a loop's body once: it does not multiply by the steps).  The last line is one JSON object.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from dataclasses import dataclass, replace

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table

from daag_jax.algorithms.denoiser_finetuning import (
    SD15_TRAINING,
    DenoiserFinetuningConfig,
    denoiser_finetuning,
)
from daag_jax.editing.editor import make_editor
from daag_jax.editing.editor_config import Clip, EditorConfig, EditorParams, EditorSpec, Prompts
from daag_jax.names import check_name
from daag_jax.networks.stable_diffusion import weights
from daag_jax.networks.stable_diffusion.config import SD15_CONTROLNET, SD15_UNET, SD15_VAE
from daag_jax.training.devices import BATCH_AXES, shardings
from daag_jax.types import Batch

LAYOUTS = {1: ("v5e:1x1", (1, 1, 1)), 8: ("v5e:2x4", None), 256: ("v5e:16x16", None)}
SIZE, FRAMES, OBJECTS, TOKENS = 512, 16, 3, 77
CHIP_BYTES = 16e9
SPEC = EditorSpec(
    SD15_VAE,
    SD15_UNET,
    tuple((kind, SD15_CONTROLNET) for kind in ("depth", "normals", "edges")),
    "noise",
    OBJECTS,
)
EDIT = EditorConfig(steps=20, method="dpm_solver_2m", guidance=7.5, dtype="bfloat16", chunk=FRAMES)


@dataclass(frozen=True)
class Config:
    """What to compile, and for how many chips."""

    programs: tuple[str, ...] = ("editor", "finetuning")
    chips: tuple[int, ...] = (1, 8, 256)
    attention: tuple[str, ...] = ("first",)  # of the editor, across frames
    frames: tuple[int, ...] = (FRAMES,)  # of the editor's clips
    effort: float = (
        -1.0
    )  # of the compiler, -1 to 1; at 0 finetuning for one chip takes half an hour

    def __post_init__(self):
        for name in self.programs:
            check_name("program", name, PROGRAMS)
        if unknown := set(self.chips) - set(LAYOUTS):
            raise ValueError(f"chips {sorted(unknown)} are unknown; use some of {tuple(LAYOUTS)}.")


def mesh_of(chips: int, fsdp: int = 1) -> Mesh:
    """A mesh over a topology that is not there."""
    name, bounds = LAYOUTS[chips]
    options = {} if bounds is None else {"chips_per_host_bounds": bounds}
    found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    grid = np.asarray(found).reshape(chips // fsdp, fsdp)
    return Mesh(grid, BATCH_AXES, axis_types=(AxisType.Auto,) * 2)


def shapes(tree, dtype=None):
    """Shapes without arrays, in a dtype."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype), tree)


def lowered_editor(chips: int, attention: str, frames: int):
    """The editor for a clip on every chip; parameters are on each of them."""
    mesh = mesh_of(chips)
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (BATCH_AXES,)))
    params = EditorParams(
        weights.vae_shapes(SPEC.vae),
        weights.unet_shapes(SPEC.unet),
        tuple(weights.controlnet_shapes(size) for _, size in SPEC.controlnets),
    )
    pixels = (chips, frames, SIZE, SIZE)
    shape = jax.ShapeDtypeStruct
    clip = Clip(
        shape((*pixels, 3), jnp.uint8),
        shape(pixels, jnp.float32),
        shape((*pixels, 3), jnp.float16),
        shape(pixels, jnp.int8),
    )
    width = SPEC.unet.cross_attention_dim
    said = Prompts(
        shape((chips, 1 + OBJECTS, TOKENS, width), jnp.float32), shape((TOKENS, width), jnp.float32)
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    edit = jax.jit(
        make_editor(replace(EDIT, attention=attention), SPEC),
        in_shardings=(whole, split, Prompts(split, whole), split, whole),
        out_shardings=split,
    )
    is_edited = shape((chips, OBJECTS), jnp.bool_)
    return edit.lower(shapes(params, jnp.bfloat16), clip, said, is_edited, key)


def lowered_finetuning(chips: int):
    """A step of training of a new ControlNet, one frame on every chip."""
    mesh = mesh_of(chips, min(chips, 8))
    contexts = jnp.zeros((2, TOKENS, SD15_UNET.cross_attention_dim))
    training = replace(SD15_TRAINING, num_regions=1 + OBJECTS)
    algorithm = denoiser_finetuning(DenoiserFinetuningConfig(training), contexts, contexts[0])
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    side, shape = training.latent_size, jax.ShapeDtypeStruct
    extras = {
        "latents": shape((chips, side, side, 4), jnp.float32),
        "regions": shape((chips, 1 + OBJECTS, side, side), jnp.float32),
        "controls": shape((chips, SIZE, SIZE, 3), jnp.uint8),
        "prompts": shape((chips, 1 + OBJECTS), jnp.int32),
    }
    one = shape((chips, 1), jnp.float32)
    none = shape((chips, 1, 0), jnp.float32)
    batch = Batch(none, none, one, shape((chips, 1), jnp.bool_), extras)
    split, whole = (NamedSharding(mesh, PartitionSpec(*a)) for a in ((BATCH_AXES,), ()))
    places = shardings(state, mesh)
    step = jax.jit(
        algorithm.update,
        in_shardings=(places, split, whole),
        out_shardings=(places, whole),
        donate_argnums=0,
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    return step.lower(state, batch, key)


PROGRAMS = {"editor": lowered_editor, "finetuning": lowered_finetuning}


def measured(lowered, effort: float) -> dict[str, float]:
    """The compiler's figures of a program: bytes of one chip, FLOP, and the time it took."""
    began = time.monotonic()
    compiled = lowered.compile({"exec_time_optimization_effort": effort})
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return {
        "arguments_gb": memory.argument_size_in_bytes / 1e9,
        "temporaries_gb": memory.temp_size_in_bytes / 1e9,
        "peak_gb": (kept - memory.alias_size_in_bytes + memory.temp_size_in_bytes) / 1e9,
        "tflop": cost["flops"] / 1e12,
        "seconds": time.monotonic() - began,
    }


def main(config: Config) -> None:
    console = Console(width=140)
    table = Table("program", "chips", "arguments [GB]", "temporaries [GB]", "peak [GB]", "of 16 GB",
                  "TFLOP", "compiled in [s]")  # fmt: skip
    wanted = [
        (name, chips, options)
        for name in config.programs
        for options in (
            itertools.product(config.attention, config.frames) if name == "editor" else [()]
        )
        for chips in config.chips
    ]
    found = []
    for name, chips, options in wanted:
        said = " ".join([name, *map(str, options)])
        row = measured(PROGRAMS[name](chips, *options), config.effort)
        found.append({"program": said, "chips": chips} | row)
        numbers = [f"{row[k]:.2f}" for k in ("arguments_gb", "temporaries_gb", "peak_gb")]
        share = f"{row['peak_gb'] * 1e9 / CHIP_BYTES:.0%}"
        table.add_row(
            said, str(chips), *numbers, share, f"{row['tflop']:.1f}", f"{row['seconds']:.0f}"
        )
        console.print(json.dumps(found[-1]))
    console.print(table)
    print(json.dumps(found))


if __name__ == "__main__":
    main(tyro.cli(Config))

"""Hugging Face folders of Stable Diffusion, ControlNet and CLIP: what lies there, and whether it can be loaded.

    stable-diffusion-v1-5/            a pipeline: one folder per component, each with config.json and weights
        unet/config.json              "_class_name": "UNet2DConditionModel"
        unet/diffusion_pytorch_model.safetensors
        vae/ ...  text_encoder/ ...  tokenizer/ ...
    control_v11f1p_sd15_depth/        or one component by itself

    v1-5-pruned.safetensors           or a single-file checkpoint, which is taken to be of Stable Diffusion 1.5

``components(path)`` finds them, ``read_config`` turns a ``config.json`` into our configuration, ``check`` compares the
names and shapes of a weight file with it (without reading the weights), ``load`` reads them.  A field of a config that
asks for what is not built (Stable Diffusion 2's linear projections, say) is refused by name.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from daag_jax.networks.clip import weights as clip_weights
from daag_jax.networks.clip.config import (
    SD15_TEXT,
    ClipConfig,
    ClipTextConfig,
    ClipVisionConfig,
)
from daag_jax.networks.stable_diffusion import single_file
from daag_jax.networks.stable_diffusion import weights as diffusion_weights
from daag_jax.networks.stable_diffusion.config import (
    SD15_CONTROLNET,
    SD15_UNET,
    SD15_VAE,
    ControlNetConfig,
    UNetConfig,
    VaeConfig,
)
from daag_jax.networks.tensor_file import opened
from daag_jax.types import Params

Config = UNetConfig | VaeConfig | ControlNetConfig | ClipTextConfig | ClipConfig

SINGLE_FILE: dict[str, Any] = {"unet": SD15_UNET, "vae": SD15_VAE, "controlnet": SD15_CONTROLNET}
CLASSES: dict[str, type] = {  # what "_class_name" or "architectures" says
    "UNet2DConditionModel": UNetConfig,
    "AutoencoderKL": VaeConfig,
    "ControlNetModel": ControlNetConfig,
    "CLIPTextModel": ClipTextConfig,
    "CLIPModel": ClipConfig,
}
# Fields that our configurations do not have, and the only values with which a network is the one that is built here.
FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "addition_embed_type": (None,),
    "encoder_hid_dim": (None,),
    "use_linear_projection": (False,),
    "dual_cross_attention": (False,),
    "only_cross_attention": (False,),
    "num_attention_heads": (None,),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "mid_block_scale_factor": (1, 1.0),
    "downsample_padding": (1,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
    "global_pool_conditions": (False,),
    "controlnet_conditioning_channel_order": ("rgb",),
    "use_quant_conv": (True,),
    "use_post_quant_conv": (True,),
    "shift_factor": (None,),
    "latents_mean": (None,),
    "latents_std": (None,),
    "attention_dropout": (0.0, 0),
    "dropout": (0.0, 0),
}


class Component(NamedTuple):
    """One network of a folder: its name there, its configuration, and where its config and weights are."""

    name: str
    config: Config
    folder: Path


class Finding(NamedTuple):
    """What the check of a component's weight file found; ``problem`` is empty where it can be loaded."""

    name: str
    kind: str
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    problem: str = ""


def components(path: str | Path) -> list[Component]:
    """The networks of a folder: of a pipeline, or the one whose folder it is; or those of a single-file checkpoint.

    Raises:
        FileNotFoundError: there is neither folder nor file, or no folder in it holds a ``config.json`` that is known.
        ValueError: a ``config.json`` cannot be used; the message names file and field.
    """
    path = Path(path)
    if path.is_file():
        return components_of_file(path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} is not there; name a folder in the layout of Hugging Face, or a single-file checkpoint."
        )
    if (path / "config.json").is_file():
        return [Component(path.name, read_config(path / "config.json"), path)]
    files = sorted(path.glob("*/config.json"))
    known = [file for file in files if class_name(file) in CLASSES]
    if not known:
        seen = ", ".join(sorted(entry.name for entry in path.iterdir())[:6]) or "nothing"
        raise FileNotFoundError(
            f"{path} holds no config.json of {', '.join(CLASSES)}, nor does a folder in it (it holds {seen})."
        )
    return [Component(file.parent.name, read_config(file), file.parent) for file in known]


def components_of_file(path: Path) -> list[Component]:
    """The networks of a single-file checkpoint, by the prefixes of its tensors, as of Stable Diffusion 1.5.

    Raises:
        ValueError: it is damaged, or not such a file.
    """
    names = header(diffusion_weights.find(path))[0]
    found = [
        Component(name, config, path)
        for name, config in SINGLE_FILE.items()
        if single_file.own_names(names, config)
    ]
    if any(name.startswith(clip_weights.SINGLE_FILE) for name in names):
        found.append(Component("text_encoder", SD15_TEXT, path))
    if not found:
        raise ValueError(
            f"{path} is no single-file checkpoint: none of its tensors begins with "
            f"{', '.join(single_file.PREFIXES.values())}; name the folder that it is of."
        )
    return found


def class_name(file: Path) -> str:
    """The class that a ``config.json`` is of, empty where it does not say."""
    values = read_json(file)
    return values.get("_class_name") or next(iter(values.get("architectures") or ()), "")


def read_json(file: Path) -> dict[str, Any]:
    """The fields of a ``config.json``.

    Raises:
        ValueError: it is not one JSON object.
    """
    try:
        values = json.loads(file.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not JSON ({error}); fetch it again.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} is not a JSON object; fetch it again.")
    return values


def read_config(file: str | Path) -> Config:
    """The configuration that a ``config.json`` describes; fields that it leaves out are those of Stable Diffusion 1.5.

    Raises:
        ValueError: it is of an unknown class, or a field has a value that is not built here.
    """
    file = Path(file)
    name = class_name(file)
    if name not in CLASSES:
        raise ValueError(
            f"{file} is of {name or 'no class'}; only {', '.join(CLASSES)} are built here."
        )
    values, kind = read_json(file), CLASSES[name]
    if kind is ClipConfig:
        towers = {
            "text_config": tower(ClipTextConfig, values.get("text_config") or {}),
            "vision_config": tower(ClipVisionConfig, values.get("vision_config") or {}),
        }
        values = {k: v for k, v in values.items() if not k.endswith("_config")} | towers
        return tower(ClipConfig, values)
    if kind is ClipTextConfig:
        return tower(kind, values)
    return network(kind, values, file)


def tower(kind: type, values: dict[str, Any]) -> Any:
    """A configuration of CLIP from the fields that it knows; the others say how to train or to sample."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{k: frozen(v) for k, v in values.items() if k in names and v is not None})


def network(kind: type, values: dict[str, Any], file: Path) -> Any:
    """A configuration of a diffusion network, none of whose fields asks for what is not built."""
    names = {field.name for field in dataclasses.fields(kind)}
    for name, value in values.items():
        if name in FIXED and name not in names and value not in FIXED[name]:
            raise ValueError(
                f"{file}: {name}={value!r} is not built here, only {FIXED[name][0]!r}; it is of another model than "
                "Stable Diffusion 1."
            )
    try:
        return kind(**{k: frozen(v) for k, v in values.items() if k in names and v is not None})
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def frozen(value: Any) -> Any:
    """Lists as tuples."""
    return tuple(value) if isinstance(value, list) else value


def weight_file(component: Component) -> Path:
    """The safetensors file of a component.

    Raises:
        FileNotFoundError: there is none.
    """
    if component.folder.is_file():
        return component.folder
    if isinstance(component.config, ClipTextConfig | ClipConfig):
        return clip_weights.find(component.folder)
    return diffusion_weights.find(component.folder)


def load(
    component: Component,
    dtype: Any = jnp.float32,
    places: Callable[[Params], Any] | None = None,
) -> Params:
    """The parameters of a component, on the default device or where ``places(shapes)`` says.

    Raises:
        FileNotFoundError: it has no weight file.
        ValueError: the file is cut short, of another network or size, or holds NaN; the message names the tensor.
    """
    loaders: dict[type, Callable[..., Params]] = {
        UNetConfig: diffusion_weights.load_unet,
        VaeConfig: diffusion_weights.load_vae,
        ControlNetConfig: diffusion_weights.load_controlnet,
    }
    reader = loaders.get(type(component.config), clip_weights.load)
    return reader(weight_file(component), component.config, dtype, places)


def save(folder: str | Path, config: Config, params: Params, dtype: Any = None) -> None:
    """Writes a network's folder, config.json and weights, as Hugging Face's libraries and :func:`load` read it.

    Args:
        dtype: of the tensors of a diffusion network; those of a CLIP keep theirs.

    Raises:
        ValueError: the parameters hold NaN, or overflow ``dtype``.
    """
    folder = Path(folder)
    if isinstance(config, ClipTextConfig | ClipConfig):
        clip_weights.save(params, folder / clip_weights.FILES[0], config)
        name = next(name for name, kind in CLASSES.items() if kind is type(config))
        card = {"architectures": [name]} | dataclasses.asdict(config)
        (folder / "config.json").write_text(json.dumps(card, indent=2))
        return
    diffusion_weights.save(params, folder / diffusion_weights.FOLDER_NAMES[0], dtype)
    name = next(name for name, kind in CLASSES.items() if kind is type(config))
    card = {"_class_name": name} | dataclasses.asdict(config)
    if isinstance(
        config, VaeConfig
    ):  # one kind of block is known here; diffusers wants them listed
        levels = len(config.block_out_channels)
        card |= {"down_block_types": ["DownEncoderBlock2D"] * levels}
        card |= {"up_block_types": ["UpDecoderBlock2D"] * levels}
    (folder / "config.json").write_text(json.dumps(card, indent=2))


def check(component: Component) -> Finding:
    """Whether a component could be loaded, from the header of its file alone: names, shapes, and its length."""
    kind = type(component.config).__name__.removesuffix("Config")
    try:
        path = weight_file(component)
        shapes, dtypes = header(path)
        mine = compare(component.config, path, shapes)
    except (ValueError, OSError) as error:
        return Finding(component.name, kind, 0, 0, (), str(error))
    count = sum(math.prod(shapes[name]) for name in mine)
    kinds = tuple(sorted({dtypes[name] for name in mine}))
    return Finding(component.name, kind, len(mine), count, kinds)


def header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes and dtypes of the tensors of a file.

    Raises:
        ValueError: the file is cut short or damaged.
    """
    with opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
        return shapes, {name: one.get_dtype() for name, one in slices.items()}


def compare(config: Config, path: Path, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The tensors of a file that are a network's.

    Raises:
        ValueError: they are not exactly those of its configuration, in their shapes.
    """
    if isinstance(config, ClipTextConfig | ClipConfig):
        clip_weights.check_header(path, shapes, config)
        return list(clip_weights.own_names(shapes).values())
    makers: dict[type, Callable[[Any], Params]] = {
        UNetConfig: diffusion_weights.unet_shapes,
        VaeConfig: diffusion_weights.vae_shapes,
        ControlNetConfig: diffusion_weights.controlnet_shapes,
    }
    found = diffusion_weights.check_header(path, shapes, makers[type(config)](config), config)
    return list(found.values())

"""CLIP's parameters in safetensors files, under Hugging Face's names, in both directions.

Our modules bear those names already, so one rule translates (:func:`tensor_name`): ``layers_3`` is ``layers.3``, and a
kernel is a transposed weight.  ``load("clip-vit-base-patch32/model.safetensors", CLIP_VIT_B32)`` reads OpenAI's model,
``load("stable-diffusion-v1-5/text_encoder/model.safetensors", SD15_TEXT)`` the text encoder of Stable Diffusion 1.5.

A file that is truncated, of another network, of another size, or that holds NaN is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from daag_jax.networks.clip.config import ClipConfig, ClipTextConfig
from daag_jax.networks.clip.model import make_clip, make_text_encoder
from daag_jax.networks.tensor_file import opened, write
from daag_jax.types import Params

FILES = ("model.safetensors", "model.fp16.safetensors")
TEXT = "text_model."
SINGLE_FILE = (
    "cond_stage_model.transformer."  # of the text encoder in a checkpoint of Stable Diffusion 1.5
)
# What a full CLIP holds beyond its text tower; a text encoder may be read from such a file.
BEYOND_TEXT = ("vision_model.", "visual_projection.", "text_projection.", "logit_")
FAMILIES = (
    ("down_blocks.0.resnets", "a diffusion UNet"),
    ("controlnet_cond_embedding", "a ControlNet"),
    ("encoder.down_blocks", "a VAE"),
    ("vision_model.embeddings", "a CLIP with both towers"),
    ("text_model.embeddings", "a CLIP text encoder"),
)


def load(
    path: str | Path,
    config: ClipConfig | ClipTextConfig,
    dtype: Any = jnp.float32,
    places: Callable[[Params], Any] | None = None,
) -> Params:
    """Reads ``model.safetensors`` (or its folder) into the parameters of ``make_clip`` or ``make_text_encoder``.

    Args:
        places: ``shapes -> shardings``, a tree like the parameters; None puts them on the default device.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: truncated, of another family or size, or not finite; the message names the tensor.
    """
    path = find(Path(path))
    tensors = canonical(read(path), config)
    shapes = parameter_shapes(config)
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    names = [tensor_name(leaf_path, config) for leaf_path, _ in leaves]
    check_names(path, tensors, names)
    arrays = [
        take(path, name, tensors[name], leaf.shape, is_kernel(leaf_path))
        for name, (leaf_path, leaf) in zip(names, leaves, strict=True)
    ]
    params = jax.tree.unflatten(tree, [array.astype(dtype) for array in arrays])
    return jax.tree.map(jnp.asarray, params) if places is None else place(params, places(shapes))


def place(params: Params, shardings: Any) -> Params:
    """Arrays of every host where they shall live; each device is given its own slice."""
    cut = lambda x, where: jax.make_array_from_callback(x.shape, where, lambda index: x[index])
    return jax.tree.map(cut, params, shardings)


def find(path: Path) -> Path:
    """The weight file at a path or in the folder at it.

    Raises:
        FileNotFoundError: there is none.
    """
    if path.is_dir():
        files = [path / name for name in FILES if (path / name).is_file()]
        if not files:
            raise FileNotFoundError(f"{path} holds no {FILES[0]}.")
        return files[0]
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name a .safetensors file or its folder.")
    return path


def save(params: Params, path: str | Path, config: ClipConfig | ClipTextConfig) -> None:
    """Writes the file that :func:`load` and Hugging Face's CLIPModel or CLIPTextModel read; complete or not at all."""
    tensors = {}
    for leaf_path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(jax.device_get(leaf))
        array = outward(array) if is_kernel(leaf_path) else array
        tensors[tensor_name(leaf_path, config)] = array
    write(tensors, Path(path))


def check_header(
    path: Path, found: Mapping[str, tuple[int, ...]], config: ClipConfig | ClipTextConfig
) -> None:
    """Raises a ValueError unless a file's tensors are those of the configuration, in their shapes."""
    found = {ours: found[name] for ours, name in own_names(found).items()}
    found = canonical(found, config)
    leaves = jax.tree_util.tree_leaves_with_path(parameter_shapes(config))
    names = [tensor_name(leaf_path, config) for leaf_path, _ in leaves]
    check_names(path, found, names)
    for name, (leaf_path, leaf) in zip(names, leaves, strict=True):
        check_shape(path, name, found[name], file_shape(leaf.shape, is_kernel(leaf_path)))


def parameter_shapes(config: ClipConfig | ClipTextConfig) -> Any:
    """Shapes of the parameters, without making them."""
    make = make_text_encoder if isinstance(config, ClipTextConfig) else make_clip
    return jax.eval_shape(make(config).init, jax.random.key(0))


def tensor_name(path: tuple[Any, ...], config: ClipConfig | ClipTextConfig) -> str:
    """Hugging Face's name of a leaf of our parameters."""
    *modules, leaf = [entry.key for entry in path if entry.key != "params"]
    last = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(leaf, leaf)
    name = ".".join([re.sub(r"^layers_(\d+)$", r"layers.\1", m) for m in modules] + [last])
    return TEXT + name if isinstance(config, ClipTextConfig) else name


def is_kernel(path: tuple[Any, ...]) -> bool:
    """Whether the leaf is a matrix or a convolution, which torch transposes."""
    return path[-1].key == "kernel"


def outward(kernel: np.ndarray) -> np.ndarray:
    """Flax's [in, out] or [h, w, in, out] kernel in torch's order: [out, in] or [out, in, h, w]."""
    return kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T


def inward(weight: np.ndarray) -> np.ndarray:
    """The inverse of :func:`outward`."""
    return weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T


def read(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file, 16-bit floats widened; of a single-file checkpoint those of its text encoder."""
    with opened(path, framework="flax") as file:  # which reads bfloat16
        return {
            ours: np.asarray(file.get_tensor(name), np.float32)
            for ours, name in own_names(file.keys()).items()
        }


def own_names(names: Iterable[str]) -> dict[str, str]:
    """Which tensors of a file are of CLIP: by Hugging Face's names, the file's."""
    names = [
        n for n in names if not n.endswith("position_ids")
    ]  # a constant that old versions wrote
    inner = {n.removeprefix(SINGLE_FILE): n for n in names if n.startswith(SINGLE_FILE)}
    return inner or {name: name for name in names}


def canonical(tensors: dict[str, Any], config: ClipConfig | ClipTextConfig) -> dict[str, Any]:
    """For a text encoder: without the other tower, and with the prefix that some versions leave out."""
    if not isinstance(config, ClipTextConfig):
        return tensors
    if "embeddings.token_embedding.weight" in tensors:
        return {TEXT + name: tensor for name, tensor in tensors.items()}
    if any(name.startswith(TEXT) for name in tensors):
        return {n: t for n, t in tensors.items() if not n.startswith(BEYOND_TEXT)}
    return tensors


def check_names(path: Path, tensors: Mapping[str, Any], names: list[str]) -> None:
    """Refuses a file whose tensors are not exactly those of the configuration."""
    missing = [name for name in names if name not in tensors]
    extra = sorted(name for name in tensors if name not in names)
    if missing:
        seen = [title for mark, title in FAMILIES if any(mark in name for name in tensors)]
        looks = f"; it looks like {seen[0]}" if seen else ""
        raise ValueError(
            f"{path} has no {missing[0]} ({len(missing)} of {len(names)} tensors are missing){looks}. "
            "Use the file, or the configuration, of the other network."
        )
    if extra:
        raise ValueError(
            f"{path} holds {extra[0]} ({len(extra)} tensors are unknown), which the configuration has not; "
            "compare num_hidden_layers and logit_bias_init_value."
        )


def file_shape(shape: tuple[int, ...], kernel: bool) -> tuple[int, ...]:
    """The shape in the file of a parameter's shape here."""
    return outward(np.empty(shape, np.int8)).shape if kernel else shape


def check_shape(path: Path, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Refuses a wrong shape; SigLIP writes its scale and bias, which are scalars, as [1]."""
    if found != wanted and not (wanted == () and found == (1,)):
        raise ValueError(
            f"{path}: {name} has shape {list(found)}, and the configuration wants {list(wanted)}; "
            "use the configuration of this file."
        )


def take(
    path: Path, name: str, tensor: np.ndarray, shape: tuple[int, ...], kernel: bool
) -> np.ndarray:
    """One tensor in our layout; refuses a wrong shape and numbers that are not finite."""
    wanted = file_shape(shape, kernel)
    check_shape(path, name, tensor.shape, wanted)
    tensor = tensor.reshape(wanted)
    if not np.isfinite(tensor).all():
        raise ValueError(f"{path}: {name} holds NaN or infinity; the file is damaged.")
    return inward(tensor) if kernel else tensor

"""Reads and writes Stable Diffusion weights as safetensors, in the layout of Hugging Face diffusers.

A parameter at the path ``down_blocks_0/resnets_1/conv1/kernel`` is the tensor ``down_blocks.0.resnets.1.conv1.weight``;
a convolution is [out, in, height, width] in the file and [height, width, in, out] here, a dense layer [out, in] and
[in, out].  Files written here are read by diffusers, and the other way round, in float32, float16 or bfloat16.

Single-file checkpoints of the original repositories are read too (``single_file.py``).  Every tensor goes from the
mapped file to where it lives, one at a time; with ``places`` a device is given its slice alone.

A file that is cut short, of another model, of another size, or that holds NaN is refused with a sentence that names the
file, the tensor, and the cure; nothing is ever unpickled.  Attention names of old VAE files are understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from daag_jax.networks.stable_diffusion.config import ControlNetConfig, UNetConfig, VaeConfig
from daag_jax.networks.stable_diffusion.controlnet import ControlNet
from daag_jax.networks.stable_diffusion.single_file import (
    is_original,
    original_name,
    own_names,
)
from daag_jax.networks.stable_diffusion.unet import UNet
from daag_jax.networks.stable_diffusion.vae import Vae
from daag_jax.networks.tensor_file import opened, write
from daag_jax.types import Params

FOLDER_NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
FAMILY_MARKS = {  # the first prefix that a file's names show tells its family
    "a CLIP text encoder": "text_model.",
    "a ControlNet": "controlnet_cond_embedding.",
    "a VAE": "encoder.",
    "a UNet": "up_blocks.",
}
FAMILIES = {UNetConfig: "a UNet", VaeConfig: "a VAE", ControlNetConfig: "a ControlNet"}
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
SHOWN = 3  # names in an error message
Shapes = Mapping[str, tuple[int, ...]]
Config = UNetConfig | VaeConfig | ControlNetConfig
DType = jnp.dtype | type
Places = Callable[[Params], Any]  # shapes of parameters -> a sharding for each


def load_vae(
    path: str | Path, config: VaeConfig, dtype: DType = jnp.float32, places: Places | None = None
) -> Params:
    """Reads the parameters of a :class:`Vae`, for ``vae.apply({"params": params}, ...)``; see :func:`load`."""
    return load(path, vae_shapes(config), config, dtype, places)


def load_unet(
    path: str | Path, config: UNetConfig, dtype: DType = jnp.float32, places: Places | None = None
) -> Params:
    """Reads the parameters of a :class:`UNet`, for ``unet.apply({"params": params}, ...)``; see :func:`load`."""
    return load(path, unet_shapes(config), config, dtype, places)


def load_controlnet(
    path: str | Path,
    config: ControlNetConfig,
    dtype: DType = jnp.float32,
    places: Places | None = None,
) -> Params:
    """Reads the parameters of a :class:`ControlNet`, for ``controlnet.apply({"params": params}, ...)``."""
    return load(path, controlnet_shapes(config), config, dtype, places)


def vae_shapes(config: VaeConfig) -> Params:
    """Gives the shapes of the parameters of a VAE, without computing any."""
    side = config.downsampling
    return shapes_of(Vae(config), jnp.zeros((1, side, side, config.in_channels)))


def unet_shapes(config: UNetConfig) -> Params:
    """Gives the shapes of the parameters of a UNet, without computing any."""
    side = 2 ** (len(config.block_out_channels) - 1)
    context = jnp.zeros((1, 1, 1, config.cross_attention_dim))
    return shapes_of(
        UNet(config), jnp.zeros((1, side, side, config.in_channels)), jnp.zeros(1), context
    )


def controlnet_shapes(config: ControlNetConfig) -> Params:
    """Gives the shapes of the parameters of a ControlNet, without computing any."""
    side = 2 ** (len(config.block_out_channels) - 1)
    pixels = side * config.downsampling
    return shapes_of(
        ControlNet(config),
        jnp.zeros((1, side, side, config.in_channels)),
        jnp.zeros(1),
        jnp.zeros((1, 1, 1, config.cross_attention_dim)),
        jnp.zeros((1, pixels, pixels, config.conditioning_channels)),
    )


def shapes_of(network: nn.Module, *inputs: jax.Array) -> Params:
    """Gives the shapes of a network's parameters for inputs like these."""
    return jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]


def save(params: Params, path: str | Path, dtype: DType | None = None) -> None:
    """Writes parameters (of any network here) to a safetensors file, whole or not at all.

    Args:
        dtype: ``jnp.float16`` halves the file; None keeps the dtype of the parameters.
    """
    path = Path(path)
    tensors = {}
    for name, value in flatten_dict(params).items():
        value = check_finite(np.asarray(value), "/".join(name), f"it is not written to {path}")
        if dtype is not None:
            cure = f"it overflows {jnp.dtype(dtype).name}: save float32"
            with np.errstate(over="ignore"):
                value = check_finite(value.astype(dtype), "/".join(name), cure)
        tensors[tensor_name(name)] = to_torch(value)
    write(tensors, path)


def load(
    path: str | Path,
    shapes: Params,
    config: Config,
    dtype: DType = jnp.float32,
    places: Places | None = None,
) -> Params:
    """Reads parameters of the given shapes from a safetensors file, or a folder that holds one.

    Args:
        dtype: of the parameters here, whatever the file's.
        places: ``shapes -> shardings``, a tree like the parameters (``training.devices.shardings`` with a mesh bound);
            None puts them on the default device.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file is cut short, of another family or size, or holds NaN.
    """
    path = find(Path(path))
    shardings = flatten_dict(places(shapes)) if places else {}
    params = {}
    for tensor, name, read in matched(path, shapes, config):
        value = check_finite(read(), f"{path}: {tensor}", "fetch or train the file again")
        value = from_torch(value)
        if name in shardings:
            cut = lambda index, value=value: value[index].astype(dtype)
            params[name] = jax.make_array_from_callback(value.shape, shardings[name], cut)
        else:
            params[name] = jnp.asarray(value, dtype)
    return unflatten_dict(params)


def matched(
    path: Path, shapes: Params, config: Config
) -> Iterator[tuple[str, tuple[str, ...], Callable[[], np.ndarray]]]:
    """Yields tensor name, parameter path, and a reader, after checking all names and shapes of the file."""
    leaves = flatten_dict(shapes)
    paths = {tensor_name(name): name for name in leaves}
    with opened(path) as file:
        found = {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
        stored = check_header(path, found, shapes, config)
        for name, old in stored.items():
            shape = torch_shape(leaves[paths[name]].shape)
            read = lambda old=old, shape=shape: np.asarray(file.get_tensor(old)).reshape(shape)
            yield name, paths[name], read


def check_header(path: Path, found: Shapes, shapes: Params, config: Config) -> dict[str, str]:
    """Which tensor of a file is which of ours (Hugging Face's name -> the file's).

    Raises:
        ValueError: the tensors are not those of a network whose parameters have the given shapes.
    """
    expected = {tensor_name(name): leaf.shape for name, leaf in flatten_dict(shapes).items()}
    family = FAMILIES[type(config)]
    if is_original(found):
        theirs = {original_name(name, config): name for name in expected}
        stored = {theirs.get(name, name): old for name, old in own_names(found, config).items()}
        if not stored:
            raise ValueError(f"{path} holds no {family.removeprefix('a ')}; give a file that does.")
    else:
        stored = {modern_name(name): name for name in found}
        check_family(path, stored, family)
    check_names(path, set(stored), set(expected))
    check_shapes(path, {name: found[old] for name, old in stored.items()}, expected)
    return stored


def find(path: Path) -> Path:
    """Gives the safetensors file at a path, or in the folder at it."""
    if path.is_dir():
        for name in FOLDER_NAMES:
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(f"{path} holds none of {FOLDER_NAMES}.")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is a {path.suffix or 'nameless'} file; only .safetensors is read (pickles can run code)."
        )
    return path


def check_family(path: Path, names: Iterable[str], family: str) -> None:
    """Raises a ValueError where the names of a file are those of another model."""
    for other, prefix in FAMILY_MARKS.items():
        if any(name.startswith(prefix) for name in names):
            if other != family:
                raise ValueError(f"{path} is {other}, not {family}; give the file of {family}.")
            return
    raise ValueError(
        f"{path} is not {family}: it holds {listing(names)}, and nothing under "
        f"{FAMILY_MARKS[family]!r}."
    )


def check_names(path: Path, stored: set[str], expected: set[str]) -> None:
    """Raises a ValueError where tensors are missing or unexpected."""
    problems = []
    if expected - stored:
        problems.append(f"lacks {listing(expected - stored)}")
    if stored - expected:
        problems.append(f"has unexpected {listing(stored - expected)}")
    if problems:
        raise ValueError(f"{path} {' and '.join(problems)}; is it of another configuration?")


def check_shapes(path: Path, found: Shapes, expected: Shapes) -> None:
    """Raises a ValueError where a tensor's shape is not the one of the configuration."""
    for name, shape in expected.items():
        accepted = {torch_shape(shape)}
        if re.search(r"attentions\.\d+\.to_", name) and len(shape) == 2:
            accepted.add((*torch_shape(shape), 1, 1))  # 1 x 1 convolutions of the oldest VAE files
        if found[name] not in accepted:
            raise ValueError(
                f"{path}: {name} has shape {found[name]}, the configuration says {torch_shape(shape)}; "
                "load it with the configuration it was made with."
            )


def check_finite(value: np.ndarray, name: str, cure: str) -> np.ndarray:
    """Gives the value back, or raises a ValueError where it holds NaN or infinity."""
    if not np.isfinite(value.astype(np.float32)).all():
        raise ValueError(f"{name} holds NaN or infinity; {cure}.")
    return value


def listing(names: Iterable[str]) -> str:
    """Shows the first few of many names, and how many there are."""
    names = sorted(names)
    return ", ".join(names[:SHOWN]) + (f", ... ({len(names)} in all)" if names[SHOWN:] else "")


def tensor_name(name: tuple[str, ...]) -> str:
    """Gives the Hugging Face name of a parameter: (..., "resnets_0", "conv1", "kernel") to resnets.0.conv1.weight."""
    *modules, leaf = name
    dotted = [m if m.startswith("linear_") else re.sub(r"_(\d+)$", r".\1", m) for m in modules]
    return ".".join((*dotted, "bias" if leaf == "bias" else "weight"))


def modern_name(tensor: str) -> str:
    """Translates the attention names of old VAE files (query, key, value, proj_attn)."""
    return re.sub(
        r"(attentions\.\d+)\.(query|key|value|proj_attn)\.",
        lambda match: f"{match[1]}.{OLD_NAMES[match[2]]}.",
        tensor,
    )


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Gives the shape in the file of a parameter's shape here."""
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(shape), range(len(shape)))
    return tuple(shape[axis] for axis in order)


def to_torch(value: np.ndarray) -> np.ndarray:
    """Transposes a parameter to the layout of the file."""
    return value.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, range(value.ndim)))


def from_torch(value: np.ndarray) -> np.ndarray:
    """Transposes a tensor of the file to the layout of a parameter."""
    return value.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim, range(value.ndim)))

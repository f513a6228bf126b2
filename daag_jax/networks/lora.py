"""Low-rank adaptation of any network's kernels (LoRA, Hu et al. 2021, arXiv 2106.09685): W' = W + A B  (Eq. 3).

    adapters = init_lora(params, key, rank=16, targets=ATTENTION)        A random, B zero: W' = W at first
    network.apply({"params": merge(params, adapters)}, ...)              differentiate with respect to ``adapters``

A dense kernel [in, out] has A [in, r] and B [r, out]; a convolution [h, w, in, out] has A [h, w, in, r] and B [r, out].
``save`` writes Hugging Face's names (``unet.mid_block...to_q.lora_A.weight``), which diffusers and PEFT load.

Differs from the paper: alpha / r is 1; what another scale means is in ``merge``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from daag_jax.networks.tensor_file import opened, write
from daag_jax.types import Key, Params

ATTENTION = (r"attn\d/to_(q|k|v|out_0)/kernel$",)  # of Stable Diffusion, as usual there
CLIP_ATTENTION = (r"self_attn/(q|k|v|out)_proj/kernel$",)


class Adapter(NamedTuple):
    """The two factors of a change of a kernel; their leading axes are those of the kernel."""

    down: Float[Array, "*hw I R"]
    up: Float[Array, "R O"]


def init_lora(
    params: Params, key: Key, rank: int = 16, targets: Sequence[str] = ATTENTION
) -> dict[str, Adapter]:
    """Adapters, by the path of their kernel ("a/b/kernel"), of all kernels that a regular expression finds.

    Raises:
        ValueError: the rank is not positive, or nothing is found.
    """
    kernels = {"/".join(path): leaf for path, leaf in flatten_dict(params).items()}
    found = {n: x for n, x in kernels.items() if any(re.search(t, n) for t in targets)}
    if not found:
        raise ValueError(
            f"targets {tuple(targets)} find none of {len(kernels)} parameters, such as {min(kernels)}; they are "
            "regular expressions of such paths."
        )
    if rank < 1:
        raise ValueError(f"rank={rank} is not positive; try 16.")
    keys = jax.random.split(key, len(found))

    def make(kernel: Array, one: Key) -> Adapter:
        *window, width, out = kernel.shape
        spread = np.prod([*window, width]) ** -0.5
        down = spread * jax.random.normal(one, (*window, width, rank))
        return Adapter(down, jnp.zeros((rank, out)))

    return {name: make(x, one) for (name, x), one in zip(found.items(), keys, strict=True)}


def merge(params: Params, adapters: dict[str, Adapter], scale: float | Array = 1.0) -> Params:
    """Parameters with scale A B added to the kernels that have an adapter."""
    merged = flatten_dict(params, sep="/")
    for name, adapter in adapters.items():
        if name not in merged:
            raise ValueError(f"there is no {name} for an adapter; are they of another network?")
        change = scale * jnp.tensordot(adapter.down, adapter.up, 1)
        merged[name] = merged[name] + change.astype(merged[name].dtype)
    return unflatten_dict(merged, sep="/")


def save(
    adapters: dict[str, Adapter],
    path: str | Path,
    tensor_name: Callable[[tuple[str, ...]], str],
    prefix: str = "unet.",
) -> None:
    """Writes adapters under Hugging Face's names, whole or not at all.

    Args:
        tensor_name: of a kernel's path (``stable_diffusion.weights.tensor_name``).
    """
    tensors = {}
    for name, (down, up) in adapters.items():
        stem = prefix + tensor_name(tuple(name.split("/"))).removesuffix(".weight")
        down, up = np.asarray(down, np.float32), np.asarray(up, np.float32)
        if down.ndim == 4:
            down, up = down.transpose(3, 2, 0, 1), up.T[:, :, None, None]
        else:
            down, up = down.T, up.T
        tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"] = down, up
    write(tensors, Path(path))


def load(
    path: str | Path,
    like: dict[str, Adapter],
    tensor_name: Callable[[tuple[str, ...]], str],
    prefix: str = "unet.",
) -> dict[str, Adapter]:
    """Reads adapters of the kernels of ``like``, of any rank.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, lacks a tensor or holds one too many, or one is of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name a file of adapters.")
    found = {}
    with opened(path) as file:
        names = set(file.keys())
        for name, adapter in like.items():
            stem = prefix + tensor_name(tuple(name.split("/"))).removesuffix(".weight")
            pair = f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"
            if missing := [one for one in pair if one not in names]:
                raise ValueError(f"{path} lacks {missing[0]}; is it of another network?")
            read = inward(*(file.get_tensor(one) for one in pair))
            check_factors(f"{path}: {stem}", read, adapter)
            found[name] = jax.tree.map(jnp.asarray, read)
            names -= set(pair)
    if names:
        raise ValueError(
            f"{path} holds {min(names)} ({len(names)} tensors in all) that no adapter here takes; name its kernels in "
            "targets."
        )
    return found


def inward(down: np.ndarray, up: np.ndarray) -> Adapter:
    """Torch's factors [r, in(, h, w)] and [out, r(, 1, 1)] in our order."""
    if down.ndim == 4:
        return Adapter(down.transpose(2, 3, 1, 0), up[:, :, 0, 0].T)
    return Adapter(down.T, up.T)


def check_factors(name: str, found: Adapter, like: Adapter) -> None:
    """Raises a ValueError where factors do not multiply to a kernel's shape."""
    wanted = (*like.down.shape[:-1], like.up.shape[1])
    is_pair = found.down.shape[-1] == found.up.shape[0]
    if not is_pair or (*found.down.shape[:-1], found.up.shape[1]) != wanted:
        raise ValueError(
            f"{name} has factors of {found.down.shape} and {found.up.shape}, and its kernel is {wanted}; "
            "is it of another network?"
        )

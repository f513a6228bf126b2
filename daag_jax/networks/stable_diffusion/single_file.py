"""Single-file checkpoints: the names of the original repositories (CompVis, lllyasviel) for the tensors of a network.

    model.diffusion_model.input_blocks.1.0.in_layers.2.weight    down_blocks.0.resnets.0.conv1.weight
    first_stage_model.decoder.up.3.block.0.nin_shortcut.weight   decoder.up_blocks.0.resnets.0.conv_shortcut.weight
    control_model.zero_convs.0.0.bias                            controlnet_down_blocks.0.bias

``original_name`` translates from right to left, which is a function; a file is read by asking for each tensor.  Such a
file holds no configuration: that of Stable Diffusion 1.5 is taken, and a tensor of another shape is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from daag_jax.networks.stable_diffusion.config import (
    CROSS_UP,
    ControlNetConfig,
    UNetConfig,
    VaeConfig,
)

PREFIXES: dict[type, str] = {
    UNetConfig: "model.diffusion_model.",
    ControlNetConfig: "control_model.",
    VaeConfig: "first_stage_model.",
}
BARE = ("zero_convs.",)  # of a ControlNet by itself
RESNET = {  # of UNet and ControlNet; those of the VAE keep their names but for the shortcut
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {  # of UNet and ControlNet
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.attentions.0": "middle_block.1",
    "controlnet_mid_block": "middle_block_out.0",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def is_original(names: Iterable[str]) -> bool:
    """Whether a file's tensors bear the names of the original repositories."""
    marks = (*PREFIXES.values(), *BARE)
    return any(name.startswith(marks) for name in names)


def own_names(
    names: Iterable[str], config: UNetConfig | ControlNetConfig | VaeConfig
) -> dict[str, str]:
    """Names of one network's tensors: with their prefix, which ControlNets often lack -> as they are in the file."""
    prefix = PREFIXES[type(config)]
    own = {name: name for name in names if name.startswith(prefix)}
    if not own and isinstance(config, ControlNetConfig) and any(n.startswith(BARE) for n in names):
        return {prefix + name: name for name in names}
    return own


def original_name(name: str, config: UNetConfig | ControlNetConfig | VaeConfig) -> str:
    """The original name, with its prefix, of a tensor that Hugging Face calls ``name``."""
    translate = vae_name if isinstance(config, VaeConfig) else unet_name
    return PREFIXES[type(config)] + translate(name, config)


def unet_name(name: str, config: UNetConfig | ControlNetConfig) -> str:
    """Of a UNet or a ControlNet: encoder and decoder are flat lists of blocks there."""
    for ours, theirs in ENDS.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    if match := re.match(r"controlnet_down_blocks\.(\d+)\.(.*)", name):
        return f"zero_convs.{match[1]}.0.{match[2]}"
    if match := re.match(r"controlnet_cond_embedding\.(blocks\.(\d+)|conv_out)\.(.*)", name):
        # convolutions alternate with activations, which have no tensors
        last = 2 * len(config.conditioning_embedding_out_channels) - 1
        index = last - 1 if match[2] is None else int(match[2])
        return f"input_hint_block.{2 * (index + 1)}.{match[3]}"
    if match := re.match(r"mid_block\.resnets\.(\d)\.(\w+)\.(.*)", name):
        return f"middle_block.{2 * int(match[1])}.{RESNET[match[2]]}.{match[3]}"
    side, level, kind, index, rest = re.match(
        r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name
    ).groups()
    return flat_block(side, int(level), kind, int(index), rest, config)


def flat_block(
    side: str,
    level: int,
    kind: str,
    index: int,
    rest: str,
    config: UNetConfig | ControlNetConfig,
) -> str:
    """A layer or a resampling of a level, by its place in the flat list."""
    layers = config.layers_per_block
    if (
        side == "down"
    ):  # each level is its layers and its downsampling, behind the first convolution
        start = 1 + level * (layers + 1)
        if kind == "downsamplers":
            return f"input_blocks.{start + layers}.0.{rest.replace('conv.', 'op.')}"
        place = f"input_blocks.{start + index}"
    else:  # one layer more a level; the upsampling belongs to the last of them
        start = level * (layers + 1)
        if kind == "upsamplers":
            slot = 2 if config.up_block_types[level] == CROSS_UP else 1
            return f"output_blocks.{start + layers}.{slot}.{rest}"
        place = f"output_blocks.{start + index}"
    if kind == "attentions":
        return f"{place}.1.{rest}"
    part, last = rest.split(".")
    return f"{place}.0.{RESNET[part]}.{last}"


def vae_name(name: str, config: VaeConfig) -> str:
    """Of a VAE: the decoder's levels are counted from fine to coarse there."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = name.replace("mid_block.resnets.0", "mid.block_1")
    name = name.replace("mid_block.resnets.1", "mid.block_2")
    for ours, theirs in ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    finest = len(config.block_out_channels) - 1

    def up(match: re.Match) -> str:
        kind = {"upsamplers.0": "upsample", "resnets": "block"}[match[2]]
        return f"up.{finest - int(match[1])}.{kind}"

    return re.sub(r"up_blocks\.(\d+)\.(upsamplers\.0|resnets)", up, name)

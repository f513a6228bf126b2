"""Sizes of the Stable Diffusion networks, under the field names of the Hugging Face ``config.json`` files.

Two sizes of one code path: ``SD15_*`` is Stable Diffusion 1.5 as published (Rombach et al. 2022) with the ControlNet of
Zhang et al. 2023, and ``COMPACT_*`` is a small one for 64 px frames that trains on a few CPU cores.

Differs from Hugging Face: ``attention_head_dim`` is the *number* of heads there (a well-known misnomer of theirs), and
it is here as well, so that their files load; one number may be given per level.
"""

from __future__ import annotations

from dataclasses import dataclass

CROSS_DOWN, PLAIN_DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"


@dataclass(frozen=True)
class VaeConfig:
    """AutoencoderKL: images in [-1, 1] to latents that are ``downsampling`` times smaller on each side."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    mid_block_add_attention: bool = True
    scaling_factor: float = 0.18215  # latents are multiplied by it before diffusion: unit variance

    def __post_init__(self):
        check_groups(self.block_out_channels, self.norm_num_groups)

    @property
    def downsampling(self) -> int:
        """Pixels per latent on one side."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True)
class UNetConfig:
    """UNet2DConditionModel: predicts the noise in latents, given a timestep and the embedding of a text."""

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = (CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, PLAIN_DOWN)
    up_block_types: tuple[str, ...] = (PLAIN_UP, CROSS_UP, CROSS_UP, CROSS_UP)
    layers_per_block: int = 2
    transformer_layers_per_block: int = 1
    attention_head_dim: int | tuple[int, ...] = 8  # number of heads (see the module docstring)
    cross_attention_dim: int = 768
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int = 0

    def __post_init__(self):
        check_groups(self.block_out_channels, self.norm_num_groups)
        check_trunk(self)
        check_types("up_block_types", self.up_block_types, (CROSS_UP, PLAIN_UP), self)

    @property
    def num_heads(self) -> tuple[int, ...]:
        """Attention heads at each level, from fine to coarse."""
        return heads_of(self)


@dataclass(frozen=True)
class ControlNetConfig:
    """ControlNetModel: the UNet's encoder again, which also sees an image of conditions, and zero convolutions."""

    in_channels: int = 4
    conditioning_channels: int = 3
    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = (CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, PLAIN_DOWN)
    layers_per_block: int = 2
    transformer_layers_per_block: int = 1
    attention_head_dim: int | tuple[int, ...] = 8  # number of heads (see the module docstring)
    cross_attention_dim: int = 768
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int = 0

    def __post_init__(self):
        check_groups(self.block_out_channels, self.norm_num_groups)
        check_trunk(self)

    @property
    def num_heads(self) -> tuple[int, ...]:
        """Attention heads at each level, from fine to coarse."""
        return heads_of(self)

    @property
    def downsampling(self) -> int:
        """Pixels of the condition per latent on one side."""
        return 2 ** (len(self.conditioning_embedding_out_channels) - 1)


def check_groups(channels: tuple[int, ...], groups: int) -> None:
    """Raises a ValueError unless group normalisation divides every level."""
    for width in channels:
        if width % groups:
            raise ValueError(
                f"norm_num_groups {groups} does not divide {width} of block_out_channels {channels}; "
                "try a power of two that divides all of them."
            )


def check_types(field: str, types: tuple[str, ...], known: tuple[str, ...], config) -> None:
    """Raises a ValueError unless there is one known block type for each level."""
    levels = len(config.block_out_channels)
    if len(types) != levels or any(name not in known for name in types):
        raise ValueError(
            f"{field} {types} does not name one of {known} for each of the {levels} levels of "
            f"block_out_channels {config.block_out_channels}."
        )


def check_trunk(config: UNetConfig | ControlNetConfig) -> None:
    """Raises a ValueError unless the encoder's fields agree with each other."""
    check_types("down_block_types", config.down_block_types, (CROSS_DOWN, PLAIN_DOWN), config)
    heads = heads_of(config)
    for count, width in zip(heads, config.block_out_channels, strict=True):
        if width % count:
            raise ValueError(
                f"attention_head_dim {config.attention_head_dim} (the number of heads) does not divide {width} "
                f"of block_out_channels {config.block_out_channels}."
            )


def heads_of(config: UNetConfig | ControlNetConfig) -> tuple[int, ...]:
    """Attention heads at each level; one number stands for all levels."""
    heads, levels = config.attention_head_dim, len(config.block_out_channels)
    heads = (heads,) * levels if isinstance(heads, int) else tuple(heads)
    if len(heads) != levels:
        raise ValueError(f"attention_head_dim {heads} needs one entry for each of {levels} levels.")
    return heads


SD15_VAE = VaeConfig()
SD15_UNET = UNetConfig()
SD15_CONTROLNET = ControlNetConfig()

COMPACT_VAE = VaeConfig(  # 64 px frames to 16 x 16 latents
    block_out_channels=(16, 32, 64),
    layers_per_block=1,
    norm_num_groups=8,
    mid_block_add_attention=False,
    scaling_factor=0.5033,  # 1 / standard deviation of the shipped VAE's latents
)
COMPACT_UNET = UNetConfig(
    block_out_channels=(32, 64),
    down_block_types=(CROSS_DOWN, CROSS_DOWN),
    up_block_types=(CROSS_UP, CROSS_UP),
    layers_per_block=1,
    attention_head_dim=(1, 2),  # 32 channels a head
    cross_attention_dim=96,  # the width of the compact text tower
    norm_num_groups=8,
)
COMPACT_CONTROLNET = ControlNetConfig(
    conditioning_channels=5,  # depth 1, normals 3, edges 1
    conditioning_embedding_out_channels=(8, 16, 32),
    block_out_channels=COMPACT_UNET.block_out_channels,
    down_block_types=COMPACT_UNET.down_block_types,
    layers_per_block=COMPACT_UNET.layers_per_block,
    attention_head_dim=COMPACT_UNET.attention_head_dim,
    cross_attention_dim=COMPACT_UNET.cross_attention_dim,
    norm_num_groups=COMPACT_UNET.norm_num_groups,
)

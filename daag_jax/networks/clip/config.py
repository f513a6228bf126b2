"""Sizes of CLIP (Radford et al. 2021, arXiv 2103.00020), under the field names of Hugging Face's ``config.json``.

One code path in three sizes: ``CLIP_VIT_B32`` is OpenAI's ViT-B/32, the reward detector of DAAG; ``SD15_TEXT`` is the
text half of ViT-L/14, which conditions Stable Diffusion 1.5; ``COMPACT_CLIP`` is a small one for 64 px frames and a
closed vocabulary that trains on two CPU cores.
"""

from __future__ import annotations

from dataclasses import dataclass

from daag_jax.networks.clip.tokenizer import BOS, EOS, PAD

ACTIVATIONS = ("quick_gelu", "gelu")


def check_tower(config: ClipTextConfig | ClipVisionConfig) -> None:
    """Refuses sizes that cannot be built, with the cure."""
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"hidden_size {config.hidden_size} is not a multiple of num_attention_heads "
            f"{config.num_attention_heads}; every head needs the same width."
        )
    if config.hidden_act not in ACTIVATIONS:
        raise ValueError(f"hidden_act {config.hidden_act!r} is unknown; use one of {ACTIVATIONS}.")


@dataclass(frozen=True)
class ClipTextConfig:
    """The text tower: token embedding, causal pre-LN transformer, final LayerNorm, the state at the EOS token."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    bos_token_id: int = 49406
    eos_token_id: int = 49407  # 2 in old files: the text ends at the largest token id (see text.py)
    pad_token_id: int = 49407  # of OpenAI's tokenizer; causal attention never lets it reach the EOS

    def __post_init__(self):
        check_tower(self)


@dataclass(frozen=True)
class ClipVisionConfig:
    """The vision tower: patches, a class token, pre-LN transformer, the LayerNorm of the class token."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224  # [px], square
    patch_size: int = 32  # [px]
    num_channels: int = 3
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's preprocessor
    image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self):
        check_tower(self)
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}; "
                f"try {self.image_size // self.patch_size * self.patch_size or self.patch_size}."
            )


@dataclass(frozen=True)
class ClipConfig:
    """Both towers, their projections to a common space, and the temperature (and bias) of their cosines."""

    text_config: ClipTextConfig = ClipTextConfig()
    vision_config: ClipVisionConfig = ClipVisionConfig()
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592  # log(1 / 0.07), Radford et al.
    logit_bias_init_value: float | None = None  # a number adds SigLIP's bias (Zhai et al. 2023)


CLIP_VIT_B32 = ClipConfig()
SD15_TEXT = ClipTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
COMPACT_CLIP = ClipConfig(
    text_config=ClipTextConfig(
        vocab_size=256,  # the words of tokenizer.py, and room for more without a change of shape
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=16,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    ),
    vision_config=ClipVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=64,
        patch_size=8,
    ),
    projection_dim=96,
    logit_scale_init_value=2.3026,  # log 10, SigLIP
    logit_bias_init_value=-10.0,  # SigLIP: most pairs are negative
)

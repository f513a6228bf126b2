"""What the editor takes: clips, prompts, parameters, sizes of networks, and how to edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Array, Float, Int, UInt8

from daag_jax.diffusion.samplers import METHODS
from daag_jax.diffusion.schedules import SPACINGS
from daag_jax.editing.controls import ControlConfig
from daag_jax.editing.noise import NOISES
from daag_jax.editing.steering import check_conditions
from daag_jax.networks.stable_diffusion.attention import MODES
from daag_jax.networks.stable_diffusion.config import (
    COMPACT_CONTROLNET,
    COMPACT_UNET,
    COMPACT_VAE,
    ControlNetConfig,
    UNetConfig,
    VaeConfig,
)
from daag_jax.types import Params

DTYPES = ("float32", "bfloat16")
DETERMINISTIC = tuple(
    method for method in METHODS if method != "ddpm"
)  # the only randomness is the first noise


class Clip(NamedTuple):
    """N clips of T frames as a simulator (or estimators) give them; half precision and small integers will do."""

    rgb: UInt8[Array, "N T H W 3"]
    depth: Float[Array, "N T H W"]
    normals: Float[Array, "N T H W 3"]
    segmentation: Int[
        Array, "N T H W"
    ]  # 0 background, 1 .. J objects, above J what must not change


class Prompts(NamedTuple):
    """Text for N clips: states of the text encoder for the background, then for each object; and of no text."""

    contexts: Float[Array, "N P L E"]
    no_prompt: Float[Array, "L E"]


class EditorParams(NamedTuple):
    """Parameters of the networks (without Flax's outer "params")."""

    vae: Params
    unet: Params
    controlnets: tuple[Params, ...]  # in the order of the spec


@dataclass(frozen=True)
class EditorSpec:
    """Sizes of the networks and what the UNet predicts."""

    vae: VaeConfig = COMPACT_VAE
    unet: UNetConfig = COMPACT_UNET
    controlnets: tuple[tuple[str, ControlNetConfig], ...] = (("stack", COMPACT_CONTROLNET),)
    parameterisation: str = "v"  # Stable Diffusion 1.5: "noise"
    num_objects: int = 3

    def __post_init__(self):
        kinds = [kind for kind, _ in self.controlnets]
        check_conditions(kinds, [config.conditioning_channels for _, config in self.controlnets])


@dataclass(frozen=True)
class EditorConfig:
    """How to edit; none of these numbers is given by the paper, all are our choice."""

    steps: int = 10
    method: str = "ddim"
    spacing: str = "trailing"  # of the steps in time; diffusers: leading for ddim, linspace for dpm
    guidance: float = 1.0  # classifier-free; 1 needs no second call of the UNet
    control: float | tuple[float, ...] = 1.0  # weights of the ControlNets; 0 switches geometry off
    control_span: tuple[float, float] = (0.0, 1.0)  # shares of the steps between which it steers
    guess: bool = False  # guess mode of ControlNet
    attention: str = "first"  # across frames: off, first, previous_first, all
    noise: str = "shared"  # or independent, object
    strength: float = 1.0  # time at which the edit starts (SDEdit); 1 paints from pure noise
    dilation: int = 1  # [px] of the mask in which latents are painted
    is_masked: bool = True  # False paints the whole frame (and pastes nothing back)
    hold: float | None = (
        None  # colours of objects over a clip (``hold.py``): 0 their means, 1 every pixel
    )
    crop: float | None = (
        None  # edit one object after another, each in a box that is so much wider (``crops.py``)
    )
    chunk: int = 16  # frames at a time; the networks' memory does not grow beyond
    controls: ControlConfig = ControlConfig()
    dtype: str = (
        "float32"  # of the networks' arithmetic, or bfloat16; noise and samples stay float32
    )

    def __post_init__(self):
        for field, value, known in (
            ("method", self.method, DETERMINISTIC),
            ("spacing", self.spacing, SPACINGS),
            ("attention", self.attention, MODES),
            ("noise", self.noise, NOISES),
            ("dtype", self.dtype, DTYPES),
        ):
            if value not in known:
                raise ValueError(f"{field} {value!r} is unknown; use one of {known}.")
        if self.steps < 1 or self.chunk < 2:
            raise ValueError(f"steps={self.steps} and chunk={self.chunk} must be at least 1 and 2.")
        if not 0 <= self.control_span[0] < self.control_span[1] <= 1:
            raise ValueError(
                f"control_span={self.control_span} is not a growing pair in [0, 1]; (0, 1) steers always."
            )
        if self.hold is not None and not 0 <= self.hold <= 1:
            raise ValueError(f"hold={self.hold} is not in [0, 1]; None leaves colours alone.")
        if self.crop is not None and (self.crop < 0 or not self.is_masked):
            raise ValueError(
                f"crop={self.crop} must be at least 0, and needs is_masked=True; None edits whole frames."
            )
        if self.crop is not None and self.noise == "object":
            raise ValueError(
                f"noise='object' moves with objects, and crop={self.crop} follows them already; use noise='shared'."
            )
        if self.spacing != "trailing" and int(self.steps * self.strength) < 1:
            raise ValueError(
                f"strength={self.strength} leaves none of {self.steps} steps with spacing {self.spacing!r}; use "
                "trailing, or more steps."
            )
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength={self.strength} is not in (0, 1]; 1 repaints fully.")


# The systems that DAAG is compared with, and its parts left out one by one.
ABLATIONS: dict[str, dict] = {
    "full": {},
    "per-frame in-painting (ROSIE-like)": {
        "control": 0.0,
        "attention": "off",
        "noise": "independent",
        "hold": None,
    },
    "per-object crops (GenAug-like)": {
        "crop": 0.5,
        "attention": "off",
        "noise": "independent",
        "hold": None,
    },
    "no control": {"control": 0.0},
    "no shared noise": {"noise": "independent"},
    "no cross-frame attention": {"attention": "off"},
    "no hold of colours": {"hold": None},
    "object-frame noise": {"noise": "object"},
    "attention to all frames": {"attention": "all"},
}

"""The shipped editor: compact weights from ``assets``, and edits said as colours of objects."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from daag_jax.assets import asset
from daag_jax.editing.editor_config import EditorConfig, EditorParams, Prompts
from daag_jax.editing.prompts import BACKGROUND, NO_PROMPT, object_prompt
from daag_jax.envs.palette import PALETTE_NAMES
from daag_jax.networks.clip import weights as clip_weights
from daag_jax.networks.clip.config import COMPACT_CLIP
from daag_jax.networks.clip.model import make_text_encoder
from daag_jax.networks.clip.tokenizer import WordTokenizer
from daag_jax.networks.stable_diffusion import weights
from daag_jax.networks.stable_diffusion.config import COMPACT_CONTROLNET, COMPACT_UNET, COMPACT_VAE

# what suits the shipped weights and objects of one colour; see RESULTS.md
COMPACT_EDIT = EditorConfig(steps=6, guidance=1.25, hold=0.5)


class CompactEditor(NamedTuple):
    """Parameters, and the text encoder's states of every sentence the editor may need."""

    params: EditorParams
    sentences: Float[Array, "S L E"]  # background, one per palette colour, no prompt


def load_compact_editor() -> CompactEditor:
    """Reads the shipped weights (see the cards beside them)."""
    params = EditorParams(
        weights.load_vae(asset("vae.safetensors"), COMPACT_VAE),
        weights.load_unet(asset("unet.safetensors"), COMPACT_UNET),
        (weights.load_controlnet(asset("controlnet.safetensors"), COMPACT_CONTROLNET),),
    )
    text = clip_weights.load(asset("text_encoder.safetensors"), COMPACT_CLIP.text_config)
    said = (BACKGROUND, *map(object_prompt, PALETTE_NAMES), NO_PROMPT)
    tokens = jnp.asarray(WordTokenizer()(said))
    states = jax.jit(make_text_encoder(COMPACT_CLIP.text_config).hidden_states)(text, tokens)
    return CompactEditor(params, states)


def color_prompts(sentences: Float[Array, "S L E"], colors: Int[Array, "N J"]) -> Prompts:
    """Prompts that say the colour of every object; -1 (not seen) says nothing."""
    index = jnp.where(colors >= 0, 1 + colors, sentences.shape[0] - 1)
    background = jnp.zeros((colors.shape[0], 1), index.dtype)
    return Prompts(sentences[jnp.concatenate([background, index], axis=1)], sentences[-1])

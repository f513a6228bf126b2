"""An editor from a Stable Diffusion 1.5 folder and ControlNet folders on disk, in the layout of Hugging Face.

    editor = load_pretrained("stable-diffusion-v1-5", {"depth": "control_v11f1p_sd15_depth"})
    edit = jax.jit(make_editor(EditorConfig(guidance=7.5), editor.spec))
    said = editor.prompts(["a robot above a table"], [["a green block", "a red block", "a blue block"]])
    frames = edit(editor.params, clip, said, is_edited, key)

A single-file checkpoint will do as well, with a tokenizer's folder beside it.  Nothing is downloaded.
What a folder lacks, or has too much of, is named (``networks/folders.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from daag_jax.editing.editor_config import EditorConfig, EditorParams, EditorSpec, Prompts
from daag_jax.networks import folders
from daag_jax.networks.clip.config import ClipTextConfig
from daag_jax.networks.clip.model import make_text_encoder
from daag_jax.networks.clip.tokenizer import load_tokenizer
from daag_jax.networks.stable_diffusion.config import ControlNetConfig, UNetConfig, VaeConfig
from daag_jax.types import Params

# Twenty steps of DPM-Solver++ and a guidance of 7.5, as is usual with Stable Diffusion 1.5; our choice
SD15_EDIT = EditorConfig(steps=20, method="dpm_solver_2m", guidance=7.5)
NEEDED = {"vae": VaeConfig, "unet": UNetConfig, "text_encoder": ClipTextConfig}
PREDICTIONS = {"epsilon": "noise", "v_prediction": "v", "sample": "x0"}


class PretrainedEditor(NamedTuple):
    """Sizes, parameters, and ``encode(sentences) -> [S, L, E]``, the text encoder's states."""

    spec: EditorSpec
    params: EditorParams
    encode: Callable[[Sequence[str]], Float[Array, "S L E"]]

    def prompts(
        self, backgrounds: Sequence[str], objects: Sequence[Sequence[str]], no_prompt: str = ""
    ) -> Prompts:
        """What is said of N clips: a sentence for each background, and one for each of its objects.

        Raises:
            ValueError: a clip has not one sentence per object of the spec.
        """
        for sentences in objects:
            if len(sentences) != self.spec.num_objects:
                raise ValueError(
                    f"objects has {len(sentences)} sentences {list(sentences)}; give one for each of the "
                    f"{self.spec.num_objects} objects."
                )
        rows = [[b, *said] for b, said in zip(backgrounds, objects, strict=True)]
        states = self.encode([*(text for row in rows for text in row), no_prompt])
        contexts = states[:-1].reshape(len(rows), len(rows[0]), *states.shape[1:])
        return Prompts(contexts, states[-1])


def load_pretrained(
    folder: str | Path,
    controlnets: Mapping[str, str | Path] | None = None,
    num_objects: int = 3,
    dtype: Any = jnp.float32,
    tokenizer: str | Path | None = None,
    places: Callable[[Params], Any] | None = None,
) -> PretrainedEditor:
    """Reads an editor.

    Args:
        folder: a pipeline with ``vae``, ``unet``, ``text_encoder`` and ``tokenizer``, or a single-file checkpoint.
        controlnets: folders or files by what they look at (``steering.CHANNELS``): depth, normals, edges.
        dtype: of the parameters of the diffusion networks.
        tokenizer: its folder; None is the one in ``folder``.
        places: ``shapes -> shardings`` of the diffusion networks; None puts them on the default device.

    Raises:
        FileNotFoundError: a part is not there.
        ValueError: a part is of another network, or its file is damaged; the message names it.
    """
    folder = Path(folder)
    parts = {part.name: part for part in folders.components(folder)}
    for name, kind in NEEDED.items():
        if name not in parts:
            raise FileNotFoundError(f"{folder} has no {name}; an editor needs {', '.join(NEEDED)}.")
        check_kind(parts[name], kind)
    branches = {}
    for kind, path in (controlnets or {}).items():
        branches[kind] = controlnet_of(path)
    words = folder / "tokenizer" if tokenizer is None else Path(tokenizer)
    if not words.is_dir():
        raise FileNotFoundError(
            f"{words} is not a folder; a single-file checkpoint holds no tokenizer: name the folder of one."
        )
    spec = EditorSpec(
        parts["vae"].config,
        parts["unet"].config,
        tuple((kind, part.config) for kind, part in branches.items()),
        prediction(folder / "scheduler" / "scheduler_config.json"),
        num_objects,
    )
    params = EditorParams(
        folders.load(parts["vae"], dtype, places),
        folders.load(parts["unet"], dtype, places),
        tuple(folders.load(part, dtype, places) for part in branches.values()),
    )
    return PretrainedEditor(spec, params, make_encode(parts["text_encoder"], words))


def make_encode(part: folders.Component, words: Path) -> Callable[[Sequence[str]], Array]:
    """``encode(sentences) -> [S, L, E]`` with the text encoder of a folder and the tokenizer of another."""
    tokenize = load_tokenizer(words, part.config.max_position_embeddings)
    states = jax.jit(make_text_encoder(part.config).hidden_states)
    weights = folders.load(part)
    return lambda said: states(weights, jnp.asarray(tokenize(said)))


def controlnet_of(path: str | Path) -> folders.Component:
    """The ControlNet of a folder or a file; alone, or beside the model that it was trained for."""
    found = folders.components(path)
    steering = [part for part in found if isinstance(part.config, ControlNetConfig)]
    if len(steering) > 1:
        names = ", ".join(part.name for part in steering)
        raise ValueError(f"{path} holds several ControlNets ({names}); name the folder of one.")
    if not steering:
        check_kind(found[0], ControlNetConfig)
    return steering[0]


def check_kind(part: folders.Component, kind: type) -> None:
    """Raises a ValueError where a component is of another network."""
    if not isinstance(part.config, kind):
        found, wanted = (c.__name__.removesuffix("Config") for c in (type(part.config), kind))
        raise ValueError(
            f"{part.folder} is a {found}, not a {wanted}; name the folder of a {wanted}."
        )


def prediction(file: Path) -> str:
    """What the UNet of a pipeline predicts: the noise, unless its scheduler says otherwise.

    Raises:
        ValueError: it is something that is not known here.
    """
    if not file.is_file():
        return "noise"
    name = folders.read_json(file).get("prediction_type", "epsilon")
    if name not in PREDICTIONS:
        raise ValueError(
            f"{file}: prediction_type {name!r} is unknown; known are {list(PREDICTIONS)}."
        )
    return PREDICTIONS[name]

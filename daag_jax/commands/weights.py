"""``daag weights check | fetch``: whether a folder of weights can be loaded, and a folder from a hub on request."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import tyro

WANTED = (  # configs, vocabularies, weights of components; not the single files beside them
    "*.json",
    "*.txt",
    "*/*.safetensors",
    "model*.safetensors",
    "diffusion_pytorch_model*.safetensors",
)
UNUSED = ("*non_ema*", "safety_checker/*")
HALF = "*.fp16.safetensors"
FULL = "*model.safetensors"
Positional = tyro.conf.Positional


@dataclasses.dataclass(frozen=True)
class Check:
    """Names, shapes and length of every weight file of a folder in the layout of Hugging Face, or of a single file."""

    path: Positional[Path]


@dataclasses.dataclass(frozen=True)
class Fetch:
    """A repository of the Hugging Face hub into a folder, then checked: configs, tokenizer, safetensors; no pickles.

    ``daag weights fetch OWNER/NAME FOLDER`` is the only thing here that downloads weights.  The hub is the one that
    the environment variable HF_ENDPOINT names; a token is taken from HF_TOKEN where the repository asks for one.
    """

    repository: Positional[str]
    folder: Positional[Path]
    revision: str = "main"
    half: bool = False  # the files in half precision (*.fp16.safetensors) in place of the full ones


def check(options: Check) -> None:
    """Runs :class:`Check`.

    Raises:
        ValueError: a network cannot be loaded; the message is a sentence for each.
    """
    from rich.console import Console
    from rich.table import Table

    from daag_jax.networks import folders

    findings = [folders.check(component) for component in folders.components(options.path)]
    table = Table("component", "network", "tensors", "parameters", "dtype", "can be loaded")
    for found in findings:
        parameters = f"{found.parameters / 1e6:.1f} M" if found.parameters else "-"
        cells = (found.name, found.kind, str(found.tensors or "-"), parameters)
        table.add_row(*cells, " ".join(found.dtypes), "no" if found.problem else "yes")
    Console().print(table)
    problems = [found.problem for found in findings if found.problem]
    if problems:
        raise ValueError("\n".join(problems))


def fetch(options: Fetch) -> None:
    """Runs :class:`Fetch`.

    Raises:
        ImportError: the extra ``pretrained`` is not installed.
        ValueError: the repository is not there or not open to us, or what came cannot be loaded.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise ImportError(
            "huggingface_hub is not installed; pip install 'daag-jax[pretrained]'."
        ) from error
    try:
        snapshot_download(
            options.repository,
            revision=options.revision,
            local_dir=options.folder,
            endpoint=os.environ.get("HF_ENDPOINT"),
            allow_patterns=WANTED,
            ignore_patterns=(*UNUSED, FULL if options.half else HALF),
        )
    except (HfHubHTTPError, HFValidationError) as error:
        said = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{options.repository} at {options.revision} cannot be fetched ({said}); check its name, and HF_TOKEN "
            "where it is gated."
        ) from error
    check(Check(options.folder))

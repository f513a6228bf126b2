"""``daag edit``: colours of objects in a user's own video."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import tyro

from daag_jax.names import check_name

MEANS = ("diffusion", "recolour")
Positional = tyro.conf.Positional


@dataclasses.dataclass(frozen=True)
class Edit:
    """Swaps colours of objects in a video: ``daag edit FRAMES red=green``.

    FRAMES is an mp4 or a folder of png frames.  ``depth`` [m], ``normals`` (unit, camera frame) and ``segmentation``
    (0 background, 1.. objects) are .npy or .npz files beside it, arrays [T, H, W(, 3)]; what is not given is left out
    of the control, and objects are found by the palette colour they show.

    The shipped weights edit squares of 64 px.  ``--weights FOLDER --size 512`` takes Stable Diffusion 1.5 from a folder
    in the layout of Hugging Face (or from a single file, with ``--tokenizer FOLDER``), ``--controlnets depth=FOLDER
    edges=FOLDER`` its ControlNets (depth, normals, edges).
    """

    frames: Positional[Path]
    swaps: Positional[tuple[str, ...]]
    out: Path = Path("runs/edit")
    swap_mode: str = "exchange"  # replace, exchange, permute
    means: str = "diffusion"  # or recolour: hue and chroma, no network
    depth: Path | None = None
    normals: Path | None = None
    segmentation: Path | None = None
    weights: Path | None = None  # of Stable Diffusion 1.5; the shipped ones are for 64 px
    tokenizer: Path | None = None  # None: the one in the folder of the weights
    controlnets: tuple[str, ...] = ()
    size: int = 64  # [px] of the edited squares
    thing: str = "block"  # what the objects are called: "a green block"
    steps: int | None = None  # None: what suits the weights
    guidance: float | None = None
    attention: str = "first"
    seed: int = 0

    def __post_init__(self):
        if self.weights is None and (self.controlnets or self.size != 64):
            raise ValueError(
                f"size={self.size}, controlnets={self.controlnets}: the shipped weights are for 64 px and have their "
                "own ControlNet; name those of Stable Diffusion 1.5 with --weights FOLDER."
            )
        for pair in self.controlnets:
            kind, equals, folder = pair.partition("=")
            if not equals:
                raise ValueError(
                    f"controlnets {self.controlnets} are not of the form depth=FOLDER."
                )
            if kind in ("depth", "normals") and getattr(self, kind) is None:
                raise ValueError(f"the ControlNet {kind}={folder} needs --{kind} FILE.")


def edit(options: Edit) -> None:
    """Runs :class:`Edit`."""
    import jax
    import numpy as np

    from daag_jax.editing.masks import apply_mapping, instance_colors, swap_mapping
    from daag_jax.editing.recolor import recolor_clip
    from daag_jax.editing.user_clip import clip_of_frames
    from daag_jax.envs.palette import PALETTE_NAMES
    from daag_jax.evaluation import video

    check_name("means", options.means, MEANS)
    pairs = [tuple(swap.split("=")) for swap in options.swaps]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"swaps {options.swaps} are not of the form red=green.")
    beside = [_array(path) for path in (options.depth, options.normals, options.segmentation)]
    clip = clip_of_frames(video.read(options.frames), *beside, size=options.size)
    seen = instance_colors(clip.rgb[0], clip.segmentation[0])
    present = [PALETTE_NAMES[c] for c in np.asarray(seen) if c >= 0]
    if missing := [source for source, _ in pairs if source not in present]:
        raise ValueError(
            f"no {missing[0]} object is seen, only {present or 'none'}; check the swap."
        )
    wanted = apply_mapping(seen, swap_mapping(pairs, present, options.swap_mode))[None]
    is_edited = (wanted != seen[None]) & (seen[None] >= 0)
    if options.means == "recolour":
        edited = jax.jit(recolor_clip)(clip.rgb[0], clip.segmentation[0], is_edited[0], wanted[0])
    else:
        run, params, prompts = (_pretrained if options.weights else _compact)(options, wanted)
        edited = jax.jit(run)(params, clip, prompts, is_edited, jax.random.key(options.seed))[0]
    before, after = np.asarray(clip.rgb[0]), np.asarray(edited)
    fps = video.frame_rate(options.frames)
    video.write(options.out / "edited.mp4", video.enlarge(after, 4), fps)
    video.write(options.out / "compare.mp4", video.grid({"before": before, "after": after}), fps)
    print(f"{options.out}: edited.mp4 and compare.mp4, {len(after)} frames")


def edit_config(options: Edit) -> Any:
    """How to edit: as suits the weights, but for what is asked for."""
    from daag_jax.editing.compact import COMPACT_EDIT
    from daag_jax.editing.pretrained import SD15_EDIT

    asked = {name: getattr(options, name) for name in ("steps", "guidance", "attention")}
    asked = {name: value for name, value in asked.items() if value is not None}
    return dataclasses.replace(SD15_EDIT if options.weights else COMPACT_EDIT, **asked)


def _compact(options: Edit, wanted: Any) -> tuple:
    """The shipped editor: its function, its parameters, and what is said of the clip."""
    from daag_jax.editing.compact import color_prompts, load_compact_editor
    from daag_jax.editing.editor import make_editor

    editor = load_compact_editor()
    return make_editor(edit_config(options)), editor.params, color_prompts(editor.sentences, wanted)


def _pretrained(options: Edit, wanted: Any) -> tuple:
    """The same, of Stable Diffusion 1.5."""
    from daag_jax.editing.editor import make_editor
    from daag_jax.editing.pretrained import load_pretrained
    from daag_jax.editing.prompts import BACKGROUND
    from daag_jax.envs.palette import PALETTE_NAMES

    controlnets = dict(pair.split("=", 1) for pair in options.controlnets)
    editor = load_pretrained(options.weights, controlnets, tokenizer=options.tokenizer)
    name = lambda color: f"a {PALETTE_NAMES[color]} {options.thing}" if color >= 0 else ""
    said = editor.prompts([BACKGROUND], [[name(int(color)) for color in wanted[0]]])
    return make_editor(edit_config(options), editor.spec), editor.params, said


def _array(path: Path | None) -> Any:
    """A .npy file, or the only array of an .npz; nothing is unpickled."""
    import numpy as np

    if path is None:
        return None
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; give a .npy or .npz file.")
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    if len(loaded.files) != 1:
        raise ValueError(f"{path} holds {loaded.files}; keep one array in it.")
    return loaded[loaded.files[0]]

"""Frames as videos: labelled grids (before, after, oracle side by side), files, and data for a page.

Encoding is done by the ffmpeg binary that comes with imageio-ffmpeg; nothing has to be installed beside.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import imageio_ffmpeg
import mediapy
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())

CODECS = {".mp4": "h264", ".gif": "gif"}
MARGIN = 4  # [px] between panels
INK, PAPER = (34, 36, 42), (247, 247, 245)


def enlarge(frames: UInt8[np.ndarray, "T H W 3"], factor: int) -> UInt8[np.ndarray, "T H2 W2 3"]:
    """Repeats pixels, so that small frames stay sharp."""
    return np.repeat(np.repeat(frames, factor, axis=1), factor, axis=2)


def side_by_side(views: UInt8[np.ndarray, "T V H W 3"]) -> UInt8[np.ndarray, "T H VW 3"]:
    """The camera views of each moment in one row."""
    views = np.asarray(views)
    return np.concatenate(np.moveaxis(views, 1, 0), axis=2)


def grid(
    clips: Mapping[str, UInt8[np.ndarray, "T H W 3"]],
    columns: int | None = None,
    panel: int = 256,
) -> UInt8[np.ndarray, "T H2 W2 3"]:
    """Labelled panels in a grid, each about ``panel`` px wide; a shorter clip rests on its last frame.

    Raises:
        ValueError: there are no clips, or one does not hold uint8 frames [T, H, W, 3].
    """
    if not clips:
        raise ValueError("clips is empty; give at least one name with its frames.")
    for name, clip in clips.items():
        clip = np.asarray(clip)
        if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != np.uint8 or not len(clip):
            raise ValueError(
                f"{name} is {clip.dtype}{list(clip.shape)}; frames are uint8 [T, H, W, 3]."
            )
    columns = columns or len(clips)
    longest = max(len(clip) for clip in clips.values())
    panels = []
    for name, clip in clips.items():
        clip = np.asarray(clip)
        large = enlarge(clip, max(1, panel // clip.shape[2]))
        rest = np.repeat(large[-1:], longest - len(large), axis=0)
        panels.append(_labelled(np.concatenate([large, rest]), name))
    height = max(p.shape[1] for p in panels)
    width = max(p.shape[2] for p in panels)
    rows = -(-len(panels) // columns)
    shape = (longest, rows * (height + MARGIN) - MARGIN, columns * (width + MARGIN) - MARGIN, 3)
    canvas = np.full(shape, PAPER, np.uint8)
    for i, frames in enumerate(panels):
        top, left = (i // columns) * (height + MARGIN), (i % columns) * (width + MARGIN)
        canvas[:, top : top + frames.shape[1], left : left + frames.shape[2]] = frames
    return canvas


def _labelled(frames: UInt8[np.ndarray, "T H W 3"], label: str) -> UInt8[np.ndarray, "T H2 W 3"]:
    strip = Image.new("RGB", (frames.shape[2], 20), PAPER)
    font = ImageFont.load_default(12)
    ImageDraw.Draw(strip).text((4, 2), label, fill=INK, font=font)
    top = np.broadcast_to(np.asarray(strip, np.uint8), (len(frames), 20, frames.shape[2], 3))
    return np.concatenate([top, frames], axis=1)


def _even(frames: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
    """h264 wants even sides: the last row or column is repeated."""
    frames = np.asarray(frames)
    pad = ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0))
    return np.pad(frames, pad, mode="edge")


def encode(frames: UInt8[np.ndarray, "T H W 3"], fps: float = 5.0, suffix: str = ".mp4") -> bytes:
    """The bytes of a video file."""
    if suffix not in CODECS:
        raise ValueError(f"suffix {suffix!r} is unknown; use one of {', '.join(CODECS)}.")
    options = {"crf": 18} if suffix == ".mp4" else {}
    return mediapy.compress_video(_even(frames), fps=fps, codec=CODECS[suffix], **options)


def write(path: str | Path, frames: UInt8[np.ndarray, "T H W 3"], fps: float = 5.0) -> Path:
    """Writes .mp4 or .gif; creates the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(frames, fps, path.suffix.lower()))
    return path


def read(path: str | Path) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames of a video file, or of a folder of .png files in the order of their names."""
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.png"))
        if not files:
            raise FileNotFoundError(
                f"{path} holds no .png files; give a folder of frames, or an .mp4."
            )
        return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; give a folder of .png frames, or an .mp4.")
    reader = imageio_ffmpeg.read_frames(
        str(path)
    )  # (mediapy's asks for an option that ffmpeg 8 dropped)
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def frame_rate(path: str | Path, default: float = 5.0) -> float:
    """Frames per second of a video file; ``default`` for a folder of frames, which does not say."""
    if Path(path).is_dir():
        return default
    reader = imageio_ffmpeg.read_frames(str(path))
    rate = next(reader)["fps"]
    reader.close()
    return float(rate)


def data_url(frames: UInt8[np.ndarray, "T H W 3"], fps: float = 5.0, suffix: str = ".mp4") -> str:
    """A video as a ``data:`` address, to stand inside a page."""
    kind = "video/mp4" if suffix == ".mp4" else "image/gif"
    return f"data:{kind};base64," + base64.b64encode(encode(frames, fps, suffix)).decode()

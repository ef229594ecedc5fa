"""The pictures of the page: strips of frames, the painted mask, a window while it is unmasked."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maskflow_jax.io import video_files

EDITOR_SIDE = 384  # pixels of the drawing
MAX_CELLS = 32  # frames of a strip; of longer videos every second, third... frame is shown
COLUMNS = 8
WAITING = 225  # grey of frames that are not made yet
_CELL = 96  # pixels of a frame in a strip
MAX_SCENES = 24  # scenes of a strip
_SCENE_CELL = 128  # pixels of a frame of a scene, over letters
_LEAST_WIDTH = 400  # pixels of a caption
_LETTERS = 20  # pixels


def strip(
    frames: np.ndarray,
    *,
    length: int | None = None,
    first: int = 0,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """Lays out the frames of a video, with grey cells for those that are not made yet.

    Args:
        frames: uint8 [F, S, S, 3], the frames that are there.
        length: Number of frames of the finished video; None for F.
        first: Number of the first frame that is there.
        known: The frames of the finished video that were given, bool [L], which are marked.

    Returns:
        uint8 [H, W, 3].
    """
    length = len(frames) if length is None else length
    shown = np.arange(0, length, -(-length // MAX_CELLS))
    return _cells(frames, shown, first, known, upscale=max(1, _CELL // frames.shape[2]))


def scene_rows(
    frames: np.ndarray,
    *,
    captions: Sequence[str],
    per_scene: int,
    first: int = 0,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """Lays out the scenes of a video, a row each with its caption below.

    Of longer scenes every second, third... frame is shown, and so of many scenes.

    Args:
        frames: uint8 [F, S, S, 3], the frames that are there.
        captions: A caption for each scene.
        per_scene: Number of frames of a scene.
        first: Number of the first frame that is there.
        known: The frames of the finished video that were given, bool [L], which are marked.

    Returns:
        uint8 [H, W, 3].
    """
    parts, upscale = [], max(1, _SCENE_CELL // frames.shape[2])
    for scene in range(0, len(captions), -(-len(captions) // MAX_SCENES)):
        begin = scene * per_scene
        shown = np.arange(begin, begin + per_scene, -(-per_scene // COLUMNS))
        row = _cells(frames, shown, first, known, upscale=upscale)
        pad = max(0, _LEAST_WIDTH - row.shape[1])
        row = np.pad(row, [(0, 0), (0, pad), (0, 0)], constant_values=255)
        parts += [row, _text(captions[scene], row.shape[1])]
    return np.concatenate(parts)


def _cells(
    frames: np.ndarray, shown: np.ndarray, first: int, known: np.ndarray | None, *, upscale: int
) -> np.ndarray:
    """The frames with some numbers in rows; grey cells stand for those that are not there."""
    side = frames.shape[2]
    cells = np.full((len(shown), side, side, 3), WAITING, np.uint8)
    for cell, number in zip(cells, shown, strict=True):
        if first <= number < first + len(frames):
            cell[:] = frames[number - first]
    marked = [] if known is None else np.flatnonzero(known[shown]).tolist()
    columns = min(COLUMNS, len(shown))
    return video_files.frame_strip(cells, columns=columns, marked=marked, gap=2, upscale=upscale)


def _text(text: str, width: int) -> np.ndarray:
    """Lines of text of a width in pixels, uint8 [H, W, 3]."""
    font = ImageFont.load_default(size=_LETTERS)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width - 4 and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    image = Image.new("RGB", (width, len(lines) * (_LETTERS + 4) + 10), "white")
    drawing = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        drawing.text((4, number * (_LETTERS + 4)), line, fill="black", font=font)
    return np.asarray(image)


def canvas(frame: np.ndarray) -> np.ndarray:
    """A frame uint8 [S, S, 3] in the size of the drawing, [EDITOR_SIDE, EDITOR_SIDE, 3]."""
    rows = np.arange(EDITOR_SIDE) * frame.shape[0] // EDITOR_SIDE
    return frame[rows][:, rows]


def painted_tokens(drawing: dict[str, Any] | None, grid: tuple[int, int]) -> np.ndarray | None:
    """Reads which tokens are painted over.

    A token that the brush touches counts, as one that a rectangle touches does.

    Args:
        drawing: What an image editor gives: "layers", a list of uint8 [H, W, 4].
        grid: Height and width of a frame in tokens.

    Returns:
        bool [h, w], or None without a drawing.
    """
    layers = [np.asarray(layer) for layer in (drawing or {}).get("layers") or []]
    layers = [layer for layer in layers if layer.ndim == 3 and layer.shape[-1] == 4]
    if not layers:
        return None
    painted = np.zeros(grid, bool)
    for layer in layers:
        rows, columns = np.nonzero(layer[..., 3])
        height, width = layer.shape[:2]
        painted[rows * grid[0] // height, columns * grid[1] // width] = True
    return painted


def progress_bar(done: int, total: int, text: str) -> str:
    """A progress bar with a line of text as HTML."""
    return (
        f'<div class="progress" role="status"><progress max="{total}" value="{done}"></progress>'
        f"<div>{html.escape(text)}</div></div>"
    )


def problem(text: str) -> str:
    """A message of what is wrong as HTML."""
    return f'<div class="problem" role="alert">{html.escape(text)}</div>'


def note(text: str) -> str:
    """A line of text as HTML."""
    return f'<div class="note">{html.escape(text)}</div>'


def duration(seconds: float) -> str:
    """A time in words, such as "about 2 min"."""
    if seconds < 1:
        return "less than a second"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"

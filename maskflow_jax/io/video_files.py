"""Video files and pictures of videos; only this file and `video_decoding` know codecs.

In memory a video is frames, uint8 [F, H, W, 3] in RGB, and a rate in frames per second. PyAV
decodes whatever its FFmpeg knows (mp4, avi, webm, gif, ...) and writes mp4 and gif; Pillow chooses
palettes and writes png. (Pillow's own gif writer drops frames that equal the one before.) Files
appear whole or not at all.
"""

import fractions
import math
import os
from collections.abc import Collection, Sequence

import av
import einops
import numpy as np
from PIL import Image

from maskflow_jax.io.files import atomic_file
from maskflow_jax.io.resizing import to_square
from maskflow_jax.io.video_decoding import iterate_frames

CONTEXT_COLOUR = (255, 0, 200)  # magenta: hardly any video has it
_CRF = "12"  # of 51: no visible loss; at 64x64 the default of 23 smears textures
_MIN_SHOWN_SIDE = 256  # pixels; smaller frames are enlarged by a whole factor
_GIF_TICKS = 100  # per second; gif knows no finer time
_MIN_GIF_TICKS = 2  # browsers play anything shorter at a tenth of the speed


def read_video(path: str | os.PathLike) -> tuple[np.ndarray, float]:
    """Decodes every frame of a video file or an animated gif.

    Args:
        path: Path of the file.

    Returns:
        Frames uint8 [F, H, W, 3] and the average rate in frames per second.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds no video, is broken or is cut off.
    """
    timed = list(iterate_frames(path))
    last, images = timed[-1], [frame.pixels for frame in timed]
    seconds = last.start + last.duration - timed[0].start
    if seconds <= 0:
        raise ValueError(f"{path} has {len(images)} frames and no rate: remove or re-encode it")
    return np.stack(images), len(images) / seconds


def write_mp4(path: str | os.PathLike, frames: np.ndarray, fps: float, *, upscale: int = 1) -> None:
    """Writes H.264 in yuv420p, which every player and browser shows.

    The format halves colour in both directions and needs even sizes: odd heights and widths are
    padded by repeating the last row or column, so the file is up to one pixel larger than the
    frames. With `upscale=2` nothing is padded and colour keeps its full resolution.

    Args:
        path: Path to write.
        frames: uint8 [F, H, W, 3].
        fps: Frames per second.
        upscale: Whole factor by which pixels are repeated.

    Raises:
        ValueError: if the frames, the rate or the factor cannot be written.
    """
    frames = _checked(path, frames, fps, upscale)
    rows, columns = (size * upscale % 2 for size in frames.shape[1:3])  # to pad
    with atomic_file(path) as part, av.open(str(part), "w", format="mp4") as container:
        rate = fractions.Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": _CRF})
        stream.height = frames.shape[1] * upscale + rows
        stream.width = frames.shape[2] * upscale + columns
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            frame = _enlarge(frame[None], upscale)[0]
            frame = np.pad(frame, ((0, rows), (0, columns), (0, 0)), "edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_gif(path: str | os.PathLike, frames: np.ndarray, fps: float, *, upscale: int = 1) -> None:
    """Writes a looping gif with one palette, made for all frames together so that none flickers.

    Gif counts time in hundredths of a second: each frame is shown for the whole number of them that
    keeps the rate right on average.

    Args:
        path: Path to write.
        frames: uint8 [F, H, W, 3].
        fps: Frames per second, at most 50.
        upscale: Whole factor by which pixels are repeated.

    Raises:
        ValueError: if the frames, the rate or the factor cannot be written.
    """
    frames = _checked(path, frames, fps, upscale)
    if fps > _GIF_TICKS / _MIN_GIF_TICKS:
        raise ValueError(
            f"{path}: gif plays at most {_GIF_TICKS // _MIN_GIF_TICKS} frames/s, not {fps}: "
            "drop every other frame and halve fps, or write mp4"
        )
    starts = [math.floor(f * _GIF_TICKS / fps + 0.5) for f in range(len(frames) + 1)]
    options = {"loop": "0", "final_delay": str(starts[-1] - starts[-2])}
    palette = _palette(frames)
    with (
        atomic_file(path) as part,
        av.open(str(part), "w", format="gif", options=options) as container,
    ):
        stream = container.add_stream("gif", rate=_GIF_TICKS)
        stream.height, stream.width = (size * upscale for size in frames.shape[1:3])
        stream.pix_fmt = "pal8"
        for frame, start in zip(frames, starts, strict=False):
            container.mux(stream.encode(_paletted(frame, palette, upscale, start)))
        container.mux(stream.encode())


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes one picture.

    Args:
        path: Path to write.
        image: uint8 [H, W, 3].

    Raises:
        ValueError: if the image cannot be written.
    """
    _check_frames(path, image[None])
    with atomic_file(path) as part:
        Image.fromarray(image).save(part, format="PNG")


def frame_strip(
    frames: np.ndarray,
    *,
    columns: int | None = None,
    marked: Collection[int] = (),
    gap: int = 1,
    upscale: int = 1,
) -> np.ndarray:
    """Lays the frames of one video out in rows, each with a border on which marks show.

    Borders lie around the frames and hide nothing: white, or `CONTEXT_COLOUR` for marked frames.

    Args:
        frames: uint8 [F, H, W, 3].
        columns: Frames in a row; all by default.
        marked: Indices of the frames to mark, such as `range(context_frames)`.
        gap: Width of each frame's border, in pixels of the result.
        upscale: Whole factor by which pixels are repeated.

    Returns:
        uint8 [rows * (upscale H + 2 gap), columns * (upscale W + 2 gap), 3].

    Raises:
        ValueError: if the frames cannot be laid out or a mark is outside the video.
    """
    frames = _checked("frame_strip", frames, 1, upscale)
    columns = len(frames) if columns is None else columns
    if columns < 1 or gap < 0:
        raise ValueError(f"columns {columns} must be at least 1 and gap {gap} at least 0")
    if not set(marked) <= set(range(len(frames))):
        raise ValueError(f"marked {sorted(marked)} must be indices below {len(frames)} frames")
    height, width = (size * upscale + 2 * gap for size in frames.shape[1:3])
    rows = -(-len(frames) // columns)
    cells = np.full((rows * columns, height, width, 3), 255, np.uint8)
    cells[list(marked)] = CONTEXT_COLOUR
    inside = (slice(gap, height - gap), slice(gap, width - gap))
    cells[(slice(len(frames)), *inside)] = _enlarge(frames, upscale)
    return einops.rearrange(cells, "(r c) h w d -> (r h) (c w) d", r=rows)


def frame_grid(
    videos: Sequence[np.ndarray],
    *,
    marked: Collection[int] = (),
    gap: int = 1,
    upscale: int = 1,
) -> np.ndarray:
    """Lays several videos out, a row each, so that a column shows one moment of all.

    Args:
        videos: uint8 [F, H, W, 3] each, of one shape.
        marked: Indices of the frames to mark in every video.
        gap: Width of each frame's border, in pixels of the result.
        upscale: Whole factor by which pixels are repeated.

    Returns:
        uint8 [videos * (upscale H + 2 gap), F * (upscale W + 2 gap), 3].

    Raises:
        ValueError: if the videos differ in shape or cannot be laid out.
    """
    _check_alike(videos)
    rows = [frame_strip(v, marked=marked, gap=gap, upscale=upscale) for v in videos]
    return np.concatenate(rows)


def square_frames(frames: np.ndarray, size: int) -> np.ndarray:
    """Cuts the middle square of every frame and scales it.

    Args:
        frames: uint8 [F, H, W, 3].
        size: Side of the result in pixels; scaled by area when smaller, bicubic when larger.

    Returns:
        uint8 [F, size, size, 3].
    """
    _check_frames("frames", frames)
    return np.stack([to_square(frame, size) for frame in frames])


def upscale_for(frame_size: int) -> int:
    """The whole factor that makes small frames comfortable to look at."""
    return max(1, _MIN_SHOWN_SIDE // frame_size)


def side_by_side(videos: Sequence[np.ndarray], *, gap: int = 2) -> np.ndarray:
    """Joins videos into one that plays them next to each other.

    Args:
        videos: uint8 [F, H, W, 3] each, of one shape.
        gap: Width of the white space between them, in pixels.

    Returns:
        uint8 [F, H, videos * W + (videos - 1) * gap, 3].

    Raises:
        ValueError: if the videos differ in shape.
    """
    _check_alike(videos)
    space = np.full((*videos[0].shape[:2], gap, 3), 255, np.uint8)
    parts = [part for video in videos for part in (space, video)]
    return np.concatenate(parts[1:], axis=2)


def _palette(frames: np.ndarray) -> Image.Image:
    """A Pillow image that carries up to 256 colours, chosen over at most 64 of the frames."""
    some = frames[:: -(-len(frames) // 64)]
    sheet = Image.fromarray(einops.rearrange(some, "f h w d -> (f h) w d"))
    return sheet.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1)


def _paletted(frame: np.ndarray, palette: Image.Image, upscale: int, start: int) -> av.VideoFrame:
    """One gif frame, shown from tick `start`. Undithered: dither would flicker."""
    image = Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
    colours = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)
    table = np.full((256, 4), 255, np.uint8)  # alpha, red, green, blue
    table[: len(colours), 1:] = colours
    indices = _enlarge(np.asarray(image)[None, ..., None], upscale)[0, ..., 0]
    shown = av.VideoFrame.from_ndarray((indices, table), format="pal8")
    shown.pts, shown.time_base = start, fractions.Fraction(1, _GIF_TICKS)
    return shown


def _enlarge(frames: np.ndarray, factor: int) -> np.ndarray:
    """Repeats pixels: [F, H, W, C] -> [F, factor H, factor W, C]."""
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _checked(path: str | os.PathLike, frames: np.ndarray, fps: float, upscale: int) -> np.ndarray:
    """The frames, if they, the rate and the factor can be written."""
    _check_frames(path, frames)
    if not (math.isfinite(fps) and fps >= 0.01):
        raise ValueError(f"{path}: fps is {fps}: give frames per second, 0.01 or more")
    if not (isinstance(upscale, int) and upscale >= 1):
        raise ValueError(f"{path}: upscale is {upscale}: give a whole factor of 1 or more")
    return frames


def _check_frames(path: str | os.PathLike, frames: np.ndarray) -> None:
    """Raises ValueError unless the frames are uint8 [F, H, W, 3] and not empty."""
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        kind = getattr(frames, "dtype", type(frames).__name__)
        raise ValueError(f"{path}: frames are {kind}: give a numpy array of uint8, 0 to 255")
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"{path}: frames have shape {frames.shape}: give [F, H, W, 3], RGB")
    if not frames.size:
        raise ValueError(f"{path}: frames of shape {frames.shape} are empty: give at least one")


def _check_alike(videos: Sequence[np.ndarray]) -> None:
    """Raises ValueError unless there are videos and all have one shape."""
    shapes = sorted({video.shape for video in videos})
    if not shapes:
        raise ValueError("no videos: give at least one")
    if len(shapes) > 1:
        raise ValueError(f"videos have shapes {shapes}: cut or resize them to one shape")
    _check_frames("videos", videos[0])

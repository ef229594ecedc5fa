"""Uploaded contexts: what is accepted, and the few small frames that are kept of them."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from maskflow_jax.data.preparation.frame_transforms import resample
from maskflow_jax.generation.contexts import IMAGES
from maskflow_jax.io.resizing import to_square
from maskflow_jax.io.video_decoding import TimedFrame, iterate_frames, read_header

VIDEOS = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
TYPES = (*IMAGES, *VIDEOS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """What an upload may be at most.

    Attributes:
        megabytes: Size of the file.
        side: Height and width of its frames, in pixels.
        seconds: Length of what is kept of a video, from its beginning.
    """

    megabytes: float = 20.0
    side: int = 4096
    seconds: float = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """Uploaded frames; the file is gone.

    Attributes:
        name: Name of the file.
        frames: uint8 [F, S, S, 3].
        fps: Frames per second at which they were picked.
    """

    name: str
    frames: np.ndarray
    fps: float

    def __str__(self) -> str:
        count = len(self.frames)
        return f"{self.name}: {count} frames" if count > 1 else f"{self.name}: an image"


def read_upload(path: str | Path, *, fps: float, size: int, limits: UploadLimits) -> np.ndarray:
    """Reads the frames of an uploaded file.

    Every frame is reduced as soon as it is decoded, so that memory does not grow with the file.

    Args:
        path: The file.
        fps: Frames per second of the model, at which frames are picked.
        size: Side of the model's frames.
        limits: What is refused.

    Returns:
        uint8 [F, size, size, 3]: one frame of an image.

    Raises:
        ValueError: if the file is of another type, too large, or broken.
        FileNotFoundError: if it is gone.
    """
    path = Path(path)
    if path.suffix.lower() not in TYPES:
        raise ValueError(f"{path.name} is no video or image; upload one of {', '.join(TYPES)}")
    megabytes = path.stat().st_size / 1e6
    if megabytes > limits.megabytes:
        raise ValueError(
            f"{path.name} has {megabytes:.1f} MB, at most {limits.megabytes:g} MB are taken; cut "
            "or shrink it"
        )
    try:
        if path.suffix.lower() in IMAGES:
            return to_square(_read_image(path, limits), size)[None]
        return _read_video(path, fps, size, limits)
    except ValueError as error:
        # The name of the file alone: the visitor knows nothing of the server's folders.
        raise ValueError(str(error).replace(str(path), path.name)) from error


def _read_image(path: Path, limits: UploadLimits) -> np.ndarray:
    """An image as uint8 [H, W, 3]; its size is looked at before it is decoded."""
    try:
        with Image.open(path) as image:
            _check_side(path, image.width, image.height, limits)
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name} cannot be read as an image: {error}") from error


def _read_video(path: Path, fps: float, size: int, limits: UploadLimits) -> np.ndarray:
    header = read_header(path)
    _check_side(path, header.width, header.height, limits)
    small = (
        TimedFrame(to_square(frame.pixels, size), *frame[1:]) for frame in _checked(path, limits)
    )
    count = max(1, round(limits.seconds * fps))
    return np.stack(list(itertools.islice(resample(small, fps), count)))


def _checked(path: Path, limits: UploadLimits):
    """The frames of a video; a header may lie about their size."""
    for frame in iterate_frames(path):
        _check_side(path, *frame.pixels.shape[1::-1], limits)
        yield frame


def _check_side(path: Path, width: int, height: int, limits: UploadLimits) -> None:
    if max(width, height) > limits.side:
        raise ValueError(
            f"{path.name} has {width}x{height} pixels, at most {limits.side} on a side are taken; "
            "shrink it"
        )

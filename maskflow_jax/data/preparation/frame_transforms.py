"""From the frames of a file to the frames of a dataset: rate, length, crop and size.

Frames are processed one at a time. In time: output frame j is the source frame that is shown at
time j / fps after the first, so that a variable frame rate is handled correctly; then every n-th
frame is kept. In space: a given part is cut out and scaled so that its shortest side has the length
asked for, and the middle square is kept; one call of Pillow does it all.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from maskflow_jax.io.resizing import FILTERS, to_square
from maskflow_jax.io.video_decoding import TimedFrame

_INSTANT = 1e-9  # seconds; more than floating-point times are off


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameTransform:
    """How the frames of each video are processed; recorded with the dataset.

    Attributes:
        size: Height and width of the result in pixels.
        fps: Rate to resample to; by default the file's own frames are taken as they come.
        frame_interval: Distance between the frames that are kept, after resampling.
        min_frames: Length below which a result is left out.
        max_frames: Length at which a longer result is cut; by default there is no limit.
        crop: (left, top, width, height) in source pixels to cut out first; all by default.
        shortest_side: Length that the shortest side is scaled to before the middle square of `size`
            is cut out; `size` by default, and larger values show less of the picture.
        upsample: Pillow's filter to enlarge with, a name in `FILTERS`.
        downsample: Pillow's filter to shrink with.
    """

    size: int
    fps: float | None = None
    frame_interval: int = 1
    min_frames: int = 1
    max_frames: int | None = None
    crop: tuple[int, int, int, int] | None = None
    shortest_side: int | None = None
    upsample: str = "bicubic"
    downsample: str = "box"

    def __post_init__(self):
        """Raises ValueError for settings that cannot be applied."""
        for name in ("size", "frame_interval", "min_frames", "max_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: choose 1 or more")
        if self.fps is not None and not 0 < self.fps < 1000:
            raise ValueError(f"fps is {self.fps}: choose a rate above 0 and below 1000")
        if self.max_frames is not None and self.max_frames < self.min_frames:
            raise ValueError(f"max_frames {self.max_frames} is below min_frames {self.min_frames}")
        if self.shortest_side is not None and self.shortest_side < self.size:
            raise ValueError(
                f"shortest_side is {self.shortest_side}: a square of {self.size} is cut from it, "
                f"choose {self.size} or more"
            )
        if self.crop is not None and (
            len(self.crop) != 4 or min(self.crop) < 0 or 0 in self.crop[2:]
        ):
            raise ValueError(f"crop is {self.crop}: give left, top, width, height in pixels")
        for name in (self.upsample, self.downsample):
            if name not in FILTERS:
                raise ValueError(f"filter {name!r} is unknown: choose from {', '.join(FILTERS)}")

    def rate(self, source_rate: float) -> float:
        """Frames per second of the result, given the source's."""
        return (self.fps or source_rate) / self.frame_interval

    def describe(self) -> dict[str, Any]:
        """The settings as JSON gives them back."""
        settings = dataclasses.asdict(self)
        return settings | {"crop": None if self.crop is None else list(self.crop)}


def transform_frames(
    frames: Iterable[TimedFrame], transform: FrameTransform
) -> Iterator[np.ndarray]:
    """Applies a transform to a video.

    The source is read to its end, unless `max_frames` are reached before.

    Args:
        frames: Frames of the video; starts must not decrease.
        transform: Transform to apply.

    Yields:
        uint8 [size, size, 3].

    Raises:
        ValueError: if the crop does not lie in the frame.
    """
    chosen = (frame.pixels for frame in frames)
    if transform.fps is not None:
        chosen = resample(frames, transform.fps)
    kept = 0
    scaled = source = None
    for index, pixels in enumerate(chosen):
        if index % transform.frame_interval:
            continue
        if pixels is not source:  # a frame that is shown again need not be scaled again
            source, scaled = pixels, fit(pixels, transform)
        yield scaled
        kept += 1
        if kept == transform.max_frames:
            return


def resample(frames: Iterable[TimedFrame], fps: float) -> Iterator[np.ndarray]:
    """Yields the pixels that are shown at times 0, 1 / fps, 2 / fps, ... after the first frame.

    The last frame is shown for its duration; where that is unknown, for the mean of the other
    frames' times. A single frame is shown once.
    """
    shown, count, first, index = None, 0, 0.0, 0
    for frame in frames:
        if shown is None:
            first = frame.start
        else:
            until = frame.start - frame.rounding - first - _INSTANT
            while index / fps < until:
                yield shown.pixels
                index += 1
        shown = frame
        count += 1
    if shown is None:
        return
    duration = shown.duration or (shown.start - first) / max(count - 1, 1)
    end = shown.start + duration - first - max(_INSTANT, shown.rounding)
    while index == 0 or index / fps < end:
        yield shown.pixels
        index += 1


def fit(pixels: np.ndarray, transform: FrameTransform) -> np.ndarray:
    """Crops and scales one frame.

    Args:
        pixels: uint8 [H, W, 3].
        transform: Transform, of which `crop`, `shortest_side`, `size` and the filters are used.

    Returns:
        uint8 [size, size, 3].

    Raises:
        ValueError: if the crop does not lie in the frame.
    """
    return to_square(
        pixels,
        transform.size,
        crop=transform.crop,
        shortest_side=transform.shortest_side,
        upsample=transform.upsample,
        downsample=transform.downsample,
    )

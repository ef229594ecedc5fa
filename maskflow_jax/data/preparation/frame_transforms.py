"""From the frames of a file to the frames of a dataset: rate, length, crop and size.

Everything streams, one frame at a time. In time: output frame j is the source frame that is shown
at time j / fps after the first, so that a variable frame rate is right; then every n-th is kept.
In space: a given part is cut out, scaled so that its shortest side is as asked, and the middle
square is kept; one Pillow call does it all.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from maskflow_jax.io.video_decoding import TimedFrame

FILTERS = {filter.name.lower(): filter for filter in Image.Resampling}

_MAX_GAP = 60.0  # seconds that one frame may be shown; more is a wrong timestamp
_INSTANT = 1e-9  # seconds; more than floating-point times are off


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameTransform:
    """What is done to each video, and recorded with the dataset.

    Attributes:
        size: height and width of the result in pixels.
        fps: rate to resample to; by default the file's own frames are taken as they come.
        frame_interval: keeps every n-th frame, after resampling.
        min_frames: shorter results are left out.
        max_frames: the rest of longer results is left out; by default there is no limit.
        crop: (left, top, width, height) in source pixels to cut out first; all by default.
        shortest_side: what the shortest side is scaled to before the middle square of `size` is
            cut out; `size` by default, and larger values show less of the picture.
        upsample: Pillow's filter to enlarge with, one of `FILTERS`.
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
        """Raises ValueError for what cannot be done."""
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
        frames: the video; starts must not decrease.
        transform: what to do.

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

    The last frame is shown for its duration; where the file does not tell it, for the mean of the
    others' times, and a single frame is shown once.

    Raises:
        ValueError: if a frame is shown for so long that its timestamp must be wrong.
    """
    shown, count, first, index = None, 0, 0.0, 0
    for frame in frames:
        if shown is None:
            first = frame.start
        else:
            _check_gap(frame.start - shown.start, count)
            until = frame.start - frame.rounding - first - _INSTANT
            while index / fps < until:
                yield shown.pixels
                index += 1
        shown = frame
        count += 1
    if shown is None:
        return
    duration = shown.duration or (shown.start - first) / max(count - 1, 1)
    _check_gap(duration, count)
    end = shown.start + duration - first - max(_INSTANT, shown.rounding)
    while index == 0 or index / fps < end:
        yield shown.pixels
        index += 1


def _check_gap(seconds: float, index: int) -> None:
    """Raises ValueError rather than filling a huge gap before a frame with copies of the last."""
    if seconds > _MAX_GAP:
        raise ValueError(
            f"timestamps jump by {seconds:.0f} s at frame {index}: write new ones with `ffmpeg -r "
            "RATE -i FILE out.mp4`, where RATE is the video's true frame rate"
        )


def fit(pixels: np.ndarray, transform: FrameTransform) -> np.ndarray:
    """Crops and scales one frame.

    Args:
        pixels: uint8 [H, W, 3].
        transform: `crop`, `shortest_side`, `size` and the filters are used.

    Returns:
        uint8 [size, size, 3].

    Raises:
        ValueError: if the crop does not lie in the frame.
    """
    height, width = pixels.shape[:2]
    left, top, columns, rows = transform.crop or (0, 0, width, height)
    if left + columns > width or top + rows > height:
        raise ValueError(
            f"crop {transform.crop} (left, top, width, height) does not lie in a frame of "
            f"{width}x{height}: change --crop"
        )
    size = transform.size
    side = min(rows, columns) * size / (transform.shortest_side or size)  # source pixels to show
    # Whole pixels: nothing is interpolated where nothing is scaled.
    left, top = left + int((columns - side) // 2), top + int((rows - side) // 2)
    if side == size:
        return np.ascontiguousarray(pixels[top : top + size, left : left + size])
    filter = FILTERS[transform.upsample if size > side else transform.downsample]
    if side == int(side):
        # Cut before scaling, so that no pixel outside has a share: as `video_io.square_frames`.
        side = int(side)
        image = Image.fromarray(pixels[top : top + side, left : left + side])
        return np.asarray(image.resize((size, size), filter))
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(pixels).resize((size, size), filter, box=box))

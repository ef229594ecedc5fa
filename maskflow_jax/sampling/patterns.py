"""Patterns of known tokens: which tokens of a video are given, and which are to be sampled.

A window sampler takes any boolean pattern; this file has those with a name. Backward prediction is
prediction with the frames in reverse order (`WindowSampler.__call__`, `backward`).
"""

import math
from collections.abc import Sequence

import numpy as np

ROUNDING = 1e-6  # tolerance for shares such as 15/22


def first_and_last(shape: tuple[int, int, int], first: int, last: int = 0) -> np.ndarray:
    """Returns a pattern with known frames at the start and at the end.

    Prediction has last = 0; in-betweening and loops have both.

    Args:
        shape: Shape (L, H, W) of the video.
        first: Number of known frames at the start; 0 with last = 0 is unconditional.
        last: Number of known frames at the end.

    Returns:
        Known tokens bool [L, H, W].

    Raises:
        ValueError: if no frame is left to generate.
    """
    length = shape[0]
    if first < 0 or last < 0 or first + last >= length:
        raise ValueError(
            f"{first} first and {last} last of {length} frames known; leave at least one to make"
        )
    frame = np.arange(length)[:, None, None]
    return np.broadcast_to((frame < first) | (frame >= length - last), shape)


def read_box(texts: Sequence[str]) -> tuple[float, float, float, float]:
    """Reads the rectangle of `outside_box` from text.

    Args:
        texts: Top, left, height and width as shares of the frame's sides.

    Returns:
        The four numbers.

    Raises:
        ValueError: if they are not four numbers.
    """
    try:
        top, left, height, width = (float(text) for text in texts)
    except ValueError:
        raise ValueError(
            f"box {','.join(texts)!r} is not top,left,height,width as shares of the frame, such as "
            "0.25,0.25,0.5,0.5"
        ) from None
    return top, left, height, width


def outside_box(
    shape: tuple[int, int, int], top: float, left: float, height: float, width: float
) -> np.ndarray:
    """Returns a pattern with an unknown rectangle in every frame, for spatial in-painting.

    A token is unknown if the rectangle overlaps it.

    Args:
        shape: Shape (L, H, W) of the video.
        top: Upper edge of the rectangle, as a share of the frame's height.
        left: Left edge of the rectangle, as a share of the frame's width.
        height: Height of the rectangle, as a share of the frame's height.
        width: Width of the rectangle, as a share of the frame's width.

    Returns:
        Known tokens bool [L, H, W].

    Raises:
        ValueError: if the rectangle is empty or not inside the frame.
    """
    inside = min(top, left) >= 0 and max(top + height, left + width) <= 1 + ROUNDING
    if not (inside and min(height, width) > ROUNDING):  # NaN is outside, too
        raise ValueError(
            f"box top {top}, left {left}, height {height}, width {width} must lie in the frame: "
            "shares of its sides from 0 to 1"
        )
    known = np.ones(shape, bool)
    known[:, _touched(top, height, shape[1]), _touched(left, width, shape[2])] = False
    return known


def _touched(begin: float, size: float, side: int) -> slice:
    """Returns the tokens of a side that an interval overlaps by more than rounding."""
    first = min(side - 1, math.floor(begin * side + ROUNDING))
    return slice(first, max(first + 1, math.ceil((begin + size) * side - ROUNDING)))

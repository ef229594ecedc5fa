"""Patterns of known tokens: what is given of a video, and what is to be made.

The sampler takes any boolean pattern; these are the ones that have a name. Time-reversed tasks
(backward prediction) are prediction by a network that numbers its frames from the last (`network`).
"""

import math
from collections.abc import Sequence

import numpy as np

ROUNDING = 1e-6  # of shares such as 15/22


def first_and_last(shape: tuple[int, int, int], first: int, last: int = 0) -> np.ndarray:
    """The first and the last frames are known: prediction (last = 0), in-betweening, loops.

    Args:
        shape: (L, H, W) of the video.
        first: known frames at the start; 0 with last = 0 is unconditional.
        last: known frames at the end.

    Returns:
        Known tokens bool [L, H, W].

    Raises:
        ValueError: nothing is left to generate.
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
    """All but a rectangle of every frame is known: spatial in-painting.

    A token that the rectangle touches is unknown.

    Args:
        shape: (L, H, W) of the video.
        top: of the rectangle, as a share of the frame's height, as for the others.
        left: share of the width.
        height: share of the height.
        width: share of the width.

    Returns:
        Known tokens bool [L, H, W].

    Raises:
        ValueError: the rectangle is empty or leaves the frame.
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
    """Tokens that a stretch of a side touches, by more than the rounding of its shares."""
    first = min(side - 1, math.floor(begin * side + ROUNDING))
    return slice(first, max(first + 1, math.ceil((begin + size) * side - ROUNDING)))

"""Patterns of known tokens: what is given of a video, and what is to be made.

The sampler takes any boolean pattern; these are the ones that have a name. Time-reversed tasks
(backward prediction) are prediction on a reversed network, `views.reversed_in_time`.
"""

import math

import numpy as np


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
    if min(height, width) <= 0 or min(top, left) < 0 or max(top + height, left + width) > 1 + 1e-6:
        raise ValueError(
            f"box top {top}, left {left}, height {height}, width {width} must lie in the frame: "
            "shares of its sides from 0 to 1"
        )
    known = np.ones(shape, bool)
    rows = slice(math.floor(top * shape[1]), math.ceil((top + height) * shape[1] - 1e-6))
    columns = slice(math.floor(left * shape[2]), math.ceil((left + width) * shape[2] - 1e-6))
    known[:, rows, columns] = False
    return known

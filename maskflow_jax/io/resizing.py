"""Frames as squares of one size: what is cut out and how it is scaled."""

import numpy as np
from PIL import Image

FILTERS = {filter.name.lower(): filter for filter in Image.Resampling}


def to_square(
    pixels: np.ndarray,
    size: int,
    *,
    crop: tuple[int, int, int, int] | None = None,
    shortest_side: int | None = None,
    upsample: str = "bicubic",
    downsample: str = "box",
) -> np.ndarray:
    """Cuts the middle square out of a frame and scales it.

    Args:
        pixels: uint8 [H, W, 3].
        size: Side of the result in pixels.
        crop: (left, top, width, height) in source pixels to cut out first; all by default.
        shortest_side: Length that the shortest side is scaled to before the middle square of `size`
            is cut out; `size` by default, and larger values show less of the picture.
        upsample: Filter to enlarge with, a name in `FILTERS`.
        downsample: Filter to shrink with; "box" averages areas.

    Returns:
        uint8 [size, size, 3].

    Raises:
        ValueError: if the crop does not lie in the frame.
    """
    height, width = pixels.shape[:2]
    left, top, columns, rows = crop or (0, 0, width, height)
    if left + columns > width or top + rows > height:
        raise ValueError(
            f"crop {crop} (left, top, width, height) does not lie in a frame of {width}x{height}: "
            "choose a smaller one"
        )
    side = min(rows, columns) * size / (shortest_side or size)  # source pixels to show
    # Whole pixels: nothing is interpolated where nothing is scaled.
    left, top = left + int((columns - side) // 2), top + int((rows - side) // 2)
    if side == size:
        return np.ascontiguousarray(pixels[top : top + size, left : left + size])
    filter = FILTERS[upsample if size > side else downsample]
    if side == int(side):
        # Cut before scaling, so that no pixel outside of the square has a share.
        side = int(side)
        image = Image.fromarray(pixels[top : top + side, left : left + side])
        return np.asarray(image.resize((size, size), filter))
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(pixels).resize((size, size), filter, box=box))

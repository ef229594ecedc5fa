"""Patterns of known tokens."""

import numpy as np
import pytest

from maskflow_jax.sampling.patterns import first_and_last, outside_box, read_box


@pytest.mark.parametrize(("first", "last"), [(0, 0), (2, 0), (0, 1), (2, 3), (1, 5)])
def test_first_and_last_frames_are_known_whole(first, last):
    known = first_and_last((7, 2, 3), first, last)
    assert known.shape == (7, 2, 3)
    assert known.dtype == bool
    expected = [True] * first + [False] * (7 - first - last) + [True] * last
    np.testing.assert_array_equal(
        known, np.broadcast_to(np.reshape(expected, (7, 1, 1)), (7, 2, 3))
    )


@pytest.mark.parametrize(("first", "last"), [(7, 0), (3, 4), (9, 9), (-1, 0), (0, -1)])
def test_known_frames_that_leave_none_to_make_are_refused(first, last):
    with pytest.raises(ValueError, match="leave at least one to make"):
        first_and_last((7, 2, 3), first, last)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((0.25, 0.25, 0.5, 0.5), (1, 3), (2, 6)),
        ((0.0, 0.0, 1.0, 1.0), (0, 4), (0, 8)),
        ((0.3, 0.1, 0.01, 0.8), (1, 2), (0, 8)),  # all tokens that it touches
        ((0.75, 0.875, 0.25, 0.125), (3, 4), (7, 8)),
        ((0.5, 0.7, 0.5, 0.3), (2, 4), (5, 8)),  # 0.7 + 0.3 is no more than 1 in floats
        ((0.25, 0.375, 0.25, 0.125), (1, 2), (3, 4)),  # on the lines of the grid
    ],
)
def test_all_outside_the_box_is_known(box, rows, columns):
    known = outside_box((3, 4, 8), *box)
    expected = np.ones((3, 4, 8), bool)
    expected[:, slice(*rows), slice(*columns)] = False
    np.testing.assert_array_equal(known, expected)


def test_boxes_on_grid_lines_take_no_token_too_many():
    """Though shares are not exact in floats: 22 times 15/22 is less than 15."""
    for side in range(1, 41):
        for begin in range(side):
            for size in range(1, side - begin + 1):
                known = outside_box((1, side, 1), begin / side, 0.0, size / side, 1.0)
                np.testing.assert_array_equal(
                    np.flatnonzero(~known), np.arange(begin, begin + size)
                )


@pytest.mark.parametrize(
    "box",
    [
        (0.5, 0.5, 0.0, 0.5),
        (0.5, 0.5, 0.5, -0.1),
        (-0.1, 0.0, 0.5, 0.5),
        (0.6, 0.0, 0.5, 0.5),
        (0.0, 0.9, 0.5, 0.2),
        (float("nan"), 0.0, 0.5, 0.5),
    ],
)
def test_boxes_outside_the_frame_are_refused(box):
    with pytest.raises(ValueError, match="must lie in the frame"):
        outside_box((3, 4, 8), *box)


def test_a_box_is_read_from_text():
    assert read_box(["0.25", "0", "0.5", "1"]) == (0.25, 0.0, 0.5, 1.0)
    for texts in (["1", "2"], ["a", "b", "c", "d"], ["0"] * 5):
        with pytest.raises(ValueError, match=r"is not top,left,height,width .* such as 0\.25"):
            read_box(texts)

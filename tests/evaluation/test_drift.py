"""Drift: what each figure of a window shows, on videos that are made to show it."""

import numpy as np
import pytest

from maskflow_jax.evaluation.drift import FrameMeter, token_rows, window_slices
from maskflow_jax.evaluation.token_statistics import token_statistics

GROUPS = np.arange(8) // 2


def test_tokens_of_a_video_that_collapses():
    rng = np.random.default_rng(0)
    real = rng.integers(0, 8, (40, 4, 4, 4))
    videos = rng.integers(0, 8, (40, 12, 4, 4))
    videos[:, 4:8] %= 4  # half of the codes
    videos[:, 8:] = 3
    rows = token_rows(videos, 4, GROUPS, token_statistics(real, GROUPS))
    assert [row["code_usage"] for row in rows] == [1, 0.5, 0.125]
    assert [row["entropy"] for row in rows] == pytest.approx([3, 2, 0], abs=0.01)
    assert rows[0]["unigram"] < 0.05
    assert rows[1]["unigram"] == pytest.approx(0.5, abs=0.03)
    assert rows[2]["temporal"] > rows[1]["temporal"] > rows[0]["temporal"]
    assert "unigram" not in token_rows(videos, 4, GROUPS, None)[0]


def test_motion_and_seams():
    """Steps of 2 grey levels, of 6 at the seams 4 and 8, and none from frame 8 on."""
    steps = np.array([0, 2, 2, 2, 6, 2, 2, 2, 6, 0, 0, 0])
    frames = np.cumsum(steps).astype(np.uint8)[:, None, None, None]
    meter = FrameMeter(4, seams=(4, 8))
    for _ in range(2):
        meter.add(np.broadcast_to(frames, (12, 8, 8, 3)))
    first, second, third = meter.rows()
    assert first == {"motion_energy": 2, "seam": None}
    assert second == {"motion_energy": 3, "seam": 3}
    assert third == {"motion_energy": 1.5, "seam": None}  # nothing moves beside the seam


def test_windows_are_whole():
    assert window_slices(11, 4) == [slice(0, 4), slice(4, 8)]
    with pytest.raises(ValueError, match="choose 2 to 3"):
        window_slices(3, 4)
    with pytest.raises(ValueError, match="no videos"):
        FrameMeter(4).rows()

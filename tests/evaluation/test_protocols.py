"""The protocols of FVD: frozen, as published, and what they refuse."""

import dataclasses

import numpy as np
import pytest

from maskflow_jax.evaluation.protocols import (
    PROTOCOLS,
    check_amount,
    find_protocol,
    preprocess,
)


def test_protocols_are_frozen():
    rows = {name: tuple(dataclasses.asdict(p).values())[1:] for name, p in PROTOCOLS.items()}
    assert rows == {
        "styleganv": (1e-3, "stretch", 0, "exact", 16, "random", 2048, "raw", False),
        "videogpt": (1e-5, "short_side", 1, "svd_float32", 16, "random", None, "raw", False),
        "maskflow_official": (
            *(1e-5, "short_side", 1, "svd_float32", 16),
            *("centre", None, "reconstructed", True),
        ),
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROTOCOLS["styleganv"].ddof = 1
    with pytest.raises(ValueError, match="unknown protocol 'fvd'; choose one of styleganv"):
        find_protocol("fvd")


def test_styleganv_stretches_and_videogpt_cuts():
    """A picture whose columns tell where they were."""
    clip = np.zeros((1, 2, 30, 60, 3), np.uint8)
    clip[..., :, :] = np.arange(60, dtype=np.uint8)[:, None] * 4
    stretched = np.asarray(preprocess(PROTOCOLS["styleganv"], clip))
    cut = np.asarray(preprocess(PROTOCOLS["videogpt"], clip))
    assert stretched.shape == cut.shape == (1, 2, 224, 224, 3)
    ends = stretched[0, 0, 0, [0, -1], 0]
    np.testing.assert_allclose(ends, [-1, 59 * 4 / 127.5 - 1], atol=1e-6)
    # The middle half, 15 to 45: a column of the result is 30 / 224 columns of the clip.
    at = 15 + (np.arange(224) + 0.5) * 30 / 224 - 0.5
    np.testing.assert_allclose(cut[0, 0, 0, :, 0], at * 4 / 127.5 - 1, atol=1e-5)


def test_tall_frames_are_cut_above_and_below():
    clip = np.zeros((1, 1, 60, 30, 3), np.uint8)
    clip[:] = np.arange(60, dtype=np.uint8)[:, None, None]
    cut = np.asarray(preprocess(PROTOCOLS["maskflow_official"], clip))[0, 0, :, 0, 0]
    np.testing.assert_allclose([cut[0], cut[-1]], [14.57 / 127.5 - 1, 44.43 / 127.5 - 1], atol=1e-3)


def test_few_videos_and_short_clips_need_permission():
    check_amount(256, 10)
    check_amount(16, 9, permit_few=True)
    with pytest.raises(ValueError, match=r"255 videos.*or set permit_few"):
        check_amount(255, 16)
    with pytest.raises(ValueError, match=r"clips of 9 frames.*or set permit_few"):
        check_amount(256, 9)
    with pytest.raises(ValueError, match="I3D needs 9 or more"):
        check_amount(256, 8, permit_few=True)

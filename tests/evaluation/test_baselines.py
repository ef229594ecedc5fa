"""The baselines against laws whose entropy is known."""

import numpy as np
import pytest

from maskflow_jax.evaluation import baselines


def copying_videos(rng, probability, count=20, frames=50):
    """Videos whose tokens stay with a probability, else are drawn uniformly from 4 values."""
    videos = []
    for _ in range(count):
        video = rng.integers(0, 4, (frames, 5, 5))
        for frame in range(1, frames):
            stay = rng.random((5, 5)) < probability
            video[frame] = np.where(stay, video[frame - 1], video[frame])
        videos.append(video)
    return videos


def test_fit_finds_the_copy_probability_and_the_entropy():
    rng = np.random.default_rng(0)
    fitted = baselines.fit(copying_videos(rng, 0.7), codebook_size=4)
    assert fitted.copy_probability == pytest.approx(0.7, abs=0.02)  # standard error 0.003
    measured = baselines.measure(fitted, np.stack(copying_videos(rng, 0.7)))
    stays = 0.7 + 0.3 / 4
    entropy = -(stays * np.log(stays) + (1 - stays) * np.log(0.3 / 4))
    expected = (np.log(4) + 49 * entropy) / 50  # a clip's first frame has no frame before it
    assert measured["copy_cross_entropy"] == pytest.approx(expected, rel=0.02)
    assert measured["unigram_cross_entropy"] == pytest.approx(np.log(4), rel=0.01)
    assert measured["copy_accuracy"] == pytest.approx((0.25 + 49 * stays) / 50, abs=0.01)


def test_unigram_is_smoothed_and_follows_counts():
    fitted = baselines.fit([np.array([[[0, 0]], [[0, 1]]])], codebook_size=4)
    np.testing.assert_allclose(fitted.unigram, np.array([4, 2, 1, 1]) / 8)


def test_single_frames_are_refused():
    with pytest.raises(ValueError, match="two frames"):
        baselines.fit([np.zeros((1, 2, 2), int)], codebook_size=4)

"""The laws of the training times."""

import jax
import numpy as np
import pytest

from maskflow_jax.flow.frame_times import FRAME_TIMES, MIN_TIME


@pytest.mark.parametrize("name", FRAME_TIMES)
def test_times_have_the_shape_range_and_type(name):
    times = FRAME_TIMES[name](jax.random.key(0), 512, 8)
    assert times.shape == (512, 8)
    assert times.dtype == np.float32
    assert times.min() >= MIN_TIME
    assert times.max() <= 1


def test_frame_times_are_uniform_and_independent_across_frames():
    times = np.asarray(FRAME_TIMES["frame"](jax.random.key(1), 20_000, 2))
    # Standard errors: 0.002 for the mean, 0.007 for the correlation.
    assert abs(times.mean() - 0.5) < 0.01
    assert abs(times.var() - 1 / 12) < 0.005
    assert abs(np.corrcoef(times.T)[0, 1]) < 0.03


def test_constant_times_agree_within_a_clip_only():
    times = np.asarray(FRAME_TIMES["constant"](jax.random.key(2), 100, 5))
    assert (times == times[:, :1]).all()
    assert len(np.unique(times[:, 0])) == 100


def test_mixed_shares_one_late_time_in_a_fifth_of_the_clips():
    times = np.asarray(FRAME_TIMES["mixed"](jax.random.key(3), 20_000, 4))
    shared = (times == times[:, :1]).all(axis=1)
    assert abs(shared.mean() - 0.2) < 0.015
    assert times[shared].min() >= 0.5
    assert times[~shared].min() < 0.01

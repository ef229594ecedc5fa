"""The laws of the training times."""

import jax
import numpy as np
import pytest

from maskflow_jax.flow.frame_times import FRAME_TIMES, MIN_TIME, clean_but_last_scene


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


def test_frame_clean_makes_sets_of_frames_clean_in_half_of_the_clips():
    times = np.asarray(FRAME_TIMES["frame_clean"](jax.random.key(4), 20_000, 4))
    clean = times == 1.0
    # Of clips that may have clean frames, the share q ~ U(0, 1) leaves 4 of 4 unclean with
    # probability E[(1 - q)^4] = 1/5, and any number of clean frames is as likely as any other.
    counts = np.bincount(clean.sum(axis=1), minlength=5) / len(times)
    np.testing.assert_allclose(counts, [0.5 + 0.1, 0.1, 0.1, 0.1, 0.1], atol=0.015)
    np.testing.assert_allclose(clean.mean(axis=0), 0.25, atol=0.015)  # whichever frame
    assert abs(times[~clean].mean() - 0.5) < 0.01


def test_all_scenes_but_the_last_are_clean_in_a_share_of_the_clips():
    scene_id = np.array([[0, 0, 1, 2, 2], [0, 1, 1, 1, 1]] * 4_000)
    drawn = FRAME_TIMES["frame"](jax.random.key(4), *scene_id.shape)
    times = np.asarray(clean_but_last_scene(jax.random.key(5), drawn, scene_id, 0.3))
    last = scene_id == scene_id.max(axis=1, keepdims=True)
    chosen = (times == 1.0).any(axis=1)
    assert abs(chosen.mean() - 0.3) < 0.02  # standard error 0.005
    np.testing.assert_array_equal(times == 1.0, chosen[:, None] & ~last)
    np.testing.assert_array_equal(times[last], np.asarray(drawn)[last])
    np.testing.assert_array_equal(times[~chosen], np.asarray(drawn)[~chosen])
    never = clean_but_last_scene(jax.random.key(5), drawn, scene_id, 0.0)
    np.testing.assert_array_equal(never, drawn)

"""Matrices of times: the released ones, and what holds for all."""

from pathlib import Path

import numpy as np
import pytest
from distributions import make_schedule

from maskflow_jax.flow.schedules import SCHEDULES
from maskflow_jax.sampling.frame_schedules import (
    between,
    full_sequence,
    matched,
    pyramid,
    rolling_times,
)
from maskflow_jax.sampling.samplers.mgm import COUNTS, revealed_fractions

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "scheduling_matrix.npz")


@pytest.mark.parametrize(("num_steps", "num_frames"), [(1, 1), (20, 16), (250, 3)])
def test_full_sequence_rises_from_masked_to_clean_in_equal_steps(num_steps, num_frames):
    times = full_sequence(num_steps, num_frames)
    assert times.shape == (num_steps + 1, num_frames)
    assert times.dtype == np.float32
    assert np.all(times[0] == 0.0)
    assert np.all(times[-1] == 1.0)
    np.testing.assert_allclose(np.diff(times, axis=0), 1.0 / num_steps, atol=1e-6)


@pytest.mark.parametrize("num_frames", [16, 36])
def test_the_pyramid_is_the_released_one(num_frames):
    """There a row holds levels, 249 for masked; our times before the same passes.

    There a finished frame keeps the level of its last step, 0; here it is at time 1.
    """
    levels = REFERENCE[f"pyramid_{num_frames}"]
    times = pyramid(250, num_frames)
    assert len(times) - 1 == len(levels) == 250 + num_frames  # its number of passes
    before_the_end = np.minimum(times[:-1], 1.0 - 1 / 250)
    np.testing.assert_allclose(before_the_end, 1.0 - (levels + 1) / 250, atol=1e-6)
    np.testing.assert_array_equal(times[-1], 1.0)


@pytest.mark.parametrize("num_frames", [16, 36])
def test_full_sequence_is_the_released_one(num_frames):
    """Its 251 rows begin with the masked level twice, the first without a step before it."""
    levels = REFERENCE[f"full_sequence_{num_frames}"][1:]
    times = full_sequence(250, num_frames)
    np.testing.assert_allclose(times[:-1], 1.0 - (levels + 1) / 250, atol=1e-6)


def test_in_a_pyramid_each_frame_is_one_step_behind():
    times = pyramid(3, 4)
    for frame in range(4):
        expected = np.concatenate([np.zeros(frame + 1), [0, 1 / 3, 2 / 3], np.ones(4 - frame)])
        np.testing.assert_allclose(times[:, frame], expected, atol=1e-6)


def test_the_rolling_state_moved_by_one_frame_is_itself():
    np.testing.assert_allclose(rolling_times(6, 2), [1, 1, 0.75, 0.5, 0.25, 0.0])
    new = rolling_times(16, 2)[2:]
    np.testing.assert_allclose(new[:-1] + 0.0, new[1:] + 1 / 14)
    assert new[0] + 1 / 14 == pytest.approx(1.0)
    with pytest.raises(ValueError, match="lower context_frames"):
        rolling_times(4, 4)


def test_between_starts_and_ends_exactly():
    start, end = np.array([1.0, 0.3, 0.0]), np.array([1.0, 0.7, 1 / 3])
    times = between(start, end, 4)
    assert times.shape == (5, 3)
    np.testing.assert_array_equal(times[0], start.astype(np.float32))
    np.testing.assert_array_equal(times[-1], end.astype(np.float32))
    np.testing.assert_allclose(np.diff(times, axis=0), [(end - start) / 4] * 4, atol=1e-6)
    with pytest.raises(ValueError, match="may not fall"):
        between(end, start, 4)


@pytest.mark.parametrize("build", [full_sequence, pyramid])
def test_a_matrix_needs_a_step(build):
    with pytest.raises(ValueError, match="at least one step"):
        build(0, 3)


@pytest.mark.parametrize(
    ("schedule", "mode"),
    [(name, "arccos") for name in SCHEDULES] + [("sigmoid", mode) for mode in COUNTS],
)
def test_matched_tells_the_time_at_which_kappa_is_what_was_revealed(schedule, mode):
    kappa = make_schedule(schedule).kappa
    fractions = revealed_fractions(14 * 64, 20, mode)
    times = matched(fractions, 3, make_schedule(schedule))
    assert times.shape == (21, 3)
    assert times.dtype == np.float32
    assert times[0, 0] == 0.0
    assert times[-1, 0] == 1.0
    np.testing.assert_allclose(kappa(times[:, 2]), fractions, atol=5e-5)


def test_matched_refuses_fractions_that_do_not_rise_from_0_to_1():
    for fractions in ([0.0, 0.5], [0.1, 1.0], [0.0, 0.7, 0.6, 1.0]):
        with pytest.raises(ValueError, match="from 0 to 1"):
            matched(np.array(fractions), 2, make_schedule("linear"))

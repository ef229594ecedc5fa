"""Frame schedules: matrices from masked to clean."""

import numpy as np
import pytest

from maskflow_jax.flow.schedules import SCHEDULES, make_schedule
from maskflow_jax.sampling.frame_schedules import FRAME_SCHEDULES, full_sequence, matched
from maskflow_jax.sampling.mgm import COUNTS, revealed_fractions


@pytest.mark.parametrize("name", FRAME_SCHEDULES)
@pytest.mark.parametrize(("num_steps", "num_frames"), [(1, 1), (20, 16), (250, 3)])
def test_every_schedule_rises_from_masked_to_clean(name, num_steps, num_frames):
    times = FRAME_SCHEDULES[name](num_steps, num_frames)
    assert times.shape == (num_steps + 1, num_frames)
    assert times.dtype == np.float32
    assert np.all(times[0] == 0.0)
    assert np.all(times[-1] == 1.0)
    assert np.all(np.diff(times, axis=0) >= 0.0)


def test_full_sequence_takes_equal_steps():
    np.testing.assert_array_equal(full_sequence(4, 2)[:, 1], [0.0, 0.25, 0.5, 0.75, 1.0])


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


def test_refusals():
    with pytest.raises(ValueError, match="at least one step"):
        full_sequence(0, 4)
    for fractions in ([0.0, 0.5], [0.1, 1.0], [0.0, 0.7, 0.6, 1.0]):
        with pytest.raises(ValueError, match="from 0 to 1"):
            matched(np.array(fractions), 2, make_schedule("linear"))

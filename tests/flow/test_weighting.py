"""Loss weights against the released implementation and against their definitions."""

import re
from pathlib import Path

import numpy as np
import pytest
from distributions import make_schedule

from maskflow_jax.flow.schedules import SCHEDULES
from maskflow_jax.flow.weighting import WEIGHTINGS, elbo, none, snr

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "loss_weights.npz")
ENDS = np.array([[0.0, 1e-3, 0.5, 1 - 1e-7, 1.0]], np.float32)


@pytest.mark.parametrize("name", [name for name in REFERENCE if name.startswith("w_")])
def test_snr_matches_the_released_implementation(name):
    schedule, kind, decay, clip = re.fullmatch(r"w_(\w+?)_(fused|clipped)_(.+)_(.+)", name).groups()
    weights = snr(
        make_schedule(schedule),
        REFERENCE["noise_levels"],
        fused=kind == "fused",
        decay=float(decay),
        clip=float(clip),
    )
    np.testing.assert_allclose(weights, REFERENCE[name], rtol=1e-5, atol=1e-5)


def test_snr_of_the_paper_is_the_printed_ratio():
    times = np.array([[0.1, 0.6, 0.9]], np.float32)
    weights = snr(make_schedule("linear"), times, form="paper")
    np.testing.assert_allclose(weights, np.minimum(times**2 / (1 - times**2), 6), rtol=1e-5)
    with pytest.raises(ValueError, match="released, paper"):
        snr(make_schedule("linear"), times, form="typo")


def test_fused_weight_of_a_masked_frame_grows_with_clean_frames_before_it():
    schedule = make_schedule("linear")
    after_clean = snr(schedule, np.array([[1.0, 1.0, 0.1]], np.float32), fused=True)
    after_masked = snr(schedule, np.array([[0.1, 0.1, 0.1]], np.float32), fused=True)
    assert after_clean[0, 2] > 10 * after_masked[0, 2]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", WEIGHTINGS)
@pytest.mark.parametrize("fused", [False, True])
def test_weights_are_finite_and_non_negative_everywhere(schedule, name, fused):
    settings = {"fused": fused} if name == "snr" else {}
    weights = np.asarray(WEIGHTINGS[name](make_schedule(schedule), ENDS, **settings))
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()


def test_none_and_elbo_are_their_definitions():
    times = np.array([[0.25, 0.5]], np.float32)
    np.testing.assert_array_equal(none(make_schedule("linear"), times), 1)
    np.testing.assert_allclose(elbo(make_schedule("linear"), times), 1 / (1 - times), rtol=1e-6)

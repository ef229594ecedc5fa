"""Flow-matching rule: its transition law; `test_known_laws` has the joint laws it samples."""

import jax.numpy as jnp
import numpy as np
import pytest
from distributions import follows, independent_proposal, make_schedule, quick_jit, sample_keys

from maskflow_jax.flow.schedules import SCHEDULES
from maskflow_jax.sampling.frame_schedules import full_sequence
from maskflow_jax.sampling.samplers.fm import FM, TRANSITIONS
from maskflow_jax.sampling.types import Proposal, WindowTokens
from maskflow_jax.sampling.window import sample_window

LAW = np.array([0.5, 0.25, 0.15, 0.1])


def run(sampler, schedule, propose, times, num_samples, shape, mask_id, seed=0):
    unknown = jnp.zeros((num_samples, *shape), jnp.int32)
    sample = quick_jit(
        lambda keys: sample_window(
            keys,
            WindowTokens(unknown, unknown > 0),
            times,
            propose,
            sampler.step,
            mask_id=mask_id,
            schedule=schedule,
        )
    )
    return sample(sample_keys(seed, num_samples))


@pytest.mark.parametrize("num_steps", [1, 3, 20])
def test_exact_samples_an_independent_law_at_any_number_of_steps(num_steps):
    schedule, times = make_schedule("sigmoid"), full_sequence(num_steps, 2)
    tokens, reveal_step = run(
        FM(), schedule, independent_proposal(LAW), times, 1000, (2, 1, 5), len(LAW)
    )
    assert follows(np.bincount(np.ravel(tokens), minlength=len(LAW)), LAW)
    if num_steps > 1:  # the probability path itself: revealed in step i with kappa's increment
        steps = np.bincount(np.ravel(reveal_step), minlength=num_steps)
        assert follows(steps, np.diff(_kappa(schedule, times)))


def _kappa(schedule, times):
    return np.asarray(schedule.kappa(times[:, 0]), np.float64)


def test_euler_reveals_at_the_rate_of_the_chain():
    schedule, times = make_schedule("cosine"), full_sequence(5, 1)
    _, reveal_step = run(
        FM(transition="euler"), schedule, zeros_proposal, times, 4000, (1, 1, 5), mask_id=1
    )
    t = times[:-1, 0].astype(np.float64)
    hazard = np.minimum(1.0, 0.2 * 0.5 * np.pi * np.sin(0.5 * np.pi * t) / np.cos(0.5 * np.pi * t))
    hazard[-1] = 1.0
    survival = np.concatenate([[1.0], np.cumprod(1.0 - hazard)[:-1]])
    counts = np.bincount(np.ravel(reveal_step), minlength=5)
    assert follows(counts, survival * hazard)
    assert not follows(counts, np.diff(_kappa(schedule, times)))


def zeros_proposal(keys, x, step):
    return Proposal(jnp.zeros_like(x), jnp.zeros(x.shape))


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_no_token_stays_masked(transition):
    """For every schedule, in one step and in seven."""
    unknown = jnp.zeros((4, 3, 1, 16), jnp.int32)
    names = [name for name in SCHEDULES if name != "root" or transition == "exact"]
    cases = [(name, num_steps) for name in names for num_steps in (1, 7)]

    @quick_jit
    def reveal_steps(keys):
        return [
            sample_window(
                keys,
                WindowTokens(unknown, unknown > 0),
                full_sequence(num_steps, 3),
                zeros_proposal,
                FM(transition=transition).step,
                mask_id=1,
                schedule=make_schedule(name),
            )
            for name, num_steps in cases
        ]

    for (_, num_steps), (tokens, reveal_step) in zip(
        cases, reveal_steps(sample_keys(0, 4)), strict=True
    ):
        assert np.all(np.asarray(tokens) == 0)
        assert np.all((np.asarray(reveal_step) >= 0) & (np.asarray(reveal_step) < num_steps))


def test_adaptive_is_euler_on_a_fixed_grid():
    schedule, times = make_schedule("sigmoid"), full_sequence(9, 2)
    euler, adaptive = (
        np.asarray(
            run(FM(transition=transition), schedule, zeros_proposal, times, 50, (2, 1, 8), 1)[1]
        )
        for transition in ("euler", "adaptive")
    )
    assert np.mean(euler == adaptive) > 0.999  # but for float rounding
    assert len(np.unique(euler)) == 9


def test_frames_follow_their_own_times():
    """A pyramid: waiting frames reveal nothing, a frame already at time 1 is revealed at once."""
    times = np.array([[0, 0, 1], [1, 0, 1], [1, 0, 1], [1, 1, 1]], np.float32)
    _, reveal_step = run(
        FM(), make_schedule("linear"), zeros_proposal, times, 4, (3, 1, 6), mask_id=1
    )
    for frame, step in enumerate([0, 2, 0]):
        assert np.all(np.asarray(reveal_step)[:, frame] == step)


def test_transitions_that_are_none_are_refused():
    with pytest.raises(ValueError, match="infinite rate"):
        run(
            FM(transition="euler"),
            make_schedule("root"),
            zeros_proposal,
            np.eye(2),
            1,
            (2, 1, 1),
            1,
        )
    with pytest.raises(ValueError, match="exact"):
        FM(transition="heun")

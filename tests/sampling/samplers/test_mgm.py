"""MGM rule: exact counts whatever the confidences, and the bias of confidence order."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import follows, independent_proposal, quick_jit, sample_keys

from maskflow_jax.sampling.frame_schedules import full_sequence
from maskflow_jax.sampling.samplers.mgm import (
    COUNTS,
    MGM,
    NOISES,
    revealed_fractions,
    unmask_counts,
)
from maskflow_jax.sampling.types import Proposal, WindowTokens
from maskflow_jax.sampling.window import sample_window

REFERENCE = np.load(Path(__file__).parents[2] / "reference" / "unmask_schedule.npz")


def run(rule, propose, num_steps, known, mask_id, seed=0):
    times = full_sequence(num_steps, known.shape[1])
    tokens = jnp.zeros(known.shape, jnp.int32)
    sampler = quick_jit(
        lambda keys: sample_window(
            keys, WindowTokens(tokens, known), times, propose, rule, mask_id=mask_id
        )
    )
    return sampler(sample_keys(seed, known.shape[0]))


def fixed_confidence(confidence):
    """Proposes token 0 everywhere with given confidences, broadcast to the window."""
    return lambda keys, x, t: Proposal(
        jnp.zeros_like(x), jnp.broadcast_to(jnp.asarray(confidence, jnp.float32), x.shape)
    )


@pytest.mark.parametrize("mode", COUNTS)
@pytest.mark.parametrize("num_steps", [1, 2, 20])
def test_counts_sum_exactly_and_every_step_reveals(mode, num_steps):
    num_masked = np.array([0, 1, 2, 7, 19, 20, 21, 100, 1000, 14 * 1024, 36 * 1024, 1_000_003])
    counts = np.asarray(unmask_counts(num_masked, num_steps, mode))
    assert counts.shape == (len(num_masked), num_steps)
    assert counts.dtype == np.int32
    np.testing.assert_array_equal(counts.sum(axis=1), num_masked)
    assert np.all(counts >= 0)
    assert np.all(counts[num_masked >= num_steps] >= 1)
    assert np.all(counts[num_masked < num_steps] <= 1)


@pytest.mark.parametrize("name", REFERENCE.files)
def test_counts_follow_the_released_schedule(name):
    """The same shares of the same total; rounding and the first, empty step may differ by one."""
    mode, num_steps, num_tokens = name.split("_")
    counts = np.asarray(unmask_counts(np.array([int(num_tokens)]), int(num_steps), mode)[0])
    released = REFERENCE[name]
    assert np.max(np.abs(counts - released)[:-1]) <= 1
    assert abs(counts[-1] - released[-1]) <= int(num_steps) // 2  # takes what rounding left


@pytest.mark.parametrize("noise", NOISES)
def test_each_step_reveals_its_count_though_all_confidences_tie(noise):
    confidence = jnp.array([-1.0, -jnp.inf, jnp.nan, 0.0])[:, None, None, None]  # by sample
    known = jax.random.bernoulli(jax.random.key(0), jnp.array([0.0, 0.3, 0.5, 0.9]), (3, 4, 5, 4))
    known = jnp.moveaxis(known, -1, 0)  # [4, 3, 4, 5], another number of known tokens per sample
    rule = MGM(num_steps=6, counts="cosine", noise=noise).step
    tokens, reveal_step = run(rule, fixed_confidence(confidence), 6, known, mask_id=1)
    expected = unmask_counts(jnp.sum(~known, axis=(1, 2, 3)), 6, "cosine")
    for sample in range(4):
        steps = np.asarray(reveal_step)[sample]
        counts = np.bincount(steps[steps >= 0], minlength=6)
        np.testing.assert_array_equal(counts, expected[sample])
        np.testing.assert_array_equal(steps == -1, known[sample])
    assert np.all(np.asarray(tokens) == 0)


def test_ties_go_to_the_earlier_token():
    known = jnp.zeros((1, 2, 2, 3), bool)
    _, reveal_step = run(
        MGM(num_steps=4, counts="constant").step, fixed_confidence(-1.0), 4, known, mask_id=1
    )
    np.testing.assert_array_equal(np.ravel(reveal_step), np.repeat(np.arange(4), 3))


def test_the_most_confident_of_the_whole_window_go_first():
    confidence = jax.random.normal(jax.random.key(1), (2, 3, 4, 4))
    known = jax.random.bernoulli(jax.random.key(2), 0.3, confidence.shape)
    _, reveal_step = run(MGM(num_steps=5).step, fixed_confidence(confidence), 5, known, mask_id=1)
    for sample in range(2):
        steps, value = np.ravel(reveal_step[sample]), np.ravel(confidence[sample])
        by_confidence = steps[np.argsort(-value)]
        assert np.all(np.diff(by_confidence[by_confidence >= 0]) >= 0)


def test_linear_noise_fades_to_nothing():
    key, log_confidence = jax.random.key(0), jnp.zeros((10, 20, 20))
    first, middle, last = (NOISES["linear"](key, log_confidence, i, 9, 4.5) for i in (0, 4, 8))
    gumbel_deviation = np.pi / 6**0.5
    assert abs(float(jnp.std(first)) - 4.5 * gumbel_deviation) < 0.3
    np.testing.assert_allclose(middle, first / 2, rtol=1e-5)
    np.testing.assert_array_equal(last, log_confidence)


def test_warm_up_is_random_for_two_steps_then_by_confidence():
    known = jnp.zeros((40, 1, 1, 8), bool)
    confidence = -jnp.arange(8.0)
    _, reveal_step = run(
        MGM(num_steps=8, counts="constant", noise="warm_up").step,
        fixed_confidence(confidence),
        8,
        known,
        1,
    )
    steps = np.asarray(reveal_step)[:, 0, 0]
    first = np.argmax(steps == 0, axis=1)
    assert len(set(first.tolist())) > 4
    for sample in steps:
        assert np.all(np.diff(sample[sample >= 2]) > 0)


def test_random_order_is_uniform_whatever_the_confidence():
    known = jnp.zeros((3000, 1, 1, 4), bool)
    rule = MGM(num_steps=4, counts="constant", noise="random").step
    _, reveal_step = run(rule, fixed_confidence(-jnp.arange(4.0) * 10), 4, known, 1)
    orders = np.asarray(reveal_step)[:, 0, 0] @ np.array([64, 16, 4, 1])
    _, counts = np.unique(orders, return_counts=True)
    assert follows(counts, np.full(24, 1 / 24))


def test_confidence_order_is_biased_as_computed():
    """Two independent tokens, law (p, q): the likelier draw is kept, the other drawn again."""
    p, q = 0.7, 0.3
    known = jnp.zeros((20_000, 1, 1, 2), bool)
    tokens, _ = run(MGM(num_steps=2).step, independent_proposal([p, q]), 2, known, mask_id=2)
    counts = np.bincount(np.asarray(tokens).reshape(-1, 2) @ np.array([2, 1]), minlength=4)
    assert follows(counts, np.array([p * p * (1 + q), p * q, 2 * p * q * q, q**3]))
    assert not follows(counts, np.array([p * p, p * q, q * p, q * q]))


def test_revealed_fractions_are_what_is_revealed():
    known = jnp.zeros((1, 2, 5, 6), bool)
    _, reveal_step = run(
        MGM(num_steps=7, counts="square").step, fixed_confidence(-1.0), 7, known, mask_id=1
    )
    steps = np.ravel(reveal_step)
    expected = [np.mean(steps < i) for i in range(8)]
    np.testing.assert_allclose(revealed_fractions(60, 7, "square"), expected, atol=1e-12)
    traced = quick_jit(lambda: jnp.asarray(revealed_fractions(60, 7, "square")))()
    np.testing.assert_allclose(traced, expected, atol=1e-6)


def test_refusals_name_the_fix():
    with pytest.raises(ValueError, match="arccos"):
        MGM(num_steps=20, counts="tan")
    with pytest.raises(ValueError, match="warm_up"):
        MGM(noise="loud")
    with pytest.raises(ValueError, match="num_steps is 0"):
        MGM(num_steps=0)
    with pytest.raises(ValueError, match="without unknown"):
        revealed_fractions(0, 5)
    with pytest.raises(ValueError, match="plans 5 steps, the matrix of times has 4"):
        run(
            MGM(num_steps=5).step,
            fixed_confidence(-1.0),
            4,
            jnp.zeros((1, 1, 1, 8), bool),
            mask_id=1,
        )

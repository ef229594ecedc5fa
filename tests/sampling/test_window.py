"""The sampling loop: what holds for every rule, every pattern of known tokens and every batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import make_schedule, quick_jit, random_tokens, sample_keys

from maskflow_jax.sampling.frame_schedules import full_sequence
from maskflow_jax.sampling.samplers import FM, MGM
from maskflow_jax.sampling.types import Proposal, WindowTokens
from maskflow_jax.sampling.window import sample_window

B, T, H, W, K, S = 4, 3, 4, 5, 50, 6
TIMES = full_sequence(S, T)
SCHEDULE = make_schedule("sigmoid")
RULES = {
    "fm_exact": FM().step,
    "fm_euler": FM(transition="euler").step,
    "mgm": MGM(num_steps=S).step,
    "mgm_linear_noise": MGM(num_steps=S, counts="root", noise="linear").step,
    "mgm_random": MGM(num_steps=S, counts="linear", noise="random").step,
}


def mixing_propose(keys, x, step):
    """Random tokens that depend on the key, on every token of the sample and on its times."""
    state = jnp.sum(x, axis=(1, 2, 3)) + jnp.sum(1000.0 * step.t, axis=1).astype(jnp.int32)
    keys = jax.vmap(jax.random.fold_in)(keys, state)
    tokens = random_tokens(keys, x.shape[1:], K)
    return Proposal(tokens, -tokens.astype(jnp.float32))


def context(seed):
    """Tokens and a random pattern of known ones: from few to many, sample 1 with a known frame."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, K, (B, T, H, W)).astype(np.int32)
    known = rng.random((B, T, H, W)) < np.array([0.0, 0.3, 0.6, 0.98])[:, None, None, None]
    known[1, 0] = True
    return jnp.asarray(tokens), jnp.asarray(known)


@functools.cache
def sampler(rule, propose=mixing_propose, num_steps=S, num_frames=T, **settings):
    times = full_sequence(num_steps, num_frames)
    return quick_jit(
        lambda keys, tokens, known: sample_window(
            keys,
            WindowTokens(tokens, known),
            times,
            propose,
            rule,
            mask_id=K,
            schedule=SCHEDULE,
            **settings,
        )
    )


@pytest.mark.parametrize("name", RULES)
def test_every_token_is_revealed_once_and_known_ones_are_untouched(name):
    sample = sampler(RULES[name])
    for seed in range(3):
        tokens, known = context(seed)
        sampled, reveal_step = sample(sample_keys(seed, B), tokens, known)
        assert sampled.dtype == reveal_step.dtype == jnp.int32
        np.testing.assert_array_equal(sampled[known], tokens[known])
        assert np.all((sampled >= 0) & (sampled < K))
        np.testing.assert_array_equal(reveal_step == -1, known)
        assert np.all(reveal_step < S)
        # What lies under unknown tokens is not looked at.
        garbage = jnp.where(known, tokens, 12345)
        again, _ = sample(sample_keys(seed, B), garbage, known)
        np.testing.assert_array_equal(again, sampled)


@pytest.mark.parametrize("name", RULES)
def test_a_sample_does_not_depend_on_its_batch(name):
    tokens, known = context(0)
    keys = sample_keys(7, B)
    sample = sampler(RULES[name])
    together, _ = sample(keys, tokens, known)
    alone, _ = sample(keys[2:3], tokens[2:3], known[2:3])
    np.testing.assert_array_equal(alone[0], together[2])
    shuffled, _ = sample(keys[::-1], tokens[::-1], known[::-1])
    np.testing.assert_array_equal(shuffled[::-1], together)
    other, _ = sample(sample_keys(8, B), tokens, known)
    assert not np.array_equal(other, together)


@pytest.mark.parametrize("name", RULES)
def test_a_step_sees_what_the_steps_before_revealed(name):
    """Each proposed value is the number of tokens visible: a checkable memory of the past."""

    def count_visible(keys, x, step):
        visible = jnp.sum(x != K + 99, axis=(1, 2, 3), keepdims=True)
        return Proposal(jnp.broadcast_to(visible, x.shape), jnp.zeros(x.shape))

    tokens, known = context(1)
    sampled, reveal_step = (
        np.asarray(a)
        for a in quick_jit(
            lambda keys: sample_window(
                keys,
                WindowTokens(tokens, known),
                TIMES,
                count_visible,
                RULES[name],
                mask_id=K + 99,
                schedule=SCHEDULE,
            )
        )(sample_keys(0, B))
    )
    for sample in range(B):
        for step in range(S):
            seen = np.sum(reveal_step[sample] < step)  # known tokens have step -1
            assert np.all(sampled[sample][reveal_step[sample] == step] == seen)


def test_the_network_is_called_once_a_step_at_the_times_of_the_matrix():
    passes, steps = [], []
    tokens, known = context(0)

    def recording_propose(keys, x, step):
        jax.debug.callback(lambda t: passes.append(np.asarray(t)), step.t, ordered=True)
        return mixing_propose(keys, x, step)

    def recording_rule(keys, x, proposal, step):
        jax.debug.callback(lambda *step: steps.append(step), *step[:-1], ordered=True)
        return MGM(num_steps=S).step(keys, x, proposal, step)

    jax.block_until_ready(
        sampler(recording_rule, recording_propose)(sample_keys(0, B), tokens, known)
    )
    jax.effects_barrier()
    assert len(passes) == len(steps) == S
    for i, (t, step) in enumerate(zip(passes, steps, strict=True)):
        np.testing.assert_array_equal(t, np.broadcast_to(TIMES[i], (B, T)))
        index, num_steps, rule_t, rule_s, masked, unknown, step_known, mask_id = step
        assert (int(index), int(num_steps), int(mask_id)) == (i, S, K)
        np.testing.assert_array_equal(rule_t, t)
        np.testing.assert_array_equal(rule_s, np.broadcast_to(TIMES[i + 1], (B, T)))
        np.testing.assert_array_equal(step_known, known)
        np.testing.assert_array_equal(unknown, ~np.asarray(known))
        assert not np.any(np.asarray(masked) & np.asarray(known))
    np.testing.assert_array_equal(steps[0][4], ~np.asarray(known))


def test_times_may_be_an_argument_of_the_jitted_sampler():
    tokens, known = context(0)
    constant = sampler(RULES["fm_exact"])(sample_keys(0, B), tokens, known)
    argument = quick_jit(
        lambda times: sample_window(
            sample_keys(0, B),
            WindowTokens(tokens, known),
            times,
            mixing_propose,
            RULES["fm_exact"],
            mask_id=K,
            schedule=SCHEDULE,
        )
    )(TIMES)
    for a, b in zip(constant, argument, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_broken_rule_cannot_touch_the_known_nor_hide_a_mask():
    tokens, known = context(2)
    nothing, reveal_step = sampler(lambda keys, x, proposal, step: x)(
        sample_keys(0, B), tokens, known
    )
    np.testing.assert_array_equal(nothing, np.where(known, tokens, K))
    np.testing.assert_array_equal(reveal_step, np.where(known, -1, S))
    everything, reveal_step = sampler(lambda keys, x, proposal, step: x * 0 + step.index)(
        sample_keys(0, B), tokens, known
    )
    # A revealed token's value cannot change any more.
    np.testing.assert_array_equal(everything, np.where(known, tokens, 0))
    np.testing.assert_array_equal(reveal_step, np.where(known, -1, 0))


def test_shapes_that_disagree_are_refused():
    tokens, known = context(0)
    keys = sample_keys(0, B)
    with pytest.raises(ValueError, match="one key per sample"):
        sampler(RULES["mgm"])(keys[:2], tokens, known)
    with pytest.raises(ValueError, match="one key per sample"):
        sampler(RULES["mgm"])(keys, tokens, known[:, :2])
    with pytest.raises(ValueError, match="num_frames = chunk_size"):
        sampler(RULES["mgm"], num_frames=T + 1)(keys, tokens, known)

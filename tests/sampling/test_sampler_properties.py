"""What every sampler keeps, whatever the schedule and the pattern of known tokens.

The network is a stub that reports what it is shown and answers with a hash of it: a token's value
tells which state of the window it was drawn from.
"""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import Functions, quick_jit, sample_keys, window_sampler

from maskflow_jax.flow.schedules import SCHEDULES
from maskflow_jax.sampling.samplers import SAMPLERS
from maskflow_jax.sampling.samplers.mgm import unmask_counts
from maskflow_jax.sampling.types import WindowTokens

T, H, W, S = 4, 2, 3, 5
HASHES = 97
MASK = 2 * HASHES  # a state of hash h is answered by 2h or 2h + 1, evenly
WEIGHTS = np.random.default_rng(0).integers(1, 1000, (T, H, W))
PATTERNS = ["nothing", "first", "first and last", "box", "random", "all but a token", "one new"]
B = len(PATTERNS)


def known_tokens():
    """Tokens, and a pattern of known ones for every sample."""
    rng = np.random.default_rng(1)
    known = np.zeros((B, T, H, W), bool)
    known[1, 0] = True
    known[2, [0, -1]] = True
    known[3] = np.arange(W) != 1
    known[4] = rng.random((T, H, W)) < 0.4
    known[5] = True
    known[5, 2, 1, 1] = False
    known[6] = np.arange(T)[:, None, None] != 2
    return rng.integers(0, MASK, (B, T, H, W)).astype(np.int32), known


TOKENS, KNOWN = known_tokens()


def hash_of(x):
    return ((x + 1) * WEIGHTS).sum(axis=(1, 2, 3)) % HASHES


def logits(features):
    answer = jnp.arange(MASK) // 2 == features  # [B, 1, 1, K]
    shape = (*features.shape[:2], H, W, MASK)
    return jnp.broadcast_to(jnp.where(answer, 0.0, -1e9)[:, :, None], shape)


def network(record):
    def features(x, t):
        jax.debug.callback(record, x, t, ordered=True)
        return jnp.broadcast_to(hash_of(x)[:, None, None, None], (*x.shape[:2], 1, 1))

    return features


class Stage(NamedTuple):
    """One run of the loop: the S+1 states of the window, and where tokens were revealed."""

    states: np.ndarray  # [S+1, B, T, H, W]
    times: np.ndarray  # [S, B, T], as told
    reveal_step: np.ndarray  # [B, T, H, W]


def stages_of(name):
    """Of a window by itself: rolling has no shift there."""
    return ("start", "finish") if name == "rolling" else ("chunk",)


@functools.cache
def sampler(config, schedules=tuple(SCHEDULES), context_frames=0, backward=False):
    """(keys, tokens, known) -> stages by schedule; all schedules are compiled as one."""
    shown, stages = {}, stages_of(config.name)

    @quick_jit
    def run(keys, tokens, known):
        outputs = {}
        for schedule in schedules:
            sample = window_sampler(config.name, schedule, **dataclasses.asdict(config))
            x, outputs[schedule] = jnp.where(known, tokens, MASK), []
            for stage in stages:
                calls = shown.setdefault((schedule, stage), [])
                features = network(lambda *call, calls=calls: calls.append(call))
                x, reveal_step = sample(
                    Functions(features, logits, MASK),
                    keys,
                    WindowTokens(x, known),
                    context_frames=context_frames,
                    stage=stage,
                    backward=backward,
                )
                outputs[schedule].append((x, reveal_step))
        return outputs

    def recorded(keys, tokens=TOKENS, known=KNOWN):
        for calls in shown.values():
            calls.clear()
        outputs = jax.device_get(run(keys, tokens, known))
        jax.effects_barrier()
        return {
            schedule: [
                Stage(
                    np.stack([*(x for x, _ in shown[schedule, stage]), tokens]),
                    np.stack([t for _, t in shown[schedule, stage]]),
                    reveal_step,
                )
                for stage, (tokens, reveal_step) in zip(stages, outputs[schedule], strict=True)
            ]
            for schedule in schedules
        }

    return recorded


def config_of(name, **settings):
    settings = {"strength": 0.5} | settings if name == "remdm" else settings
    return SAMPLERS[name](num_steps=S, **settings)


def steps_of(config):
    return S + T if config.name == "pyramid" else S


@pytest.fixture(scope="module", params=SAMPLERS)
def config(request):
    return config_of(request.param)


@pytest.fixture(scope="module")
def runs(config):
    return sampler(config)(sample_keys(0, B))


def each_stage(runs):
    return [stage for stages in runs.values() for stage in stages]


def test_known_tokens_stay_and_no_mask_is_left(runs):
    assert len(runs) == 9
    for stages in runs.values():
        np.testing.assert_array_equal(stages[0].states[0], np.where(KNOWN, TOKENS, MASK))
        assert np.all((stages[-1].states[-1] >= 0) & (stages[-1].states[-1] < MASK))
        for before, after in itertools.pairwise(stages):  # nothing is lost between them
            np.testing.assert_array_equal(after.states[0], before.states[-1])
        for stage in stages:
            for state in stage.states:
                np.testing.assert_array_equal(state[KNOWN], TOKENS[KNOWN])


def test_the_network_is_asked_as_often_as_planned(config, runs):
    for stage in each_stage(runs):
        assert len(stage.times) == steps_of(config)


def test_each_token_is_revealed_once_and_stays(config, runs):
    """With remasking it may go back to the mask, but takes no other value on the way."""
    for states, _, _ in each_stage(runs):
        before, after = states[:-1], states[1:]
        if config.name == "remdm":
            assert np.all((before == after) | (before == MASK) | (after == MASK))
        else:
            assert np.all((before == after) | (before == MASK))
    remasked = any(np.any((s[:-1] < MASK) & (s[1:] == MASK)) for s, _, _ in each_stage(runs))
    assert remasked is (config.name == "remdm")


def test_the_reveal_step_is_the_last_step_that_revealed(runs):
    for states, _, reveal_step in each_stage(runs):
        masked = states == MASK
        steps = len(states) - 1
        revealed = masked[:-1] & ~masked[1:]  # [S, B, T, H, W]
        last = steps - 1 - np.argmax(revealed[::-1], axis=0)
        expected = np.where(masked[-1], steps, np.where(masked[0], last, -1))
        np.testing.assert_array_equal(reveal_step, expected)


def check_answers(states):
    """Tokens that a step reveals are drawn from the window as it was before the step."""
    for before, after in itertools.pairwise(states):
        answers = np.broadcast_to(hash_of(before)[:, None, None, None], before.shape)
        revealed = (before == MASK) & (after < MASK)
        np.testing.assert_array_equal(after[revealed] // 2, answers[revealed])


def test_a_step_answers_to_what_the_steps_before_revealed(runs):
    for states, _, _ in each_stage(runs):
        check_answers(states)


@pytest.mark.parametrize("name", ["mgm", "halton"])
def test_a_step_reveals_its_count(name):
    """mgm of the window and halton of each frame, though all confidences tie."""
    for (stage,) in sampler(config_of(name))(sample_keys(0, B)).values():
        steps = stage.reveal_step.reshape((B, -1) if name == "mgm" else (B * T, -1))
        expected = unmask_counts(np.sum(steps >= 0, axis=1), S)
        for i in range(S):
            np.testing.assert_array_equal(np.sum(steps == i, axis=1), expected[:, i])


def final(runs):
    return np.stack([stages[-1].states[-1] for stages in runs.values()])  # [schedules, B, T, H, W]


def test_a_sample_is_its_key_and_its_tokens_alone(config, runs):
    run, keys = sampler(config), sample_keys(0, B)
    np.testing.assert_array_equal(final(run(keys)), final(runs))
    backwards = run(keys[::-1], TOKENS[::-1], KNOWN[::-1])
    np.testing.assert_array_equal(final(backwards)[:, ::-1], final(runs))
    # Other neighbours, and other values under the unknown tokens.
    mine = np.arange(B) == 4
    others = np.where(KNOWN & mine[:, None, None, None], TOKENS, 7)
    keys = jax.random.wrap_key_data(
        jnp.where(mine[:, None], jax.random.key_data(keys), jax.random.key_data(sample_keys(9, B)))
    )
    changed = final(run(keys, others))
    np.testing.assert_array_equal(changed[:, 4], final(runs)[:, 4])
    for sample in set(range(B)) - {4}:
        assert not np.array_equal(changed[:, sample], final(runs)[:, sample])
    alone = sampler(config, ("sigmoid",))(keys[4:5], TOKENS[4:5], KNOWN[4:5])
    np.testing.assert_array_equal(final(alone)[0, 0], final(runs)[list(runs).index("sigmoid"), 4])


def test_remdm_without_remasking_is_flow_matching():
    schedules = ("sigmoid", "cosine", "arccos")
    with_remdm = sampler(config_of("remdm", strength=0.0), schedules)(sample_keys(0, B))
    with_fm = sampler(config_of("fm"))(sample_keys(0, B))
    for schedule in schedules:
        for a, b in zip(with_remdm[schedule], with_fm[schedule], strict=True):
            np.testing.assert_array_equal(a.states, b.states)
            np.testing.assert_array_equal(a.times, b.times)


@pytest.mark.parametrize("name", ["mgm", "halton", "remdm"])
def test_the_head_need_not_run_on_context(name):
    """The network of this test is blind to times: mgm's are another matrix for another context."""
    known = KNOWN | (np.arange(T) == 0)[:, None, None]
    whole = sampler(config_of(name))(sample_keys(0, B), known=known)["sigmoid"]
    part = sampler(config_of(name), ("sigmoid",), 1)(sample_keys(0, B), known=known)["sigmoid"]
    np.testing.assert_array_equal(part[0].states, whole[0].states)


@pytest.mark.parametrize("name", ["mgm", "pyramid", "rolling"])
def test_backward_sampling_shows_the_network_the_frames_in_order(name):
    known = np.broadcast_to((np.arange(T) < 2)[:, None, None], KNOWN.shape)
    backward = sampler(config_of(name), ("sigmoid",), 2, backward=True)
    for states, times, _ in backward(sample_keys(0, B), known=known)["sigmoid"]:
        # The states are what the network saw, but for the last: that is the sampler's, reversed.
        states = [*states[:-1], states[-1][:, ::-1]]
        for state in states:
            np.testing.assert_array_equal(state[:, -2:], TOKENS[:, 1::-1])
        assert np.all(times[:, :, -2:] == 1.0)
        check_answers(states)

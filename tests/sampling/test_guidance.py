"""Partial context guidance: what its three passes see, and what becomes of their logits."""

import jax.numpy as jnp
import numpy as np
import pytest
from distributions import (
    Functions,
    make_schedule,
    proposer,
    quick_jit,
    sample_keys,
    step_at,
    window_sampler,
)

from maskflow_jax.sampling.guidance import EVALUATIONS, Guidance
from maskflow_jax.sampling.proposal import Decoding
from maskflow_jax.sampling.types import WindowTokens
from maskflow_jax.sampling.views import View

B, T, H, W, K = 2, 3, 4, 5, 11
SCHEDULE = make_schedule("sigmoid")
VIEW = View(schedule=SCHEDULE)
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(H, W, K)).astype(np.float32)
TOKENS = RNG.integers(0, K, (B, T, H, W)).astype(np.int32)


def features(x, t):
    """Of every frame: how many tokens the whole window shows, and the time told."""
    visible = jnp.sum(x != K, axis=(1, 2, 3), dtype=jnp.float32)  # [B]
    return jnp.stack([jnp.broadcast_to(visible[:, None], t.shape), t], -1)[:, :, None]


def logits(features):
    """Another function of both for every class."""
    visible, t = features[:, :, 0, 0], features[:, :, 0, 1]
    scale = (0.05 * visible + t)[:, :, None, None, None]
    return jnp.sin(3.0 * TABLE + scale)


def state(index=0, num_steps=4):
    """A known frame, a frame with a few tokens revealed, a masked one."""
    frame = jnp.arange(T)[:, None, None]
    x = jnp.where((frame == 2) | ((frame == 1) & (jnp.arange(W) > 0)), K, TOKENS)
    known = jnp.broadcast_to(frame == 0, x.shape)
    t = jnp.broadcast_to(jnp.array([0.2, 0.2, 0.0]), (B, T))
    return x, step_at(x, t, known=known, index=index, num_steps=num_steps, mask_id=K)


def test_the_proposal_is_drawn_from_the_combined_logits():
    """The same draw from logits that are combined here."""
    x, step = state()

    @quick_jit
    def proposals(keys):
        seen = []

        def recording_features(x, t):
            seen.append((x, t))
            return features(x, t)

        guidance = Guidance(weight=1.7, time=0.6)
        guided = proposer(recording_features, logits, view=VIEW, guidance=guidance)
        guided = guided(keys, x, step)
        full, partial, blank = (logits(features(*of_view)) for of_view in seen)
        combined = full + 1.7 * (partial - blank)
        propose = proposer(lambda x, t: combined, lambda combined: combined)
        return guided, propose(keys, x, step), combined - full, seen

    guided, expected, push, seen = proposals(sample_keys(0, B))
    np.testing.assert_array_equal(guided.tokens, expected.tokens)
    np.testing.assert_allclose(guided.log_confidence, expected.log_confidence, atol=1e-5)
    assert np.abs(push).max() > 0.1

    assert len(seen) == EVALUATIONS == 3
    for (shown, told), context_time in zip(seen, (1.0, 0.6, 0.0), strict=True):
        np.testing.assert_array_equal(told[:, 0], np.float32(context_time))
        np.testing.assert_array_equal(told[:, 1:], step.t[:, 1:])
        np.testing.assert_array_equal(shown[:, 1:], x[:, 1:])  # what was revealed is always shown
    full, partial, blank = (shown[:, 0] for shown, _ in seen)
    np.testing.assert_array_equal(full, x[:, 0])
    np.testing.assert_array_equal(blank, K)
    hidden = partial == K
    assert 0 < hidden.sum() < hidden.size
    np.testing.assert_array_equal(partial[~hidden], full[~hidden])


def test_only_the_first_steps_are_guided_and_none_by_weight_0():
    x, step = state()
    cases = [(5.0, None), (5.0, 1), (5.0, 2), (5.0, 9), (0.0, None)]
    decoding = Decoding(temperature=0.7, top_k=5)
    settings = {"decoding": decoding, "first_frame": 1, "view": VIEW}

    def new_features(x, t):
        return features(x, t)[:, 1:]

    @quick_jit
    def proposals(keys, index):
        here = step._replace(index=index)
        return proposer(new_features, logits, **settings)(keys, x, here), [
            proposer(
                new_features,
                logits,
                guidance=Guidance(weight=weight, time=0.6, steps=n),
                **settings,
            )(keys, x, here)
            for weight, n in cases
        ]

    for index in range(4):
        plain, guided = proposals(sample_keys(0, B), index)
        changed = [
            not np.allclose(case.log_confidence, plain.log_confidence, atol=1e-5) for case in guided
        ]
        assert changed == [True, index < 1, index < 2, True, False]
        np.testing.assert_array_equal(guided[-1].tokens, plain.tokens)


def share_of_ones(**settings):
    """A sampler whose network prefers 1 the more context it sees; known tokens are all 0."""

    def preference(x, t):
        seen = jnp.mean(x[:, 0] == 0, axis=(1, 2))
        return jnp.broadcast_to(seen[:, None, None, None], (*x.shape[:2], 1, 1))

    def two_logits(features):
        one = jnp.broadcast_to(features[:, :, 0, 0, None, None], (*features.shape[:2], H, W))
        return jnp.stack([jnp.zeros_like(one), one], -1)

    sample = window_sampler("fm", num_steps=3, guidance_time=0.5, **settings)
    tokens = jnp.zeros((200, 2, H, W), jnp.int32)
    known = jnp.broadcast_to((jnp.arange(2) == 0)[:, None, None], tokens.shape)
    sampled, _ = quick_jit(
        lambda keys: sample(
            Functions(preference, two_logits, 2),
            keys,
            WindowTokens(tokens, known),
            context_frames=1,
        )
    )(sample_keys(0, 200))
    np.testing.assert_array_equal(sampled[:, 0], 0)
    return float(jnp.mean(sampled[:, 1]))


def test_guidance_pushes_toward_what_the_context_adds_and_leaves_the_context():
    """At time 0.5 half of the context is seen: the logit of 1 is 1 + w / 2."""
    for weight in (-4.0, 0.0, 4.0):
        expected = 1.0 / (1.0 + np.exp(-(1.0 + weight / 2)))
        assert share_of_ones(guidance_weight=weight) == pytest.approx(expected, abs=0.035)


def test_no_guided_step_is_refused():
    with pytest.raises(ValueError, match="steps is 0; use 1 or more"):
        Guidance(weight=1.0, steps=0)

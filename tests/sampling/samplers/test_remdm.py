"""Remasking keeps the path's marginals, and leaves nothing masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import make_schedule, quick_jit, sample_keys, step_at

from maskflow_jax.sampling.frame_schedules import full_sequence
from maskflow_jax.sampling.samplers.remdm import REMASKING, ReMDM
from maskflow_jax.sampling.types import Proposal, WindowTokens
from maskflow_jax.sampling.window import sample_window

B, T, H, W = 20, 2, 10, 25
TOKENS = B * T * H * W
S = 8
STRENGTHS = (0.0, 0.05, 0.5, 1.0)


def zeros_proposal(keys, x, step):
    return Proposal(jnp.zeros_like(x), jnp.zeros(x.shape))


def walk(schedule, rules, known):
    """States [S+1, B, T, H, W] of each rule, from the loop itself."""
    recorded = [[] for _ in rules]

    def recording(rule, states):
        def step_rule(keys, x, proposal, step):
            jax.debug.callback(lambda x: states.append(np.asarray(x)), x, ordered=True)
            return rule(keys, x, proposal, step)

        return step_rule

    final = quick_jit(
        lambda keys: [
            sample_window(
                keys,
                WindowTokens(jnp.zeros(known.shape, jnp.int32), known),
                full_sequence(S, T),
                zeros_proposal,
                recording(rule, states),
                mask_id=1,
                schedule=schedule,
            )[0]
            for rule, states in zip(rules, recorded, strict=True)
        ]
    )(sample_keys(0, B))
    jax.effects_barrier()
    return [np.stack([*s, end]) for s, end in zip(recorded, final, strict=True)]


@pytest.mark.parametrize("name", ["sigmoid", "cosine"])
def test_the_masked_share_is_that_of_the_path(name):
    """1 - kappa after every step, however much is masked again, and other tokens each time."""
    schedule = make_schedule(name)
    cases = [(remask, strength) for remask in REMASKING for strength in STRENGTHS]
    known = jnp.zeros((B, T, H, W), bool).at[:, 0, :, :5].set(True)
    unknown = np.asarray(~known)
    kappa = np.asarray(schedule.kappa(full_sequence(S, T)[:, 0]), np.float64)
    walks = walk(schedule, [ReMDM(remask=r, strength=e).step for r, e in cases], known)
    for (_, strength), states in zip(cases, walks, strict=True):
        assert len(states) == S + 1
        masked = states == 1
        assert not masked[:, np.asarray(known)].any()
        assert not masked[-1].any()
        share = masked[:, unknown].mean(axis=1)
        deviation = np.sqrt(kappa * (1.0 - kappa) / unknown.sum())
        assert np.all(np.abs(share - (1.0 - kappa)) <= 4.0 * deviation)
        hidden = np.mean(~masked[:-1] & masked[1:])
        assert hidden == 0.0 if strength == 0.0 else hidden > 0.1 * strength / S
    means = [np.mean(~(s[:-1] == 1) & (s[1:] == 1)) for s in walks]
    assert np.all(np.diff(means[:4]) > 0) or np.all(np.diff(means[4:]) > 0)


def hidden_share(schedule, remask, strength, t, s):
    """The share of revealed tokens that one step t -> s masks again."""
    x = jnp.zeros((1, 1, 300, 300), jnp.int32)
    step = step_at(x, jnp.full((1, 1), t), s=jnp.full((1, 1), s), mask_id=1, schedule=schedule)
    after = ReMDM(remask=remask, strength=strength).step(
        sample_keys(0, 1), x, zeros_proposal(None, x, step), step
    )
    return float(jnp.mean(after == 1))


@pytest.mark.parametrize(("t", "s"), [(0.1, 0.2), (0.6, 0.7), (0.9, 1.0)])
def test_sigma_is_the_capped_or_the_rescaled_bound(t, s):
    schedule = make_schedule("linear")
    bound = min(1.0, (1.0 - s) / t)
    for strength in (0.3, 1.0):
        for remask, sigma in (("cap", min(strength, bound)), ("rescale", strength * bound)):
            share = hidden_share(schedule, remask, strength, t, s)
            assert share == pytest.approx(sigma, abs=0.01 if 0.0 < sigma < 1.0 else 1e-9)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="cap"):
        ReMDM(remask="loop")
    for strength in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="strength is"):
            ReMDM(remask="cap", strength=strength)

"""Samplers given a network that knows its law exactly must sample that law, jointly.

Every claim comes with a case that must fail: too few steps, or a network that sees nothing.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import Functions, MarkovChain, follows, sample_keys, window_sampler

from maskflow_jax.sampling.rollout import rollout
from maskflow_jax.sampling.samplers import SAMPLERS
from maskflow_jax.sampling.types import RolloutRequest, WindowTokens

NUM_SAMPLES = 4000
COIN = {"first": np.array([0.6, 0.4]), "transition": np.array([[0.8, 0.2], [0.3, 0.7]])}
ROW = MarkovChain((1, 1, 3))  # three tokens of one frame
FRAMES = MarkovChain((3, 1, 1), **COIN)  # three frames of one token
SQUARE = MarkovChain((2, 1, 2), **COIN)  # two frames of two tokens
PAIR = MarkovChain((2, 1, 1), **COIN)


@functools.cache
def sampler(chain, config, context_frames=0, stage="chunk"):
    """(keys, tokens, known, sees) -> tokens: all is real but the network, and whether it sees."""
    sample = window_sampler(config.name, **dataclasses.asdict(config))

    @jax.jit
    def run(keys, tokens, known, sees):
        def features(x, t):
            return chain.features(jnp.where(sees, x, chain.mask_id), t)

        return sample(
            Functions(features, chain.logits, chain.mask_id),
            keys,
            WindowTokens(tokens, known),
            context_frames=context_frames,
            stage=stage,
        )[0]

    return run


def sampler_of(*, name="mgm", **settings):
    return SAMPLERS[name](**settings)


def sample_window(chain, config, known=False, sees=True):
    tokens = np.zeros((NUM_SAMPLES, *chain.shape), np.int32)
    known = np.broadcast_to(known, tokens.shape)
    return sampler(chain, config)(sample_keys(0, NUM_SAMPLES), tokens, known, sees)


def sample_video(chain, config, sees, *, context_frames=1, **frames):
    """The frames after a first frame of token 0."""
    frames = {"chunk_size": chain.shape[0], "context_frames": context_frames} | frames
    plan = config.plan(RolloutRequest(video_length=5, **frames))

    keys = sample_keys(0, NUM_SAMPLES)

    def sample_chunk(index, tokens, known, window):
        chunk_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
        run = sampler(chain, config, context_frames, window.stage)
        return run(chunk_keys, tokens, known, sees)

    context = np.zeros((NUM_SAMPLES, context_frames, 1, 1), np.int32)
    chunks = rollout(context, plan, sample_chunk, mask_id=chain.mask_id)
    return np.concatenate(list(chunks), axis=1)[:, -4:]


@pytest.mark.parametrize(
    ("chain", "settings", "expected"),
    [
        # Flow matching: as the steps become many; in few, tokens are revealed side by side.
        (ROW, {"name": "fm", "num_steps": 40}, True),
        (ROW, {"name": "fm", "num_steps": 3}, False),
        # The pyramid: frames of one token never meet, even in one step; two tokens of a frame do.
        (FRAMES, {"name": "pyramid", "num_steps": 1}, True),
        (SQUARE, {"name": "pyramid", "num_steps": 1}, False),
        (SQUARE, {"name": "pyramid", "num_steps": 40}, True),
        # Remasking: as the steps become many and few tokens are hidden at once.
        (ROW, {"name": "remdm", "num_steps": 100, "strength": 0.03}, True),
        (ROW, {"name": "remdm", "num_steps": 60, "remask": "cap", "strength": 0.02}, True),
        (ROW, {"name": "remdm", "num_steps": 4, "strength": 1.0}, False),
        # Orders that do not look at the values: at one token a step.
        (ROW, {"noise": "random", "num_steps": 3}, True),
        (ROW, {"noise": "random", "num_steps": 1}, False),
        (ROW, {"name": "halton", "num_steps": 3}, True),
        (ROW, {"name": "halton", "num_steps": 1}, False),
        # Confidence first is biased by construction (`test_mgm` has by how much).
        (ROW, {"noise": "none", "num_steps": 3}, False),
    ],
)
def test_a_window_follows_the_joint_law(chain, settings, expected):
    config = sampler_of(**settings)
    assert follows(chain.counts(sample_window(chain, config)), chain.joint) is expected
    blind = sample_window(chain, config, sees=False)
    assert not follows(chain.counts(blind), chain.joint)


@pytest.mark.parametrize(
    "settings", [{"noise": "random", "num_steps": 3}, {"name": "halton", "num_steps": 3}]
)
def test_given_tokens_condition_the_joint_law(settings):
    known = np.arange(3) == 2  # the last token is 0
    tokens = sample_window(ROW, sampler_of(**settings), known)
    law = np.zeros_like(ROW.joint)
    law[:, :, 0] = ROW.joint[:, :, 0] / ROW.joint[:, :, 0].sum()
    assert follows(ROW.counts(tokens), law)


def video_follows_the_chain(video):
    """Four frames that come after a frame of token 0."""
    law = COIN["transition"][0]
    for _ in range(3):
        law = law[..., None] * COIN["transition"]
    places = np.ravel_multi_index(np.asarray(video)[:, :, 0, 0].T, law.shape)
    return follows(np.bincount(places, minlength=law.size), law)


@pytest.mark.parametrize(("num_steps", "expected"), [(40, True), (2, False)])
def test_rolling_follows_the_law_of_a_video_longer_than_its_window(num_steps, expected):
    """All stages: of what it does not see, the frame before its context, the chain asks nothing."""
    config = sampler_of(name="rolling", num_steps=num_steps)
    assert video_follows_the_chain(sample_video(FRAMES, config, True)) is expected
    assert not video_follows_the_chain(sample_video(FRAMES, config, False))


@pytest.mark.parametrize("name", ["fm", "mgm"])
def test_autoregressive_rollout_follows_the_law_of_the_video(name):
    """A frame of one token at a time needs one step, whatever the rule."""
    config = sampler_of(name=name, num_steps=1)
    assert video_follows_the_chain(sample_video(PAIR, config, True, stride=1))
    assert not video_follows_the_chain(sample_video(PAIR, config, False, stride=1))

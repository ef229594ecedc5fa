"""Named samplers put together with a stub in the place of the network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import Functions, make_schedule, quick_jit, window_sampler

from maskflow_jax.sampling.guidance import Guidance
from maskflow_jax.sampling.samplers import FM, MGM, SAMPLERS, Pyramid
from maskflow_jax.sampling.types import RolloutRequest, WindowShape, WindowTokens

K, FRAMES, SIDE, CONTEXT = 5, 4, 3, 1


def sample(name: str, context_frames: int = CONTEXT, seed: int = 0, **settings):
    """Runs a sampler with a network that likes token (frame index mod K)."""
    sampler = window_sampler(name, **settings)

    def features(x, t):
        frames = jnp.arange(FRAMES, dtype=jnp.float32)[None, :, None, None]
        return jnp.broadcast_to(frames, (*x.shape[:2], SIDE * SIDE, 1))

    def logits(features):
        liked = features.reshape(*features.shape[:2], SIDE, SIDE, 1) == jnp.arange(K)
        return 12.0 * liked

    tokens = jnp.full((2, FRAMES, SIDE, SIDE), 3, jnp.int32)
    known = jnp.broadcast_to(jnp.arange(FRAMES)[:, None, None] < context_frames, tokens.shape)
    keys = jax.random.split(jax.random.key(seed), 2)
    tokens = jnp.where(known, tokens, K)
    for stage in ("start", "shift", "finish") if name == "rolling" else ("chunk",):
        tokens, reveal_step = quick_jit(
            lambda keys, tokens, known, stage=stage: sampler(
                Functions(features, logits, K),
                keys,
                WindowTokens(tokens, known),
                context_frames=context_frames,
                stage=stage,
            )
        )(keys, tokens, known)
    return tokens, reveal_step


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("context_frames", [0, 1, 3])
def test_every_sampler_fills_the_window_and_keeps_the_context(name, context_frames):
    tokens, reveal_step = sample(name, context_frames, num_steps=6, decoding_temperature=0.5)
    np.testing.assert_array_equal(tokens[:, :context_frames], 3)
    expected = np.arange(context_frames, FRAMES)[None, :, None, None]
    np.testing.assert_array_equal(
        tokens[:, context_frames:],
        np.broadcast_to(expected, (2, FRAMES - context_frames, SIDE, SIDE)),
    )
    passes = {"pyramid": 6 + FRAMES}.get(name, 6)
    assert (np.asarray(reveal_step) < passes).all()


def test_default_steps_are_the_papers():
    steps = {name: sampler().num_steps for name, sampler in SAMPLERS.items()}
    few, many = ("mgm", "remdm", "halton"), ("fm", "pyramid", "rolling")
    assert steps == dict.fromkeys(few, 20) | dict.fromkeys(many, 250)


def test_a_new_sampler_is_one_row(monkeypatch):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Mine(FM):
        num_steps: int = 3

    monkeypatch.setitem(SAMPLERS, "mine", Mine)
    tokens, _ = sample("mine")
    assert (np.asarray(tokens) < K).all()


def test_planned_times_of_mgm_belong_to_its_revealed_share():
    schedule = make_schedule("sigmoid")
    shape = WindowShape(
        num_frames=FRAMES, context_frames=CONTEXT, tokens_per_frame=9, schedule=schedule
    )
    times = MGM(num_steps=8).times(shape)
    _, reveal_step = sample("mgm", num_steps=8)
    revealed = [(np.asarray(reveal_step[0, CONTEXT:]) < step).mean() for step in range(9)]
    np.testing.assert_allclose(schedule.kappa(times[:, 0]), revealed, atol=1e-5)


def passed_times(**settings):
    """The times that MGM passes to its network, [S, B, T], and the steps that reveal tokens."""
    seen = []

    def features(x, t):
        jax.debug.callback(lambda t: seen.append(np.asarray(t)), t, ordered=True)
        return jnp.zeros((*x.shape[:2], 1, 1))

    def logits(features):
        return jnp.zeros((*features.shape[:2], SIDE, SIDE, K))

    tokens = jnp.zeros((2, FRAMES, SIDE, SIDE), jnp.int32)
    known = jnp.broadcast_to((jnp.arange(FRAMES) < CONTEXT)[:, None, None], tokens.shape)
    sampler = window_sampler("mgm", num_steps=6, noise="random", **settings)
    _, reveal_step = quick_jit(
        lambda keys: sampler(
            Functions(features, logits, K),
            keys,
            WindowTokens(tokens, known),
            context_frames=CONTEXT,
        )
    )(jax.random.split(jax.random.key(0), 2))
    jax.effects_barrier()
    return np.stack(seen), np.asarray(reveal_step)


def test_mgm_passes_time_0_for_new_frames_as_algorithm_4_does():
    times, _ = passed_times()
    np.testing.assert_array_equal(times[:, :, :CONTEXT], 1.0)
    np.testing.assert_array_equal(times[:, :, CONTEXT:], 0.0)


def test_mgm_passes_the_time_of_the_plan_or_of_each_frame():
    """The plan's time is one for all new frames; the revealed share differs from frame to frame."""
    planned, _ = passed_times(independent_time=None)
    assert np.all(planned[:, :, CONTEXT:] == planned[:, :1, CONTEXT : CONTEXT + 1])
    assert np.all(np.diff(planned[:, 0, -1]) > 0)
    times, reveal_step = passed_times(independent_time=None, revealed_times=True)
    schedule = make_schedule("sigmoid")
    for step, passed in enumerate(times):
        share = np.mean(reveal_step[:, CONTEXT:] < step, axis=(2, 3))
        np.testing.assert_allclose(schedule.kappa(passed[:, CONTEXT:]), share, atol=1e-3)
    assert np.any(times[3, 0, CONTEXT:] != times[3, 0, CONTEXT])


def test_no_other_sampler_inherits_the_independent_time_of_mgm():
    independent = {name: sampler().independent_time for name, sampler in SAMPLERS.items()}
    assert independent.pop("mgm") == 0.0
    assert set(independent.values()) == {None}


def test_unknown_names_and_settings_are_refused():
    with pytest.raises(ValueError, match="counts"):
        MGM(counts="cubic")
    with pytest.raises(ValueError, match="transition"):
        FM(transition="leap")
    with pytest.raises(TypeError, match="stepz"):
        MGM(stepz=3)
    with pytest.raises(ValueError, match="set independent_time to None"):
        MGM(revealed_times=True)


def test_settings_out_of_range_are_named_all_at_once():
    with pytest.raises(ValueError, match=r"num_steps is 0.*noise_scale is -1.*'foo'"):
        MGM(num_steps=0, noise_scale=-1.0, counts="foo")
    with pytest.raises(ValueError, match=r"context_time is 1\.5"):
        window_sampler("mgm", context_time=1.5)
    request = RolloutRequest(
        video_length=9, chunk_size=4, context_frames=1, guidance=Guidance(weight=1.0, steps=2)
    )
    with pytest.raises(ValueError, match=r"leave guidance\.steps out"):
        Pyramid().plan(request)

"""Named samplers put together with a stub in the place of the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import Functions, quick_jit

from maskflow_jax.flow.schedules import make_schedule
from maskflow_jax.sampling.rolling import STAGES
from maskflow_jax.sampling.samplers import SAMPLERS, Frames, SamplerConfig, make_window_sampler

K, FRAMES, SIDE, CONTEXT = 5, 4, 3, 1


def sample(config: SamplerConfig, context_frames: int = CONTEXT, seed: int = 0):
    """Runs a sampler with a network that likes token (frame index mod K)."""
    sampler = make_window_sampler(
        config,
        make_schedule("sigmoid"),
        chunk_size=FRAMES,
        context_frames=context_frames,
        tokens_per_frame=SIDE * SIDE,
        mask_id=K,
    )

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
    stages = STAGES if config.name == "rolling" else ("chunk",)
    for stage in stages:
        tokens, reveal_step = quick_jit(
            lambda keys, tokens, known, stage=stage: sampler(
                Functions(features, logits), keys, tokens, known, stage
            )
        )(keys, tokens, known)
    return tokens, reveal_step


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("context_frames", [0, 1, 3])
def test_every_sampler_fills_the_window_and_keeps_the_context(name, context_frames):
    config = SamplerConfig(name=name, num_steps=6, temperature=0.5)
    tokens, reveal_step = sample(config, context_frames)
    np.testing.assert_array_equal(tokens[:, :context_frames], 3)
    expected = np.arange(context_frames, FRAMES)[None, :, None, None]
    np.testing.assert_array_equal(
        tokens[:, context_frames:],
        np.broadcast_to(expected, (2, FRAMES - context_frames, SIDE, SIDE)),
    )
    passes = {"pyramid": 6 + FRAMES}.get(name, 6)
    assert (np.asarray(reveal_step) < passes).all()


def test_default_steps_are_the_papers():
    steps = {name: SamplerConfig(name=name).num_steps for name in SAMPLERS}
    few, many = ("mgm", "remdm", "halton"), ("fm", "pyramid", "rolling")
    assert steps == dict.fromkeys(few, 20) | dict.fromkeys(many, 250)


def test_a_new_sampler_is_one_row(monkeypatch):
    monkeypatch.setitem(SAMPLERS, "mine", SAMPLERS["fm"]._replace(default_steps=3))
    tokens, _ = sample(SamplerConfig(name="mine"))
    assert (np.asarray(tokens) < K).all()


def test_mgm_tells_the_network_the_time_of_its_revealed_share():
    schedule = make_schedule("sigmoid")
    config = SamplerConfig(name="mgm", num_steps=8)
    matrices, _ = SAMPLERS["mgm"].build(config, schedule, Frames(FRAMES, CONTEXT, 9))
    times = matrices["chunk"]
    _, reveal_step = sample(config)
    revealed = [(np.asarray(reveal_step[0, CONTEXT:]) < step).mean() for step in range(9)]
    np.testing.assert_allclose(schedule.kappa(times[:, 0]), revealed, atol=1e-5)


def test_unknown_names_and_settings_are_refused():
    with pytest.raises(ValueError, match="mgm, fm, pyramid, rolling, remdm, halton"):
        SamplerConfig(name="euler")
    with pytest.raises(ValueError, match="counts"):
        sample(SamplerConfig(counts="cubic"))
    with pytest.raises(ValueError, match="transition"):
        sample(SamplerConfig(name="fm", num_steps=2, transition="leap"))
    with pytest.raises(TypeError, match="stepz"):
        SamplerConfig(stepz=3)


def test_settings_out_of_range_are_named_all_at_once():
    with pytest.raises(ValueError, match=r"guidance_time is 1\.5.*temperature is -1.*'foo'"):
        SamplerConfig(guidance_time=1.5, temperature=-1.0, counts="foo")
    with pytest.raises(ValueError, match="guidance_steps is 0"):
        SamplerConfig(guidance_steps=0)
    with pytest.raises(ValueError, match="leave guidance_steps out"):
        SamplerConfig(name="pyramid", guidance_weight=1.0, guidance_steps=2)

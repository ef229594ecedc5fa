"""Network passes: the published numbers, and a count of the calls that are really made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import window_sampler
from flax import nnx
from tiny import quick_compilation

from maskflow_jax.generation.window_program import WindowProgram
from maskflow_jax.sampling.guidance import Guidance
from maskflow_jax.sampling.samplers import MGM, SAMPLERS
from maskflow_jax.sampling.types import RolloutRequest

FFS = {"chunk_size": 16, "context_frames": 2}
FFS_LENGTHS = (16, 32, 80, 160)  # 1x, 2x, 5x, 10x
DMLAB = {"chunk_size": 36, "context_frames": 12}
DMLAB_LENGTHS = (36, 72, 180)  # 1x, 2x, 5x
AUTOREGRESSIVE_FFS = {"chunk_size": 16, "context_frames": 15, "stride": 1}
AUTOREGRESSIVE_DMLAB = {"chunk_size": 36, "context_frames": 35, "stride": 1}


@pytest.mark.parametrize(
    ("name", "frames", "lengths", "nfe"),
    [
        ("mgm", FFS, FFS_LENGTHS, [20, 60, 120, 240]),
        ("mgm", AUTOREGRESSIVE_FFS, FFS_LENGTHS, [20, 340, 1300, 2900]),
        ("mgm", DMLAB, DMLAB_LENGTHS, [20, 60, 140]),
        ("mgm", AUTOREGRESSIVE_DMLAB, DMLAB_LENGTHS, [20, 740, 2900]),
        ("fm", FFS, FFS_LENGTHS, [250, 750, 1500, 3000]),
        ("fm", DMLAB, DMLAB_LENGTHS, [250, 750, 1750]),
        ("pyramid", FFS, FFS_LENGTHS, [266, 798, 1596, 3192]),
        ("pyramid", DMLAB, DMLAB_LENGTHS, [286, 858, 2002]),
        ("rolling", FFS, FFS_LENGTHS, [500, 788, 1652, 3092]),
        ("rolling", DMLAB, DMLAB_LENGTHS, [500, 896, 2084]),
        ("remdm", FFS, FFS_LENGTHS, [20, 60, 120, 240]),
        ("halton", FFS, FFS_LENGTHS, [20, 60, 120, 240]),
    ],
)
def test_the_papers_numbers_come_from_the_defaults(name, frames, lengths, nfe):
    """MaskFlow's tables 1 to 3, and those of its baselines."""
    plans = [SAMPLERS[name]().plan(RolloutRequest(video_length=n, **frames)) for n in lengths]
    assert [plan.nfe for plan in plans] == nfe
    if name == "mgm":
        assert [20 * plan.num_chunks for plan in plans] == nfe


@pytest.mark.parametrize(("steps", "nfe"), [(None, 180), (1, 66), (7, 102), (20, 180), (99, 180)])
def test_a_guided_step_is_three_passes(steps, nfe):
    request = RolloutRequest(video_length=32, guidance=Guidance(weight=2.0, steps=steps), **FFS)
    assert MGM().plan(request).nfe == nfe


K, T = 6, 4
PASSES, TRACES = [], []


class CountingNetwork(nnx.Module):
    """Likes all tokens alike, and counts its passes and how often it is traced."""

    mask_id = K

    def __init__(self):
        self.bias = nnx.Param(jnp.zeros(K))

    def features(self, x, t, *, positions, num_wanted=None):
        TRACES.append(x.shape)
        jax.debug.callback(PASSES.append, t[0])
        return jnp.zeros((len(x), num_wanted or len(positions), 1, 1))

    def logits(self, features):
        return jnp.broadcast_to(self.bias[...], (*features.shape[:2], 1, 2, K))


@pytest.mark.parametrize(
    ("name", "known_frames", "guided_steps", "traces"),
    [
        ("mgm", 1, 0, 1),
        ("mgm", 0, 0, 2),  # the first window has no context: the head runs on all its frames
        ("halton", 1, 0, 1),
        ("remdm", 1, None, 3),
        ("pyramid", 1, None, 3),
        ("halton", 1, 99, 3),
        ("fm", 1, 1, 4),  # steps with guidance, and steps without
        ("rolling", 1, 2, 4 + 3 + 4),  # stages of 3, 1 and 3 steps
    ],
)
def test_a_rollout_makes_the_planned_passes(name, known_frames, guided_steps, traces):
    """And is traced once per sort of window, however many windows there are."""
    settings = {} if guided_steps == 0 else {"guidance_weight": 1.0, "guidance_steps": guided_steps}
    sampler = window_sampler(name, num_steps=3, **settings)
    plan = sampler.sampler.plan(
        RolloutRequest(
            video_length=9,
            chunk_size=T,
            context_frames=1,
            known_frames=known_frames,
            guidance=sampler.guidance,
        )
    )
    graphdef, params = nnx.split(CountingNetwork())
    program = WindowProgram(graphdef, sampler, context_frames=1, mask_id=K)
    PASSES.clear()
    TRACES.clear()
    context = np.zeros((2, known_frames, 1, 2), np.int32)
    chunks = program.sample_videos(params, context, plan, seed=0)
    with quick_compilation():
        assert sum(chunk.shape[1] for chunk in chunks) == 9 - known_frames
    jax.effects_barrier()
    assert len(PASSES) == plan.nfe
    assert len(TRACES) == traces

"""The table of samplers: for each name its matrix of times, its step rule and its plan.

To add a sampler, write its rule (or its matrix), a function here that returns the pair, and its row
in `SAMPLERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from maskflow_jax.flow.schedules import Schedule
from maskflow_jax.sampling import frame_schedules, rolling
from maskflow_jax.sampling.fm import fm
from maskflow_jax.sampling.halton import halton
from maskflow_jax.sampling.mgm import mgm, revealed_fractions
from maskflow_jax.sampling.remdm import remdm
from maskflow_jax.sampling.rolling import RollingPlan
from maskflow_jax.sampling.rollout import Plan, RolloutPlan
from maskflow_jax.sampling.window import StepRule

if TYPE_CHECKING:
    from maskflow_jax.sampling.samplers import SamplerConfig


class Frames(NamedTuple):
    """The window that a sampler is built for.

    Attributes:
        chunk_size: k.
        context: frames at its start that are known, m.
        tokens: tokens of a frame.
    """

    chunk_size: int
    context: int
    tokens: int


Built = tuple[dict[str, np.ndarray], StepRule]


def _mgm(config: SamplerConfig, schedule: Schedule, frames: Frames) -> Built:
    """Confidence-ordered unmasking; the network is told the time its revealed share belongs to."""
    unknown = (frames.chunk_size - frames.context) * frames.tokens
    fractions = revealed_fractions(unknown, config.num_steps, config.counts)
    times = frame_schedules.matched(fractions, frames.chunk_size, schedule)
    return {"chunk": times}, mgm(config.num_steps, config.counts, config.noise, config.noise_scale)


def _halton(config: SamplerConfig, schedule: Schedule, frames: Frames) -> Built:
    """Low-discrepancy order in every frame; times as for mgm."""
    fractions = revealed_fractions(frames.tokens, config.num_steps, config.counts)
    times = frame_schedules.matched(fractions, frames.chunk_size, schedule)
    return {"chunk": times}, halton(config.num_steps, config.counts)


def _fm(config: SamplerConfig, schedule: Schedule, frames: Frames) -> Built:
    """The continuous-time chain, in steps of equal time."""
    times = frame_schedules.full_sequence(config.num_steps, frames.chunk_size)
    return {"chunk": times}, fm(schedule, config.transition)


def _remdm(config: SamplerConfig, schedule: Schedule, frames: Frames) -> Built:
    """The chain with remasking."""
    times = frame_schedules.full_sequence(config.num_steps, frames.chunk_size)
    return {"chunk": times}, remdm(schedule, config.remask, config.remask_strength)


def _pyramid(config: SamplerConfig, schedule: Schedule, frames: Frames) -> Built:
    """Diffusion Forcing: the chain, every frame a step behind the one before."""
    times = frame_schedules.pyramid(config.num_steps, frames.chunk_size)
    return {"chunk": times}, fm(schedule, config.transition)


def _rolling(config: SamplerConfig, schedule: Schedule, frames: Frames) -> Built:
    """Rolling diffusion: the chain, in three stages."""
    matrices = rolling.rolling_matrices(config.num_steps, frames.chunk_size, frames.context)
    return matrices, fm(schedule, config.transition)


def _chunks(config: SamplerConfig, request: dict[str, int]) -> RolloutPlan:
    return RolloutPlan(nfe_per_chunk=config.window_nfe(config.num_steps), **request)


def _pyramid_chunks(config: SamplerConfig, request: dict[str, int]) -> RolloutPlan:
    num_steps = config.num_steps + request["chunk_size"]
    return RolloutPlan(nfe_per_chunk=config.window_nfe(num_steps), **request)


def _rolling_plan(config: SamplerConfig, request: dict[str, int]) -> RollingPlan:
    request = dict(request)
    del request["known_tail"]  # it rolls into the window
    if request.pop("stride") != 1 or request.pop("known_frames") != request["context_frames"]:
        raise ValueError(
            "rolling advances by one frame and starts from its whole context; leave out the "
            "stride, and to start from nothing set context_frames to 0"
        )
    # With impossible frames the plan itself says so.
    new = max(1, request["chunk_size"] - request["context_frames"])
    return RollingPlan(
        start_nfe=config.window_nfe(config.num_steps),
        shift_nfe=config.window_nfe(-(-config.num_steps // new)),
        finish_nfe=config.window_nfe(config.num_steps),
        **request,
    )


class Sampler(NamedTuple):
    """A row of `SAMPLERS`.

    Attributes:
        build: (config, schedule, Frames) -> (times [S+1, T] by stage, step rule). The only stage
            is "chunk", but for rolling.
        default_steps: `num_steps` where the config does not say; the paper's number.
        guidance_time: likewise.
        plan: (config, the arguments of `plan_rollout`) -> plan.
        default_stride: (k, m) -> s where nobody says.
    """

    build: Callable[[SamplerConfig, Schedule, Frames], Built]
    default_steps: int
    guidance_time: float
    plan: Callable[[SamplerConfig, dict[str, int]], Plan] = _chunks
    default_stride: Callable[[int, int], int] = lambda k, m: k - m


SAMPLERS: dict[str, Sampler] = {
    "mgm": Sampler(_mgm, 20, 0.3),
    "fm": Sampler(_fm, 250, 0.9),
    "pyramid": Sampler(_pyramid, 250, 0.9, _pyramid_chunks),
    "rolling": Sampler(_rolling, 250, 0.9, _rolling_plan, lambda k, m: 1),
    "remdm": Sampler(_remdm, 20, 0.9),
    "halton": Sampler(_halton, 20, 0.3),
}

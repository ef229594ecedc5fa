"""Named samplers: their settings, their plans, and the function that fills a window.

Which there are is said in `sampler_table`.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from maskflow_jax.flow.schedules import Schedule
from maskflow_jax.sampling import guidance
from maskflow_jax.sampling.fm import TRANSITIONS
from maskflow_jax.sampling.mgm import COUNTS, NOISES
from maskflow_jax.sampling.network import Network, window_features
from maskflow_jax.sampling.proposal import make_propose
from maskflow_jax.sampling.remdm import REMASKING
from maskflow_jax.sampling.rollout import Plan
from maskflow_jax.sampling.sampler_table import SAMPLERS, Frames
from maskflow_jax.sampling.views import make_view
from maskflow_jax.sampling.window import Propose, sample_window

CHOICES = {"counts": COUNTS, "noise": NOISES, "transition": TRANSITIONS, "remask": REMASKING}

# Settings that only some samplers read.
READ_BY = {
    "counts": ("mgm", "halton"),
    "noise": ("mgm",),
    "noise_scale": ("mgm",),
    "transition": ("fm", "pyramid", "rolling"),
    "remask": ("remdm",),
    "remask_strength": ("remdm",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Settings of a sampler; of those in `READ_BY` it reads its own only.

    Attributes:
        name: a key of `SAMPLERS`.
        num_steps: steps per chunk (for "pyramid" and "rolling": per frame); None for 20 (mgm,
            remdm, halton) or 250 (fm, pyramid, rolling), the paper's numbers.
        temperature: divides the logits; 0 takes the most likely token.
        top_k: keeps the k most likely tokens; None keeps all.
        top_p: keeps the fewest most likely tokens that hold this much probability; None keeps all.
        counts: mgm, halton: how many tokens each step reveals, a key of `mgm.COUNTS`.
        noise: mgm: noise on the confidence, a key of `mgm.NOISES`.
        noise_scale: mgm: size of the noise "linear".
        transition: fm, pyramid, rolling: "exact", "euler" or "adaptive".
        remask: remdm: a key of `remdm.REMASKING`.
        remask_strength: remdm: from 0 (none) to 1.
        context_time: time of the context, the released code's stabilization level; below 1 the
            network sees it re-corrupted.
        independent_time: what the network is told for every frame that is not context; None for
            the frame's actual time. The paper's text says 0, its released code passes 1.
        guidance_weight: of partial context guidance; 0 is none.
        guidance_time: time of the re-corrupted context in guidance; None for the paper's 0.3 (mgm,
            halton) or 0.9 (the others).
        guidance_steps: guides this many first steps of a window (rolling: of every shift), at 3
            network passes each; None guides all. Not for pyramid, whose frames start in turn.
        context_cache: runs a window's context once instead of at every step (`network`). An
            approximation, but exact for a network trained with `isolated_context`, as long as the
            context's frames are the window's only clean ones (they are not with a known end, nor in
            pyramid).
        frame_block: frames whose logits exist at one time.
    """

    name: str = "mgm"
    num_steps: int | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    counts: str = "arccos"
    noise: str = "none"
    noise_scale: float = 4.5
    transition: str = "exact"
    remask: str = "rescale"
    remask_strength: float = 0.05
    context_time: float = 1.0
    independent_time: float | None = None
    guidance_weight: float = 0.0
    guidance_time: float | None = None
    guidance_steps: int | None = None
    context_cache: bool = False
    frame_block: int = 1

    def __post_init__(self):
        """Fills in what depends on the sampler. Raises ValueError naming all that is wrong."""
        if self.name not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.name!r}; choose one of {', '.join(SAMPLERS)}")
        checks = [
            *((time, 0.0, 1.0) for time in ("context_time", "independent_time", "guidance_time")),
            *((count, 1, np.inf) for count in ("num_steps", "top_k", "guidance_steps")),
            ("frame_block", 1, np.inf),
            ("temperature", 0.0, np.inf),
            ("remask_strength", 0.0, 1.0),
        ]
        problems = [
            f"{name} is {value}, it goes from {low} to {high}"
            for name, low, high in checks
            if (value := getattr(self, name)) is not None and not low <= value <= high
        ]
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                problems.append(f"unknown {name} {getattr(self, name)!r}: one of {list(choices)}")
        if self.name == "pyramid" and self.guidance_steps is not None:
            problems.append("pyramid's frames start in turn: leave guidance_steps out, guide all")
        if self.context_cache and (self.guidance_weight != 0.0 or self.context_time != 1.0):
            problems.append(
                "guidance_weight and context_time show another context at every step, so "
                "context_cache cannot keep it; leave one of them out"
            )
        if self.context_cache and self.independent_time == 1.0:
            problems.append(
                "with independent_time 1 all frames are told to be clean, and the cached context "
                "would have had to see them; leave one of the two out"
            )
        if problems:
            raise ValueError("sampler settings: " + "; ".join(problems))
        if self.num_steps is None:
            object.__setattr__(self, "num_steps", SAMPLERS[self.name].default_steps)
        if self.guidance_time is None:
            object.__setattr__(self, "guidance_time", SAMPLERS[self.name].guidance_time)

    def window_nfe(self, num_steps: int) -> int:
        """Network passes of a window of that many steps."""
        if self.guidance_weight == 0.0:
            return num_steps
        guided = num_steps if self.guidance_steps is None else min(self.guidance_steps, num_steps)
        return num_steps + (guidance.PASSES - 1) * guided


def plan_rollout(
    config: SamplerConfig,
    *,
    video_length: int,
    chunk_size: int,
    context_frames: int,
    stride: int | None = None,
    known_frames: int | None = None,
    known_tail: int = 0,
) -> Plan:
    """The windows by which a sampler makes a video.

    Args:
        config: the sampler.
        video_length: L, frames of the video, context included.
        chunk_size: k, frames of a window.
        context_frames: m.
        stride: s, new frames kept per chunk; None for k - m (rolling: 1).
        known_frames: frames known at the start, 0 to m; None for m.
        known_tail: frames known at the end, for which the strides are arranged.

    Returns:
        The plan, for `rollout.rollout`.

    Raises:
        ValueError: there is no such rollout, naming the reasons.
    """
    if stride is None:
        stride = SAMPLERS[config.name].default_stride(chunk_size, context_frames)
    request = {
        "video_length": video_length,
        "chunk_size": chunk_size,
        "context_frames": context_frames,
        "stride": stride,
        "known_frames": context_frames if known_frames is None else known_frames,
        "known_tail": known_tail,
    }
    return SAMPLERS[config.name].plan(config, request)


def make_window_sampler(
    config: SamplerConfig,
    schedule: Schedule,
    *,
    chunk_size: int,
    context_frames: int,
    tokens_per_frame: int,
    mask_id: int,
    backward: bool = False,
) -> Callable:
    """Puts a sampler together.

    Args:
        config: which, and its settings.
        schedule: the noise schedule the network was trained with.
        chunk_size: frames of a window, k.
        context_frames: frames at the start of every window that are known, m; the vocabulary head
            does not run on them.
        tokens_per_frame: H times W.
        mask_id: the mask token.
        backward: the window's frames run from last to first: its context is the video's end.

    Returns:
        `sample(network, keys, tokens, known, stage="chunk") -> (tokens, reveal_step)`, with a
        `network.Network` and the arrays of `sample_window`. For "rolling", `stage` is one of
        `rolling.STAGES`, and tokens that are neither known nor `mask_id` were revealed before.
    """
    sampler = SAMPLERS[config.name]
    frames = Frames(chunk_size, context_frames, tokens_per_frame)
    matrices, step_rule = sampler.build(config, schedule, frames)

    def sample(network: Network, keys, tokens, known, stage: str = "chunk"):
        features_fn = window_features(
            network,
            tokens,
            context_frames,
            cached=config.context_cache and context_frames > 0,
            backward=backward,
        )
        propose = _make_propose(config, schedule, features_fn, network.logits, context_frames)
        revealed = None if stage == "chunk" else ~known & (tokens != mask_id)
        return sample_window(
            keys,
            tokens,
            known,
            matrices[stage],
            propose,
            step_rule,
            mask_id=mask_id,
            revealed=revealed,
        )

    return sample


def _make_propose(
    config: SamplerConfig, schedule: Schedule, features_fn, logits_fn, context_frames: int
) -> Propose:
    """The proposal with its views of the context, guided or not."""
    settings = {
        "temperature": config.temperature,
        "top_k": config.top_k,
        "top_p": config.top_p,
        "frame_block": config.frame_block,
        "frames": slice(context_frames, None),
    }
    view = functools.partial(make_view, schedule, independent_time=config.independent_time)
    full = view(context_time=config.context_time)
    if config.guidance_weight == 0.0:
        return make_propose(features_fn, logits_fn, view=full, **settings)
    return guidance.make_guided_propose(
        features_fn,
        logits_fn,
        view=full,
        partial_view=view(context_time=config.guidance_time),
        blank_view=view(context_time=0.0),
        weight=config.guidance_weight,
        guided_steps=config.guidance_steps,
        **settings,
    )

"""Named samplers: the settings of a step rule put together with its matrix of times.

To add a sampler, write its rule (or its matrix), a function here that returns the pair, and its row
in `SAMPLERS`.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from maskflow_jax.flow.schedules import Schedule
from maskflow_jax.sampling import frame_schedules
from maskflow_jax.sampling.fm import fm
from maskflow_jax.sampling.mgm import mgm, revealed_fractions
from maskflow_jax.sampling.proposal import make_propose
from maskflow_jax.sampling.window import StepRule, sample_window


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Settings of a sampler; those that a sampler does not know are ignored by it.

    Attributes:
        name: a key of `SAMPLERS`.
        num_steps: network passes per chunk; None for the paper's number, 20 (mgm) or 250 (fm).
        temperature: divides the logits; 0 takes the most likely token.
        top_k: keeps the k most likely tokens; None keeps all.
        top_p: keeps the fewest most likely tokens that hold this much probability; None keeps all.
        counts: mgm: how many tokens each step reveals, a key of `mgm.COUNTS`.
        noise: mgm: noise on the confidence, a key of `mgm.NOISES`.
        noise_scale: mgm: size of the noise "linear".
        transition: fm: "exact", "euler" or "adaptive".
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
    frame_block: int = 1

    def __post_init__(self):
        """Fills in the number of steps. Raises ValueError for an unknown name."""
        if self.name not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.name!r}; choose one of {', '.join(SAMPLERS)}")
        if self.num_steps is None:
            object.__setattr__(self, "num_steps", SAMPLERS[self.name].default_steps)


def make_window_sampler(
    config: SamplerConfig,
    schedule: Schedule,
    *,
    chunk_size: int,
    context_frames: int,
    tokens_per_frame: int,
    mask_id: int,
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

    Returns:
        `sample(features_fn, logits_fn, keys, tokens, known) -> (tokens, reveal_step)`, with the
        arrays of `sample_window` and the functions of `make_propose`.
    """
    times, step_rule = SAMPLERS[config.name].build(
        config, schedule, chunk_size, (chunk_size - context_frames) * tokens_per_frame
    )

    def sample(features_fn, logits_fn, keys: jax.Array, tokens: jax.Array, known: jax.Array):
        propose = make_propose(
            features_fn,
            logits_fn,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            frame_block=config.frame_block,
            frames=slice(context_frames, None),
        )
        return sample_window(keys, tokens, known, times, propose, step_rule, mask_id=mask_id)

    return sample


def _mgm(
    config: SamplerConfig, schedule: Schedule, num_frames: int, num_unknown: int
) -> tuple[np.ndarray, StepRule]:
    """Confidence-ordered unmasking; the network is told the time its revealed share belongs to."""
    fractions = revealed_fractions(num_unknown, config.num_steps, config.counts)
    times = frame_schedules.matched(fractions, num_frames, schedule)
    return times, mgm(config.num_steps, config.counts, config.noise, config.noise_scale)


def _fm(
    config: SamplerConfig, schedule: Schedule, num_frames: int, num_unknown: int
) -> tuple[np.ndarray, StepRule]:
    """The continuous-time chain, in steps of equal time."""
    del num_unknown
    times = frame_schedules.full_sequence(config.num_steps, num_frames)
    return times, fm(schedule, config.transition)


class Sampler(NamedTuple):
    """A row of `SAMPLERS`.

    Attributes:
        build: (config, schedule, frames of a window, unknown tokens of a window) -> (times
            [S+1, T], step rule).
        default_steps: S where the config does not say; the paper's number.
    """

    build: Callable[[SamplerConfig, Schedule, int, int], tuple[np.ndarray, StepRule]]
    default_steps: int


SAMPLERS: dict[str, Sampler] = {
    "mgm": Sampler(_mgm, default_steps=20),
    "fm": Sampler(_fm, default_steps=250),
}

"""MGM: reveal a planned number of tokens per step, the most confident first.

Every masked token has a proposed value and the log-probability of that value, its confidence. Step
i reveals the n_i most confident masked tokens of the whole window and leaves the others masked
(MaskFlow, arXiv 2502.11234, Algorithm 4; Chang et al., MaskGIT, arXiv 2202.04200).

The n_i are proportional to a weight f(r_i), with r_i falling from 1 to 0 over the steps, as in the
released code. In contrast to the released code, they are shares of the masked tokens (not of the
whole window, context included), their sum is exactly the number of masked tokens, and every step
reveals at least one token, so that no step of the plan is without effect.

Algorithm 4 sets the times passed to the network once, 1 for the context and 0 for new frames, and
does not change them. The published results were computed in this way, so `independent_time` is 0 by
default. With None the network receives the time that belongs to the revealed share, either to the
planned share (the same for all frames) or to the actual share of each frame (`revealed_times`).

Revealing the most confident tokens first favours likely values, so the samples do not follow the
network's distribution. Only `noise="random"` with one token per step samples the network's joint
distribution exactly.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from maskflow_jax.io.settings import refuse
from maskflow_jax.sampling import frame_schedules
from maskflow_jax.sampling.plans import RolloutPlan
from maskflow_jax.sampling.types import Proposal, RolloutRequest, Step, WindowShape

WARM_UP_STEPS = 2  # steps in random order before "warm_up" uses the confidence


@dataclasses.dataclass(frozen=True, kw_only=True)
class MGM:
    """Confidence-ordered unmasking.

    Attributes:
        num_steps: Number of steps S of a window.
        counts: Unmasking schedule, a key of `COUNTS`: how many tokens each step reveals.
        noise: Noise on the confidence, a key of `NOISES`; "random" reveals in random order.
        noise_scale: Size of the Gumbel noise of "linear" at the first step.
        independent_time: Time passed to the network for new frames; the paper's 0 by default. None
            passes the time at which training would have revealed as much as is revealed.
        revealed_times: Whether that time follows from the revealed share of each frame instead of
            from the plan. Only with `independent_time` None.

    Raises:
        ValueError: if a setting is out of range or a name is unknown.

    Source: MaskFlow, arXiv 2502.11234, Algorithm 4.
    """

    name: ClassVar[str] = "mgm"
    guidance_time: ClassVar[float] = 0.3

    num_steps: int = 20
    counts: str = "arccos"
    noise: str = "none"
    noise_scale: float = 4.5
    independent_time: float | None = 0.0
    revealed_times: bool = False

    def __post_init__(self):
        refuse(
            self.name,
            self,
            {"num_steps": (1, None), "noise_scale": (0.0, None), "independent_time": (0.0, 1.0)},
            {"counts": COUNTS, "noise": NOISES},
            more=(BOTH_TIMES,) * (self.revealed_times and self.independent_time is not None),
        )

    def times(self, window: WindowShape) -> np.ndarray:
        """Returns the times at which training would have revealed the planned shares, [S+1, T]."""
        unknown = (window.num_frames - window.context_frames) * window.tokens_per_frame
        fractions = revealed_fractions(unknown, self.num_steps, self.counts)
        return frame_schedules.matched(fractions, window.num_frames, window.schedule)

    def step(self, keys: jax.Array, x: jax.Array, proposal: Proposal, step: Step) -> jax.Array:
        """Reveals the planned number of masked tokens, the most confident of the window first."""
        check_steps(self, step)
        num_unknown = jnp.sum(step.unknown, axis=(1, 2, 3), dtype=jnp.int32)
        count = unmask_counts(num_unknown, self.num_steps, self.counts)[:, step.index]  # [B]
        confidence = jax.vmap(NOISES[self.noise], in_axes=(0, 0, None, None, None))(
            keys, proposal.log_confidence, step.index, self.num_steps, self.noise_scale
        )  # [B, T, H, W]
        revealed = jax.vmap(_most_confident)(confidence, step.masked, count)
        return jnp.where(revealed, proposal.tokens, x)

    def plan(self, request: RolloutRequest) -> RolloutPlan:
        """Returns the chunks of a video."""
        return RolloutPlan.of(request, request.guidance.evaluations(self.num_steps))


BOTH_TIMES = "revealed_times has no effect with an independent_time; set independent_time to None"


def check_steps(sampler, step: Step) -> None:
    """Raises ValueError if the number of steps of a loop is not that of its sampler."""
    if step.num_steps != sampler.num_steps:
        raise ValueError(
            f"{sampler.name} plans {sampler.num_steps} steps, the matrix of times has "
            f"{step.num_steps}; use the sampler's own times"
        )


def unmask_counts(num_masked: jax.Array, num_steps: int, mode: str = "arccos") -> jax.Array:
    """Returns the number of tokens that each step reveals.

    Args:
        num_masked: Number of tokens to reveal, int32 [B].
        num_steps: Number of steps S.
        mode: A key of `COUNTS`.

    Returns:
        Counts int32 [B, S], each at least 1, with the sum num_masked. If num_masked < S, the first
        num_masked steps reveal one token each and the others none.

    Raises:
        ValueError: if num_steps < 1 or the mode is unknown.
    """
    check_counts(num_steps, mode)
    total = jnp.asarray(num_masked, jnp.int32)[:, None]  # [B, 1]
    step = jnp.arange(num_steps, dtype=jnp.int32)
    revealed = jnp.round(total * _cumulative_weights(num_steps, mode)).astype(jnp.int32)  # [B, S]
    # The lowest sequence above `revealed` that rises by at least one per step, limited so that one
    # token is left for each later step.
    rising = step + jax.lax.cummax(jnp.maximum(revealed - step, 1), axis=1)
    ceiling = jnp.maximum(total - (num_steps - 1 - step), jnp.minimum(step + 1, total))
    return jnp.diff(jnp.minimum(rising, ceiling), axis=1, prepend=0)


def revealed_fractions(num_masked: int, num_steps: int, mode: str = "arccos") -> np.ndarray:
    """Returns the fraction of the unknown tokens revealed before each step and at the end.

    Args:
        num_masked: Number of tokens to reveal: new frames times tokens per frame.
        num_steps: Number of steps S.
        mode: A key of `COUNTS`.

    Returns:
        float64 [S+1], from 0 to 1, for `frame_schedules.matched`.

    Raises:
        ValueError: if num_masked or num_steps < 1, or the mode is unknown.
    """
    if num_masked < 1:
        raise ValueError(f"num_masked is {num_masked}; a window without unknown tokens needs none")
    with jax.ensure_compile_time_eval():  # callable while a sampler is being traced
        counts = np.asarray(unmask_counts(jnp.array([num_masked]), num_steps, mode)[0])
    return np.concatenate([[0], np.cumsum(counts)]) / num_masked


def _cumulative_weights(num_steps: int, mode: str) -> np.ndarray:
    """Returns the cumulative weights divided by their total, float32 [S]; the last is exactly 1."""
    if num_steps == 1:
        return np.ones(1, np.float32)  # the only weight is f(1) = 0
    weights = COUNTS[mode](np.linspace(1.0, 0.0, num_steps))
    return (np.cumsum(weights) / np.sum(weights)).astype(np.float32)


def _most_confident(confidence: jax.Array, masked: jax.Array, count: jax.Array) -> jax.Array:
    """Selects exactly `count` masked tokens of a window [T, H, W]; of equal ones the earlier."""
    confidence, candidate = (rearrange(a, "t h w -> (t h w)") for a in (confidence, masked))
    # By rank, not by a threshold, so that ties cannot add tokens. Masked tokens come first even if
    # their confidence is -inf or NaN.
    order = jnp.lexsort((-confidence, ~candidate))
    chosen = jnp.zeros_like(candidate).at[order].set(jnp.arange(order.size) < count)
    return (chosen & candidate).reshape(masked.shape)  # [T, H, W]


def check_counts(num_steps: int, mode: str) -> None:
    """Raises ValueError if there is no such unmasking schedule."""
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; a window needs at least one step")
    if mode not in COUNTS:
        raise ValueError(f"unknown counts {mode!r}; choose one of {list(COUNTS)}")


def _none(key, log_confidence, index, num_steps, scale):
    return log_confidence


def _linear(key, log_confidence, index, num_steps, scale):
    """Adds Gumbel noise that decreases to zero at the last step."""
    progress = index / max(num_steps - 1, 1)
    return log_confidence + scale * (1.0 - progress) * jax.random.gumbel(key, log_confidence.shape)


def _random(key, log_confidence, index, num_steps, scale):
    return jax.random.uniform(key, log_confidence.shape)


def _warm_up(key, log_confidence, index, num_steps, scale):
    at_random = _random(key, log_confidence, index, num_steps, scale)
    return jnp.where(index < WARM_UP_STEPS, at_random, log_confidence)


COUNTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": np.ones_like,  # in the text of the paper
    "root": lambda r: 1.0 - np.sqrt(r),
    "linear": lambda r: 1.0 - r,
    "square": lambda r: 1.0 - r**2,
    "cosine": lambda r: np.cos(0.5 * np.pi * r),
    "arccos": lambda r: np.arccos(r) / (0.5 * np.pi),  # the released code's default
}

NOISES: dict[str, Callable[..., jax.Array]] = {
    "none": _none,
    "linear": _linear,
    "warm_up": _warm_up,
    "random": _random,
}

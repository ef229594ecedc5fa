"""MGM step rule: reveal a planned number of tokens per step, the most confident first.

Every masked token has a proposed value and the log-probability of that value, its confidence. Step
i reveals the n_i most confident masked tokens of the whole window and leaves the others masked
(MaskFlow, arXiv 2502.11234, Algorithm 4; Chang et al., MaskGIT, arXiv 2202.04200).

The n_i are proportional to a weight f(r_i), r_i falling from 1 to 0 over the steps, as in the
released code; unlike there they are shares of the tokens that are masked (not of the whole chunk,
context included), they sum to that number exactly and every step reveals at least one token, so
that the plan's S steps are really taken.

Confidence-first order favours likely values by construction: its law is not the network's. Only
`noise="random"`, one token per step, samples the network's joint law exactly.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from maskflow_jax.sampling.proposal import Proposal
from maskflow_jax.sampling.window import Step, StepRule

WARM_UP_STEPS = 2  # steps in random order before "warm_up" turns to confidence


def mgm(
    num_steps: int, counts: str = "arccos", noise: str = "none", noise_scale: float = 4.5
) -> StepRule:
    """The confidence-ordered rule.

    Args:
        num_steps: S, the steps of the frame schedule it runs with.
        counts: a key of `COUNTS`, how many tokens each step reveals.
        noise: a key of `NOISES`, how far the order departs from confidence.
        noise_scale: Gumbel noise at the first step of noise "linear".

    Returns:
        A rule for `window.sample_window`. It looks at no times: the counts alone decide.

    Raises:
        ValueError: num_steps < 1 or a name is unknown; when run, a schedule of other than S steps.

    Source: MaskFlow, arXiv 2502.11234, Algorithm 4.
    """
    check_counts(num_steps, counts)
    if noise not in NOISES:
        raise ValueError(f"unknown noise {noise!r}; choose one of {list(NOISES)}")
    order_of = NOISES[noise]

    def step_rule(keys: jax.Array, x: jax.Array, proposal: Proposal, step: Step) -> jax.Array:
        if step.num_steps != num_steps:
            raise ValueError(
                f"mgm plans {num_steps} steps, the frame schedule has {step.num_steps}; "
                "give both the same num_steps"
            )
        num_unknown = jnp.sum(step.unknown, axis=(1, 2, 3), dtype=jnp.int32)
        count = unmask_counts(num_unknown, num_steps, counts)[:, step.index]  # [B]
        confidence = jax.vmap(order_of, in_axes=(0, 0, None, None, None))(
            keys, proposal.log_confidence, step.index, num_steps, noise_scale
        )  # [B, T, H, W]
        revealed = jax.vmap(_most_confident)(confidence, step.masked, count)
        return jnp.where(revealed, proposal.tokens, x)

    return step_rule


def unmask_counts(num_masked: jax.Array, num_steps: int, mode: str = "arccos") -> jax.Array:
    """How many tokens each step reveals.

    Args:
        num_masked: int32 [B], tokens to reveal.
        num_steps: S.
        mode: a key of `COUNTS`.

    Returns:
        Counts int32 [B, S], at least 1 each and of sum num_masked. Where num_masked < S the first
        num_masked steps reveal one token each and the others none.

    Raises:
        ValueError: num_steps < 1 or an unknown mode.
    """
    check_counts(num_steps, mode)
    total = jnp.asarray(num_masked, jnp.int32)[:, None]  # [B, 1]
    step = jnp.arange(num_steps, dtype=jnp.int32)
    revealed = jnp.round(total * _cumulative_weights(num_steps, mode)).astype(jnp.int32)  # [B, S]
    # The least sequence above `revealed` that rises by at least one per step, held below the line
    # that leaves a token for each step to come.
    rising = step + jax.lax.cummax(jnp.maximum(revealed - step, 1), axis=1)
    ceiling = jnp.maximum(total - (num_steps - 1 - step), jnp.minimum(step + 1, total))
    return jnp.diff(jnp.minimum(rising, ceiling), axis=1, prepend=0)


def revealed_fractions(num_masked: int, num_steps: int, mode: str = "arccos") -> np.ndarray:
    """The fraction of the unknown tokens revealed before each step and at the end.

    Args:
        num_masked: tokens to reveal in a window: new frames times tokens per frame.
        num_steps: S.
        mode: a key of `COUNTS`.

    Returns:
        float64 [S+1], from 0 to 1, for `frame_schedules.matched`.

    Raises:
        ValueError: num_masked or num_steps < 1, or an unknown mode.
    """
    if num_masked < 1:
        raise ValueError(f"num_masked is {num_masked}; a window without unknown tokens needs none")
    with jax.ensure_compile_time_eval():  # callable while a sampler is being traced
        counts = np.asarray(unmask_counts(jnp.array([num_masked]), num_steps, mode)[0])
    return np.concatenate([[0], np.cumsum(counts)]) / num_masked


def _cumulative_weights(num_steps: int, mode: str) -> np.ndarray:
    """Sum of the weights up to each step, over their total: float32 [S], ending in exactly 1."""
    if num_steps == 1:
        return np.ones(1, np.float32)  # the only weight is f(1) = 0
    weights = COUNTS[mode](np.linspace(1.0, 0.0, num_steps))
    return (np.cumsum(weights) / np.sum(weights)).astype(np.float32)


def _most_confident(confidence: jax.Array, masked: jax.Array, count: jax.Array) -> jax.Array:
    """Exactly `count` masked tokens of one window [T, H, W], ties to the earlier token."""
    confidence, candidate = (rearrange(a, "t h w -> (t h w)") for a in (confidence, masked))
    # Ranked, never thresholded, so that ties cannot add tokens; masked tokens first even where
    # their confidence is -inf or NaN.
    order = jnp.lexsort((-confidence, ~candidate))
    chosen = jnp.zeros_like(candidate).at[order].set(jnp.arange(order.size) < count)
    return (chosen & candidate).reshape(masked.shape)  # [T, H, W]


def check_counts(num_steps: int, mode: str) -> None:
    """Raises ValueError where there are no such counts."""
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; a window needs at least one step")
    if mode not in COUNTS:
        raise ValueError(f"unknown counts {mode!r}; choose one of {list(COUNTS)}")


def _none(key, log_confidence, index, num_steps, scale):
    return log_confidence


def _linear(key, log_confidence, index, num_steps, scale):
    """Gumbel noise that fades to nothing at the last step."""
    progress = index / max(num_steps - 1, 1)
    return log_confidence + scale * (1.0 - progress) * jax.random.gumbel(key, log_confidence.shape)


def _random(key, log_confidence, index, num_steps, scale):
    return jax.random.uniform(key, log_confidence.shape)


def _warm_up(key, log_confidence, index, num_steps, scale):
    at_random = _random(key, log_confidence, index, num_steps, scale)
    return jnp.where(index < WARM_UP_STEPS, at_random, log_confidence)


COUNTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": np.ones_like,  # what the paper's text says
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

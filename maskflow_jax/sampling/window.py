"""Sampling one window of frames: the one loop that every sampler shares.

A sampler is a matrix of frame times (which frame is how clean before and after each step) and a
step rule (which masked tokens take the proposed value). Step i is

    proposal ~ p(x1 | x, t_i),    x <- rule(x, proposal, t_i -> t_{i+1}),

for i = 0..S-1: S proposals, so S network passes. Context is not a special case: it is known tokens,
in any pattern. A token never changes once it is revealed, so the whole trajectory is one integer
per token, the step that revealed it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from maskflow_jax.sampling.proposal import Proposal

KNOWN = -1  # `reveal_step` of tokens that were given


class Step(NamedTuple):
    """Where the loop stands, as a step rule sees it.

    Attributes:
        index: int32 scalar, i.
        num_steps: S, a Python int.
        t: [B, T] frame times before the step.
        s: [B, T] frame times after the step.
        masked: bool [B, T, H, W], the tokens that are still masked.
        num_unknown: int32 [B], the number of tokens that were masked before step 0.
    """

    index: jax.Array
    num_steps: int
    t: jax.Array
    s: jax.Array
    masked: jax.Array
    num_unknown: jax.Array


Propose = Callable[[jax.Array, jax.Array, jax.Array], Proposal]
StepRule = Callable[[jax.Array, jax.Array, Proposal, Step], jax.Array]


def sample_window(
    keys: jax.Array,
    tokens: jax.Array,
    known: jax.Array,
    times: jax.Array,
    propose: Propose,
    step_rule: StepRule,
    *,
    mask_id: int,
    context_time: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Fills in the unknown tokens of a window.

    Known tokens leave as they came, bit for bit. Every rule of this package leaves no token masked
    when the last row of `times` is 1; a token that a broken rule leaves masked keeps `mask_id` and
    reveal step S, and `rollout` refuses it.

    Args:
        keys: [B] typed random keys, one per sample: a sample depends on its own key and tokens
            only, never on its batch.
        tokens: int32 [B, T, H, W]; the values of unknown tokens are ignored.
        known: bool [B, T, H, W], any pattern.
        times: [S+1, T] frame times (`frame_schedules`), an array or a constant of the trace.
        propose: (keys [B], x [B, T, H, W], t [B, T]) -> Proposal, called S times.
        step_rule: (keys [B], x, proposal, Step) -> x.
        mask_id: the mask token, K.
        context_time: the time of frames that are known entirely, in t and in s.

    Returns:
        tokens: int32 [B, T, H, W].
        reveal_step: int32 [B, T, H, W], the step 0..S-1 that revealed a token; -1 where known.

    Raises:
        ValueError: shapes disagree.

    Source: MaskFlow, arXiv 2502.11234, Algorithms 3 and 4.
    """
    num_steps = _check_shapes(keys, tokens, known, times)
    times = jnp.asarray(times, jnp.float32)
    num_unknown = jnp.sum(~known, axis=(1, 2, 3), dtype=jnp.int32)  # [B]
    context = jnp.all(known, axis=(2, 3))  # [B, T]

    def frame_times(row):
        return jnp.where(context, context_time, times[row])  # [B, T]

    def body(i, carry):
        x, reveal_step = carry
        proposal_keys, rule_keys = _step_keys(keys, i)
        t, s = frame_times(i), frame_times(i + 1)
        # Not x == mask_id: a known token is never masked, whatever its value.
        masked = reveal_step == num_steps
        proposal = propose(proposal_keys, x, t)
        step = Step(i, num_steps, t, s, masked, num_unknown)
        x = jnp.where(masked, step_rule(rule_keys, x, proposal, step), x)
        return x, jnp.where(masked & (x != mask_id), i, reveal_step)

    start = jnp.where(known, tokens, mask_id).astype(jnp.int32)
    unrevealed = jnp.where(known, KNOWN, num_steps).astype(jnp.int32)
    return jax.lax.fori_loop(0, num_steps, body, (start, unrevealed))


def _step_keys(keys: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys [B] for the proposal and keys [B] for the rule."""
    pairs = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, step)))(keys)
    return pairs[:, 0], pairs[:, 1]


def _check_shapes(keys, tokens, known, times) -> int:
    """Returns S."""
    if tokens.ndim != 4 or known.shape != tokens.shape or keys.shape != tokens.shape[:1]:
        raise ValueError(
            f"tokens {tokens.shape} and known {known.shape} must both be [B, T, H, W] and keys "
            f"{keys.shape} one key per sample, [B]"
        )
    if times.ndim != 2 or times.shape[0] < 2 or times.shape[1] != tokens.shape[1]:
        raise ValueError(
            f"times {times.shape} must be [S+1, T] for the {tokens.shape[1]} frames of the window; "
            "build them with num_frames = chunk_size"
        )
    return times.shape[0] - 1

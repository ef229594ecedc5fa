"""Sampling one window of frames: the loop that all samplers share.

A sampler consists of a matrix of frame times (the time of every frame before and after each step)
and a step rule (which masked tokens take the proposed value). Step i is

    proposal ~ p(x1 | x, t_i),    x <- rule(x, proposal, t_i -> t_{i+1}),

for i = 0..S-1, which takes S proposals. Context is not a special case: it consists of known tokens,
in any pattern. A revealed token keeps its value (a remasking rule may mask it again, but not change
it), so the trajectory is stored as one integer per token, the step that revealed it.
"""

import jax
import jax.numpy as jnp

from maskflow_jax.flow.schedules import Schedule
from maskflow_jax.sampling.types import Propose, Step, StepRule, WindowTokens

KNOWN = -1  # `reveal_step` of tokens that were given


def sample_window(
    keys: jax.Array,
    window: WindowTokens,
    times: jax.Array,
    propose: Propose,
    step_rule: StepRule,
    *,
    mask_id: int,
    schedule: Schedule | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Fills in the unknown tokens of a window.

    Known tokens are not changed. The samplers of this package leave no token masked in a frame
    whose last time is 1. A token that stays masked keeps `mask_id` and gets the reveal step S.

    Args:
        keys: Typed random keys [B], one per sample. A sample depends on its own key and tokens
            only, not on the other samples of the batch.
        window: The tokens before sampling, arrays [B, T, H, W].
        times: Frame times [S+1, T] (`Sampler.times`), a JAX or NumPy array.
        propose: Function (keys [B], x [B, T, H, W], Step) -> Proposal, called S times.
        step_rule: Function (keys [B], x, proposal, Step) -> x, such as `Sampler.step`.
        mask_id: The mask token, K.
        schedule: Noise schedule of the network's training, for rules that follow it.

    Returns:
        tokens: int32 [B, T, H, W].
        reveal_step: Step 0..S-1 that revealed a token, int32 [B, T, H, W] (the last one, if the
            token was masked again in between); -1 where it was known or revealed before.

    Raises:
        ValueError: if the shapes disagree.

    Source: MaskFlow, arXiv 2502.11234, Algorithms 3 and 4.
    """
    num_steps = _check_shapes(keys, window, times)
    tokens, known = window.tokens, window.known
    times = jnp.asarray(times, jnp.float32)
    unknown = ~known if window.revealed is None else ~(known | window.revealed)

    def body(i, carry):
        x, reveal_step = carry
        proposal_keys, rule_keys = _step_keys(keys, i)
        # Not x == mask_id: a known token is never masked, whatever its value.
        masked = reveal_step == num_steps
        t, s = (jnp.broadcast_to(times[row], tokens.shape[:2]) for row in (i, i + 1))
        step = Step(i, num_steps, t, s, masked, unknown, known, mask_id, schedule)
        proposed = step_rule(rule_keys, x, propose(proposal_keys, x, step), step)
        hidden = unknown & (proposed == mask_id)
        x = jnp.where(masked | hidden, proposed, x)
        step_revealed = jnp.where(masked & ~hidden, i, reveal_step)
        return x, jnp.where(hidden, num_steps, step_revealed)

    start = jnp.where(unknown, mask_id, tokens).astype(jnp.int32)
    unrevealed = jnp.where(unknown, num_steps, KNOWN).astype(jnp.int32)
    return jax.lax.fori_loop(0, num_steps, body, (start, unrevealed))


def trajectory(
    tokens: jax.Array, reveal_step: jax.Array, num_revealing: int, *, mask_id: int
) -> jax.Array:
    """Returns the window as it was after some steps of a rule that does not remask.

    Args:
        tokens: Sampled tokens, int32 [B, T, H, W], from `sample_window`.
        reveal_step: Reveal steps, int32 [B, T, H, W], from `sample_window`.
        num_revealing: Number of steps taken, 0 for the start.
        mask_id: The mask token.

    Returns:
        Tokens int32 [B, T, H, W], `mask_id` where a token was not revealed yet. For a remasking
        rule, a token appears when it is revealed for the last time.
    """
    return jnp.where(reveal_step < num_revealing, tokens, mask_id)


def _step_keys(keys: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns keys [B] for the proposal and keys [B] for the rule."""
    pairs = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, step)))(keys)
    return pairs[:, 0], pairs[:, 1]


def _check_shapes(keys: jax.Array, window: WindowTokens, times: jax.Array) -> int:
    """Returns the number of steps S."""
    tokens, known = window.tokens, window.known
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

"""The training objective: cross-entropy of the clean tokens at masked positions (Algorithm 1).

Logits over the vocabulary are by far the largest array of the method (1 GB in float32 for 16 frames
of 32x32 tokens over 16,384 codes), so the head runs over blocks of frames inside a scan and its
logits are recomputed in the backward pass: one block of them exists at a time. Softmax and sums are
float32.
"""

from collections.abc import Callable
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp


class FrameSums(NamedTuple):
    """Sums over the tokens of each frame, float32 [B, T].

    Attributes:
        cross_entropy: summed cross-entropy of the counted tokens, in nats.
        count: number of counted tokens.
        correct: number of masked tokens whose most likely prediction is right.
        masked: number of masked tokens.
    """

    cross_entropy: jax.Array
    count: jax.Array
    correct: jax.Array
    masked: jax.Array


def frame_sums(
    logits_fn: Callable[[jax.Array], jax.Array],
    features: jax.Array,
    tokens: jax.Array,
    masked: jax.Array,
    *,
    counted: jax.Array | None = None,
    frame_block: int = 1,
) -> FrameSums:
    """Compares the predictions of all frames with their clean tokens.

    Args:
        logits_fn: features [B, t, N, D] of t frames to logits [B, t, H, W, K].
        features: [B, T, N, D].
        tokens: clean tokens int [B, T, H, W].
        masked: bool [B, T, H, W], the positions that enter the accuracy.
        counted: bool [B, T, H, W], the positions that enter the loss; the masked ones by default.
        frame_block: frames whose logits exist at one time; divides T.

    Returns:
        The sums per frame.

    Raises:
        ValueError: if `frame_block` does not divide T.
    """
    frames = tokens.shape[1]
    if frames % frame_block:
        raise ValueError(f"frame_block {frame_block} does not divide the clip's {frames} frames")

    def to_blocks(x: jax.Array) -> jax.Array:
        return einops.rearrange(x, "b (s t) ... -> s b t ...", t=frame_block)

    @jax.checkpoint
    def block_sums(block):
        features, tokens, masked, counted = block
        logits = logits_fn(features).astype(jnp.float32)
        picked = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
        cross_entropy = jax.nn.logsumexp(logits, axis=-1) - picked
        correct = jnp.argmax(logits, axis=-1) == tokens
        sums = (cross_entropy * counted, counted, correct & masked, masked)
        return tuple(einops.reduce(s.astype(jnp.float32), "b t h w -> b t", "sum") for s in sums)

    counted = masked if counted is None else counted
    inputs = (features, tokens.astype(jnp.int32), masked, counted)
    sums = jax.lax.map(block_sums, tuple(to_blocks(x) for x in inputs))
    return FrameSums(*(einops.rearrange(s, "s b t -> b (s t)") for s in sums))


def weighted_loss(sums: FrameSums, weights: jax.Array) -> jax.Array:
    """Mean cross-entropy over all counted tokens, each times its frame's weight [B, T]."""
    return jnp.sum(weights * sums.cross_entropy) / (jnp.sum(sums.count) + 1e-6)


def accuracy(sums: FrameSums) -> jax.Array:
    """Share of masked tokens predicted correctly."""
    return jnp.sum(sums.correct) / (jnp.sum(sums.masked) + 1e-6)

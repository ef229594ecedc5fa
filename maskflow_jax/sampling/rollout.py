"""Chunkwise rollout: a long video, one window of k frames at a time.

Algorithm 2 of MaskFlow (arXiv 2502.11234): show the network the last m frames and k - m masked
ones, keep the first s of what it fills in, repeat. The last chunk takes as much context as fits, so
that the network works on no more new frames than are missing. s = k - m is the full sequence, s = 1
with m = k - 1 is fully autoregressive.

A plan is static data: its chunks, and therefore its number of network passes (NFE), are known
before anything is sampled. The driver is a Python generator that holds k - 1 frames at most, so
a video's length costs time, never memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp

# keys [B], tokens int32 [B, k, H, W], known bool [B, k, H, W] -> tokens int32 [B, k, H, W]
SampleChunk = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True, kw_only=True)
class RolloutPlan:
    """Which frames are context and which are kept, chunk by chunk.

    The number of chunks is ceil((L - m) / s), which is what Algorithm 2 does. The paper's closed
    form, ceil((L - k) / s) + 1, is the same number for s = k - m, and so in all its experiments,
    but smaller for a shorter stride: it would have the first chunk keep k - m frames.

    Attributes:
        video_length: L, frames of the finished video, context included.
        chunk_size: k, frames the network sees at once.
        context_frames: m, known frames at the start, and context of every chunk but the last. 0
            generates without context; every chunk but the last is then independent of the others.
        stride: s, new frames kept per chunk.
        nfe_per_chunk: S, network passes per chunk.

    Raises:
        ValueError: no rollout has these numbers; the message lists every reason.
    """

    video_length: int
    chunk_size: int
    context_frames: int
    stride: int
    nfe_per_chunk: int

    def __post_init__(self):
        length, k, m = self.video_length, self.chunk_size, self.context_frames
        stride, nfe = self.stride, self.nfe_per_chunk
        checks = [
            (m < 0, f"context {m} < 0; use 0 to generate without context"),
            (m >= k, f"chunk_size {k}, context {m} >= chunk_size; lower context_frames"),
            (length <= m, f"context {m} leaves no frame to generate; raise video_length"),
            (stride < 1, f"stride {stride} < 1 never advances; raise it"),
            (0 <= m < k < m + stride, f"stride {stride} > chunk_size - context; use 1 to {k - m}"),
            (nfe < 1, f"nfe_per_chunk {nfe} < 1; a chunk needs at least one network pass"),
        ]
        problems = [message for wrong, message in checks if wrong]
        if problems:
            raise ValueError(f"length {length} cannot be reached: " + "; ".join(problems))

    @cached_property
    def chunks(self) -> tuple[tuple[int, int], ...]:
        """(context frames, new frames kept) of every chunk."""
        chunks, done = [], self.context_frames
        while done < self.video_length:
            remaining = self.video_length - done
            context, kept = self.context_frames, min(remaining, self.stride)
            if remaining <= self.stride:
                context = min(done, self.chunk_size - remaining)
            chunks.append((context, kept))
            done += kept
        return tuple(chunks)

    @property
    def num_chunks(self) -> int:
        """Number of windows sampled."""
        return len(self.chunks)

    @property
    def nfe(self) -> int:
        """Network passes for the whole video."""
        return self.num_chunks * self.nfe_per_chunk

    def __str__(self) -> str:
        """One line for logs."""
        last_context, last_kept = self.chunks[-1]
        return (
            f"{self.video_length} frames from {self.context_frames} in {self.num_chunks} chunks of "
            f"{self.chunk_size}, stride {self.stride} (last: context {last_context}, "
            f"keeps {last_kept}), NFE {self.num_chunks} x {self.nfe_per_chunk} = {self.nfe}"
        )


def rollout(
    keys: jax.Array,
    context: jax.Array,
    plan: RolloutPlan,
    sample_chunk: SampleChunk,
    *,
    mask_id: int,
) -> Iterator[jax.Array]:
    """Continues a batch of videos, yielding the new frames of one chunk at a time.

    Args:
        keys: [B] typed random keys, one per sample; chunk c uses fold_in(key, c).
        context: int32 [B, m, H, W] known frames; m = 0 generates without context.
        plan: m, k, s and L.
        sample_chunk: fills the unknown tokens of [B, k, H, W], usually a jitted `sample_window`.
            Its arguments have the same shapes in every chunk, so it is traced once.
        mask_id: K; valid tokens are 0..K-1.

    Returns:
        An iterator over int32 [B, h, H, W], h new frames per chunk; in total L - m frames.

    Raises:
        ValueError: the context does not fit the plan or holds no valid tokens; while iterating, a
            chunk came back with tokens that are no codebook entry.

    Source: MaskFlow, arXiv 2502.11234, Algorithm 2.
    """
    if context.ndim != 4 or context.shape[:2] != (keys.shape[0], plan.context_frames):
        raise ValueError(
            f"context {context.shape} must be [B, m, H, W] with B = {keys.shape[0]} keys and "
            f"m = {plan.context_frames} context_frames; slice the context or change the plan"
        )
    _refuse_invalid(context, mask_id, "the context")
    return _rollout(keys, jnp.asarray(context, jnp.int32), plan, sample_chunk, mask_id)


def _rollout(keys, history, plan, sample_chunk, mask_id) -> Iterator[jax.Array]:
    """The loop of Algorithm 2; apart from `rollout` so that bad arguments fail when passed."""
    for index, (context_frames, kept) in enumerate(plan.chunks):
        # From the front: history[:, -0:] would be all of it.
        context = history[:, history.shape[1] - context_frames :]
        tokens, known = _window(context, plan.chunk_size, mask_id)
        chunk_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
        chunk = sample_chunk(chunk_keys, tokens, known)
        _refuse_invalid(chunk, mask_id, f"chunk {index} of {plan.num_chunks}")
        new = chunk[:, context_frames : context_frames + kept]
        history = jnp.concatenate([history, new], axis=1)
        history = history[:, max(0, history.shape[1] - (plan.chunk_size - 1)) :]
        yield new


def _window(context: jax.Array, chunk_size: int, mask_id: int) -> tuple[jax.Array, jax.Array]:
    """Context frames [B, m, H, W] followed by masked ones: tokens and known, [B, k, H, W]."""
    padding = [(0, 0), (0, chunk_size - context.shape[1]), (0, 0), (0, 0)]
    tokens = jnp.pad(context, padding, constant_values=mask_id)
    return tokens, jnp.pad(jnp.ones(context.shape, bool), padding)


def _refuse_invalid(tokens: jax.Array, mask_id: int, where: str) -> None:
    """No mask token is ever decoded, and none becomes context."""
    wrong = int(jnp.sum((tokens < 0) | (tokens >= mask_id)))
    if wrong:
        raise ValueError(
            f"{where} holds {wrong} tokens outside 0..{mask_id - 1}: masks ({mask_id}) were left "
            "unrevealed or the logits were not finite; check the step rule, that the last row of "
            "times is 1, that `frames` covers all unknown frames, and the weights"
        )

"""Chunkwise rollout: a long video, one window of k frames at a time.

Algorithm 2 of MaskFlow (arXiv 2502.11234): a window consists of the last m frames and of k - m
masked ones; of the frames that the network fills in, the first s are kept; repeat. A plan (`plans`)
gives the windows. The rollout is a Python generator that works in NumPy on the host and stores at
most k - 1 frames, so its memory does not depend on the length of the video; only the sampling of a
window runs on the device.
"""

from collections.abc import Callable, Iterator

import numpy as np

from maskflow_jax.sampling.types import Plan, Window, WindowTokens

SampleChunk = Callable[[int, np.ndarray, np.ndarray, Window], np.ndarray]
"""Function of the number of a window, its tokens int32 [B, k, H, W], its known tokens bool
[B, k, H, W] and the `Window` of the plan to sampled tokens int32 [B, k, H, W]. Tokens that are
neither known nor masked were revealed by the window before."""


def rollout(
    context: np.ndarray,
    plan: Plan,
    sample_chunk: SampleChunk,
    *,
    mask_id: int,
    given: WindowTokens | None = None,
) -> Iterator[np.ndarray]:
    """Continues a batch of videos, yielding the new frames of one window at a time.

    Args:
        context: Known frames, int [B, known_at_start, H, W].
        plan: The windows.
        sample_chunk: Function that fills the masked tokens of a window. Its arrays have the same
            shapes for every window.
        mask_id: The mask token K; valid tokens are 0..K-1.
        given: Further known tokens of the whole video, such as the last frames, arrays
            [B, L, H, W]; None for none. A window contains those of its own frames. The frames of
            `context` take precedence.

    Returns:
        An iterator over int32 [B, h, H, W], h new frames per window; in total
        L - known_at_start frames.

    Raises:
        ValueError: if the context or the given tokens do not fit the plan or are not in the
            codebook; during iteration, if a sampled window has tokens that are not in the codebook.

    Source: MaskFlow, arXiv 2502.11234, Algorithm 2.
    """
    context = np.asarray(context)
    if context.ndim != 4 or context.shape[1] != plan.known_at_start:
        raise ValueError(
            f"context {context.shape} must be [B, m, H, W] with m = {plan.known_at_start} known "
            "frames; slice the context or change the plan"
        )
    _refuse_invalid(context, mask_id, "the context")
    if given is not None:
        shape = (len(context), plan.video_length, *context.shape[2:])
        if given.tokens.shape != shape or given.known.shape != shape:
            raise ValueError(
                f"given {given.tokens.shape} and {given.known.shape} must both be {shape}"
            )
        _refuse_invalid(np.where(given.known, given.tokens, 0), mask_id, "the given tokens")
    return _rollout(context.astype(np.int32), plan, sample_chunk, mask_id, given)


def _rollout(
    history: np.ndarray,
    plan: Plan,
    sample_chunk: SampleChunk,
    mask_id: int,
    given: WindowTokens | None,
) -> Iterator[np.ndarray]:
    """The loop of Algorithm 2; `rollout` itself is no generator, so it raises errors at once."""
    carried, done = history[:, :0], history.shape[1]
    for index, window in enumerate(plan.windows):
        # Counted from the front, because history[:, -0:] would be all of it.
        context = history[:, history.shape[1] - window.context :]
        begin = done - window.context
        tokens, known = _fresh(given, begin, plan.chunk_size, context, mask_id)
        # The frames that earlier windows finished replace what was given of them.
        tokens[:, : window.context], known[:, : window.context] = context, True
        tokens[:, window.context : window.context + carried.shape[1]] = carried
        chunk = np.asarray(sample_chunk(index, tokens, known, window))
        end = window.context + window.finished
        new, carried = chunk[:, window.context : end], chunk[:, end : end + window.carried]
        where = f"chunk {index}"
        _refuse_invalid(new if window.carried else chunk, mask_id, where)
        if window.carried:  # unfinished frames may hold masks
            _refuse_invalid(carried, mask_id + 1, where)
        history, done = np.concatenate([history, new], axis=1), done + window.finished
        history = history[:, max(0, history.shape[1] - (plan.chunk_size - 1)) :]
        yield new


def _fresh(
    given: WindowTokens | None, begin: int, chunk_size: int, context: np.ndarray, mask_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens and known tokens [B, k, H, W]: the given tokens of a window, else masks."""
    shape = (context.shape[0], chunk_size, *context.shape[2:])
    tokens, known = np.full(shape, mask_id, np.int32), np.zeros(shape, bool)
    if given is not None:
        here = slice(begin, begin + chunk_size)
        count = given.tokens[:, here].shape[1]  # the last window may reach beyond the video
        known[:, :count] = given.known[:, here]
        tokens[:, :count] = np.where(known[:, :count], given.tokens[:, here], mask_id)
    return tokens, known


def _refuse_invalid(tokens: np.ndarray, mask_id: int, where: str) -> None:
    """Raises ValueError for tokens outside the codebook, which cannot be decoded or be context."""
    wrong = int(np.sum((tokens < 0) | (tokens >= mask_id)))
    if wrong:
        raise ValueError(
            f"{where} holds {wrong} tokens outside 0..{mask_id - 1}: masks ({mask_id}) were left "
            "unrevealed or the logits were not finite; check the step rule, that the last row of "
            "times is 1, that the head runs on all unknown frames, and the weights"
        )

"""Chunkwise rollout: a long video, one window of k frames at a time.

Algorithm 2 of MaskFlow (arXiv 2502.11234): show the network the last m frames and k - m masked
ones, keep the first s of what it fills in, repeat. The last chunk takes as much context as fits, so
that the network works on no more new frames than are missing. s = k - m is the full sequence, s = 1
with m = k - 1 is fully autoregressive.

A plan is static data, a tuple of windows: its number of network passes (NFE) is known before
anything is sampled. `rolling.RollingPlan` is another plan for the same driver, a Python generator
that holds k - 1 frames at most, so a video's length costs time, never memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Window(NamedTuple):
    """One window of a plan.

    Attributes:
        context: frames at its start that are finished.
        finished: frames after them that are finished by it, and leave.
        carried: frames after those that stay as they are, half revealed, for the next window;
            all others are dropped.
        stage: which of the sampler's matrices it runs (`sampler_table.Sampler`).
    """

    context: int
    finished: int
    carried: int = 0
    stage: str = "chunk"


class Plan(Protocol):
    """What `rollout` needs of a plan: `RolloutPlan`, `rolling.RollingPlan`."""

    video_length: int
    chunk_size: int
    context_frames: int

    @property
    def known_at_start(self) -> int:
        """Frames that are finished before the first window."""

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows, in order."""

    @property
    def nfe(self) -> int:
        """Network passes for the whole video."""

    def window_nfe(self, window: Window) -> int:
        """Network passes of one of the windows."""


# keys [B], tokens int32 [B, k, H, W], known bool [B, k, H, W], Window -> tokens int32 [B, k, H, W].
# Tokens that are neither known nor masks were revealed by the window before.
SampleChunk = Callable[[jax.Array, jax.Array, jax.Array, Window], jax.Array]


@dataclass(frozen=True, kw_only=True)
class RolloutPlan:
    """Which frames are context and which are kept, chunk by chunk.

    The number of chunks is ceil((L - m) / s), which is what Algorithm 2 does. The paper's closed
    form, ceil((L - k) / s) + 1, is the same number for s = k - m, and so in all its experiments,
    but smaller for a shorter stride: it would have the first chunk keep k - m frames.

    Attributes:
        video_length: L, frames of the finished video, context included.
        chunk_size: k, frames the network sees at once.
        context_frames: m, context of every chunk but the last. With 0 every chunk but the last is
            independent of the others.
        stride: s, new frames kept per chunk.
        nfe_per_chunk: network passes per chunk.
        known_frames: frames known at the start; None for m. With fewer, the first chunk keeps more,
            so that m + s frames are finished after it; 0 begins from nothing.
        known_tail: frames known at the end. Strides are then cut so that the frames before the end
            are made by a window that sees all of it.

    Raises:
        ValueError: no rollout has these numbers; the message lists every reason.
    """

    video_length: int
    chunk_size: int
    context_frames: int
    stride: int
    nfe_per_chunk: int
    known_frames: int | None = None
    known_tail: int = 0

    def __post_init__(self):
        length, k, m = self.video_length, self.chunk_size, self.context_frames
        stride, nfe, known = self.stride, self.nfe_per_chunk, self.known_at_start
        checks = [
            (m < 0, f"context {m} < 0; use 0 to generate without context"),
            (m >= k, f"chunk_size {k}, context {m} >= chunk_size; lower context_frames"),
            (length <= known, f"context {known} leaves no frame to generate; raise video_length"),
            (stride < 1, f"stride {stride} < 1 never advances; raise it"),
            (0 <= m < k < m + stride, f"stride {stride} > chunk_size - context; use 1 to {k - m}"),
            (nfe < 1, f"nfe_per_chunk {nfe} < 1; a chunk needs at least one network pass"),
            (
                not 0 <= known <= max(m, 0),
                f"known_frames {known} is not between 0 and the context, {m}; change either",
            ),
            (
                self.known_tail > 0 and k - m <= self.known_tail,
                f"a window of {k} with {m} frames of context has no room for a new frame before "
                f"the {self.known_tail} known at the end; lower context_frames",
            ),
        ]
        problems = [message for wrong, message in checks if wrong]
        if problems:
            raise ValueError(f"length {length} cannot be reached: " + "; ".join(problems))

    @property
    def known_at_start(self) -> int:
        """Frames that are finished before the first window."""
        return self.context_frames if self.known_frames is None else self.known_frames

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """All windows, in order."""
        windows, done = [], self.known_at_start
        while done < self.video_length:
            context = min(done, self.context_frames)
            remaining = self.video_length - done
            finished = self._finished(remaining, context)
            if finished == remaining:
                context = min(done, self.chunk_size - remaining)
            windows.append(Window(context, finished))
            done += finished
        return tuple(windows)

    def _finished(self, remaining: int, context: int) -> int:
        """New frames kept of a window with that many frames of context."""
        stride = self.stride + self.context_frames - context
        if self.known_tail == 0 or remaining - stride > self.known_tail:
            return min(remaining, stride)
        # This window could make all that is missing: only if it sees the whole end, which it then
        # keeps; otherwise it leaves to the next one as much as fits before the end.
        if remaining <= self.chunk_size - context:
            return remaining
        return remaining - (self.chunk_size - self.context_frames)

    @property
    def num_chunks(self) -> int:
        """Number of windows sampled."""
        return len(self.windows)

    @property
    def nfe(self) -> int:
        """Network passes for the whole video."""
        return self.num_chunks * self.nfe_per_chunk

    def window_nfe(self, window: Window) -> int:
        """Network passes of one of the windows."""
        del window  # all alike
        return self.nfe_per_chunk

    def __str__(self) -> str:
        """One line for logs."""
        last = self.windows[-1]
        return (
            f"{self.video_length} frames from {self.known_at_start} in {self.num_chunks} chunks of "
            f"{self.chunk_size}, stride {self.stride} (last: context {last.context}, "
            f"keeps {last.finished}), NFE {self.num_chunks} x {self.nfe_per_chunk} = {self.nfe}"
        )


def rollout(
    keys: jax.Array,
    context: jax.Array,
    plan: Plan,
    sample_chunk: SampleChunk,
    *,
    mask_id: int,
    given: tuple[np.ndarray, np.ndarray] | None = None,
) -> Iterator[jax.Array]:
    """Continues a batch of videos, yielding the new frames of one window at a time.

    Args:
        keys: [B] typed random keys, one per sample; window c uses fold_in(key, c).
        context: int32 [B, known_at_start, H, W] known frames.
        plan: the windows.
        sample_chunk: fills the masked tokens of [B, k, H, W], usually a jitted `sample_window`.
            Its arrays have the same shapes for every window, so it is traced once per stage.
        mask_id: K; valid tokens are 0..K-1.
        given: (tokens int [B, L, H, W], known bool of the same shape) of the whole video: any
            further tokens that are known, such as its last frames. A window sees those of its own
            frames. The frames of `context` are taken from there.

    Returns:
        An iterator over int32 [B, h, H, W], h new frames per window; in total
        L - known_at_start frames.

    Raises:
        ValueError: context or given tokens do not fit the plan or are not valid; while iterating, a
            window came back with tokens that are no codebook entry.

    Source: MaskFlow, arXiv 2502.11234, Algorithm 2.
    """
    if context.ndim != 4 or context.shape[:2] != (keys.shape[0], plan.known_at_start):
        raise ValueError(
            f"context {context.shape} must be [B, m, H, W] with B = {keys.shape[0]} keys and "
            f"m = {plan.known_at_start} context_frames; slice the context or change the plan"
        )
    _refuse_invalid(context, mask_id, "the context")
    if given is not None:
        tokens, known = given
        shape = (len(context), plan.video_length, *context.shape[2:])
        if tokens.shape != shape or known.shape != shape:
            raise ValueError(f"given {tokens.shape} and {known.shape} must both be {shape}")
        _refuse_invalid(np.where(known, tokens, 0), mask_id, "the given tokens")
    return _rollout(keys, jnp.asarray(context, jnp.int32), plan, sample_chunk, mask_id, given)


def _rollout(keys, history, plan, sample_chunk, mask_id, given) -> Iterator[jax.Array]:
    """The loop of Algorithm 2; apart from `rollout` so that bad arguments fail when passed."""
    carried, done = history[:, :0], history.shape[1]
    for index, window in enumerate(plan.windows):
        # From the front: history[:, -0:] would be all of it.
        context = history[:, history.shape[1] - window.context :]
        begin = done - window.context
        tokens, known = _fresh(given, begin, plan.chunk_size, context, mask_id)
        # On top of what is given lies what the windows before made of it.
        tokens = tokens.at[:, : window.context].set(context)
        known = known.at[:, : window.context].set(True)
        place = slice(window.context, window.context + carried.shape[1])
        tokens = tokens.at[:, place].set(carried)
        chunk_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
        chunk = jnp.asarray(sample_chunk(chunk_keys, tokens, known, window))
        end = window.context + window.finished
        new, carried = chunk[:, window.context : end], chunk[:, end : end + window.carried]
        where = f"chunk {index} of {len(plan.windows)}"
        _refuse_invalid(new if window.carried else chunk, mask_id, where)
        if window.carried:  # frames on their way may hold masks
            _refuse_invalid(carried, mask_id + 1, where)
        history, done = jnp.concatenate([history, new], axis=1), done + window.finished
        history = history[:, max(0, history.shape[1] - (plan.chunk_size - 1)) :]
        yield new


def _fresh(given, begin: int, chunk_size: int, context, mask_id: int):
    """A window's given tokens, masks elsewhere: tokens and known, [B, k, H, W]."""
    shape = (context.shape[0], chunk_size, *context.shape[2:])
    tokens, known = np.full(shape, mask_id, np.int32), np.zeros(shape, bool)
    if given is not None:
        here = slice(begin, begin + chunk_size)
        count = given[0][:, here].shape[1]  # the last window may reach beyond the video
        known[:, :count] = given[1][:, here]
        tokens[:, :count] = np.where(known[:, :count], given[0][:, here], mask_id)
    return jnp.asarray(tokens), jnp.asarray(known)


def _refuse_invalid(tokens: jax.Array, mask_id: int, where: str) -> None:
    """No mask token is ever decoded, and none becomes context."""
    wrong = int(jnp.sum((tokens < 0) | (tokens >= mask_id)))
    if wrong:
        raise ValueError(
            f"{where} holds {wrong} tokens outside 0..{mask_id - 1}: masks ({mask_id}) were left "
            "unrevealed or the logits were not finite; check the step rule, that the last row of "
            "times is 1, that `frames` covers all unknown frames, and the weights"
        )

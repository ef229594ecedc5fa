"""Plans of chunkwise rollouts: the windows of which a video is made.

A plan is static data, a tuple of windows, so its number of network evaluations (NFE) is known
before anything is sampled. A stride of s = k - m is full-sequence sampling; s = 1 with m = k - 1 is
fully autoregressive sampling. The last window takes as much context as fits, so that the network
samples no more new frames than are missing. (MaskFlow, arXiv 2502.11234, Algorithm 2.)
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from maskflow_jax.sampling.types import Plan, RolloutRequest, Window


@dataclass(frozen=True, kw_only=True)
class RolloutPlan:
    """The number of context frames and of new frames of every window.

    The number of windows is ceil((L - m) / s), as in Algorithm 2. The paper's closed form,
    ceil((L - k) / s) + 1, gives the same number for s = k - m, which holds in all its experiments.
    For a shorter stride it is smaller, because there the first window would keep k - m frames.

    Attributes:
        video_length: Number of frames L of the finished video, context included.
        chunk_size: Number of frames k that the network sees at once.
        context_frames: Number of context frames m of every chunk but the last. With 0 every chunk
            but the last is independent of the others.
        stride: Number of new frames s kept per chunk.
        nfe_per_chunk: Number of network evaluations per chunk.
        known_frames: Number of frames known at the start; None for m. With fewer, the first window
            keeps more new frames, so that m + s frames are finished after it; 0 starts without
            context.
        known_tail: Number of frames known at the end. Strides are then shortened so that the window
            that samples the frames before them sees all of them.

    Raises:
        ValueError: if there is no such rollout; the message lists every reason.
    """

    video_length: int
    chunk_size: int
    context_frames: int
    stride: int
    nfe_per_chunk: int
    known_frames: int | None = None
    known_tail: int = 0

    @classmethod
    def of(cls, request: RolloutRequest, nfe_per_chunk: int) -> "RolloutPlan":
        """Returns the plan of a request; the stride is k - m where none is asked for."""
        stride = request.stride
        return cls(
            video_length=request.video_length,
            chunk_size=request.chunk_size,
            context_frames=request.context_frames,
            stride=request.chunk_size - request.context_frames if stride is None else stride,
            nfe_per_chunk=nfe_per_chunk,
            known_frames=request.known_frames,
            known_tail=request.known_tail,
        )

    def __post_init__(self):
        length, k, m = self.video_length, self.chunk_size, self.context_frames
        stride, nfe, known = self.stride, self.nfe_per_chunk, self.known_at_start
        checks = [
            (m < 0, f"context {m} < 0; use 0 to generate without context"),
            (m >= k, f"chunk_size {k}, context {m} >= chunk_size; lower context_frames"),
            (length <= known, f"context {known} leaves no frame to generate; raise length"),
            (stride < 1, f"stride {stride} < 1 never advances; raise it"),
            (0 <= m < k < m + stride, f"stride {stride} > chunk_size - context; use 1 to {k - m}"),
            (nfe < 1, f"nfe_per_chunk {nfe} < 1; a chunk needs at least one network evaluation"),
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
        """Number of frames that are finished before the first window."""
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
        """Returns the number of new frames that a window with so much context keeps."""
        stride = self.stride + self.context_frames - context
        if self.known_tail == 0 or remaining - stride > self.known_tail:
            return min(remaining, stride)
        # The window may finish the video only if all known last frames are in it. Otherwise it
        # leaves as many frames to the next window as fit there before the known last frames.
        if remaining <= self.chunk_size - context:
            return remaining
        return remaining - (self.chunk_size - self.context_frames)

    @property
    def num_chunks(self) -> int:
        """Number of windows sampled."""
        return len(self.windows)

    @property
    def nfe(self) -> int:
        """Number of network evaluations for the whole video."""
        return self.num_chunks * self.nfe_per_chunk

    def window_nfe(self, window: Window) -> int:
        """Number of network evaluations of one of the windows."""
        del window  # all windows take the same number
        return self.nfe_per_chunk

    def __str__(self) -> str:
        """One line for logs."""
        last = self.windows[-1]
        return (
            f"{self.video_length} frames from {self.known_at_start} in {self.num_chunks} chunks of "
            f"{self.chunk_size}, stride {self.stride} (last: context {last.context}, "
            f"keeps {last.finished}), NFE {self.num_chunks} x {self.nfe_per_chunk} = {self.nfe}"
        )


@dataclass(frozen=True, kw_only=True)
class EndlessPlan:
    """The windows of a video without end, for streams.

    Attributes:
        plan: A plan of the same sampler for a short video of at least two windows. Its second
            window is repeated.
    """

    plan: Plan

    @property
    def chunk_size(self) -> int:
        """Number of frames of a window."""
        return self.plan.chunk_size

    @property
    def known_at_start(self) -> int:
        """Number of frames that are finished before the first window."""
        return self.plan.known_at_start

    @property
    def windows(self) -> Iterator[Window]:
        """The first window of the plan, then its second one without end."""
        first, following = self.plan.windows[:2]
        return itertools.chain([first], itertools.repeat(following))

"""Rolling diffusion: in a window, every frame is at an earlier time than the frame before it.

There are three stages, each with its own matrix of times (`frame_schedules.rolling_times`):

    start   the w = k - m new frames of the first window go from masked to the rolling state, the
            j-th to time (w - j - 1) / w;
    shift   all times grow by 1 / w, and the first new frame is finished. The others, moved up by
            one frame, and a masked frame at the end are in the rolling state again. This stage is
            repeated L - k times;
    finish  the last window goes from the rolling state to clean.

(Ruhe et al., Rolling Diffusion Models, arXiv 2402.09470; the baseline RDM in MaskFlow,
arXiv 2502.11234, section 5.)
"""

import dataclasses
from functools import cached_property
from typing import ClassVar

import jax
import numpy as np

from maskflow_jax.io.settings import refuse
from maskflow_jax.sampling.frame_schedules import between, rolling_times
from maskflow_jax.sampling.samplers.fm import TRANSITIONS, reveal_by_chain
from maskflow_jax.sampling.types import Proposal, RolloutRequest, Step, Window, WindowShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rolling:
    """The chain in a rolling window.

    Attributes:
        num_steps: Number of steps of the first and of the last stage, and (rounded up to a whole
            number per shift) of a frame that passes through the whole window.
        transition: Probability with which a step reveals a token, a key of `fm.TRANSITIONS`.
        independent_time: Time passed to the network for new frames; None passes their times.

    Raises:
        ValueError: if a setting is out of range or a name is unknown.

    Source: Ruhe et al., Rolling Diffusion Models, arXiv 2402.09470.
    """

    name: ClassVar[str] = "rolling"
    guidance_time: ClassVar[float] = 0.9

    num_steps: int = 250
    transition: str = "exact"
    independent_time: float | None = None

    def __post_init__(self):
        refuse(
            self.name,
            self,
            {"num_steps": (1, None), "independent_time": (0.0, 1.0)},
            {"transition": TRANSITIONS},
        )

    def times(self, window: WindowShape) -> np.ndarray:
        """Returns the matrix of the window's stage, [S+1, T]."""
        matrices = rolling_matrices(self.num_steps, window.num_frames, window.context_frames)
        return matrices[window.stage]

    def step(self, keys: jax.Array, x: jax.Array, proposal: Proposal, step: Step) -> jax.Array:
        """Reveals every masked token with the probability of the transition."""
        return reveal_by_chain(self.transition, keys, x, proposal, step)

    def plan(self, request: RolloutRequest) -> "RollingPlan":
        """Returns the windows of a video, one shift per frame."""
        known = request.known_frames
        if request.stride not in (None, 1) or known not in (None, request.context_frames):
            raise ValueError(
                "rolling advances by one frame and starts from its whole context; leave out the "
                "stride, and to start from nothing set context_frames to 0"
            )
        # The plan raises the error for impossible numbers of frames.
        new = max(1, request.chunk_size - request.context_frames)
        evaluations = request.guidance.evaluations
        return RollingPlan(
            video_length=request.video_length,
            chunk_size=request.chunk_size,
            context_frames=request.context_frames,
            start_nfe=evaluations(self.num_steps),
            shift_nfe=evaluations(-(-self.num_steps // new)),
            finish_nfe=evaluations(self.num_steps),
        )


def rolling_matrices(num_steps: int, num_frames: int, context_frames: int) -> dict[str, np.ndarray]:
    """Returns the matrices of times of the three stages.

    Args:
        num_steps: Number of steps of the first and of the last stage, and (rounded up to a whole
            number per shift) of a frame that passes through the whole window.
        num_frames: Number of frames k of the window.
        context_frames: Number of context frames m.

    Returns:
        Times float32 [S+1, k] by stage, with S = num_steps, ceil(num_steps / (k - m)), num_steps.

    Raises:
        ValueError: if num_steps < 1 or no frame is new.
    """
    rolling = rolling_times(num_frames, context_frames)
    clean, new = np.ones(num_frames), num_frames - context_frames
    masked = np.where(np.arange(num_frames) < context_frames, 1.0, 0.0)
    shifted = np.concatenate([rolling[: context_frames + 1], rolling[context_frames:-1]])
    shifted[: context_frames + 1] = 1.0
    return {
        "start": between(masked, rolling, num_steps),
        "shift": between(rolling, shifted, -(-num_steps // new)),
        "finish": between(rolling, clean, num_steps),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class RollingPlan:
    """The windows of a rolling rollout, for `rollout.rollout`.

    Attributes:
        video_length: Number of frames L of the finished video, context included.
        chunk_size: Number of frames k of a window.
        context_frames: Number of context frames m of every window, all known at the start.
        start_nfe: Number of network evaluations of the first stage.
        shift_nfe: Number of network evaluations of one shift.
        finish_nfe: Number of network evaluations of the last stage.

    Raises:
        ValueError: if there is no such rollout; the message lists every reason.
    """

    video_length: int
    chunk_size: int
    context_frames: int
    start_nfe: int
    shift_nfe: int
    finish_nfe: int

    def __post_init__(self):
        length, k, m = self.video_length, self.chunk_size, self.context_frames
        checks = [
            (m < 0, f"context {m} < 0; use 0 to generate without context"),
            (m >= k, f"chunk_size {k}, context {m} >= chunk_size; lower context_frames"),
            (length <= m, f"context {m} leaves no frame to generate; raise length"),
            (
                min(self.start_nfe, self.shift_nfe, self.finish_nfe) < 1,
                "a stage has no network evaluation; raise num_steps",
            ),
        ]
        problems = [message for wrong, message in checks if wrong]
        if problems:
            raise ValueError(f"length {length} cannot be reached: " + "; ".join(problems))

    @property
    def known_at_start(self) -> int:
        """Number of frames that are finished before the first window."""
        return self.context_frames

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """All windows, in order."""
        m, new = self.context_frames, self.chunk_size - self.context_frames
        shifts = max(0, self.video_length - self.chunk_size)
        start = Window(m, finished=0, carried=new, stage="start")
        shift = Window(m, finished=1, carried=new - 1, stage="shift")
        last = min(new, self.video_length - m)
        return (start, *[shift] * shifts, Window(m, finished=last, stage="finish"))

    @property
    def num_chunks(self) -> int:
        """Number of windows sampled."""
        return len(self.windows)

    @property
    def nfe(self) -> int:
        """Number of network evaluations for the whole video."""
        return sum(self.window_nfe(window) for window in self.windows)

    def window_nfe(self, window: Window) -> int:
        """Number of network evaluations of one of the windows."""
        passes = {"start": self.start_nfe, "shift": self.shift_nfe, "finish": self.finish_nfe}
        return passes[window.stage]

    def __str__(self) -> str:
        """One line for logs."""
        return (
            f"{self.video_length} frames from {self.context_frames}, rolling through a window of "
            f"{self.chunk_size} in {self.num_chunks - 2} shifts, NFE {self.start_nfe} + "
            f"{self.num_chunks - 2} x {self.shift_nfe} + {self.finish_nfe} = {self.nfe}"
        )

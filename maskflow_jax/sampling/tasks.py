"""Tasks: which tokens of a video are known, and the plan by which the others are sampled.

    prediction       the first frames are known
    backward         the last frames are known, and the frames before them are sampled
    inbetween        the first and the last frames are known
    loop             prediction that leads back to the first frames, so that the video repeats
    inpaint          all tokens outside a box are known, or those of any given mask
    unconditional    nothing is known

A window contains the known tokens of its own frames only. In a video longer than the training
window, only the last window contains the known last frames (of a loop: the repeated first frames),
and it contains all of them.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from maskflow_jax.sampling.guidance import Guidance
from maskflow_jax.sampling.patterns import first_and_last, outside_box
from maskflow_jax.sampling.types import Plan, RolloutRequest, Sampler, WindowTokens

MIDDLE = (0.25, 0.25, 0.5, 0.5)  # the box that is in-painted where no other is given


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskRequest:
    """The requested video.

    Attributes:
        sampler: The sampler.
        length: Number of frames of the video.
        chunk_size: Number of frames of the model's window.
        context_frames: Number of known frames at either end, and of every window's context.
        grid: Height and width of a frame in tokens.
        stride: Number of new frames kept per window; None for as many as fit.
        guidance: Guidance, which needs further network evaluations.
        known_frames: Number of known frames for "prediction" and "backward", at most
            `context_frames`; None for `context_frames`. With fewer, the first window samples more
            frames.
        box: Unknown box for "inpaint": top, left, height and width as shares of the frame.
        known: Known tokens for "inpaint", bool [L, h, w], instead of a box.
    """

    sampler: Sampler
    length: int
    chunk_size: int
    context_frames: int
    grid: tuple[int, int]
    stride: int | None = None
    guidance: Guidance = Guidance()
    known_frames: int | None = None
    box: tuple[float, float, float, float] = MIDDLE
    known: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A task with its plan; `known` and the result of `place` are in the order of sampling.

    Attributes:
        plan: The windows.
        known: Known tokens, bool [L, h, w] with L the plan's length.
        place: Function of real tokens [B, F, h, w] to the known tokens at their places of the
            video, [B, L, h, w].
        source_frames: Number of frames F that the task takes from a real video.
        shown: Number of frames of the result; the last frames of a loop repeat its first ones and
            are dropped.
        backward: Whether the video is sampled from its last frame to its first.
    """

    plan: Plan
    known: np.ndarray
    place: Callable[[np.ndarray], np.ndarray]
    source_frames: int
    shown: int
    backward: bool = False

    def inputs(self, real: np.ndarray) -> tuple[np.ndarray, WindowTokens | None]:
        """Returns the arguments `context` and `given` of `rollout`.

        Args:
            real: Real tokens, int [B, F, h, w].

        Returns:
            The context, int [B, known_at_start, h, w], and further known tokens of the video, or
            None if there are none.
        """
        tokens, begin = self.place(real), self.plan.known_at_start
        context = tokens[:, :begin]
        if not self.known[begin:].any():
            return context, None
        return context, WindowTokens(tokens, np.broadcast_to(self.known, tokens.shape))

    def finish(self, tokens: np.ndarray) -> np.ndarray:
        """Turns [..., L, h, w] in the order of sampling into the frames of the result."""
        return (np.flip(tokens, -3) if self.backward else tokens)[..., : self.shown, :, :]


def make_task(name: str, request: TaskRequest) -> Task:
    """Plans a task.

    Args:
        name: A key of `TASKS`.
        request: The requested video.

    Returns:
        The task with its plan.

    Raises:
        ValueError: if the task is unknown or there is no such video, naming the reasons.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose one of {', '.join(TASKS)}")
    return TASKS[name](request)


def _ends(request: TaskRequest) -> int:
    """Number of known frames at either end, at least one."""
    if request.context_frames < 1:
        raise ValueError("this task needs a known frame at either end; set context_frames to 1")
    return request.context_frames


def _plan(request: TaskRequest, length: int, known_frames: int, known_tail: int = 0) -> Plan:
    return request.sampler.plan(
        RolloutRequest(
            video_length=length,
            chunk_size=request.chunk_size,
            context_frames=request.context_frames,
            stride=request.stride,
            known_frames=known_frames,
            known_tail=known_tail,
            guidance=request.guidance,
        )
    )


def _from_first_frames(
    request: TaskRequest, known_frames: int | None, *, backward: bool = False
) -> Task:
    """Only the first frames in the order of sampling are known."""
    known_frames = request.context_frames if known_frames is None else known_frames
    plan = _plan(request, request.length, known_frames)

    def place(real: np.ndarray) -> np.ndarray:
        real = np.flip(real, 1) if backward else real
        return np.pad(real, [(0, 0), (0, request.length - known_frames), (0, 0), (0, 0)])

    return Task(
        plan=plan,
        known=first_and_last((request.length, *request.grid), known_frames),
        place=place,
        source_frames=known_frames,
        shown=request.length,
        backward=backward,
    )


def _prediction(request: TaskRequest) -> Task:
    return _from_first_frames(request, request.known_frames)


def _backward(request: TaskRequest) -> Task:
    return _from_first_frames(request, request.known_frames, backward=True)


def _unconditional(request: TaskRequest) -> Task:
    return _from_first_frames(request, 0)


def _inbetween(request: TaskRequest) -> Task:
    ends, length = _ends(request), request.length

    def place(real: np.ndarray) -> np.ndarray:
        if real.shape[1] == length:
            return real
        between = [(0, 0), (0, length - real.shape[1]), (0, 0), (0, 0)]
        return np.concatenate([np.pad(real[:, :ends], between), real[:, ends:]], axis=1)

    return Task(
        plan=_plan(request, length, ends, known_tail=ends),
        known=first_and_last((length, *request.grid), ends, ends),
        place=place,
        source_frames=length,
        shown=length,
    )


def _loop(request: TaskRequest) -> Task:
    ends, length = _ends(request), request.length
    between = [(0, 0), (0, length - ends), (0, 0), (0, 0)]
    return Task(
        plan=_plan(request, length + ends, ends, known_tail=ends),
        known=first_and_last((length + ends, *request.grid), ends, ends),
        place=lambda real: np.concatenate([np.pad(real, between), real], axis=1),
        source_frames=ends,
        shown=length,
    )


def _inpaint(request: TaskRequest) -> Task:
    shape = (request.length, *request.grid)
    if request.known is None:
        known = outside_box(shape, *request.box)
    else:
        known = np.asarray(request.known, bool)
        if known.shape != shape:
            raise ValueError(
                f"the mask of known tokens has shape {known.shape}; it must be {shape}: frames, "
                "height and width in tokens"
            )
        if known.all():
            raise ValueError("the mask says that every token is known; leave one to generate")
    return Task(
        plan=_plan(request, request.length, 0),
        known=known,
        place=lambda real: real,
        source_frames=request.length,
        shown=request.length,
    )


TASKS: dict[str, Callable[[TaskRequest], Task]] = {
    "prediction": _prediction,
    "backward": _backward,
    "inbetween": _inbetween,
    "loop": _loop,
    "inpaint": _inpaint,
    "unconditional": _unconditional,
}

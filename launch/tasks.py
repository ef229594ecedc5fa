"""Tasks: what is known of a video, and the rollout that makes the rest.

    prediction       the first frames are known
    backward         the last frames are known, and what came before is made
    inbetween        the first and the last frames are known
    loop             prediction that ends where it began: the video can be repeated without a cut
    inpaint          everything is known but a box
    unconditional    nothing is known

A window sees the known tokens of its own frames only. A video longer than the training window
approaches its known end, or the closing of the loop, in its last window, which sees all of the end.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from maskflow_jax.sampling.patterns import first_and_last, outside_box
from maskflow_jax.sampling.rollout import Plan
from maskflow_jax.sampling.samplers import SamplerConfig, plan_rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Attributes:
        sampler: the sampler.
        length: frames of the video.
        chunk_size: frames of the model's window.
        context_frames: known frames at either end, and context of every window.
        stride: new frames kept per window; None for as many as fit.
        grid: (height, width) of a frame in tokens.
        box: (top, left, height, width) to in-paint, shares of the frame.
    """

    sampler: SamplerConfig
    length: int
    chunk_size: int
    context_frames: int
    stride: int | None
    grid: tuple[int, int]
    box: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A task made ready; `known` and what `place` returns are in the order of sampling.

    Attributes:
        plan: the windows.
        known: bool [L, h, w], L the plan's length.
        place: real tokens [B, F, h, w] -> known tokens in their places, [B, L, h, w].
        source_frames: F, how many frames of a real video it takes.
        backward: sampled from the last frame to the first.
        shown: frames of the result; a loop's last frames repeat its first and are dropped.
    """

    plan: Plan
    known: np.ndarray
    place: Callable[[np.ndarray], np.ndarray]
    source_frames: int
    shown: int
    backward: bool = False

    def inputs(self, real: np.ndarray) -> tuple[np.ndarray, tuple | None]:
        """`rollout`'s context and given tokens for real tokens int [B, F, h, w]."""
        tokens, begin = self.place(real), self.plan.known_at_start
        context = tokens[:, :begin]
        if not self.known[begin:].any():
            return context, None
        return context, (tokens, np.broadcast_to(self.known, tokens.shape))

    def finish(self, tokens: np.ndarray) -> np.ndarray:
        """From [..., L, h, w] in the order of sampling to the result's frames."""
        return (np.flip(tokens, -3) if self.backward else tokens)[..., : self.shown, :, :]


def make_job(task: str, request: Request) -> Job:
    """Makes a task ready.

    Raises:
        ValueError: if the task is unknown or has no rollout, naming the reasons.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; choose one of {', '.join(TASKS)}")
    return TASKS[task](request)


def _ends(request: Request) -> int:
    """Known frames at either end, at least one."""
    if request.context_frames < 1:
        raise ValueError("an end without a known frame ties nothing; raise context_frames to 1")
    return request.context_frames


def _plan(request: Request, length: int, known_frames: int, known_tail: int = 0) -> Plan:
    return plan_rollout(
        request.sampler,
        video_length=length,
        chunk_size=request.chunk_size,
        context_frames=request.context_frames,
        stride=request.stride,
        known_frames=known_frames,
        known_tail=known_tail,
    )


def _from_first_frames(request: Request, known_frames: int, *, backward: bool = False) -> Job:
    """Only the first frames of the sampling order are known."""
    plan = _plan(request, request.length, known_frames)

    def place(real: np.ndarray) -> np.ndarray:
        real = np.flip(real, 1) if backward else real
        return np.pad(real, [(0, 0), (0, request.length - known_frames), (0, 0), (0, 0)])

    return Job(
        plan=plan,
        known=first_and_last((request.length, *request.grid), known_frames),
        place=place,
        source_frames=known_frames,
        shown=request.length,
        backward=backward,
    )


def _prediction(request: Request) -> Job:
    return _from_first_frames(request, request.context_frames)


def _backward(request: Request) -> Job:
    return _from_first_frames(request, request.context_frames, backward=True)


def _unconditional(request: Request) -> Job:
    return _from_first_frames(request, 0)


def _inbetween(request: Request) -> Job:
    ends = _ends(request)
    return Job(
        plan=_plan(request, request.length, ends, known_tail=ends),
        known=first_and_last((request.length, *request.grid), ends, ends),
        place=lambda real: real,
        source_frames=request.length,
        shown=request.length,
    )


def _loop(request: Request) -> Job:
    ends, length = _ends(request), request.length
    between = [(0, 0), (0, length - ends), (0, 0), (0, 0)]
    return Job(
        plan=_plan(request, length + ends, ends, known_tail=ends),
        known=first_and_last((length + ends, *request.grid), ends, ends),
        place=lambda real: np.concatenate([np.pad(real, between), real], axis=1),
        source_frames=ends,
        shown=length,
    )


def _inpaint(request: Request) -> Job:
    return Job(
        plan=_plan(request, request.length, 0),
        known=outside_box((request.length, *request.grid), *request.box),
        place=lambda real: real,
        source_frames=request.length,
        shown=request.length,
    )


TASKS: dict[str, Callable[[Request], Job]] = {
    "prediction": _prediction,
    "backward": _backward,
    "inbetween": _inbetween,
    "loop": _loop,
    "inpaint": _inpaint,
    "unconditional": _unconditional,
}

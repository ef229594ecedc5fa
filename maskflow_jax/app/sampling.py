"""Sampling for the page: a video that grows window by window, can be stopped, and is written."""

import dataclasses
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from maskflow_jax.app.request import Request, plan, read_known_frames
from maskflow_jax.generation.request import Generation
from maskflow_jax.generation.videos import Videos
from maskflow_jax.generator import VideoGenerator

MAX_GIF_RATE = 50.0  # frames per second that the format can show


@dataclasses.dataclass(kw_only=True, eq=False)
class Job:
    """A request on its way: everything that belongs to one click, and to nobody else.

    Attributes:
        request: The request.
        generation: Its plan.
        real: The real tokens that it takes, int32 [1, F, h, w].
        stopped: Set when the visitor wants no more of it.
        videos: What came out of it, in the end.
    """

    request: Request
    generation: Generation
    real: np.ndarray
    stopped: threading.Event = dataclasses.field(default_factory=threading.Event)
    videos: Videos | None = None

    @property
    def complete(self) -> bool:
        """Whether the video has all its frames."""
        return self.videos is not None and self.videos.tokens.shape[1] == self.request.length


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Progress:
    """What is there after some windows.

    Attributes:
        frames: uint8 [F, S, S, 3], the frames so far, in the order of the video.
        first: Number of the first of them; a video that is made backward begins with its end.
        windows: Number of windows sampled.
        evaluations: Number of network evaluations so far.
        rate: Seconds per evaluation, without windows that were compiled; None if not known yet.
    """

    frames: np.ndarray
    first: int
    windows: int
    evaluations: int
    rate: float | None


def prepare(generator: VideoGenerator, request: Request) -> Job:
    """Plans a request and reads its context, so that nothing can be wrong once it is queued.

    Raises:
        ValueError: if there is no such video or context.
    """
    generation = plan(generator, request)
    real = read_known_frames(generator, request, generation)
    return Job(request=request, generation=generation, real=real)


def sample(generator: VideoGenerator, job: Job) -> Iterator[Progress]:
    """Samples a video; at the end, or where it is stopped, `job.videos` has what there is.

    Args:
        generator: The model.
        job: The prepared request.

    Yields:
        What is there before the first window, and after each.
    """
    generation, task = job.generation, job.generation.task
    given = task.inputs(job.real)[0]
    side = generator.tokenizer.identity["frame_size"]
    # In the order of sampling, filled from the front.
    tokens = np.zeros(task.known.shape, np.int32)
    frames = np.zeros((len(tokens), side, side, 3), np.uint8)
    done = evaluations = 0
    seconds: list[float] = []

    def add(new: np.ndarray) -> None:
        nonlocal done
        here = slice(done, done + len(new))
        if len(new):
            tokens[here], frames[here] = new, generator.tokenizer.decode(new)
        done += len(new)

    def progress(count: int) -> Progress:
        shown = frames[: min(done, task.shown)]
        return Progress(
            frames=shown[::-1] if task.backward else shown,
            first=task.shown - done if task.backward else 0,
            windows=count,
            evaluations=evaluations,
            rate=float(np.median(seconds[1:])) if len(seconds) > 1 else None,
        )

    add(given[0])
    yield progress(0)
    chunks = generator.sample_windows(generation, job.real, seed=job.request.seed)
    for count, window in enumerate(generation.plan.windows, start=1):
        if job.stopped.is_set():
            break
        started = time.monotonic()
        add(next(chunks)[0])
        evaluations += generation.plan.window_nfe(window)
        seconds.append((time.monotonic() - started) / generation.plan.window_nfe(window))
        # Set before the visitor sees the last window, so that what is seen can be had.
        job.videos = _videos(generator, generation, tokens[None, :done], evaluations)
        yield progress(count)


def _videos(
    generator: VideoGenerator, generation: Generation, tokens: np.ndarray, evaluations: int
) -> Videos | None:
    """The frames so far as a video, or None if there are none; `tokens` in order of sampling."""
    task, done = generation.task, tokens.shape[1]
    if not done:
        return None
    texts = generation.texts
    if texts is not None:
        frames = np.arange(min(done, task.shown)) + (task.shown - done if task.backward else 0)
        texts = texts.in_order(frames)
    return Videos(
        tokens=task.finish(tokens).copy(),
        known=task.finish(task.known[:done]),
        fps=generator.fps,
        tokenizer=generator.tokenizer,
        nfe=evaluations,
        texts=texts,
    )


def write_files(videos: Videos, directory: str | Path) -> dict[str, str]:
    """Writes a video for downloading into a new folder.

    Args:
        videos: One video.
        directory: Where the folder is made.

    Returns:
        Paths by kind: "mp4", "gif" (not above 50 frames per second) and "npz".
    """
    folder = Path(tempfile.mkdtemp(dir=directory, prefix="video-"))
    (tokens,) = videos.save(folder, gif=videos.fps <= MAX_GIF_RATE)
    files = {suffix: tokens.with_suffix(f".{suffix}") for suffix in ("mp4", "gif", "npz")}
    return {kind: str(path) for kind, path in files.items() if path.is_file()}

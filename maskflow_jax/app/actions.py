"""What the page does, as functions of plain values; nothing here knows of browsers.

Everything that belongs to a visitor is passed in and returned: `Actions` holds the models and the
limits, which are the same for all.
"""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maskflow_jax.app import pictures
from maskflow_jax.app.captions import read_captions, takes_captions
from maskflow_jax.app.fields import Field, read_form
from maskflow_jax.app.models import Models
from maskflow_jax.app.request import Request, plan, python_code, read_known_frames
from maskflow_jax.app.sampling import Job, Progress, prepare, sample, write_files
from maskflow_jax.app.uploads import Clip, UploadLimits, read_upload
from maskflow_jax.config import SamplingConfig
from maskflow_jax.generation import unmasking
from maskflow_jax.generation.request import Generation
from maskflow_jax.generator import VideoGenerator
from maskflow_jax.io.files import sha256_of_tokens

MISTAKES = (
    ValueError,
    OSError,
    RuntimeError,
    ImportError,
)  # what is told to the visitor as a message
PAUSE = 0.3  # seconds between two looks at a growing video


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one visitor may ask for.

    Attributes:
        frames: Number of frames of a video.
        evaluations: Number of network evaluations of a video.
        upload: Of uploaded files.
    """

    frames: int = 1000
    evaluations: int = 20_000
    upload: UploadLimits = UploadLimits()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """What is to be seen of a job.

    Attributes:
        status: HTML of the progress.
        film: Picture of the frames so far; None for none.
        files: Paths of what can be downloaded, at the end.
        code: The program that makes the video, at the end.
    """

    status: str
    film: np.ndarray | None = None
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    code: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Unmasking:
    """A window with the step that revealed each of its tokens.

    Attributes:
        frames: uint8 [k, S, S, 3].
        reveal_step: int32 [k, h, w].
        num_steps: Number of steps.
    """

    frames: np.ndarray
    reveal_step: np.ndarray
    num_steps: int

    def picture(self, steps: int) -> np.ndarray:
        """The window after some steps, in rows, uint8 [H, W, 3]."""
        upscale = max(1, 64 // self.frames.shape[1])
        count = min(pictures.COLUMNS, len(self.frames))
        parts = []
        for begin in range(0, len(self.frames), count):
            row = slice(begin, begin + count)
            drawn = unmasking.draw(self.frames[row], self.reveal_step[row], steps, upscale=upscale)
            missing = count - len(self.frames[row])
            pad = missing * drawn.shape[1] // (count - missing)
            parts.append(np.pad(drawn, [(0, upscale), (0, pad), (0, 0)], constant_values=255))
        return np.concatenate(parts)


class Actions:
    """The actions of the page.

    Args:
        models: The models.
        fields: The fields of the form.
        limits: What one visitor may ask for.
    """

    def __init__(self, models: Models, fields: list[Field], limits: Limits = Limits()):
        self.models, self.fields, self.limits = models, fields, limits

    def request(self, values: Mapping[str, Any], *, painted: bool = True) -> Request:
        """Reads the form.

        Args:
            values: Values of the parts by name; "entries" are those of the fields.
            painted: Whether the drawing is looked at; otherwise all is taken as painted over.

        Raises:
            ValueError: if something is missing or out of range.
        """
        generator = self.models.get(values["model"])
        grid = tuple(generator.model.config.tokenizer.grid)
        said = takes_captions(generator)
        _check_number(values, "frames_per_scene" if said else "length", 1, self.limits.frames)
        _check_number(values, "seed", 0, 2**32 - 1)
        _check_number(values, "index", 0)
        clip = values["clip"]
        if values["source"] == "upload" and clip is not None:
            size = generator.tokenizer.identity["frame_size"]
            if (clip.fps, clip.frames.shape[1]) != (generator.fps, size):
                raise ValueError(f"{clip.name} was read for another model; upload it again")
        mask = np.ones(grid, bool)
        if painted:
            mask = pictures.painted_tokens(values["drawing"], grid)
        sampling = read_form(values["sampler"], self.fields, values["entries"])
        scenes = {"length": int(values["length"] or 0)}
        if said:
            sampling = _guided(sampling, values["caption_guidance"])
            scenes = self._scenes(generator, values["captions"], int(values["frames_per_scene"]))
        return Request(
            model=values["model"],
            task=values["task"],
            seed=int(values["seed"]),
            sampling=sampling,
            **scenes,
            source=values["source"],
            split=values["split"],
            index=int(values["index"]),
            clip=None if clip is None else clip.frames,
            mask=mask,
        )

    def _scenes(self, generator: VideoGenerator, text: str, frames: int) -> dict[str, Any]:
        """The captions, and the number of frames of all scenes together."""
        captions = read_captions(generator, text)
        length = len(captions) * frames
        if length > self.limits.frames:
            raise ValueError(
                f"{len(captions)} captions of {frames} frames each are {length} frames, at most "
                f"{self.limits.frames} are made here; give fewer captions or frames per scene"
            )
        return {"captions": captions, "frames_per_scene": frames, "length": length}

    def upload(self, path: str, model: str) -> Clip:
        """Reads an uploaded file and deletes it, whether it can be read or not.

        Raises:
            ValueError: if it is of another type, too large, or broken.
        """
        try:
            generator = self.models.get(model)
            size = generator.tokenizer.identity["frame_size"]
            frames = read_upload(path, fps=generator.fps, size=size, limits=self.limits.upload)
            return Clip(name=Path(path).name, frames=frames, fps=generator.fps)
        finally:
            Path(path).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody else's file may lie there
                Path(path).parent.rmdir()

    def plan_text(self, values: Mapping[str, Any]) -> str:
        """What the video will cost, or why there is no such video, as HTML."""
        try:
            request = self.request(values, painted=False)
            generation = plan(self.models.get(request.model), request)
            self._check(generation)
        except MISTAKES as error:
            return pictures.problem(str(error))
        seconds = self.models.expected_seconds(request.model, generation)
        expected = "the time is known after the first video"
        if seconds is not None:
            expected = f"{pictures.duration(seconds)}, and compilation the first time"
        return pictures.note(f"{generation.plan}; {expected}")

    def known_frames(self, values: Mapping[str, Any]) -> np.ndarray:
        """Returns the frames that would be given, uint8 [F, S, S, 3].

        Raises:
            ValueError: if there are no such frames.
        """
        request = self.request(values, painted=False)
        generator = self.models.get(request.model)
        real = read_known_frames(generator, request, plan(generator, request))
        if not real.shape[1]:
            side = generator.tokenizer.identity["frame_size"]
            return np.zeros((0, side, side, 3), np.uint8)
        return generator.tokenizer.decode(real[0])

    def start(self, values: Mapping[str, Any]) -> Job:
        """Checks and plans what is asked for.

        Raises:
            ValueError: if there is no such video, or it is more than one visitor may ask for.
        """
        request = self.request(values)
        job = prepare(self.models.get(request.model), request)
        self._check(job.generation)
        return job

    def _check(self, generation: Generation) -> None:
        if generation.nfe > self.limits.evaluations:
            raise ValueError(
                f"this takes {generation.nfe} network evaluations, at most "
                f"{self.limits.evaluations} are taken here; lower num_steps or the frames"
            )

    def run(self, job: Job) -> Iterator[Shown]:
        """Makes a video; what it yields is to be seen at once.

        Raises:
            RuntimeError: if the device is out of memory.
        """
        request, generation = job.request, job.generation
        generator, total = self.models.get(request.model), generation.nfe
        rate = self.models.expected_seconds(request.model, generation)
        rate = None if rate is None else rate / total
        last = float("-inf")
        for progress in sample(generator, job):
            rate = progress.rate or rate
            done = progress.windows == len(generation.plan.windows)
            if time.monotonic() - last < PAUSE and not done:
                continue
            last = time.monotonic()
            bar = _progress_bar(progress, generation, rate)
            yield Shown(status=bar, film=_film(job, progress))
        if progress.rate is not None:
            self.models.note_speed(request.model, progress.rate)
        yield from self._finished(job, progress)

    def _finished(self, job: Job, progress: Progress) -> Iterator[Shown]:
        """What there is in the end; the files are deleted when they have been taken."""
        total = job.generation.nfe
        if job.videos is None:
            yield Shown(status=pictures.progress_bar(0, total, "Stopped before the first window."))
            return
        count, generator = len(job.videos.known), self.models.get(job.request.model)
        text = f"{count} frames, NFE {job.videos.nfe}, seed {job.request.seed}."
        if not job.complete:
            text = f"Stopped after {text[:-1]}. The code makes all {job.request.length} frames."
        code = python_code(
            generator,
            job.request,
            job.real,
            places=self.models.places,
            digest=sha256_of_tokens(job.videos.tokens) if job.complete else "",
        )
        with tempfile.TemporaryDirectory() as folder:
            yield Shown(
                status=pictures.progress_bar(progress.evaluations, total, text),
                film=_film(job, progress),
                files=write_files(job.videos, folder),
                code=code,
            )

    def reveal(self, job: Job | None, window: int) -> Unmasking:
        """Samples a window of a finished job again, to see how it was unmasked.

        Raises:
            ValueError: if there is none, or it was made by rolling.
        """
        if job is None or job.videos is None:
            raise ValueError("there is no video yet; generate one")
        generator, number = self.models.get(job.request.model), int(window or 0)
        tokens, steps, count = unmasking.reveal_again(
            generator,
            job.generation,
            job.real,
            job.videos,
            seed=job.request.seed,
            window=number,
        )
        frames = generator.tokenizer.decode(tokens)
        return Unmasking(frames=frames, reveal_step=steps, num_steps=count)


def _check_number(
    values: Mapping[str, Any], name: str, least: int, most: int | None = None
) -> None:
    """Raises ValueError for an entry that is missing or out of range."""
    value = values[name]
    if value is None or value < least or (most is not None and value > most):
        raise ValueError(
            f"{name} is {value}; give a whole number from {least}"
            + (f" to {most}" if most is not None else "")
        )


def _guided(sampling: SamplingConfig, weight: float | None) -> SamplingConfig:
    """Settings with a weight of guidance by captions."""
    if weight is None:
        raise ValueError("caption guidance is empty; give a number, 1 for none")
    guidance = dataclasses.replace(sampling.guidance, captions=float(weight))
    return dataclasses.replace(sampling, guidance=guidance)


def _film(job: Job, progress: Progress) -> np.ndarray:
    """The frames so far; those of scenes with their captions."""
    request, task = job.request, job.generation.task
    known, there = task.finish(task.known).all(axis=(1, 2)), {"first": progress.first}
    if request.captions:
        return pictures.scene_rows(
            progress.frames,
            captions=request.captions,
            per_scene=request.frames_per_scene,
            known=known,
            **there,
        )
    return pictures.strip(progress.frames, length=request.length, known=known, **there)


def _progress_bar(progress: Progress, generation: Generation, rate: float | None) -> str:
    done, total = progress.evaluations, generation.nfe
    text = f"Window {progress.windows} of {len(generation.plan.windows)}, NFE {done} of {total}"
    if rate is not None and done < total:
        text += f", {pictures.duration(rate * (total - done))} left"
    if not progress.windows:
        text += "; settings that are new are compiled first"
    return pictures.progress_bar(done, total, text)

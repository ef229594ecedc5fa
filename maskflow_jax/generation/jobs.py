"""Sampling jobs: a file with one JSON object a line, read strictly and planned as a whole.

    {"length": 160, "context": {"split": "test", "index": 3}, "seed": 7, "count": 4}
    {"name": "between", "task": "inbetween", "length": 16, "context": {"file": "walk.mp4"},
     "sampler": {"name": "fm", "num_steps": 50}, "sampling": {"context_frames": 2}}

(The second example is one line in a file.) `Job` lists the keys. Every line is read, planned and
its context opened before anything is sampled; all that is wrong is reported together, by line.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maskflow_jax.config_files import replace_sampling
from maskflow_jax.generation.request import Generation
from maskflow_jax.generator import VideoGenerator
from maskflow_jax.io.settings import read_settings, refuse

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # safe as the name of a folder everywhere
MANIFEST = "manifest.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobContext:
    """Where the known frames of a job come from: the dataset, or a file.

    Attributes:
        split: Split of the dataset.
        index: Number of the video in that split, of which the first frames are taken.
        file: Path of a video or image file, of which the last frames are taken ("backward": the
            first).
    """

    split: str | None = None
    index: int | None = None
    file: str | None = None

    def __post_init__(self):
        if self.file is None and (self.split is None or self.index is None):
            raise ValueError('give "split" and "index", or "file"')
        if self.file is not None and (self.split is not None or self.index is not None):
            raise ValueError('"file" excludes "split" and "index"')
        refuse("", self, {"index": (0, None)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One line of a file of jobs.

    Attributes:
        name: Name of the folder of its samples; by default `job_` and the number of its line.
        context: The known frames; None for a video of which nothing is known.
        task: A key of `sampling.tasks.TASKS`; None for prediction, or with captions and without a
            context for a video of which nothing is known.
        length: Number of frames of a video; None for whole scenes, where there are captions.
        captions: Captions of the scenes, for a model that takes them.
        frames_per_scene: Number of frames of a scene; None for that of training.
        sampler: Name of a sampler, or its name and settings, or settings that replace the model's.
        sampling: Other settings of the config's section `sampling`.
        box: For "inpaint": top, left, height and width as shares of the frame.
        seed: Seed of its samples.
        count: Number of samples, which differ in their random numbers.
    """

    name: str | None = None
    context: JobContext | None = None
    task: str | None = None
    length: int | None = None
    captions: tuple | None = None
    frames_per_scene: int | None = None
    sampler: str | Mapping | None = None
    sampling: Mapping = dataclasses.field(default_factory=dict)
    box: tuple | None = None
    seed: int = 0
    count: int = 1

    def __post_init__(self):
        more = []
        if self.name is not None and not _NAME.fullmatch(self.name):
            more.append(f"name is {self.name!r}; use letters, digits, '.', '_' and '-'")
        if self.name is not None and self.name.casefold() == MANIFEST:
            more.append(f"name is {self.name!r}, which is a file of the folder of results")
        if "sampler" in self.sampling:
            more.append('sampling.sampler is set; write "sampler" beside "sampling"')
        if self.length is None and self.captions is None:
            more.append("length is missing")
        if self.captions is not None and not all(isinstance(text, str) for text in self.captions):
            more.append("captions are not all texts; give a list of texts, one for each scene")
        if self.frames_per_scene is not None and self.captions is None:
            more.append("frames_per_scene is set; it belongs to captions")
        numbers = self.box is not None and [type(x) in (int, float) for x in self.box]
        if self.box is not None and not (len(self.box) == 4 and all(numbers)):
            more.append(f"box is {list(self.box)}; give top, left, height and width")
        ranges = {"length": (1, None), "seed": (0, 2**32 - 1), "count": (1, None)}
        ranges |= {"frames_per_scene": (1, None)}
        refuse("", self, ranges, more=tuple(more))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PlannedJob:
    """A job that can run.

    Attributes:
        job: The job, with its name.
        generation: Its plan.
        request: Length, task and options that the plan was made from.
    """

    job: Job
    generation: Generation
    request: Mapping[str, Any]

    def read_context(self, generator: VideoGenerator) -> np.ndarray:
        """Reads its known frames, int32 [count, F, h, w]."""
        job, frames = self.job, self.generation.task.source_frames
        if job.context is None:
            tokens = np.zeros((1, 0, *generator.model.config.tokenizer.grid), np.int32)
        elif job.context.file is not None:
            backward = self.generation.task.backward
            tokens = generator.read_context(job.context.file, frames=frames, from_start=backward)
        else:
            place = {"split": job.context.split, "indices": [job.context.index]}
            tokens = generator.read_context(frames=frames, **place)
        return np.repeat(tokens, job.count, axis=0)


def read_jobs(path: str | Path, generator: VideoGenerator) -> list[PlannedJob]:
    """Reads a file of jobs and plans each of them; nothing is sampled or written.

    Args:
        path: The file; empty lines are skipped.
        generator: The model.

    Returns:
        The jobs, in the order of their lines.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds no job, or naming every line that cannot be run and why.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no jobs at {path}: expected a file of one JSON object a line")
    found: dict[int, PlannedJob] = {}
    problems: dict[int, str] = {}
    names: dict[str, int] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            job = _read_line(line, number)
            # Of folders on disks that do not tell capitals apart, too.
            if (first := names.setdefault(job.name.casefold(), number)) != number:
                raise ValueError(f"name {job.name!r} is that of line {first}; choose another")
            found[number] = _plan(job, generator)
        except (ValueError, TypeError, OSError) as error:
            problems[number] = str(error)
    if problems:
        raise ValueError(
            f"{len(problems)} of {len(found) + len(problems)} jobs in {path} cannot be run, so "
            "none was started:" + "".join(f"\n  line {n}: {text}" for n, text in problems.items())
        )
    if not found:
        raise ValueError(f"{path} holds no job; write one JSON object a line")
    return list(found.values())


def _read_line(line: str, number: int) -> Job:
    """One line as a job with a name and a task."""
    try:
        values = json.loads(line, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"it is {line.strip()[:40]!r}; write an object, such as {{'length': 16}}")
    job = read_settings(Job, values)
    alone = job.captions is not None and job.context is None
    task = job.task or ("unconditional" if alone else "prediction")
    return dataclasses.replace(job, name=job.name or f"job_{number:05d}", task=task)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} is given twice")
    return values


def _plan(job: Job, generator: VideoGenerator) -> PlannedJob:
    """Plans a job and opens its context."""
    changes = dict(job.sampling)
    if job.sampler is not None:
        named = isinstance(job.sampler, str)
        changes["sampler"] = {"name": job.sampler} if named else dict(job.sampler)
    sampling = replace_sampling(generator.model.config.sampling, changes)
    said = {}
    if job.captions is not None:
        said = {"captions": list(job.captions), "frames_per_scene": job.frames_per_scene}
    if job.box is not None and job.task != "inpaint":
        raise ValueError(f"box belongs to the task 'inpaint', not {job.task!r}")
    box = {} if job.box is None else {"box": job.box}
    request = {"length": job.length, "task": job.task, **vars(sampling), **box, **said}
    planned = PlannedJob(job=job, generation=generator.plan(**request), request=request)
    frames = planned.generation.task.source_frames
    if frames and job.context is None:
        raise ValueError(
            f"the task {job.task!r} takes {frames} real frames; give a context, such as "
            '{"split": "test", "index": 0} or {"file": "walk.mp4"}'
        )
    if not frames and job.context is not None:
        raise ValueError(f"the task {job.task!r} takes no real frames here; leave the context out")
    planned.read_context(generator)
    return planned

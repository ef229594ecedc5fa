"""A folder of the results of jobs, which several machines fill and which a killed job finishes.

Samples whose settings are equal are sampled together in batches, whichever jobs they belong to, so
that a program is compiled once and small jobs share a batch. The batches follow from the jobs and
the batch size alone; they are divided among array tasks and processes. The tokens of each sample
are stored first; pixels can be made from them at any time. Each job has a folder of its own with
`settings.json`, as `SampleFolder` writes it. Once all tokens are there, `manifest.jsonl` lists
them.
"""

import dataclasses
import json
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from tqdm import tqdm

from maskflow_jax.data.preparation.settings import parse_shard
from maskflow_jax.generation.jobs import MANIFEST, PlannedJob
from maskflow_jax.generation.request import Generation
from maskflow_jax.generation.sample_folder import (
    SETTINGS,
    check_settings,
    describe_model,
    describe_samples,
    sample_resumably,
    wait_for_all,
)
from maskflow_jax.generation.scenes import SceneTexts
from maskflow_jax.generation.videos import SHOWN_SIDE
from maskflow_jax.generator import VideoGenerator
from maskflow_jax.io import video_files
from maskflow_jax.io.files import sha256_of_json, sha256_of_tokens, write_text

_UNFINISHED = ".unfinished"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """One sample of one job.

    Attributes:
        planned: The job.
        number: Number i of the sample in its job.
        tokens: File of its tokens.
    """

    planned: PlannedJob
    number: int
    tokens: Path

    @property
    def video(self) -> Path:
        """File of its pixels."""
        return self.tokens.with_suffix(".mp4")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Samples that are computed together.

    Attributes:
        results: The samples.
        size: Number of samples that the batch is filled up to.
    """

    results: tuple[Result, ...]
    size: int


class JobFolder:
    """The results of jobs, in `NAME/sample_00000.npz` and so on.

    Args:
        generator: The generator; each process samples alone, on its own devices.
        jobs: What `read_jobs` returned.
        out: The folder, made if missing.
        part: Which part of the work this is, and of how many: (0, 1) is all of it.
        batch_size: Largest number of samples that are computed at a time.

    Raises:
        FileExistsError: if a job's folder holds samples of other settings, naming the differences.
        ValueError: if there is no such part.
    """

    def __init__(
        self,
        generator: VideoGenerator,
        jobs: Sequence[PlannedJob],
        out: str | Path,
        *,
        part: tuple[int, int] = (0, 1),
        batch_size: int = 4,
    ):
        if not 0 <= part[0] < part[1] or batch_size < 1:
            raise ValueError(f"part {part} or batch_size {batch_size} is out of range")
        self._generator, self._out = generator, Path(out)
        model = describe_model(generator)
        self._settings = {
            planned.job.name: describe_samples(
                planned.generation,
                planned.request,
                planned.read_context(generator),
                planned.job.seed,
                model,
            )
            for planned in jobs
        }
        # All look before the first writes: the same error then ends all of them.
        for name, settings in self._settings.items():
            check_settings(self._out / name, settings)
        wait_for_all("job folders checked")
        if jax.process_index() == 0:
            for name, settings in self._settings.items():
                write_text(self._out / name / SETTINGS, json.dumps(settings, indent=2) + "\n")
        wait_for_all("job folders claimed")
        batches = make_batches(jobs, self._out, batch_size)
        self._results = [result for batch in batches for result in batch.results]
        worker = part[0] * jax.process_count() + jax.process_index()
        self._share = batches[worker :: part[1] * jax.process_count()]

    def complete(self, *, sample: bool = True, pixels: bool = True) -> int:
        """Makes what is missing of this part, and waits for the other processes of this part.

        Args:
            sample: Whether samples are computed; otherwise only the pixels of stored tokens are
                made.
            pixels: Whether pixels are made.

        Returns:
            Number of results in all that are still missing, of other parts or, without sampling,
            of this one.

        Raises:
            ValueError: if a file of tokens is damaged.
        """
        for batch in tqdm(self._share, "batches", disable=not self._share):
            if sample and not all(result.tokens.is_file() for result in batch.results):
                self._sample(batch)
            if pixels:
                for result in batch.results:
                    self._write_pixels(result)
        wait_for_all("job results written")
        missing = sum(not result.tokens.is_file() for result in self._results)
        if not missing and jax.process_index() == 0:
            self._write_manifest()
            shutil.rmtree(self._out / _UNFINISHED, ignore_errors=True)
        return missing

    def _sample(self, batch: Batch) -> None:
        """Samples a batch, going on from the windows that a killed job has left."""
        path = self._out / _UNFINISHED / f"{self._digest(batch)}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Filled up with its last sample, so that every batch is computed by the same program.
        results = [*batch.results, *[batch.results[-1]] * (batch.size - len(batch.results))]
        read = {r.planned.job.name: r.planned.read_context(self._generator) for r in results}
        videos = sample_resumably(
            self._generator,
            _with_captions(results),
            np.stack([read[r.planned.job.name][r.number] for r in results]),
            path,
            seed=np.array([r.planned.job.seed for r in results]),
            first_sample=np.array([r.number for r in results]),
            title=f"{results[0].planned.job.name}...",
        )
        for row, result in enumerate(batch.results):
            if not result.tokens.is_file():
                videos[row].save(result.tokens.parent, first=result.number, pixels=False)
        path.unlink(missing_ok=True)

    def _digest(self, batch: Batch) -> str:
        """A name for the unfinished windows of a batch, which no other batch has."""
        parts = []
        for result in batch.results:
            settings = dict(self._settings[result.planned.job.name])
            contexts = settings.pop("contexts")
            settings.pop("num_videos")
            parts.append([settings, contexts[result.number], result.number])
        return sha256_of_json([batch.size, parts])

    def _write_pixels(self, result: Result) -> None:
        """Decodes stored tokens, where that was not done."""
        if result.video.is_file() or not result.tokens.is_file():
            return
        arrays = _read_result(result)
        frames = self._generator.tokenizer.decode(arrays["tokens"])
        upscale = max(1, SHOWN_SIDE // frames.shape[1])
        video_files.write_mp4(result.video, frames, float(arrays["fps"]), upscale=upscale)

    def _write_manifest(self) -> None:
        """Lists all results with the SHA-256 of their tokens, in the order of jobs and numbers."""
        order = {name: place for place, name in enumerate(self._settings)}
        results = sorted(self._results, key=lambda r: (order[r.planned.job.name], r.number))
        rows = [json.dumps(_row(result)) + "\n" for result in results]
        write_text(self._out / MANIFEST, "".join(rows))
        logging.info("%s lists %d results", self._out / MANIFEST, len(rows))


def make_batches(jobs: Sequence[PlannedJob], out: Path, batch_size: int) -> list[Batch]:
    """Puts the samples of jobs with equal settings together, in batches of nearly equal size.

    Args:
        jobs: The jobs.
        out: Folder of the results.
        batch_size: Largest number of samples of a batch.

    Returns:
        The batches, those of one program after each other.
    """
    groups: dict[Any, list[Result]] = {}
    for planned in jobs:
        job = planned.job
        texts = planned.generation.texts
        scenes = None if texts is None else texts.scene_id.tobytes()
        length = planned.generation.task.shown
        kind = (planned.generation.sampling, job.task, length, job.box, scenes)
        groups.setdefault(kind, []).extend(
            Result(planned=planned, number=i, tokens=out / job.name / f"sample_{i:05d}.npz")
            for i in range(job.count)
        )
    batches = []
    for results in groups.values():
        rounds = -(-len(results) // batch_size)
        size = -(-len(results) // rounds)
        cut = [tuple(results[start : start + size]) for start in range(0, len(results), size)]
        batches += [Batch(results=part, size=size) for part in cut]
    return batches


def _with_captions(results: Sequence[Result]) -> Generation:
    """The plan of a batch, with the captions of each of its samples."""
    generation = results[0].planned.generation
    if generation.texts is None:
        return generation
    texts = [result.planned.generation.texts for result in results]
    together = SceneTexts(
        captions=tuple(each.captions[0] for each in texts),
        scene_id=np.concatenate([each.scene_id for each in texts]),
    )
    return dataclasses.replace(generation, texts=together)


def part_of_work(text: str | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """Reads which part of the work a process does.

    Args:
        text: "i/n", counted from 0; None for the place in a SLURM array, where there is one.
        environment: The environment, with SLURM's variables.

    Returns:
        The number of the part, and of how many.

    Raises:
        ValueError: if the text has another form, or the array has gaps.
    """
    if text is not None:
        return parse_shard(text)
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return 0, 1
    first, last, count = (
        int(environment[f"SLURM_ARRAY_TASK_{name}"]) for name in ("MIN", "MAX", "COUNT")
    )
    if last - first + 1 != count:
        raise ValueError(
            f"the array of {count} tasks numbered {first} to {last} has gaps; submit one without, "
            "or name the part, such as 0/4"
        )
    return int(environment["SLURM_ARRAY_TASK_ID"]) - first, count


def describe_jobs(jobs: Sequence[PlannedJob]) -> str:
    """Number of jobs and samples, and the network evaluations of each kind and in all."""
    total, kinds = 0, Counter()
    for planned in jobs:
        job, generation = planned.job, planned.generation
        kinds[f"{job.task} by {generation.sampling.sampler.name}: {generation}"] += job.count
        total += generation.nfe * job.count
    lines = [f"{count} x {text}" for text, count in kinds.items()]
    return "\n".join([*lines, f"{len(jobs)} jobs, {kinds.total()} samples, {total} NFE in all"])


def _row(result: Result) -> dict[str, Any]:
    """The line of the manifest for a result."""
    job, tokens = result.planned.job, _read_result(result)["tokens"]
    return {
        "name": job.name,
        "sample": result.number,
        "file": f"{job.name}/{result.tokens.name}",
        "sha256": sha256_of_tokens(tokens),
        "shape": list(tokens.shape),
        "task": job.task,
        "sampler": result.planned.generation.sampling.sampler.name,
        "nfe": result.planned.generation.nfe,
        "seed": job.seed,
        "context": job.context and {k: v for k, v in vars(job.context).items() if v is not None},
        **({} if job.captions is None else {"captions": list(job.captions)}),
    }


def _read_result(result: Result) -> dict[str, np.ndarray]:
    try:
        with np.load(result.tokens) as arrays:
            return {name: arrays[name] for name in ("tokens", "known", "fps")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{result.tokens} is damaged: {error}; delete it, and start the same job again"
        ) from error

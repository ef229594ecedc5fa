"""Samples what a file of jobs asks for, in parts, and goes on where it was killed.

    python -m launch.jobs --workdir=maze --jobs=jobs.jsonl --out=samples/jobs --dry_run
    python -m launch.jobs --workdir=maze --jobs=jobs.jsonl --out=samples/jobs --part=0/8

A job is a JSON object in a line of its own (`maskflow_jax.generation.jobs.Job` has the keys):

    {"length": 160, "context": {"split": "test", "index": 3}, "sampler": "halton", "count": 4}

All lines are checked before the first sample. `--part=i/n` does one part of n; the tasks of a SLURM
array and the processes of a job divide the work by themselves. OUT/NAME holds the samples of a job;
when all are there, OUT/manifest.jsonl lists them with the SHA-256 of their tokens.
"""

import os

from absl import flags, logging

from launch import cli, distributed, places
from launch.startup import start

_WORKDIR = flags.DEFINE_string("workdir", None, "Run, exported model or name.", required=True)
_JOBS = flags.DEFINE_string("jobs", None, "File of jobs, a JSON object a line.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder of the results.", required=True)
_PART = flags.DEFINE_string("part", None, "i/n: part i of n; by default SLURM's array task.")
_BATCH = flags.DEFINE_integer("batch_size", 4, "Videos sampled at a time.", lower_bound=1)
_PIXELS = flags.DEFINE_bool("pixels", True, "Whether mp4 files are written; tokens always are.")
_DECODE_ONLY = flags.DEFINE_bool("decode_only", False, "Makes mp4 files that are missing, only.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Checks all jobs, says what they cost, and stops.")


def main(_) -> int:
    """Samples this part; the exit code is 1 if only pixels were made and tokens are missing."""
    start()
    distributed.join(saves_at_sigterm=False)
    from maskflow_jax.generation.job_folder import JobFolder, describe_jobs, part_of_work
    from maskflow_jax.generation.jobs import read_jobs
    from maskflow_jax.generation.sample_folder import local_mesh

    part = part_of_work(_PART.value, os.environ)
    generator = places.load(_WORKDIR.value, mesh=local_mesh())
    jobs = read_jobs(_JOBS.value, generator)
    logging.info("part %d of %d of\n%s", *part, describe_jobs(jobs))
    if _DRY_RUN.value:
        return 0
    folder = JobFolder(generator, jobs, _OUT.value, part=part, batch_size=_BATCH.value)
    missing = folder.complete(
        sample=not _DECODE_ONLY.value, pixels=_PIXELS.value or _DECODE_ONLY.value
    )
    if missing:
        logging.warning("%d results are not in %s yet, left to other parts", missing, _OUT.value)
    return int(missing > 0 and _DECODE_ONLY.value)


if __name__ == "__main__":
    cli.run(main)

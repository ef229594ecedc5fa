"""Samples videos from a trained run, of any length and by any sampler, without training anew.

    python -m launch.sample --workdir=runs/maze --length=160 --num_videos=4 --out=runs/maze/samples

continues held-out videos to 160 frames and writes for each an mp4, a GIF and its tokens. Context
can also come from a video file (`--context=walk.mp4`), and `--task` says what is known: prediction,
backward, inbetween, loop, inpaint, unconditional (`launch/tasks.py`). The number of chunks and
network passes is stated before the first one. The same command, started again after it was killed,
keeps what is complete and makes the rest. Several processes (`launch/distributed.py`) share the
videos.
"""

import dataclasses
import functools
from pathlib import Path

import numpy as np
from absl import app, flags, logging

from launch import distributed, outputs
from launch.contexts import contexts_from_dataset, contexts_from_file, frames_per_second
from launch.rollouts import Run, change_sampler, extend, load_run, make_chunk_sampler
from launch.sampling_jobs import SampleFolder, digest, local_mesh
from launch.startup import start
from launch.tasks import TASKS, Job, Request, make_job
from maskflow_jax.data.dataset import check_tokenizer
from maskflow_jax.sampling.samplers import SAMPLERS
from maskflow_jax.tokenizers.tokenizer import Tokenizer

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the trained run.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder for the samples; WORKDIR/samples by default.")
_TASK = flags.DEFINE_enum("task", "prediction", list(TASKS), "What is known of the video.")
_CONTEXT = flags.DEFINE_string(
    "context", "test", "Where known frames come from: a split of the dataset, or a video file."
)
_LENGTH = flags.DEFINE_integer(
    "length", None, "Frames of a video, context included.", required=True
)
_CONTEXT_FRAMES = flags.DEFINE_integer(
    "context_frames", None, "Known frames (at either end), context of every chunk; the run's."
)
_STRIDE = flags.DEFINE_integer("stride", None, "New frames per chunk; as many as fit by default.")
_BOX = flags.DEFINE_list(
    "box", ["0.25", "0.25", "0.5", "0.5"], "inpaint: top,left,height,width as shares of the frame."
)
_SAMPLER = flags.DEFINE_enum("sampler", None, list(SAMPLERS), "The run's sampler by default.")
_STEPS = flags.DEFINE_integer("steps", None, "Steps per chunk; the sampler's default.")
_TEMPERATURE = flags.DEFINE_float("temperature", None, "Divides the logits.")
_TOP_K = flags.DEFINE_integer("top_k", None, "Keeps the k most likely tokens.")
_SET = flags.DEFINE_multi_string(
    "set", [], "Any other setting of the sampler, as --set=guidance_weight=1; see samplers.py."
)
_NUM_VIDEOS = flags.DEFINE_integer("num_videos", 1, "Number of videos.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 4, "Videos sampled at a time.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Video i is the same for a seed, whatever the batch size.")
_DATASET = flags.DEFINE_string("dataset", None, "Dataset directory, if it has moved.")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "Tokenizer, if it has moved.")


def job_from_flags(run: Run) -> tuple[Request, Job]:
    """The task of the flags; its errors name what is impossible."""
    given = {
        "num_steps": _STEPS.value,
        "temperature": _TEMPERATURE.value,
        "top_k": _TOP_K.value,
    }
    changes = [f"{name}={value}" for name, value in given.items() if value is not None]
    context_frames = run.config["sampling"]["context_frames"]
    request = Request(
        sampler=change_sampler(
            run.config["sampling"]["sampler"], _SAMPLER.value, [*changes, *_SET.value]
        ),
        length=_LENGTH.value,
        chunk_size=run.config["data"]["clip_frames"],
        context_frames=context_frames if _CONTEXT_FRAMES.value is None else _CONTEXT_FRAMES.value,
        stride=_STRIDE.value,
        grid=tuple(run.config["tokenizer"]["grid"]),
        box=tuple(float(number) for number in _BOX.value),
    )
    return request, make_job(_TASK.value, request)


def read_contexts(run: Run, job: Job, tokenizer: Tokenizer) -> tuple[np.ndarray, float]:
    """The real frames that the task takes, tokens [num_videos, F, h, w], and frames per second."""
    count, frames = _NUM_VIDEOS.value, job.source_frames
    if frames and not Path(_CONTEXT.value).suffix:
        return contexts_from_dataset(run, _CONTEXT.value, count, frames, _DATASET.value)
    fps = frames_per_second(run, _DATASET.value)
    if frames == 0:
        return np.zeros((count, 0, *run.config["tokenizer"]["grid"]), np.int32), fps
    path = Path(_CONTEXT.value)
    return contexts_from_file(path, tokenizer, count, frames, fps, first=job.backward)


def samples_settings(run: Run, request: Request, contexts: np.ndarray) -> dict:
    """All that decides what the samples are; not their number, nor how they are divided."""
    wanted = dataclasses.asdict(request)
    del wanted["sampler"]["frame_block"]  # it changes memory and speed
    if _TASK.value != "inpaint":
        del wanted["box"]
    return {
        "task": _TASK.value,
        "seed": _SEED.value,
        "contexts": [digest(context) for context in contexts],
        "weights": digest(run.params),
        "tokenizer": run.config["tokenizer"]["sha256"],
        **wanted,
    }


def main(_) -> None:
    """Samples and writes."""
    start()
    distributed.join(saves_at_sigterm=False)
    workdir, count = Path(_WORKDIR.value), _NUM_VIDEOS.value
    out = Path(_OUT.value or workdir / "samples")
    run = load_run(workdir, local_mesh())
    tokenizer = Tokenizer.load(_TOKENIZER.value or run.config["data"]["tokenizer"])
    check_tokenizer(run.config["tokenizer"], tokenizer.identity, other_name="tokenizer")
    request, job = job_from_flags(run)
    contexts, fps = read_contexts(run, job, tokenizer)
    folder = SampleFolder(out, samples_settings(run, request, contexts), count)
    logging.info("%s by %s: %s per video", _TASK.value, request.sampler.name, job.plan)
    sample_chunk = make_chunk_sampler(
        run.graphdef, run.config, request.sampler, request.context_frames, backward=job.backward
    )

    def sample(known_frames: np.ndarray, first_sample: int) -> np.ndarray:
        context, given = job.inputs(known_frames)
        chunks = extend(
            sample_chunk,
            run.params,
            context,
            job.plan,
            mask_id=run.mask_id,
            seed=_SEED.value,
            given=given,
            first_sample=first_sample,
            progress=f"videos from {first_sample}",
        )
        return job.finish(np.concatenate(list(chunks), axis=1))

    known = job.finish(job.known)
    write = functools.partial(outputs.write_sample, tokenizer=tokenizer, fps=fps, known=known)
    written = folder.complete(contexts, _BATCH.value, sample, write)
    logging.info("wrote %d videos of %d frames; %s has %d", written, len(known), out, count)


if __name__ == "__main__":
    app.run(main)

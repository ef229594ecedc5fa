"""Samples long videos from a trained run.

    python -m launch.sample --workdir=runs/maze --length=160 --num_videos=4 --out=runs/maze/samples

continues held-out videos to 160 frames and writes for each an mp4, a GIF and its tokens. Context
can also come from a video file (`--context=walk.mp4`) or be none at all (`--context=none`). The
number of chunks and network passes is stated before the first one.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags, logging

from launch import outputs
from launch.contexts import contexts_from_dataset, contexts_from_file
from launch.logs import quiet_libraries
from launch.rollouts import Run, extend, load_run, make_chunk_sampler
from maskflow_jax.data.token_dataset import check_tokenizer
from maskflow_jax.sampling.rollout import RolloutPlan
from maskflow_jax.sampling.samplers import SamplerConfig
from maskflow_jax.tokenizers.codec import Codec

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the trained run.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder for the samples; WORKDIR/samples by default.")
_CONTEXT = flags.DEFINE_string(
    "context", "test", "Where context comes from: a split of the dataset, a video file, or none."
)
_LENGTH = flags.DEFINE_integer(
    "length", None, "Frames of a video, context included.", required=True
)
_CONTEXT_FRAMES = flags.DEFINE_integer("context_frames", None, "Known frames; the run's default.")
_STRIDE = flags.DEFINE_integer("stride", None, "New frames per chunk; as many as fit by default.")
_SAMPLER = flags.DEFINE_string("sampler", None, "mgm or fm; the run's sampler by default.")
_STEPS = flags.DEFINE_integer("steps", None, "Network passes per chunk; the sampler's default.")
_TEMPERATURE = flags.DEFINE_float("temperature", None, "Divides the logits.")
_TOP_K = flags.DEFINE_integer("top_k", None, "Keeps the k most likely tokens.")
_NUM_VIDEOS = flags.DEFINE_integer("num_videos", 1, "Number of videos.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 4, "Videos sampled at a time.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Video i is the same for a seed, whatever the batch size.")
_DATASET = flags.DEFINE_string("dataset", None, "Dataset directory, if it has moved.")
_CODEC = flags.DEFINE_string("codec", None, "Tokenizer, if it has moved.")


def sampler_from_flags(run: Run) -> SamplerConfig:
    """The run's sampler with the flags' changes; another sampler starts from its own defaults."""
    settings = dict(run.config["sampling"]["sampler"])
    if _SAMPLER.value not in (None, settings["name"]):
        settings = {"name": _SAMPLER.value}
    given = {
        "num_steps": _STEPS.value,
        "temperature": _TEMPERATURE.value,
        "top_k": _TOP_K.value,
    }
    return SamplerConfig(**settings | {k: v for k, v in given.items() if v is not None})


def plan_for(run: Run, sampler: SamplerConfig, length: int, context_frames: int) -> RolloutPlan:
    """The rollout of the flags; its errors name what is impossible."""
    chunk_size = run.config["data"]["clip_frames"]
    stride = chunk_size - context_frames if _STRIDE.value is None else _STRIDE.value
    return RolloutPlan(
        video_length=length,
        chunk_size=chunk_size,
        context_frames=context_frames,
        stride=stride,
        nfe_per_chunk=sampler.num_steps,
    )


def first_windows(run: Run, sampler: SamplerConfig, length: int) -> Callable:
    """Sampler of whole first windows from nothing: (first sample, count) -> [count, T, h, w]."""
    length = min(length, run.config["data"]["clip_frames"])
    plan = RolloutPlan(
        video_length=length,
        chunk_size=run.config["data"]["clip_frames"],
        context_frames=0,
        stride=length,
        nfe_per_chunk=sampler.num_steps,
    )
    logging.info("first window from no context: NFE %d per video", plan.nfe)
    sample_chunk = make_chunk_sampler(run.graphdef, run.config, sampler, 0)
    settings = {"mask_id": run.mask_id, "seed": _SEED.value}

    def sample(first_sample: int, count: int) -> np.ndarray:
        nothing = np.zeros((count, 0, *run.config["tokenizer"]["grid"]), np.int32)
        chunks = extend(
            sample_chunk, run.params, nothing, plan, first_sample=first_sample, **settings
        )
        return np.concatenate(list(chunks), axis=1)

    return sample


def main(_) -> None:
    """Samples and writes."""
    quiet_libraries()
    workdir = Path(_WORKDIR.value)
    out = Path(_OUT.value or workdir / "samples")
    if any(out.glob("sample_*")):
        raise FileExistsError(f"{out} holds samples already; choose another --out")
    run = load_run(workdir)
    codec = Codec.load(_CODEC.value or run.config["data"]["codec"])
    check_tokenizer(run.config["tokenizer"], codec.identity, other_name="codec")
    sampler, length, count = sampler_from_flags(run), _LENGTH.value, _NUM_VIDEOS.value
    known = run.config["sampling"]["context_frames"]
    known = known if _CONTEXT_FRAMES.value is None else _CONTEXT_FRAMES.value
    fps = run.config["data"]["source"]["fps"]

    start = None
    if _CONTEXT.value == "none":
        start = first_windows(run, sampler, length)
    elif Path(_CONTEXT.value).suffix:
        contexts, fps = contexts_from_file(Path(_CONTEXT.value), codec, count, known, fps)
    else:
        contexts, fps = contexts_from_dataset(run, _CONTEXT.value, count, known, _DATASET.value)
    chunk_size = run.config["data"]["clip_frames"]
    # Without context, the first window is the beginning and its last frames are the context.
    beginning = 0 if start is None else min(chunk_size, length) - known
    plan = None
    if start is None or length > chunk_size:
        plan = plan_for(run, sampler, length - beginning, known)
        logging.info("%s, %d steps: %s per video", sampler.name, sampler.num_steps, plan)
        sample_chunk = make_chunk_sampler(run.graphdef, run.config, sampler, known)

    for first in range(0, count, _BATCH.value):
        numbers = range(first, min(first + _BATCH.value, count))
        videos = contexts[numbers.start : numbers.stop] if start is None else None
        if start is not None:
            videos = start(first, len(numbers))
        if plan is not None:
            chunks = extend(
                sample_chunk,
                run.params,
                videos[:, beginning:],
                plan,
                mask_id=run.mask_id,
                seed=_SEED.value,
                first_sample=first,
                stream=int(start is not None),  # the first window was stream 0
                progress=f"videos {numbers.start}-{numbers.stop - 1}",
            )
            videos = np.concatenate([videos[:, :beginning], *chunks], axis=1)
        for number, tokens in zip(numbers, videos, strict=True):
            stem, given = out / f"sample_{number:05d}", 0 if start is not None else known
            outputs.write_sample(stem, tokens, codec, fps=fps, context_frames=given)
    logging.info("wrote %d videos of %d frames to %s", count, length, out)


if __name__ == "__main__":
    app.run(main)

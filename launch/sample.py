"""Samples long videos from a trained run.

    python -m launch.sample --workdir=runs/maze --length=160 --num_videos=4 --out=runs/maze/samples

continues held-out videos to 160 frames and writes for each an mp4, a GIF and its tokens. Context
can also come from a video file (`--context=walk.mp4`) or be none at all (`--context=none`). The
number of chunks and network passes is stated before the first one.
"""

from pathlib import Path

import numpy as np
from absl import app, flags, logging

from launch import outputs
from launch.logs import quiet_libraries
from launch.rollouts import Run, extend, load_run, make_chunk_sampler
from maskflow_jax import video_io
from maskflow_jax.data.token_dataset import check_tokenizer, read_token_dataset
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


def read_contexts(run: Run, codec: Codec, frames: int) -> tuple[np.ndarray, float]:
    """Reads the context tokens int32 [num_videos, frames, h, w] and their frame rate."""
    source, count = _CONTEXT.value, _NUM_VIDEOS.value
    data = run.config["data"]
    if source == "none" or frames == 0:
        empty = np.zeros((count, 0, *run.config["tokenizer"]["grid"]), np.int32)
        return empty, data["source"]["fps"]
    if Path(source).suffix:
        pixels, fps = video_io.read_video(source)
        if len(pixels) < frames:
            raise ValueError(
                f"{source} has {len(pixels)} frames, fewer than the {frames} of --context_frames"
            )
        # One file, several continuations of it.
        tokens = codec.encode(pixels[-frames:])
        return np.repeat(tokens[None], count, axis=0), fps
    videos = read_token_dataset(_DATASET.value or data["directory"], source)
    check_tokenizer(videos.tokenizer, run.config["tokenizer"], other_name="trained model")
    if count > len(videos):
        raise ValueError(
            f"--num_videos={count} but split {source!r} has {len(videos)} videos; lower it"
        )
    chosen = [videos[index] for index in range(count)]
    contexts = [video["tokens"][:frames] for video in chosen]
    return np.stack(contexts).astype(np.int32), chosen[0]["fps"]


def main(_) -> None:
    """Samples and writes."""
    quiet_libraries()
    workdir = Path(_WORKDIR.value)
    run = load_run(workdir)
    codec = Codec.load(_CODEC.value or run.config["data"]["codec"])
    check_tokenizer(run.config["tokenizer"], codec.identity, other_name="codec")
    sampler = sampler_from_flags(run)
    chunk_size = run.config["data"]["clip_frames"]
    default_context = 0 if _CONTEXT.value == "none" else run.config["sampling"]["context_frames"]
    frames = default_context if _CONTEXT_FRAMES.value is None else _CONTEXT_FRAMES.value
    plan = RolloutPlan(
        video_length=_LENGTH.value,
        chunk_size=chunk_size,
        context_frames=frames,
        stride=chunk_size - frames if _STRIDE.value is None else _STRIDE.value,
        nfe_per_chunk=sampler.num_steps,
    )
    contexts, fps = read_contexts(run, codec, frames)
    logging.info("%s with %d steps: %s per video", sampler.name, sampler.num_steps, plan)
    sample_chunk = make_chunk_sampler(run.graphdef, run.config, sampler, frames)
    out = Path(_OUT.value or workdir / "samples")
    for start in range(0, len(contexts), _BATCH.value):
        batch = contexts[start : start + _BATCH.value]
        chunks = extend(
            sample_chunk,
            run.params,
            batch,
            plan,
            mask_id=run.mask_id,
            seed=_SEED.value,
            first_sample=start,
            progress=f"videos {start}-{start + len(batch) - 1}",
        )
        for offset, tokens in enumerate(np.concatenate(list(chunks), axis=1)):
            outputs.write_sample(
                out / f"sample_{start + offset:05d}",
                tokens,
                codec,
                fps=fps,
                context_frames=frames,
            )
    logging.info("wrote %d videos of %d frames to %s", len(contexts), plan.video_length, out)


if __name__ == "__main__":
    app.run(main)

"""Preview videos of a run in training: a hook for the training loop."""

from pathlib import Path

import jax
import numpy as np
from flax import nnx

from launch.rollouts import extend, make_chunk_sampler
from maskflow_jax.data.dataset import TokenVideos, check_tokenizer
from maskflow_jax.io import video_files
from maskflow_jax.sampling.samplers import SamplerConfig, plan_rollout
from maskflow_jax.tokenizers.tokenizer import Tokenizer
from maskflow_jax.training.loop import Hook
from maskflow_jax.training.metrics import MetricWriter
from maskflow_jax.training.trainer import check_settings

PREVIEW_VIDEOS = 2


def preview_hook(
    graphdef: nnx.GraphDef,
    config: dict,
    videos: TokenVideos,
    workdir: Path,
    writer: MetricWriter,
) -> Hook:
    """Builds the hook that continues held-out videos to twice the training window.

    Args:
        graphdef: graph definition of the network.
        config: resolved config.
        videos: held-out videos; the first ones give the context.
        workdir: previews go to `workdir/previews/STEP.mp4`, a video per row, generated beside real.
        writer: shows them in TensorBoard too.

    Returns:
        `hook(step, state)`.

    Raises:
        ValueError: if the config's tokenizer is not the one that made the dataset, or its
            rollout is impossible.
    """
    tokenizer = Tokenizer.load(config["data"]["tokenizer"])
    check_tokenizer(
        videos.tokenizer, tokenizer.identity, other_name="config's tokenizer (data.tokenizer)"
    )
    sampling, clip_frames = config["sampling"], config["data"]["clip_frames"]
    check_settings("sampling.sampler", SamplerConfig, sampling["sampler"])
    sampler = SamplerConfig(**sampling["sampler"])
    context_frames = sampling["context_frames"]
    plan = plan_rollout(
        sampler,
        video_length=2 * clip_frames,
        chunk_size=clip_frames,
        context_frames=context_frames,
    )
    sample_chunk = make_chunk_sampler(graphdef, config, sampler, context_frames)
    chosen = [videos[index] for index in range(min(PREVIEW_VIDEOS, len(videos)))]
    context = np.stack([video["tokens"][:context_frames] for video in chosen]).astype(np.int32)
    shown = min(plan.video_length, *(len(video["tokens"]) for video in chosen))
    real = [tokenizer.decode(video["tokens"][:shown]) for video in chosen]

    def hook(step: int, state: dict) -> None:
        # Every process samples the same videos, because the parameters may be spread over all.
        chunks = extend(
            sample_chunk,
            state["ema_params"],
            context,
            plan,
            mask_id=config["tokenizer"]["codebook_size"],
            seed=0,
        )
        tokens = np.concatenate(list(chunks), axis=1)
        if jax.process_index() != 0:
            return
        generated = [tokenizer.decode(video) for video in tokens]
        rows = [
            video_files.side_by_side([sample[:shown], truth])
            for sample, truth in zip(generated, real, strict=True)
        ]
        stacked = np.concatenate(rows, axis=1)  # [F, rows * H, W, 3]
        video_files.write_mp4(
            workdir / "previews" / f"{step:08d}.mp4", stacked, chosen[0]["fps"], upscale=2
        )
        writer.write_videos(step, {f"preview_{i}": video for i, video in enumerate(generated)})

    return hook

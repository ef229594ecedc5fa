"""Preview videos of a run in training: a hook for the trainer."""

import jax
import numpy as np

from maskflow_jax.data.dataset import check_tokenizer
from maskflow_jax.generation.request import make_window_sampler
from maskflow_jax.generation.scenes import SceneTrack, dataset_texts
from maskflow_jax.generation.window_program import WindowProgram
from maskflow_jax.io import video_files
from maskflow_jax.sampling.types import RolloutRequest
from maskflow_jax.tokenizers.tokenizer import Tokenizer
from maskflow_jax.training.loop import Hook
from maskflow_jax.training.scene_data import dataset_encoder
from maskflow_jax.training.trainer import Run

PREVIEW_VIDEOS = 2


def previews(run: Run) -> Hook:
    """Makes the hook that continues validation videos to twice the training window.

    The videos go to `workdir/previews/STEP.mp4`, a row for each, generated beside real, and to
    TensorBoard.

    Args:
        run: The run; its config says how to sample.

    Returns:
        `hook(step, state)`.

    Raises:
        FileNotFoundError: if the config's tokenizer is missing.
        ValueError: if it is not the one that made the dataset, or the rollout is impossible.
    """
    config, sampling = run.config, run.config.sampling
    tokenizer = Tokenizer.load(config.data.tokenizer)
    check_tokenizer(
        run.validation.tokenizer,
        tokenizer.identity,
        other_name="config's tokenizer (data.tokenizer)",
    )
    clip_frames = config.data.clip_frames
    plan = sampling.sampler.plan(
        RolloutRequest(
            video_length=2 * clip_frames,
            chunk_size=clip_frames,
            context_frames=sampling.context_frames,
            stride=sampling.stride,
            guidance=sampling.guidance,
        )
    )
    program = WindowProgram(
        run.graphdef,
        make_window_sampler(config, sampling),
        context_frames=sampling.context_frames,
        mask_id=config.tokenizer.codebook_size,
    )
    chosen = [run.validation[i] for i in range(min(PREVIEW_VIDEOS, len(run.validation)))]
    scenes = None
    if config.scenes.active:
        encoder = dataset_encoder(config, run.validation)
        texts = dataset_texts(chosen, plan.video_length, encoder.record.kind)
        scenes = SceneTrack(texts, encoder, plan, range(len(chosen)))
    program = program.conditioned(scenes)
    context = np.stack([v["tokens"][: sampling.context_frames] for v in chosen]).astype(np.int32)
    shown = min(plan.video_length, *(len(video["tokens"]) for video in chosen))
    real = [tokenizer.decode(video["tokens"][:shown]) for video in chosen]

    def hook(step: int, state: dict) -> None:
        # Every process samples the same videos, because the parameters may be spread over all.
        chunks = program.sample_videos(state["ema_params"], context, plan, seed=0)
        tokens = np.concatenate([context, *chunks], axis=1)
        if jax.process_index() != 0:
            return
        generated = [tokenizer.decode(video) for video in tokens]
        rows = [
            video_files.side_by_side([sample[:shown], truth])
            for sample, truth in zip(generated, real, strict=True)
        ]
        stacked = np.concatenate(rows, axis=1)  # [F, rows * H, W, 3]
        path = run.workdir / "previews" / f"{step:08d}.mp4"
        video_files.write_mp4(path, stacked, chosen[0]["fps"], upscale=2)
        run.writer.write_videos(step, {f"preview_{i}": v for i, v in enumerate(generated)})

    return hook

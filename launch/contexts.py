"""Where the known frames of a sample come from: a dataset's videos, a video file, or nowhere."""

from pathlib import Path

import numpy as np
from absl import logging

from launch.rollouts import Run
from maskflow_jax.data.dataset import check_tokenizer, read_token_dataset
from maskflow_jax.io import video_files
from maskflow_jax.tokenizers.tokenizer import Tokenizer


def frames_per_second(run: Run, directory: str | None) -> float:
    """The rate of the videos a run was trained on: its config's, or else its dataset's first."""
    if rate := run.config["data"]["source"].get("fps"):
        return rate
    return read_token_dataset(directory or run.config["data"]["directory"], "train")[0]["fps"]


def contexts_from_dataset(run: Run, split: str, count: int, frames: int, directory: str | None):
    """Reads the first frames of a split's first videos.

    Args:
        run: the trained run.
        split: of its dataset.
        count: number of videos.
        frames: frames of each.
        directory: of the dataset, if not where the run found it.

    Returns:
        Tokens int32 [count, frames, h, w] and the videos' frames per second.

    Raises:
        ValueError: if the split has too few videos, too short ones, or another tokenizer's tokens.
    """
    videos = read_token_dataset(directory or run.config["data"]["directory"], split)
    check_tokenizer(videos.tokenizer, run.config["tokenizer"], other_name="trained model")
    if count > len(videos):
        raise ValueError(
            f"{count} videos are asked for, split {split!r} has {len(videos)} videos; ask for fewer"
        )
    if frames > videos.num_frames[:count].min():
        raise ValueError(
            f"the task takes {frames} frames of a video, one of split {split!r} has "
            f"{videos.num_frames[:count].min()}; lower --context_frames or --length"
        )
    chosen = [videos[index] for index in range(count)]
    tokens = np.stack([video["tokens"][:frames] for video in chosen])
    return tokens.astype(np.int32), chosen[0]["fps"]


def contexts_from_file(
    path: Path, tokenizer: Tokenizer, count: int, frames: int, fps: float, *, first: bool = False
):
    """Reads the last frames of a video file, for `count` different continuations of it.

    The middle square is scaled to the tokenizer's size, and frames are picked at the model's rate.

    Args:
        path: video file.
        tokenizer: encodes it.
        count: number of continuations.
        frames: frames to read.
        fps: frames per second that the model was trained on.
        first: takes the file's first frames instead.

    Returns:
        Tokens int32 [count, frames, h, w] and `fps`.

    Raises:
        ValueError: if the file cannot be read or is too short.
    """
    pixels, file_fps = video_files.read_video(path)
    # From one end, so that the new frames join the file's last, or first, frame.
    offsets = np.round(np.arange(frames) * file_fps / fps).astype(int)
    picked = offsets if first else len(pixels) - 1 - offsets[::-1]
    if picked.min() < 0 or picked.max() >= len(pixels):
        raise ValueError(
            f"{path} lasts {len(pixels) / file_fps:.2f} s; the {frames} frames that the task takes "
            f"from it, at {fps:g} per second, last longer; lower --context_frames or --length"
        )
    end, seconds = ("first" if first else "last"), (picked[-1] - picked[0] + 1) / file_fps
    logging.info("context: the %s %.2f s of %s", end, seconds, path)
    square = video_files.square_frames(pixels[picked], tokenizer.config.frame_size)
    return np.repeat(tokenizer.encode(square)[None], count, axis=0), fps

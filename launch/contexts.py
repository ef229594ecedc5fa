"""Where the known frames of a sample come from: a dataset's videos, a video file, or nowhere."""

from pathlib import Path

import numpy as np
from absl import logging

from launch.rollouts import Run
from maskflow_jax import video_io
from maskflow_jax.data.token_dataset import check_tokenizer, read_token_dataset
from maskflow_jax.tokenizers.codec import Codec


def contexts_from_dataset(run: Run, split: str, count: int, frames: int, directory: str | None):
    """Reads the first frames of a split's first videos.

    Args:
        run: the trained run.
        split: of its dataset.
        count: number of videos.
        frames: context frames.
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
            f"--num_videos={count} but split {split!r} has {len(videos)} videos; lower it"
        )
    if frames > videos.num_frames[:count].min():
        raise ValueError(
            f"--context_frames={frames} but a video of split {split!r} has "
            f"{videos.num_frames[:count].min()} frames; lower it"
        )
    chosen = [videos[index] for index in range(count)]
    tokens = np.stack([video["tokens"][:frames] for video in chosen])
    return tokens.astype(np.int32), chosen[0]["fps"]


def contexts_from_file(path: Path, codec: Codec, count: int, frames: int, fps: float):
    """Reads the last frames of a video file, for `count` different continuations of it.

    The middle square is scaled to the tokenizer's size, and frames are picked at the model's rate.

    Args:
        path: video file.
        codec: encodes it.
        count: number of continuations.
        frames: context frames.
        fps: frames per second that the model was trained on.

    Returns:
        Tokens int32 [count, frames, h, w] and `fps`.

    Raises:
        ValueError: if the file cannot be read or is too short.
    """
    pixels, file_fps = video_io.read_video(path)
    # From the end backwards, so that the continuation follows the file's last frame.
    picked = len(pixels) - 1 - np.round(np.arange(frames)[::-1] * file_fps / fps).astype(int)
    if picked.min() < 0:
        raise ValueError(
            f"{path} lasts {len(pixels) / file_fps:.2f} s; {frames} context frames at {fps:g} per "
            "second take longer; lower --context_frames"
        )
    logging.info("context: the last %.2f s of %s", (len(pixels) - picked[0]) / file_fps, path)
    square = video_io.square_frames(pixels[picked], codec.config.frame_size)
    return np.repeat(codec.encode(square)[None], count, axis=0), fps

"""Files of a sampled video: mp4, GIF, tokens."""

from pathlib import Path

import numpy as np

from maskflow_jax.io import video_files
from maskflow_jax.tokenizers.tokenizer import Tokenizer

MIN_SHOWN_SIDE = 256  # smaller frames are enlarged by a whole factor


def upscale_for(frame_size: int) -> int:
    """The whole factor that makes small frames comfortable to look at."""
    return max(1, MIN_SHOWN_SIDE // frame_size)


def is_complete(stem: Path) -> bool:
    """Whether all files of a sample are there, whole."""
    return stem.with_suffix(".npz").is_file()


def write_sample(
    stem: Path, tokens: np.ndarray, tokenizer: Tokenizer, *, fps: float, known: np.ndarray
) -> None:
    """Writes `stem`.mp4, .gif and .npz of one video.

    Each file appears whole under its name, and the tokens last: where they are, the sample is
    complete.

    Args:
        stem: path without suffix.
        tokens: int [F, h, w].
        tokenizer: decodes them.
        fps: frames per second.
        known: bool [F, h, w], which tokens were given; stored beside the tokens.
    """
    frames = tokenizer.decode(tokens)
    upscale = upscale_for(tokenizer.config.frame_size)
    video_files.write_mp4(stem.with_suffix(".mp4"), frames, fps, upscale=upscale)
    video_files.write_gif(stem.with_suffix(".gif"), frames, fps, upscale=upscale)
    part = stem.with_name(f".{stem.name}.part.npz")  # hidden from who looks for samples
    np.savez_compressed(
        part,
        tokens=tokens.astype(np.int32),
        fps=fps,
        known=known,
        tokenizer=tokenizer.identity["sha256"],
    )
    part.replace(stem.with_suffix(".npz"))

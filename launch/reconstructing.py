"""Videos through a tokenizer and back, and the report of what was lost."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from launch.outputs import upscale_for
from maskflow_jax import video_io
from maskflow_jax.data.maze import MazeConfig, maze_videos
from maskflow_jax.data.video_folder import SUFFIXES
from maskflow_jax.evaluation.reconstruction import Reconstruction
from maskflow_jax.tokenizers.codec import Codec
from maskflow_jax.video_decoding import iterate_frames

MAZE = "maze"
_MAZE_SEED, _MAZE_FPS = 7, 10.0  # held-out walks that no tokenizer here was trained on

Video = tuple[str, np.ndarray, float]


def report(
    codec: Codec, source: str, out: Path, *, num_videos: int, num_frames: int, num_shown: int
) -> dict[str, Any]:
    """Measures a tokenizer on videos; writes `report.json` and real | reconstructed videos.

    Args:
        codec: of any kind.
        source: a video file, a folder of them, or "maze".
        out: folder to write.
        num_videos: at most.
        num_frames: first frames of each video to take.
        num_shown: videos to write.

    Returns:
        What is in `report.json`: `tokenizer`, `source`, the figures of `Reconstruction.summary`,
        `by_video`, and `skipped` with the reason for each file that could not be read.

    Raises:
        FileNotFoundError: if there is no such source.
        ImportError: if scikit-image is missing.
        ValueError: if no video could be read.
    """
    skipped: list[dict[str, str]] = []
    figures, by_video = Reconstruction(codec.config.codebook_size), []
    if source == MAZE:
        videos, total = _maze(codec.config.frame_size, num_videos, num_frames), num_videos
    else:
        paths = find_videos(Path(source))[:num_videos]
        videos, total = _files(paths, codec.config.frame_size, num_frames, skipped), len(paths)
    for index, (name, frames, fps) in enumerate(tqdm(videos, "videos", total, unit="video")):
        tokens = codec.encode(frames)
        decoded = codec.decode(tokens)
        by_video.append(
            {"video": name, "frames": len(frames), **figures.add(frames, tokens, decoded)}
        )
        if index < num_shown:
            _show(out / f"video_{index:03d}.mp4", frames, decoded, fps)
    if not by_video:
        reasons = "\n  ".join(f"{entry['video']}: {entry['reason']}" for entry in skipped)
        raise ValueError(f"no video of {source} could be read:\n  {reasons}")
    contents = {
        "tokenizer": codec.identity,
        "source": source,
        **figures.summary(),
        "by_video": by_video,
        "skipped": skipped,
    }
    out.mkdir(parents=True, exist_ok=True)
    part = out / "report.json.part"
    part.write_text(json.dumps(contents, indent=2) + "\n")
    part.replace(out / "report.json")
    return contents


def as_table(contents: dict[str, Any]) -> str:
    """The figures as a table in markdown."""
    size = contents["tokenizer"]["codebook_size"]
    rows = [
        ("videos, frames", f"{contents['videos']}, {contents['frames']}"),
        ("PSNR, mean over frames", f"{contents['psnr']:.2f} dB"),
        ("PSNR of all pixels together", f"{contents['psnr_of_all_pixels']:.2f} dB"),
        ("SSIM, mean over frames", f"{contents['ssim']:.4f}"),
        ("codes used", f"{contents['codes_used']} of {size} ({contents['code_usage']:.1%})"),
        ("perplexity", f"{contents['perplexity']:.1f}"),
    ]
    if contents["skipped"]:
        rows.append(("files skipped", str(len(contents["skipped"]))))
    head = [("tokenizer", contents["tokenizer"]["name"]), ("---", "---")]
    return "\n".join(f"| {name} | {value} |" for name, value in [*head, *rows])


def find_videos(source: Path) -> list[Path]:
    """A video file, or all below a folder in the order of their names.

    Raises:
        FileNotFoundError: if there is none.
    """
    if source.is_file():
        return [source]
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(
            f"no videos at {source} ({', '.join(SUFFIXES)}): give a file, a folder, or {MAZE}"
        )
    return paths


def _maze(frame_size: int, num_videos: int, num_frames: int) -> Iterator[Video]:
    settings = MazeConfig(
        num_videos=num_videos,
        num_frames=num_frames,
        fps=_MAZE_FPS,
        seed=_MAZE_SEED,
        split="test",
        frame_size=min(frame_size, 240),  # the engine's most
    )
    for name, frames, fps in maze_videos(settings):
        yield name, video_io.square_frames(frames, frame_size), fps


def _files(
    paths: list[Path], frame_size: int, num_frames: int, skipped: list[dict[str, str]]
) -> Iterator[Video]:
    """Yields what can be read; the rest goes to `skipped`."""
    for path in paths:
        try:
            timed = list(itertools.islice(iterate_frames(path), num_frames))
        except (ValueError, OSError) as error:
            logging.warning("skipped: %s", error)
            skipped.append({"video": str(path), "reason": str(error)})
            continue
        seconds = timed[-1].start - timed[0].start
        fps = (len(timed) - 1) / seconds if seconds > 0 else 1.0
        pixels = np.stack([frame.pixels for frame in timed])
        yield str(path), video_io.square_frames(pixels, frame_size), fps


def _show(path: Path, real: np.ndarray, decoded: np.ndarray, fps: float) -> None:
    """Writes real | reconstructed."""
    pair = video_io.side_by_side([real, decoded])
    video_io.write_mp4(path, pair, fps, upscale=upscale_for(real.shape[1]))

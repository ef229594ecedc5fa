"""Videos through a tokenizer and back, and the report of what was lost."""

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from launch.outputs import upscale_for
from maskflow_jax.data.sources.maze import MazeSettings, maze_videos
from maskflow_jax.data.sources.registry import make_source
from maskflow_jax.evaluation.reconstruction import Reconstruction
from maskflow_jax.io import video_files
from maskflow_jax.io.video_decoding import TimedFrame, iterate_frames
from maskflow_jax.tokenizers.tokenizer import Tokenizer

MAZE = "maze"
_MAZE_SEED = 7  # mazes that no tokenizer here was trained on

Video = tuple[str, np.ndarray, float]


Opener = Callable[[], Iterator[TimedFrame]]


def report(
    tokenizer: Tokenizer,
    source: str,
    out: Path,
    *,
    num_videos: int,
    num_frames: int,
    num_shown: int,
    kind: str = "video_files",
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures a tokenizer on videos; writes `report.json` and real | reconstructed videos.

    Args:
        tokenizer: of any kind.
        source: a video file, a folder, the name of a TFDS dataset, or "maze".
        out: folder to write.
        num_videos: at most.
        num_frames: first frames of each video to take.
        num_shown: videos to write.
        kind: what a folder holds, a name of `data.sources`.
        settings: of that source, beside its folder.

    Returns:
        What is in `report.json`: `tokenizer`, `source`, the figures of `Reconstruction.summary`,
        `by_video`, and `skipped` with the reason for each file that could not be read.

    Raises:
        FileNotFoundError: if there is no such source.
        ImportError: if scikit-image is missing.
        ValueError: if no video could be read, or the source is none.
    """
    skipped: list[dict[str, str]] = []
    figures, by_video = Reconstruction(tokenizer.config.codebook_size), []
    if source == MAZE:
        videos, total = _maze(tokenizer.config.frame_size, num_videos, num_frames), num_videos
    else:
        found = find_videos(source, kind, settings or {})[:num_videos]
        videos, total = _read(found, tokenizer.config.frame_size, num_frames, skipped), len(found)
    for index, (name, frames, fps) in enumerate(tqdm(videos, "videos", total, unit="video")):
        tokens = tokenizer.encode(frames)
        decoded = tokenizer.decode(tokens)
        by_video.append(
            {"video": name, "frames": len(frames), **figures.add(frames, tokens, decoded)}
        )
        if index < num_shown:
            _show(out / f"video_{index:03d}.mp4", frames, decoded, fps)
    if not by_video:
        reasons = "\n  ".join(f"{entry['video']}: {entry['reason']}" for entry in skipped)
        raise ValueError(f"no video of {source} could be read:\n  {reasons}")
    contents = {
        "tokenizer": tokenizer.identity,
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


def find_videos(
    source: str, kind: str = "video_files", settings: Mapping[str, Any] | None = None
) -> list[tuple[str, Opener]]:
    """A video file, or what a source lists: (name, opens its frames) of each.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the source or a setting of it is none.
    """
    if Path(source).is_file():
        return [(source, functools.partial(iterate_frames, Path(source)))]
    if kind != "tfds" and not Path(source).is_dir():
        raise FileNotFoundError(f"nothing at {source}: give a file, a folder, or {MAZE}")
    place = {"dataset": source} if kind == "tfds" else {"root": Path(source)}
    made = make_source(kind, {**place, **(settings or {})})
    items = made.listing().items
    if not items:
        raise FileNotFoundError(
            f"no videos at {source}: give a file, a folder, or {MAZE}, and --source if they are "
            "no video files"
        )
    return [(item.id, functools.partial(made.open, item)) for item in items]


def _maze(frame_size: int, num_videos: int, num_frames: int) -> Iterator[Video]:
    settings = MazeSettings(
        num_videos=num_videos,
        num_frames=num_frames,
        seed=_MAZE_SEED,
        split="test",
        frame_size=64 if frame_size <= 64 else 128,
    )
    for video in maze_videos(settings):
        yield video.id, video_files.square_frames(video.frames, frame_size), video.fps


def _read(
    videos: list[tuple[str, Opener]],
    frame_size: int,
    num_frames: int,
    skipped: list[dict[str, str]],
) -> Iterator[Video]:
    """Yields what can be read; the rest goes to `skipped`."""
    for name, opens in videos:
        try:
            timed = list(itertools.islice(opens(), num_frames))
        except (ValueError, OSError) as error:
            logging.warning("skipped: %s", error)
            skipped.append({"video": name, "reason": str(error)})
            continue
        seconds = timed[-1].start - timed[0].start
        fps = (len(timed) - 1) / seconds if seconds > 0 else 1.0
        pixels = np.stack([frame.pixels for frame in timed])
        yield name, video_files.square_frames(pixels, frame_size), fps


def _show(path: Path, real: np.ndarray, decoded: np.ndarray, fps: float) -> None:
    """Writes real | reconstructed."""
    pair = video_files.side_by_side([real, decoded])
    video_files.write_mp4(path, pair, fps, upscale=upscale_for(real.shape[1]))

"""The demonstration: long video from a shipped model, then the same recipe trained from scratch.

show_shipped       rollouts to ten windows beside real video, and one example of each task
train_from_scratch renders mazes, trains for minutes, and shows how far that gets
write_page         one page with players of everything that is there
"""

import dataclasses
import html
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import logging

from maskflow_jax.config import Config
from maskflow_jax.data.dataset import read_token_dataset
from maskflow_jax.data.pipeline import eval_clips
from maskflow_jax.data.preparation.prepare import prepare_dataset
from maskflow_jax.evaluation import baselines
from maskflow_jax.generation.trained_model import shipped_contexts
from maskflow_jax.generation.videos import Videos
from maskflow_jax.generator import VideoGenerator
from maskflow_jax.io import video_files
from maskflow_jax.io.files import write_text
from maskflow_jax.sampling.samplers import MGM
from maskflow_jax.training.trainer import train

NUM_VIDEOS = 3
EXTENSION = 10  # length of the rollout over the training window
TASK_FRAMES, TASK_STEPS = 4, 32  # given at either end of a window, and to sample the rest of it
STRIP_FRAMES = 12  # columns of the strip
MARKER = ".maskflow_demo"  # in folders that a demonstration may clear


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        title: Heading.
        text: What is seen and how it was made.
        video: Name of an mp4 file beside the page.
    """

    title: str
    text: str
    video: str


def clear(out: Path) -> None:
    """Removes what an earlier demonstration left.

    Raises:
        FileExistsError: if the folder is somebody else's.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise FileExistsError(f"{out} is not empty and was not made by this; choose another folder")
    for name in ("run", "data"):
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


def show_shipped(generator: VideoGenerator, out: Path) -> list[Section]:
    """Writes the rollouts and examples of a model that comes with its own contexts.

    Args:
        generator: The model, such as `VideoGenerator.load("maze")`.
        out: Folder of the results.

    Returns:
        The sections of the page.
    """
    real = shipped_contexts(generator.model, "test")
    length, known = EXTENSION * generator.window, generator.model.config.sampling.context_frames
    started = time.monotonic()
    videos = generator.generate(
        real[:NUM_VIDEOS, :known],
        length=length,
        context_cache=True,  # frame by frame, three times as fast and as good (README)
        progress=True,
    )
    seconds = time.monotonic() - started
    frames = NUM_VIDEOS * (length - known)
    write_beside(out, "demo", videos, real[:NUM_VIDEOS, :length])
    sections = [
        Section(
            title=f"{EXTENSION} times the training window",
            text=(
                f"Each row continues {known} given frames to {length} (left, seed 0, not chosen); "
                f"the real walk is on the right. {videos.nfe} network evaluations per video, "
                f"{frames / seconds:.1f} new frames per second in all, compilation included."
            ),
            video="demo.mp4",
        )
    ]
    window = generator.window
    for task, text in (
        ("inbetween", "the first and the last frames are given"),
        ("loop", "the video ends where it began"),
        ("inpaint", "everything is given but a box in the middle of every frame"),
    ):
        made = generator.generate(
            real[:NUM_VIDEOS, :window],
            length=window,
            task=task,
            context_frames=TASK_FRAMES,
            stride=None,
            sampler=MGM(num_steps=TASK_STEPS, noise="random", independent_time=None),
        )
        write_beside(out, task, made, real[:NUM_VIDEOS, :window])
        sections.append(
            Section(title=task, text=f"{text}; generated left, real right", video=f"{task}.mp4")
        )
    return sections


def train_from_scratch(
    config: Config, out: Path, sizes: Mapping[str, int]
) -> tuple[list[Section], dict[str, float]]:
    """Renders mazes, trains a model and rolls it out.

    Args:
        config: Config of the training; its dataset is made here.
        out: Folder of the results.
        sizes: Number of training and test videos and of frames: settings of the source "maze".

    Returns:
        The sections of the page, and validation figures in bits per token: `model`, `copy`,
        `unigram`.
    """
    data = config.data
    prepare_dataset(
        source="maze",
        output=data.directory,
        tokenizer=data.tokenizer,
        source_settings={**sizes, "seed": 1},
        frames={"min_frames": data.clip_frames},
    )
    if not train(config, out / "run"):
        raise RuntimeError("the demonstration was stopped while training; start it again")
    figures = _figures(config, out)
    generator = VideoGenerator.load(out / "run")
    length = EXTENSION * generator.window
    real = generator.read_context(frames=length, indices=np.arange(NUM_VIDEOS))
    known = config.sampling.context_frames
    videos = generator.generate(real[:, :known], length=length, progress=True)
    write_beside(out, "scratch", videos, real)
    beats = "far below" if figures["model"] < 0.5 * figures["copy"] else "NOT far below"
    text = (
        f"{config.run.num_steps} training steps on freshly rendered mazes, then {EXTENSION} "
        f"windows from {known} given frames. Validation: {figures['model']:.2f} bits per masked "
        f"token, {beats} copying the previous frame's token ({figures['copy']:.2f}) and the "
        f"unigram distribution ({figures['unigram']:.2f})."
    )
    return [Section(title="The same recipe from scratch", text=text, video="scratch.mp4")], figures


def write_beside(out: Path, name: str, videos: Videos, real: np.ndarray) -> None:
    """Writes NAME.mp4, NAME.gif and NAME.png: generated beside real, a row for each video.

    Args:
        out: Folder.
        name: Name of the files.
        videos: The generated videos.
        real: Tokens of the real videos, int [B, L, h, w].
    """
    truth = [videos.tokenizer.decode(tokens) for tokens in real]
    pairs = list(zip(videos.frames, truth, strict=True))
    together = np.concatenate([video_files.side_by_side(pair, gap=4) for pair in pairs], axis=1)
    video_files.write_mp4(out / f"{name}.mp4", together, videos.fps, upscale=3)
    video_files.write_gif(out / f"{name}.gif", together, videos.fps, upscale=2)
    shown = np.linspace(0, len(videos.known) - 1, STRIP_FRAMES).round().astype(int)
    given = videos.known.all(axis=(1, 2))
    marked = [column for column, frame in enumerate(shown) if given[frame]]
    rows = [video[shown] for pair in pairs for video in pair]
    strip = video_files.frame_grid(rows, marked=marked, gap=2, upscale=2)
    video_files.write_png(out / f"{name}.png", strip)


def write_page(out: Path, sections: list[Section], seconds: Mapping[str, float]) -> None:
    """Writes index.html, a page that plays all videos from the disk, and summary.md."""
    parts = [
        f"<section><h2>{html.escape(s.title)}</h2><p>{html.escape(s.text)}</p>"
        f'<video src="{s.video}" controls loop autoplay muted playsinline></video></section>'
        for s in sections
    ]
    times = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    write_text(
        out / "index.html",
        "<!doctype html><html lang=en><meta charset=utf-8><title>MaskFlow</title>"
        '<meta name=viewport content="width=device-width">'
        "<style>body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
        "video{max-width:100%;image-rendering:pixelated}</style>"
        f"<h1>MaskFlow</h1>{''.join(parts)}<p>{html.escape(times)}</p></html>\n",
    )
    lines = [f"## {s.title}\n\n{s.text} ({s.video})\n" for s in sections]
    page = "# MaskFlow demo\n\n" + "\n".join(lines) + f"\n{times}\n"
    write_text(out / "summary.md", page)
    logging.info("%s\n%s", out / "index.html", page)


def _figures(config: Config, out: Path) -> dict[str, float]:
    """Bits per masked token on the validation clips: the model, copying, and unigram."""
    videos = {
        split: read_token_dataset(config.data.directory, split) for split in ("train", "test")
    }
    train_tokens = (videos["train"][index]["tokens"] for index in range(len(videos["train"])))
    codebook_size = videos["train"].tokenizer["codebook_size"]
    fitted = baselines.fit(train_tokens, codebook_size)
    batches = eval_clips(
        videos["test"], clip_frames=config.data.clip_frames, batch_size=config.data.batch_size
    )
    clips = np.concatenate([tokens[numbers >= 0] for tokens, numbers in batches])
    measured = baselines.measure(fitted, clips)
    lines = (out / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines if "validation/cross_entropy" in line]
    nats = {
        "model": rows[-1]["validation/cross_entropy"],
        "copy": measured["copy_cross_entropy"],
        "unigram": measured["unigram_cross_entropy"],
    }
    return {name: float(value / np.log(2)) for name, value in nats.items()}

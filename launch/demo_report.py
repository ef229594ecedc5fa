"""What the demo leaves behind: the videos, the strip of frames, the page of numbers."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from absl import logging

from maskflow_jax.data.dataset import TokenVideos, read_token_dataset
from maskflow_jax.data.pipeline import eval_clips
from maskflow_jax.evaluation import baselines
from maskflow_jax.io import video_files
from maskflow_jax.sampling.rollout import Plan
from maskflow_jax.tokenizers.tokenizer import Tokenizer
from maskflow_jax.training.trainer import read_config

STRIP_FRAMES = 16  # columns of the strip: the context, then frames spread over the video

PAGE = """# MaskFlow demo

{plan}

| held-out clips | nats per masked token | accuracy |
|---|---|---|
| model, {steps} steps | {cross_entropy:.3f} | {accuracy:.1%} |
| copying the previous frame's token | {copy_cross_entropy:.3f} | {copy_accuracy:.1%} |
| unigram | {unigram_cross_entropy:.3f} | {unigram_accuracy:.1%} |

The model fills in masked tokens at a time drawn for each frame; it sees the tokens that are left.
The copy baseline sees the whole previous frame.

| sampling | |
|---|---|
| network passes (NFE) per video | {nfe} |
| frames per second, {num_videos} videos at a time | {frames_per_second:.1f} |
| first chunk with its compilation | {first_chunk:.1f} s |

| stage | seconds |
|---|---|
{stages}
| together | {total:.0f} |

{device}, jax {jax_version}. demo.mp4 and demo.gif: generated on the left, real on the right, a row
for each video; the first {context} frames are given. strip.png: those frames have a border.
"""


def write_videos(
    out: Path, tokens: np.ndarray, videos: TokenVideos, plan: Plan, tokenizer: Tokenizer
) -> None:
    """Writes demo.mp4, demo.gif and strip.png from generated tokens [B, L, h, w]."""
    generated = [tokenizer.decode(video) for video in tokens]
    real = [tokenizer.decode(videos[i]["tokens"][: plan.video_length]) for i in range(len(tokens))]
    rows = [video_files.side_by_side(pair, gap=4) for pair in zip(generated, real, strict=True)]
    fps = videos[0]["fps"]
    video_files.write_mp4(out / "demo.mp4", np.concatenate(rows, axis=1), fps, upscale=3)
    video_files.write_gif(out / "demo.gif", np.concatenate(rows, axis=1), fps, upscale=2)
    later = np.linspace(
        plan.known_at_start, plan.video_length - 1, STRIP_FRAMES - plan.known_at_start
    )
    shown = [*range(plan.known_at_start), *later.round().astype(int)]
    strip = video_files.frame_grid(
        [video[shown] for pair in zip(generated, real, strict=True) for video in pair],
        marked=range(plan.known_at_start),
        gap=2,
        upscale=2,
    )
    video_files.write_png(out / "strip.png", strip)


def write_summary(
    out: Path,
    plan: Plan,
    rates: Mapping[str, float],
    seconds: Mapping[str, float],
    num_videos: int,
) -> None:
    """Measures the baselines and writes summary.md."""
    config = read_config(out / "run")
    videos = {split: read_token_dataset(out / "data", split) for split in ("train", "test")}
    train = (videos["train"][index]["tokens"] for index in range(len(videos["train"])))
    fitted = baselines.fit(train, config["tokenizer"]["codebook_size"])
    batches = eval_clips(
        videos["test"],
        clip_frames=config["data"]["clip_frames"],
        batch_size=config["data"]["batch_size"],
    )
    clips = np.concatenate([tokens[valid] for tokens, valid in batches])
    lines = (out / "run" / "metrics.jsonl").read_text().splitlines()
    held_out = [json.loads(line) for line in lines if "held_out/cross_entropy" in line][-1]
    page = PAGE.format(
        plan=f"{num_videos} videos, each {plan}.",
        steps=held_out["step"],
        cross_entropy=held_out["held_out/cross_entropy"],
        accuracy=held_out["held_out/accuracy"],
        **baselines.measure(fitted, clips),
        nfe=plan.nfe,
        num_videos=num_videos,
        **rates,
        stages="\n".join(f"| {stage} | {value:.0f} |" for stage, value in seconds.items()),
        total=sum(seconds.values()),
        device=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        jax_version=jax.__version__,
        context=plan.known_at_start,
    )
    (out / "summary.md").write_text(page)
    logging.info("%s\n%s", out / "summary.md", page)

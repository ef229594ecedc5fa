"""Visual, Semantic and Sequence of a model of the mazes, and of real walks for comparison."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from maskflow_jax.config_files import to_dict
from maskflow_jax.data.dataset import TokenVideos
from maskflow_jax.data.sources.maze_scenes import MazeScenes, label_of, read_caption
from maskflow_jax.evaluation.scene_reader import SceneReadings, measure, read_scenes
from maskflow_jax.generation.sample_folder import digest
from maskflow_jax.generation.scenes import scene_frames
from maskflow_jax.generator import VideoGenerator
from maskflow_jax.tokenizers.tokenizer import Tokenizer

Rows = Sequence[Sequence[str]]


def walks(num_videos: int, num_scenes: int, *, seed: int = 3) -> list[list[str]]:
    """Captions of validation walks, which no training video has in this order.

    Args:
        num_videos: Number of walks.
        num_scenes: Number of scenes of each.
        seed: Seed of the set; the default is that of the dataset.
    """
    source = MazeScenes(test_videos=num_videos, num_scenes=num_scenes, seed=seed)
    every = (source.truth("test", index) for index in range(num_videos))
    return [[scene.caption for scene in scenes] for scenes in every]


def measure_model(
    generator: VideoGenerator,
    captions: Rows,
    *,
    expanded: bool = False,
    batch_size: int = 16,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Samples videos of scenes and measures them.

    Args:
        generator: A model of mazes in scenes.
        captions: Captions by video.
        expanded: Whether only the scenes of one window are sampled jointly and the others one by
            one after them; else the plan of the model's settings.
        batch_size: Number of videos sampled at a time.
        seed: Seed of all videos.
        options: Options of `VideoGenerator.generate`.

    Returns:
        The measures with all that they depend on, JSON values.
    """
    options, frames = dict(options or {}), scene_frames(generator.model.config, None)
    first = generator.window // frames if expanded else len(captions[0])
    said, nfe, readings = captions, 0, []
    if generator.encoder.record.kind == "labels":
        said = [[label_of(*read_caption(caption)) for caption in row] for row in captions]
    for start in tqdm(range(0, len(captions), batch_size), "batches"):
        rows = said[start : start + batch_size]
        videos = generator.generate(
            captions=[row[:first] for row in rows], seed=seed + start, **options
        )
        if first < len(rows[0]):
            videos = generator.extend(
                videos, captions=[row[first:] for row in rows], seed=seed + start + 1, **options
            )
        readings.append(read_scenes(videos.frames, frames))
        nfe = videos.nfe
    config = generator.model.config
    return {
        **summarise(_together(readings), captions),
        "nfe": nfe,
        "expanded": expanded,
        "seed": seed,
        "options": {name: _json(value) for name, value in options.items()},
        "sampling": to_dict(config.sampling),
        "scenes": to_dict(config.scenes),
        "step": generator.model.step,
        "weights": digest(generator.model.params),
        "tokenizer": generator.tokenizer.identity["sha256"],
    }


def measure_real(
    videos: TokenVideos, tokenizer: Tokenizer, num_videos: int, num_scenes: int
) -> dict[str, Any]:
    """Measures real walks as their tokens show them: what a perfect model would reach.

    Args:
        videos: A split of a dataset of mazes in scenes.
        tokenizer: Its tokenizer.
        num_videos: Number of videos.
        num_scenes: Number of first scenes of each.
    """
    readings, captions = [], []
    for index in range(num_videos):
        video = videos[index]
        scenes = video["scenes"][:num_scenes]
        frames = tokenizer.decode(video["tokens"][: scenes[-1].stop].astype(np.int32))
        readings.append(read_scenes(frames[None], scenes[0].stop - scenes[0].start))
        captions.append([scene.caption for scene in scenes])
    return summarise(_together(readings), captions)


def summarise(readings: SceneReadings, captions: Rows) -> dict[str, Any]:
    """The measures in percent, of all scenes and of each scene of the videos by its number."""
    whole = measure(readings, captions)
    by_scene = [100 * _of_scene(readings, captions, number) for number in range(len(captions[0]))]
    return {
        "videos": len(captions),
        "scenes_per_video": len(captions[0]),
        "visual": 100 * whole.visual,
        "semantic": 100 * whole.semantic,
        "sequence": 100 * whole.sequence,
        "colours": 100 * whole.colours,
        "motion": 100 * whole.motion,
        "motion_by_scene": by_scene,
    }


def as_row(name: str, measures: Mapping[str, Any]) -> str:
    """One row of a table of measures."""
    columns = ("visual", "semantic", "sequence", "colours", "motion")
    numbers = " | ".join(f"{measures[column]:.1f}" for column in columns)
    size = f"{measures['videos']} x {measures['scenes_per_video']}"
    return f"| {name} | {size} | {numbers} | {measures.get('nfe', '')} |"


HEADER = (
    "| | videos x scenes | Visual | Semantic | Sequence | colours | motion | NFE |\n"
    "|---|---|---|---|---|---|---|---|"
)


def _of_scene(readings: SceneReadings, captions: Rows, number: int) -> float:
    """Share of the videos whose scene of a number moves as its caption says."""
    one = slice(number, number + 1)
    part = SceneReadings(shares=readings.shares[:, one], motions=readings.motions[:, one])
    return measure(part, [row[one] for row in captions]).motion


def _together(readings: Sequence[SceneReadings]) -> SceneReadings:
    return SceneReadings(
        shares=np.concatenate([part.shares for part in readings]),
        motions=np.concatenate([part.motions for part in readings]),
    )


def _json(value: Any) -> Any:
    return to_dict(value) if dataclasses.is_dataclass(value) else value

"""The drift report of a folder of samples: how they change along their length, without receipts."""

from pathlib import Path

from absl import logging

from maskflow_jax.evaluation.drift import FrameMeter, Row, token_rows
from maskflow_jax.evaluation.judges import maze_judge
from maskflow_jax.evaluation.maze_features import CLIP_FRAMES
from maskflow_jax.evaluation.measuring import Draw, Measurement, shipped_reader
from maskflow_jax.evaluation.real_videos import RealVideos
from maskflow_jax.evaluation.report import floors_of, window_rows, write_drift
from maskflow_jax.evaluation.settings import DEFAULT_CLIP_FRAMES, EvaluationSettings
from maskflow_jax.evaluation.token_statistics import code_groups
from maskflow_jax.generation.assessment import decodes_mazes, find_real_videos
from maskflow_jax.generation.request import Generation
from maskflow_jax.generation.sample_sets import read_samples, seams
from maskflow_jax.generator import VideoGenerator
from maskflow_jax.io.files import sha256_of_tokens


def write_drift_report(
    generator: VideoGenerator,
    folder: str | Path,
    generation: Generation,
    *,
    dataset: str | Path | None = None,
) -> list[Row]:
    """Measures the samples of a folder window by window; writes `drift.csv` and `drift.png` there.

    Windows have 16 frames, or as many as the model's own where that is less. Distances from real
    videos are measured where a dataset is found.

    Args:
        generator: The model of the samples.
        folder: The folder.
        generation: The plan that they were made by.
        dataset: Folder of the dataset, if it has moved.

    Returns:
        A row per window.

    Raises:
        FileNotFoundError: If there are no samples.
        ValueError: If they are of another model, or shorter than a window.
        ImportError: If matplotlib is missing.
    """
    folder = Path(folder)
    samples = read_samples(folder, generator)
    clip_frames = min(DEFAULT_CLIP_FRAMES, generator.window)
    borders = () if generation.task.backward else seams(generation.plan)
    reader = shipped_reader() if decodes_mazes(generator.tokenizer) else None
    groups = code_groups(generator.tokenizer.codebook)
    real, floors = _real_videos(generator, dataset), {}
    if real is None:
        rows = token_rows(samples.tokens, clip_frames, groups, None)
        meter = FrameMeter(clip_frames, borders, reader)
        for tokens in samples.tokens:
            meter.add(generator.tokenizer.decode(tokens))
        rows = [a | b for a, b in zip(rows, meter.rows(), strict=True)]
    else:
        digest = sha256_of_tokens(samples.tokens)
        measurement = Measurement(
            real,
            [Draw(tokens=samples.tokens, seed=0, digest=digest)],
            window=generator.window,
            clip_frames=clip_frames,
            seams=borders,
        )
        metrics = measurement.by_tokens(groups) + measurement.by_frames(reader)
        if reader is not None and clip_frames == CLIP_FRAMES and len(samples.tokens) > 1:
            metrics += measurement.by_features(maze_judge())
        found = {metric.name: metric.to_json() for metric in metrics}
        rows, floors = window_rows(found), floors_of(found)
    write_drift(rows, folder / "drift", floors)
    return rows


def _real_videos(generator: VideoGenerator, dataset: str | Path | None) -> RealVideos | None:
    """Validation videos to compare with; None where there are none."""
    try:
        return find_real_videos(generator, EvaluationSettings(), dataset)
    except FileNotFoundError as error:
        if dataset is not None:
            raise
        logging.warning("the drift report has no distances from real videos: %s", error)
        return None

"""Training a patch tokenizer on generated mazes: renders, trains, saves and writes its card."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from absl import logging

from maskflow_jax.data.sources.maze import MazeSettings, maze_videos
from maskflow_jax.evaluation.tokenizer_card import tokenizer_figures, write_card
from maskflow_jax.tokenizers import patch_vq_training
from maskflow_jax.tokenizers.patch_vq import PatchVQConfig
from maskflow_jax.tokenizers.tokenizer import Tokenizer, save_tokenizer
from maskflow_jax.training.metrics import MetricWriter


def train_patch_tokenizer(config: Mapping, workdir: Path) -> None:
    """Trains the tokenizer of a config in a folder, from its last saved state if there is one."""
    model = PatchVQConfig(**config["model"])
    training = patch_vq_training.PatchVQTrainingConfig(**config["training"])
    workdir.mkdir(parents=True, exist_ok=True)
    stride, started = config["frame_stride"], time.monotonic()
    train = np.concatenate([frames[::stride] for frames in _render(config, "train")])
    validation = list(_render(config, "test"))
    logging.info("%d training frames after %.0f s", len(train), time.monotonic() - started)
    writer, directory = MetricWriter(workdir), workdir / "tokenizer"

    def report(step: int, params: dict, metrics: dict[str, float]) -> None:
        save_tokenizer(directory, model, params)
        figures = tokenizer_figures(Tokenizer.load(directory), validation)
        writer.write(step, {f"train/{name}": value for name, value in metrics.items()} | figures)
        write_card(directory, figures=figures, settings=dict(config), step=step)
        minutes = (time.monotonic() - started) / 60
        logging.info(
            "step %d/%d after %.1f min: %.2f dB, %.1f %% of codes used, copying right %.1f %%",
            step,
            training.num_steps,
            minutes,
            figures["psnr"],
            100 * figures["code_usage"],
            100 * figures["copy_accuracy"],
        )

    patch_vq_training.train(train, model, training, workdir / "states", report=report)
    writer.close()


def _render(config: Mapping, split: str) -> Iterator[np.ndarray]:
    """Yields the videos of a split, uint8 [F, S, S, 3]."""
    count = config["num_train_videos" if split == "train" else "num_test_videos"]
    size = config["model"]["frame_size"]
    settings = MazeSettings(num_videos=count, split=split, frame_size=size, **config["source"])
    for video in maze_videos(settings):
        yield video.frames

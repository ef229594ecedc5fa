"""Training tokenizers on rendered mazes: renders, trains, measures and saves.

"patch_vq"    a patch tokenizer on generated mazes
"vqgan"       a VQGAN on the textured maze `my_way_home`

A training that was stopped goes on from its last saved state, exactly.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from absl import logging

from maskflow_jax.data.sources.maze import MazeSettings, maze_videos
from maskflow_jax.data.sources.my_way_home import MazeConfig as MyWayHomeConfig
from maskflow_jax.data.sources.my_way_home import maze_videos as textured_videos
from maskflow_jax.evaluation.reconstruction import code_statistics, psnr_of
from maskflow_jax.evaluation.tokenizer_card import tokenizer_figures, write_card
from maskflow_jax.tokenizers import patch_vq_training, vqgan_training
from maskflow_jax.tokenizers.patch_vq import PatchVQConfig
from maskflow_jax.tokenizers.tokenizer import Tokenizer, save_tokenizer
from maskflow_jax.tokenizers.vqgan import VQGANConfig
from maskflow_jax.training.metrics import MetricWriter


def train_tokenizer(config: Mapping, workdir: str | Path) -> None:
    """Trains the tokenizer of a config file in a folder.

    Args:
        config: Sections of a config file such as `configs/maze_tokenizer.py`.
        workdir: Folder of the training; the tokenizer is in `workdir/tokenizer`.

    Raises:
        ImportError: if VizDoom is missing.
        ValueError: if the folder holds the training of a tokenizer with other settings.
    """
    kinds = {"patch_vq": _train_patch_tokenizer, "vqgan": _train_vqgan}
    kinds[config.get("kind", "vqgan")](config, Path(workdir))


def _train_patch_tokenizer(config: Mapping, workdir: Path) -> None:
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


def _train_vqgan(config: Mapping, workdir: Path) -> None:
    """Trains a VQGAN on `my_way_home`, from its last saved state if there is one."""
    model = VQGANConfig(**config["model"])
    training = vqgan_training.VQTrainingConfig(**config["training"])
    workdir.mkdir(parents=True, exist_ok=True)
    train, validation = (
        _render_textured(config["data"], split, config["data"][count], model.frame_size)
        for split, count in (("train", "num_train_videos"), ("test", "num_test_videos"))
    )
    logging.info("%d training frames, %d validation frames", len(train), len(validation))
    writer, directory = MetricWriter(workdir), workdir / "tokenizer"

    def report(step: int, params: dict, metrics: dict[str, float]) -> None:
        save_tokenizer(directory, model, params)
        measured = _evaluate(directory, validation)
        scalars = {f"train/{name}": value for name, value in metrics.items()}
        writer.write(step, scalars | {f"validation/{k}": v for k, v in measured.items()})
        logging.info(
            "step %d/%d: %.2f dB, %.1f %% of codes used",
            step,
            training.num_steps,
            measured["psnr"],
            100 * measured["code_usage"],
        )

    vqgan_training.train(train, model, training, workdir / "states", report=report)
    writer.close()


def _render_textured(data, split: str, num_videos: int, frame_size: int) -> np.ndarray:
    """Renders the frames of a split: uint8 [F, S, S, 3]."""
    settings = MyWayHomeConfig(
        num_videos=num_videos,
        num_frames=data["num_frames"],
        fps=data["fps"],
        seed=data["seed"],
        split=split,
        frame_size=frame_size,
    )
    return np.concatenate([frames for _, frames, _ in textured_videos(settings)])


def _evaluate(directory: Path, frames: np.ndarray) -> dict[str, float]:
    """PSNR in dB, share of codes used and perplexity of a tokenizer on validation frames."""
    tokenizer = Tokenizer.load(directory)
    tokens = tokenizer.encode(frames)
    errors = (tokenizer.decode(tokens).astype(np.float32) - frames) ** 2
    counts = np.bincount(tokens.reshape(-1), minlength=tokenizer.config.codebook_size)
    return {"psnr": float(psnr_of(np.mean(errors))), **code_statistics(counts)}

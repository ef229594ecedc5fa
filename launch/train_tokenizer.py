"""Trains a tokenizer on rendered maze video.

    python -m launch.train_tokenizer --config=configs/maze_tokenizer.py --workdir=runs/tokenizer

leaves `workdir/tokenizer` (config.json, model.safetensors), which `Tokenizer.load` takes, and its
figures in `workdir/metrics.jsonl`. Started again, the training of a "patch_vq" goes on from its
last saved state; that of a VQGAN does not, but it rewrites its tokenizer at every evaluation.
"""

import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from launch.patch_tokenizer import train_patch_tokenizer
from launch.startup import start
from maskflow_jax.data.sources.my_way_home import MazeConfig, maze_videos
from maskflow_jax.evaluation.reconstruction import code_statistics, psnr_of
from maskflow_jax.tokenizers import vqgan_training
from maskflow_jax.tokenizers.tokenizer import Tokenizer, save_tokenizer, to_unit_range
from maskflow_jax.tokenizers.vqgan import VQGANConfig
from maskflow_jax.training.metrics import MetricWriter

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment settings.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the tokenizer and the log.")
flags.mark_flags_as_required(["config", "workdir"])


def render(data, split: str, num_videos: int, frame_size: int) -> np.ndarray:
    """Renders the frames of a split: uint8 [F, S, S, 3]."""
    settings = MazeConfig(
        num_videos=num_videos,
        num_frames=data.num_frames,
        fps=data.fps,
        seed=data.seed,
        split=split,
        frame_size=frame_size,
    )
    return np.concatenate([frames for _, frames, _ in maze_videos(settings)])


def evaluate(directory: Path, frames: np.ndarray) -> dict[str, float]:
    """PSNR in dB, share of codes used and perplexity of a tokenizer on validation frames."""
    tokenizer = Tokenizer.load(directory)
    tokens = tokenizer.encode(frames)
    errors = (tokenizer.decode(tokens).astype(np.float32) - frames) ** 2
    counts = np.bincount(tokens.reshape(-1), minlength=tokenizer.config.codebook_size)
    return {"psnr": float(psnr_of(np.mean(errors))), **code_statistics(counts)}


def main(_) -> None:
    """Renders, trains, evaluates and saves."""
    start()
    config, workdir = _CONFIG.value, Path(_WORKDIR.value)
    if config.get("kind") == "patch_vq":
        train_patch_tokenizer(config.to_dict(), workdir)
    else:
        train_vqgan(config, workdir)


def train_vqgan(config, workdir: Path) -> None:
    """Trains a VQGAN on `my_way_home`."""
    directory = workdir / "tokenizer"
    if directory.exists():
        raise FileExistsError(f"{directory} holds a tokenizer already; choose another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    model = VQGANConfig(**config.model)
    settings = vqgan_training.VQTrainingConfig(**config.training)
    init, train_step, place_codebook = vqgan_training.build(model, settings)
    train = render(config.data, "train", config.data.num_train_videos, model.frame_size)
    held_out = render(config.data, "test", config.data.num_test_videos, model.frame_size)
    logging.info("%d training frames, %d held-out frames", len(train), len(held_out))

    init_key, key = jax.random.split(jax.random.key(config.seed))
    rng = np.random.default_rng(config.seed)
    state = init(init_key)
    writer = MetricWriter(workdir)
    started = time.monotonic()
    for step in range(1, settings.num_steps + 1):
        if step == settings.warm_up_steps + 1:
            # About four latents per code, so that no code starts from a single latent.
            count = max(config.batch_size, 4 * model.codebook_size // model.grid_size**2)
            sample = train[rng.integers(0, len(train), count)]
            state = place_codebook(state, key, to_unit_range(sample))
        batch = train[rng.integers(0, len(train), config.batch_size)]
        state, metrics = train_step(state, key, to_unit_range(batch))
        if step % config.eval_every_steps == 0 or step == settings.num_steps:
            save_tokenizer(directory, model, state.params)
            rate = step / (time.monotonic() - started)
            remaining = (settings.num_steps - step) / rate / 60
            scalars = {f"train/{name}": float(value) for name, value in metrics.items()}
            measured = evaluate(directory, held_out)
            writer.write(step, scalars | {f"held_out/{k}": v for k, v in measured.items()})
            logging.info(
                "step %d/%d  %.1f steps/s  %.0f min left  held out: %.2f dB, %.1f%% of codes used",
                step,
                settings.num_steps,
                rate,
                remaining,
                measured["psnr"],
                100 * measured["code_usage"],
            )
    writer.close()


if __name__ == "__main__":
    app.run(main)

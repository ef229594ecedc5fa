"""MaskFlow in JAX: discrete flow matching for long video generation.

Video is turned into discrete tokens, frame by frame. A network learns to fill in masked tokens,
with a masking level of its own for every frame; so the same network can take frames that are known
as context and generate the frames around them, a window at a time, as long as one likes.

    import maskflow_jax as mf

    generator = mf.VideoGenerator.load("runs/maze")
    videos = generator.generate(length=160, num_videos=4, seed=0)
    videos.save("out")

The folders, from the method outwards:

    flow/          noise schedules, frame times, corruption, loss weights, losses
    models/        Latte, a video transformer
    sampling/      the sampling loop, the samplers, long rollouts, tasks
    tokenizers/    frames to tokens and back
    scenes/        scenes with captions or labels, which a network may be conditioned on
    data/          datasets of tokens, and how they are made from videos
    training/      the train step, the loop, checkpoints
    evaluation/    FVD, bits per token, drift, receipts
    generation/    trained models, contexts, generated videos, jobs
    pages/         a page to look at a run or at samples
    parallel/, io/, profiling/

The public names below are imported when they are first used.
"""

import importlib
from importlib import metadata
from typing import Any

_NAMES = {
    "Config": "config",
    "Decoding": "sampling.proposal",
    "EvaluationSettings": "evaluation.settings",
    "FM": "sampling.samplers",
    "Guidance": "sampling.guidance",
    "Halton": "sampling.samplers",
    "MGM": "sampling.samplers",
    "Pyramid": "sampling.samplers",
    "ReMDM": "sampling.samplers",
    "Rolling": "sampling.samplers",
    "SAMPLERS": "sampling.samplers",
    "Tokenizer": "tokenizers.tokenizer",
    "VideoGenerator": "generator",
    "Videos": "generation.videos",
    "default_config": "config_files",
    "estimate_dataset": "data.preparation.prepare",
    "evaluate": "evaluator",
    "PreparationSettings": "data.preparation.settings",
    "prepare_dataset": "data.preparation.prepare",
    "previews": "generation.previews",
    "read_config": "config_files",
    "train": "training.trainer",
    "verify_receipt": "evaluator",
    "write_drift_report": "generation.drift_report",
    "write_report": "pages.page",
}

__all__ = [*sorted(_NAMES), "__version__"]

__version__ = metadata.version("maskflow_jax")


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'maskflow_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"maskflow_jax.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})

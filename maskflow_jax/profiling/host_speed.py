"""How fast the host feeds the device: the input pipeline alone, and Python's part of a step."""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maskflow_jax.config import Config
from maskflow_jax.config_files import to_dict
from maskflow_jax.data.dataset import read_token_dataset, write_token_dataset
from maskflow_jax.data.pipeline import clip_batches
from maskflow_jax.parallel import sharding

NUM_VIDEOS, CLIPS_PER_VIDEO = 16, 4  # of the dataset that is read
WARM_UP, BATCHES = 8, 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostSpeed:
    """What the host can do.

    Attributes:
        clips_per_second: clips that the input pipeline reads, crops and batches.
        overhead_seconds: median time of placing a batch, running a step that only passes the train
            state on, and reading its loss: what a step costs besides its program, but for the
            loop's few comparisons.
    """

    clips_per_second: float
    overhead_seconds: float


def measure_host(config: Config, state: Any, *, batch_size: int) -> tuple[HostSpeed, Any]:
    """Measures the input pipeline and the overhead of a step.

    Args:
        config: Config with a tokenizer; the dataset read is one of random tokens of its shape.
        state: a train state; it is donated.
        batch_size: clips of a batch.

    Returns:
        The speeds, and the state in other arrays.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(_batches(Path(folder), config, batch_size)) as batches,
    ):
        for _ in range(WARM_UP):
            next(batches)
        started = time.perf_counter()
        for _ in range(BATCHES):
            batch = next(batches)
        seconds = (time.perf_counter() - started) / BATCHES
    overhead, state = _step_overhead(state, batch)
    return HostSpeed(clips_per_second=batch_size / seconds, overhead_seconds=overhead), state


def _batches(folder: Path, config: Config, batch_size: int):
    frames, grid = config.data.clip_frames, config.tokenizer.grid
    rng = np.random.default_rng(0)

    def videos() -> Iterator[tuple[str, np.ndarray, float]]:
        shape = (CLIPS_PER_VIDEO * frames, *grid)
        for index in range(NUM_VIDEOS):
            yield str(index), rng.integers(0, config.tokenizer.codebook_size, shape), 10.0

    write_token_dataset(folder / "data", {"train": videos()}, tokenizer=to_dict(config.tokenizer))
    return clip_batches(
        read_token_dataset(folder / "data", "train"),
        clip_frames=frames,
        batch_size=batch_size,
        seed=0,
        num_workers=config.data.num_workers,
    )


def _step_overhead(state: Any, batch: np.ndarray) -> tuple[float, Any]:
    """Seconds of the call of a step that passes the state on, device work being next to nothing."""
    mesh, key = state["step"].sharding.mesh, jax.random.key(0)
    metrics = dict.fromkeys(("loss", "accuracy", "masked", "grad_norm"), 0.0)

    def step(state, key, tokens):
        del key
        return state, {name: tokens[0, 0, 0, 0] + value for name, value in metrics.items()}

    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = jax.jit(step, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh)))
    seconds = []
    for _ in range(WARM_UP + BATCHES):
        started = time.perf_counter()
        state, found = step(state, key, sharding.place_batch(mesh, batch))
        float(found["loss"])
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[WARM_UP:])), state

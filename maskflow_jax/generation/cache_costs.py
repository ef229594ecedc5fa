"""The cost of a cached context in validation cross-entropy, and what it saves in time."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from maskflow_jax.data.dataset import TokenVideos
from maskflow_jax.data.pipeline import eval_clips
from maskflow_jax.evaluation.likelihood import context_cross_entropy
from maskflow_jax.generation.request import make_window_sampler
from maskflow_jax.generation.window_program import WindowProgram
from maskflow_jax.sampling.samplers import MGM
from maskflow_jax.sampling.types import Window
from maskflow_jax.training.building import make_noise_schedule
from maskflow_jax.training.model_files import TrainedModel

REPEATS = 3  # timed chunks, after one that is not


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A run with so many frames of context.

    Attributes:
        run: its folder.
        context_frames: m.
        plain: validation cross-entropy in nats per masked token, context run at every step.
        cached: the same of a cached context.
        cost: cached less plain.
        cost_error: the standard error of `cost` over clips.
        plain_seconds: of a chunk of the paper's 20 steps, for a batch.
        cached_seconds: likewise.
    """

    run: str
    context_frames: int
    plain: float
    cached: float
    cost: float
    cost_error: float
    plain_seconds: float
    cached_seconds: float


def compare(
    name: str,
    run: TrainedModel,
    videos: TokenVideos,
    context_frames: int,
    *,
    batch_size: int,
    passes: int,
) -> Row:
    """Measures one run at one context.

    Args:
        name: for the table.
        run: the run.
        videos: its validation videos.
        context_frames: m, 1 to k - 1.
        batch_size: clips at a time.
        passes: over the validation clips, of other masks each.

    Returns:
        The row.

    Raises:
        ValueError: if a clip cannot have such a context.
    """
    frames = run.config.data.clip_frames
    if not 0 < context_frames < frames:
        raise ValueError(
            f"context_frames is {context_frames}: {name} has clips of {frames} frames, so a "
            f"context has 1 to {frames - 1}"
        )
    clips = functools.partial(eval_clips, videos, clip_frames=frames, batch_size=batch_size)
    batches = [batch for _ in range(passes) for batch in clips()]
    num_clips = sum(int((numbers >= 0).sum()) for _, numbers in batches) // passes
    plain, cached = (_sums(run, batches, context_frames, cached) for cached in (False, True))
    count, clip_counts = plain[:, 1].sum(), plain[:, 1].reshape(passes, num_clips).sum(0)
    # Masks of one clip are not independent of each other as clips are.
    differences = (cached[:, 0] - plain[:, 0]).reshape(passes, num_clips).sum(0)
    cost = differences.sum() / count
    first = batches[0][0].astype(np.int32)
    seconds = [_chunk_seconds(run, first, context_frames, cached) for cached in (False, True)]
    return Row(
        run=name,
        context_frames=context_frames,
        plain=float(plain[:, 0].sum() / count),
        cached=float(cached[:, 0].sum() / count),
        cost=float(cost),
        cost_error=float(np.linalg.norm(differences - cost * clip_counts) / count),
        plain_seconds=seconds[0],
        cached_seconds=seconds[1],
    )


def compare_all(
    name: str, run: TrainedModel, videos: TokenVideos, contexts: Sequence[int] = ()
) -> tuple[list[dict[str, Any]], str]:
    """Measures one run at several contexts.

    Args:
        name: for the table.
        run: the run.
        videos: its validation videos.
        contexts: numbers of context frames; by default 1, half a window, and all but one frame.

    Returns:
        The rows as JSON values, and as a table.

    Raises:
        ValueError: if a clip cannot have such a context.
    """
    frames = run.config.data.clip_frames
    asked = contexts or sorted({1, frames // 2, frames - 1})
    sizes = {"batch_size": min(16, len(videos)), "passes": 2}
    rows = [compare(name, run, videos, context, **sizes) for context in asked]
    return [dataclasses.asdict(row) for row in rows], as_markdown(rows)


def _sums(run: TrainedModel, batches: list, context_frames: int, cached: bool) -> np.ndarray:
    """Cross-entropy and number of masked tokens of every clip, [clips, 2]."""
    schedule = make_noise_schedule(run.config)

    @jax.jit
    def measure(params, key, tokens, valid):
        return context_cross_entropy(
            nnx.merge(run.graphdef, params),
            schedule,
            key,
            tokens,
            valid,
            context_frames=context_frames,
            mask_id=run.config.tokenizer.codebook_size,
            cached=cached,
        )

    found = []
    for index, (tokens, numbers) in enumerate(batches):
        valid = numbers >= 0
        key = jax.random.fold_in(jax.random.key(0), index)
        sums = np.stack(measure(run.params, key, tokens, valid), axis=1)
        found.append(sums[valid].astype(np.float64))
    return np.concatenate(found)


def _chunk_seconds(
    run: TrainedModel, tokens: np.ndarray, context_frames: int, cached: bool
) -> float:
    """Median seconds of a chunk for a batch of clips."""
    batch, frames = tokens.shape[:2]
    known = np.broadcast_to(np.arange(frames)[:, None, None] < context_frames, tokens.shape)
    keys = jax.random.split(jax.random.key(0), batch)
    sampling = dataclasses.replace(run.config.sampling, sampler=MGM(), context_cache=cached)
    sample = WindowProgram(
        run.graphdef,
        make_window_sampler(run.config, sampling),
        context_frames=context_frames,
        mask_id=run.config.tokenizer.codebook_size,
    )
    window, seconds = Window(context_frames, frames - context_frames), []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        sample(run.params, keys, tokens, known, window)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[1:]))


def as_markdown(rows: list[Row]) -> str:
    """The rows as a table."""
    lines = [
        "| run | context | nats | cached | cost of the cache | chunk | cached | times faster |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.run} | {row.context_frames} | {row.plain:.3f} | {row.cached:.3f} "
            f"| {row.cost:+.4f} ± {row.cost_error:.4f} | {row.plain_seconds:.2f} s "
            f"| {row.cached_seconds:.2f} s | {row.plain_seconds / row.cached_seconds:.1f} |"
        )
    return "\n".join(lines) + "\n"

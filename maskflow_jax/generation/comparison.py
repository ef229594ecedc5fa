"""Samplers compared on one model: network evaluations, seconds, and distance from real tokens.

All samplers continue the same validation videos from the same frames: the model's context, but at
most half a window, so that one window has new frames to compare. The reference is the rest of
the validation videos; the row "real" is the true continuation of the same videos, as many frames,
and its distance is what a perfect sampler would show.
"""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from maskflow_jax.config import SamplingConfig
from maskflow_jax.config_files import change_sampling
from maskflow_jax.data.dataset import TokenVideos
from maskflow_jax.evaluation.token_statistics import TokenStatistics, distance, token_statistics
from maskflow_jax.generation.request import make_window_sampler
from maskflow_jax.generation.window_program import WindowProgram
from maskflow_jax.generator import VideoGenerator
from maskflow_jax.sampling.types import Plan, RolloutRequest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """A sampler with all its settings.

    Attributes:
        label: Text that it was asked for by.
        sampling: Its settings. With a stride, the context is what the stride leaves of the window.
    """

    label: str
    sampling: SamplingConfig


def parse(text: str, context_frames: int) -> Contestant:
    """Reads "NAME" or "NAME:setting=value,...".

    A setting is one of the sampler's own, or any other of the section `sampling`, such as
    `stride` or `decoding.temperature`.

    Args:
        text: The text.
        context_frames: Number of context frames where there is no stride.

    Raises:
        ValueError: if the name or a setting is unknown.
    """
    name, _, rest = text.partition(":")
    parts = [part for part in rest.split(",") if part]
    top = {field.name for field in dataclasses.fields(SamplingConfig)}
    changes = [f"sampler.name={name}"]
    for part in parts:
        own = part.partition("=")[0].partition(".")[0] not in top
        changes.append(f"sampler.{part}" if own else part)
    sampling = change_sampling(SamplingConfig(context_frames=context_frames), changes)
    return Contestant(label=text, sampling=sampling)


class Arena:
    """The videos that samplers are compared on.

    Args:
        generator: The model.
        videos: Its validation videos.
        groups: Group of every code (`token_statistics.code_groups`).
        num_videos: Number of videos that are continued; the others are the reference.
        factors: Lengths to look at, in training windows.

    Raises:
        ValueError: if there are too few videos, or too short ones.
    """

    def __init__(
        self,
        generator: VideoGenerator,
        videos: TokenVideos,
        groups: np.ndarray,
        num_videos: int,
        factors: tuple[int, ...],
    ):
        self.generator, self.groups, self.factors = generator, groups, sorted(factors)
        config = generator.model.config
        self.chunk_size, self.known = (
            generator.window,
            min(config.sampling.context_frames, self.generator.window // 2),
        )
        self.length = self.factors[-1] * self.chunk_size
        if len(videos) < 2 * num_videos:
            raise ValueError(
                f"{len(videos)} validation videos; continuing {num_videos} leaves too few to "
                "compare with; lower num_videos"
            )
        if videos.num_frames.min() < self.length:
            raise ValueError(
                f"a validation video has {videos.num_frames.min()} frames, {self.length} are "
                "needed; lower factors"
            )
        tokens = np.stack([videos[i]["tokens"][: self.length] for i in range(len(videos))])
        self.real = tokens[:num_videos].astype(np.int32)
        self.reference = token_statistics(tokens[num_videos:].astype(np.int32), groups)

    def plan(self, contestant: Contestant, factor: int) -> Plan:
        """Returns a contestant's rollout to a length of that many windows."""
        sampling, stride = contestant.sampling, contestant.sampling.stride
        return sampling.sampler.plan(
            RolloutRequest(
                video_length=factor * self.chunk_size,
                chunk_size=self.chunk_size,
                context_frames=self.known if stride is None else self.chunk_size - stride,
                stride=stride,
                known_frames=self.known,
                guidance=sampling.guidance,
            )
        )

    def distances(self, videos: np.ndarray) -> dict[int, TokenStatistics]:
        """Returns the distances from the reference, of the new frames up to each length."""
        return {
            factor: distance(
                token_statistics(videos[:, self.known : factor * self.chunk_size], self.groups),
                self.reference,
            )
            for factor in self.factors
        }

    def play(self, contestant: Contestant) -> tuple[np.ndarray, float | None]:
        """Rolls out to the greatest length.

        Returns:
            Tokens int32 [B, L, h, w], and seconds per network evaluation, for all videos together:
            the median over the windows that had nothing to compile; None if every one had.
        """
        plan, model = self.plan(contestant, self.factors[-1]), self.generator.model
        program = WindowProgram(
            model.graphdef,
            make_window_sampler(model.config, contestant.sampling),
            context_frames=plan.context_frames,
            mask_id=model.config.tokenizer.codebook_size,
        )
        context = self.real[:, : self.known]
        chunks = program.sample_videos(model.params, context, plan, seed=0)
        started, arrived = time.monotonic(), []
        for chunk in tqdm(chunks, contestant.label, len(plan.windows)):
            arrived.append((chunk, time.monotonic()))
        seconds = np.diff([started, *(moment for _, moment in arrived)])
        compiled, per_evaluation = set(), []
        for window, duration in zip(plan.windows, seconds, strict=True):
            kind = (min(window.context, plan.context_frames), window.stage)
            if kind in compiled:
                per_evaluation.append(duration / plan.window_nfe(window))
            compiled.add(kind)
        median = float(np.median(per_evaluation)) if per_evaluation else None
        return np.concatenate([context, *(chunk for chunk, _ in arrived)], axis=1), median


def compare(arena: Arena, contestants: list[Contestant]) -> Iterator[list[dict[str, Any]]]:
    """Plays all contestants, "real" first; yields the rows so far, one per sampler and length."""
    rows = [
        _row("real", None, factor, None, apart)
        for factor, apart in arena.distances(arena.real).items()
    ]
    yield rows
    for contestant in contestants:
        tokens, per_evaluation = arena.play(contestant)
        for factor, apart in arena.distances(tokens).items():
            plan = arena.plan(contestant, factor)
            rows.append(_row(contestant.label, plan, factor, per_evaluation, apart))
        yield rows


def tables(
    arena: Arena, contestants: list[Contestant]
) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """The rows of `compare` so far, each with their table in markdown."""
    return ((rows, as_markdown(rows)) for rows in compare(arena, contestants))


def _row(
    label: str, plan: Plan | None, factor: int, per_evaluation: float | None, apart: TokenStatistics
) -> dict[str, Any]:
    return {
        "sampler": label,
        "factor": factor,
        "nfe": plan and plan.nfe,
        "seconds": plan and per_evaluation and per_evaluation * plan.nfe,
        **dataclasses.asdict(apart),
    }


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """A table with a line per sampler and a group of columns per length."""
    factors = sorted({row["factor"] for row in rows})
    columns = ("nfe", "seconds", "unigram", "spatial", "temporal")
    heads = [f"{factor}x {column}" for factor in factors for column in columns]
    lines = ["| sampler | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for label in dict.fromkeys(row["sampler"] for row in rows):
        of_label = {row["factor"]: row for row in rows if row["sampler"] == label}
        cells = [_cell(of_label[factor][column]) for factor in factors for column in columns]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3g}"

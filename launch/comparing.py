"""Samplers compared on one checkpoint: network passes, seconds, and distance from real tokens.

All samplers continue the same held-out videos from the same frames. The reference is the rest of
the held-out videos; the row "real" is the true continuation of the same videos, as many frames, and
its distance is what a perfect sampler would show.
"""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from launch.rollouts import Run, change_sampler, extend, make_chunk_sampler
from maskflow_jax.data.dataset import TokenVideos
from maskflow_jax.evaluation.token_statistics import TokenStatistics, distance, token_statistics
from maskflow_jax.sampling.rollout import Plan
from maskflow_jax.sampling.samplers import SamplerConfig, plan_rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """A sampler with a stride.

    Attributes:
        label: as it was asked for.
        sampler: its settings.
        stride: new frames per window; None for as many as fit. The context is what the stride
            leaves of the window.
    """

    label: str
    sampler: SamplerConfig
    stride: int | None


def parse(text: str) -> Contestant:
    """Reads "NAME" or "NAME:setting=value,...", "stride" being one of the settings.

    Raises:
        ValueError: if the name or a setting is unknown.
    """
    name, _, rest = text.partition(":")
    settings = dict(part.split("=", 1) for part in rest.split(",") if "=" in part)
    if wrong := [part for part in rest.split(",") if part and "=" not in part]:
        raise ValueError(f"{text!r}: {wrong} must be setting=value")
    stride = settings.pop("stride", None)
    changes = [f"{setting}={value}" for setting, value in settings.items()]
    return Contestant(
        label=text,
        sampler=change_sampler({"name": name}, None, changes),
        stride=None if stride is None else int(stride),
    )


class Arena:
    """The videos that samplers are compared on.

    Args:
        run: the trained run.
        videos: its held-out videos.
        groups: group of every code (`token_statistics.code_groups`).
        num_videos: how many are continued; the others are the reference.
        factors: lengths to look at, in training windows.

    Raises:
        ValueError: too few videos, or too short ones.
    """

    def __init__(
        self,
        run: Run,
        videos: TokenVideos,
        groups: np.ndarray,
        num_videos: int,
        factors: tuple[int, ...],
    ):
        self.run, self.groups, self.factors = run, groups, sorted(factors)
        self.chunk_size = run.config["data"]["clip_frames"]
        self.known = run.config["sampling"]["context_frames"]
        self.length = self.factors[-1] * self.chunk_size
        if len(videos) < 2 * num_videos:
            raise ValueError(
                f"{len(videos)} held-out videos; continuing {num_videos} leaves too few to compare "
                "with; lower --num_videos"
            )
        if videos.num_frames.min() < self.length:
            raise ValueError(
                f"a held-out video has {videos.num_frames.min()} frames, {self.length} are needed; "
                "lower --factors"
            )
        tokens = np.stack([videos[i]["tokens"][: self.length] for i in range(len(videos))])
        self.real = tokens[:num_videos].astype(np.int32)
        self.reference = token_statistics(tokens[num_videos:].astype(np.int32), groups)

    def plan(self, contestant: Contestant, factor: int) -> Plan:
        """A contestant's rollout to a length of that many windows."""
        stride = contestant.stride
        return plan_rollout(
            contestant.sampler,
            video_length=factor * self.chunk_size,
            chunk_size=self.chunk_size,
            context_frames=self.known if stride is None else self.chunk_size - stride,
            stride=stride,
            known_frames=self.known,
        )

    def distances(self, videos: np.ndarray) -> dict[int, TokenStatistics]:
        """From the reference, of the new frames up to each length."""
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
            Tokens int32 [B, L, h, w], and seconds per network pass, for all videos together: the
            median over the windows that had nothing to compile; None if every one had.
        """
        plan = self.plan(contestant, self.factors[-1])
        chunks = extend(
            make_chunk_sampler(
                self.run.graphdef, self.run.config, contestant.sampler, plan.context_frames
            ),
            self.run.params,
            self.real[:, : self.known],
            plan,
            mask_id=self.run.mask_id,
            seed=0,
            progress=contestant.label,
        )
        arrived = [(chunk, time.monotonic()) for chunk in chunks]  # the context is the first
        seconds = np.diff([moment for _, moment in arrived])
        compiled, per_pass = set(), []
        for window, duration in zip(plan.windows, seconds, strict=True):
            program = (min(window.context, plan.context_frames), window.stage)
            if program in compiled:
                per_pass.append(duration / plan.window_nfe(window))
            compiled.add(program)
        median = float(np.median(per_pass)) if per_pass else None
        return np.concatenate([chunk for chunk, _ in arrived], axis=1), median


def compare(arena: Arena, contestants: list[Contestant]) -> Iterator[list[dict[str, Any]]]:
    """Plays all contestants, "real" first; yields the rows so far, one per sampler and length."""
    rows = [
        _row("real", None, factor, None, apart)
        for factor, apart in arena.distances(arena.real).items()
    ]
    yield rows
    for contestant in contestants:
        tokens, per_pass = arena.play(contestant)
        for factor, apart in arena.distances(tokens).items():
            plan = arena.plan(contestant, factor)
            rows.append(_row(contestant.label, plan, factor, per_pass, apart))
        yield rows


def _row(
    label: str, plan: Plan | None, factor: int, per_pass: float | None, apart: TokenStatistics
) -> dict[str, Any]:
    return {
        "sampler": label,
        "factor": factor,
        "nfe": plan and plan.nfe,
        "seconds": plan and per_pass and per_pass * plan.nfe,
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

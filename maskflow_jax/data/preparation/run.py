"""From the items of a source to their tokens in a work directory: decode, transform, encode, write.

Each item is prepared by itself, so that work can be interrupted, repeated and shared by machines: a
shard prepares the items whose id hashes to it. The files of an item in the work directory are the
same on every machine. `assembly` makes the dataset from them.
"""

import dataclasses
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from maskflow_jax.data.dataset import MAX_CODEBOOK_SIZE
from maskflow_jax.data.preparation.decoders import decoded
from maskflow_jax.data.preparation.decoding import Outcome
from maskflow_jax.data.preparation.frame_transforms import FrameTransform
from maskflow_jax.data.preparation.work_directory import FAILED, WRITTEN, TokenWriter, WorkDirectory
from maskflow_jax.data.sources.items import Item, describe, stable_hash


class Encoder(Protocol):
    """The part of a tokenizer that preparation needs; `Tokenizer` has it."""

    identity: dict[str, Any]
    batch_size: int

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Tokens, integers [F, h, w], of frames uint8 [F, S, S, 3]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
    """Which videos are prepared, how and where to.

    Attributes:
        source: Source of the videos.
        transform: Transform of their frames.
        tokenizer: Identity of the encoder.
        batch_size: Frames that it takes at once; recorded, as rounding may depend on it.
        output: Directory of the dataset.
        dtype: Type that it computes in; some tokens depend on it.
    """

    source: Any
    transform: FrameTransform
    tokenizer: dict[str, Any]
    batch_size: int
    output: Path
    dtype: str = "float32"

    def __post_init__(self):
        """Raises ValueError for tokens that cannot be stored or frames of another size."""
        size, side = self.tokenizer["codebook_size"], self.tokenizer["frame_size"]
        if size > MAX_CODEBOOK_SIZE:
            raise ValueError(
                f"the tokenizer's codebook_size is {size}: tokens are stored as uint16, choose a "
                f"tokenizer with at most {MAX_CODEBOOK_SIZE} codes"
            )
        if self.transform.size != side:
            raise ValueError(
                f"the transform makes frames of {self.transform.size} pixels, the tokenizer takes "
                f"{side}: set size to that"
            )

    def work_directory(self) -> WorkDirectory:
        """The directory beside the output; ValueError if it was made with other settings."""
        tokenizer = {key: value for key, value in self.tokenizer.items() if key != "name"}
        transform = self.transform.describe()
        del transform["min_frames"]  # applied by `assembly`
        settings = {
            "tokenizer": tokenizer,
            "batch_size": self.batch_size,
            "dtype": self.dtype,
            "source": describe(self.source, frames_only=True),
            "transform": transform,
        }
        return WorkDirectory(self.output.with_name(self.output.name + ".work"), settings)

    def describe(self) -> dict[str, Any]:
        """What the dataset records of its preparation; `fps` is None if the videos keep theirs."""
        settings = describe(self.source)
        rate = self.transform.fps or settings.get("fps")
        return {
            "name": settings.pop("name"),
            "fps": self.transform.rate(rate) if rate else None,
            "settings": settings,
            "transform": self.transform.describe(),
            "dtype": self.dtype,
        }


@dataclasses.dataclass
class Throughput:
    """Numbers of frames and durations.

    Attributes:
        frames: Number of encoded frames.
        decode_seconds: Time that decoders were busy, summed over all of them.
        encode_seconds: Time that the encoder was busy.
        seconds: Time that passed.
        decoders: Number of decoders that worked in parallel.
    """

    frames: int = 0
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    seconds: float = 0.0
    decoders: int = 1

    def __str__(self):
        decode = self.decode_seconds / self.decoders
        rates = [
            f"{name} {self.frames / seconds if seconds else 0:.0f}"
            for name, seconds in (
                ("decoding", decode),
                ("encoding", self.encode_seconds),
                ("together", self.seconds),
            )
        ]
        return f"{', '.join(rates)} frames/s ({self.frames} frames, {self.decoders} decoders)"


def in_shard(items: Iterable[Item], shard: tuple[int, int]) -> list[Item]:
    """The items of shard i of n, by their ids alone.

    Raises:
        ValueError: unless 0 <= i < n.
    """
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard {index}/{count}: choose 0/{count} to {count - 1}/{count}")
    return [item for item in items if stable_hash(item.id) % count == index]


def prepare_items(
    preparation: Preparation,
    items: Sequence[Item],
    encoder: Encoder,
    work: WorkDirectory,
    *,
    workers: int = 0,
    progress: bool = True,
    warm_up: bool = True,
) -> Throughput:
    """Prepares those of some items that are not done yet.

    Args:
        preparation: Preparation of the items.
        items: Items of its source.
        encoder: Tokenizer.
        work: Work directory to write to.
        workers: Number of processes that decode; 0 decodes in a thread.
        progress: Whether to show a progress bar.
        warm_up: Whether to compile the encoder before the clock starts.

    Raises:
        PreparationError: if the directory cannot be written; finished items are kept.
        DecoderDiedError: if a decoding process is killed.
    """
    todo = [item for item in items if not work.is_done(item)]
    bar = tqdm(total=len(items), initial=len(items) - len(todo), unit="video", disable=not progress)
    throughput = Throughput(decoders=max(1, min(workers, len(todo))))
    if not todo:
        bar.close()
        return throughput
    if warm_up:
        side = preparation.transform.size
        encoder.encode(np.zeros((1, side, side, 3), np.uint8))
    writers = {}
    options = {"batch_size": encoder.batch_size, "workers": workers}
    start = time.perf_counter()
    try:
        with bar, decoded(preparation.source, todo, preparation.transform, **options) as messages:
            for index, content in messages:
                if index not in writers:
                    writers[index] = work.writer(todo[index])
                if isinstance(content, Outcome):
                    _finish(todo[index], content, writers.pop(index))
                    throughput.decode_seconds += content.seconds
                else:
                    _encode(encoder, content, writers[index], throughput)
                bar.set_postfix_str(f"{throughput.frames} frames", refresh=False)
                bar.update(isinstance(content, Outcome))
    finally:
        for writer in writers.values():
            writer.discard()
    throughput.seconds = time.perf_counter() - start
    return throughput


def _encode(
    encoder: Encoder, frames: np.ndarray, writer: TokenWriter, throughput: Throughput
) -> None:
    start = time.perf_counter()
    tokens = encoder.encode(frames)
    throughput.encode_seconds += time.perf_counter() - start
    throughput.frames += len(frames)
    writer.write(tokens)


def _finish(item: Item, outcome: Outcome, writer: TokenWriter) -> None:
    """Writes the record of an item."""
    status = WRITTEN if outcome.failure is None else FAILED
    record = {"id": item.id, "status": status, "reason": outcome.failure, **outcome.facts}
    try:
        writer.finish(record)
    finally:
        writer.discard()

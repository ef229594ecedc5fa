"""Estimates of how long a preparation takes; nothing is written."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Sequence

import numpy as np

from maskflow_jax.data.preparation.decoding import Outcome, decode_item
from maskflow_jax.data.preparation.run import Encoder, Preparation
from maskflow_jax.data.sources.items import Item, Listing

_HEADERS = 200  # number of headers to read, spread evenly over the items
_BYTES_PER_TOKEN = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is expected of a preparation.

    Attributes:
        items: Number of items of the source.
        ignored: Number of files that it does not take.
        videos: Number of items that are long enough.
        unreadable: Number of items whose header cannot be read.
        frames: Number of frames of the dataset.
        bytes: Size of the dataset, at most; records are compressed.
        seconds: Duration of the work.
        decode_rate: Frames per second of one decoder, measured on a batch.
        encode_rate: Frames per second of the encoder on full batches.
    """

    items: int
    ignored: int
    videos: int
    unreadable: int
    frames: int
    bytes: int
    seconds: float
    decode_rate: float
    encode_rate: float

    def __str__(self):
        short = self.seconds < 100
        duration = f"{self.seconds:.0f} seconds" if short else f"{self.seconds / 60:.1f} minutes"
        return (
            f"{self.items} items, {self.ignored} files ignored; about {self.videos} videos of "
            f"{self.frames} frames in all, {self.unreadable} items unreadable\n"
            f"at most {self.bytes / 1e6:.1f} MB on disk, and as much for the work directory\n"
            f"about {duration}: decoding {self.decode_rate:.0f}, encoding "
            f"{self.encode_rate:.0f} frames/s, measured on one batch"
        )


def estimate(
    preparation: Preparation, listing: Listing, encoder: Encoder, *, workers: int = 0
) -> Estimate:
    """Estimates a preparation from the items' headers and one full batch.

    A batch holds frames of one video only, and the encoder takes as long for the last, shorter one.

    Args:
        preparation: Preparation to estimate.
        listing: Listing of its source.
        encoder: Tokenizer that makes the tokens.
        workers: Number of processes that will decode.

    Raises:
        ValueError: if there are no items, or none can be read.
    """
    items = listing.items
    if not items:
        raise ValueError(f"there are no videos, and {len(listing.ignored)} other files")
    some = [items[i] for i in sorted({len(items) * k // _HEADERS for k in range(_HEADERS)})]
    lengths = [length for item in some if (length := _length(preparation, item)) is not None]
    long = [length for length in lengths if length >= preparation.transform.min_frames]
    scale = len(items) / len(some)
    batch, decode_rate = _decode_batch(preparation, some, encoder.batch_size)
    encode_seconds = _encode_seconds(encoder, batch)
    frames = round(scale * sum(long))
    batches = scale * sum(math.ceil(length / encoder.batch_size) for length in long)
    decoding = frames / (decode_rate * max(workers, 1))
    rows, columns = preparation.tokenizer["grid"]
    return Estimate(
        items=len(items),
        ignored=len(listing.ignored),
        videos=round(scale * len(long)),
        unreadable=round(scale * (len(some) - len(lengths))),
        frames=frames,
        bytes=frames * rows * columns * _BYTES_PER_TOKEN,
        seconds=max(decoding, batches * encode_seconds),
        decode_rate=decode_rate,
        encode_rate=encoder.batch_size / encode_seconds,
    )


def _length(preparation: Preparation, item: Item) -> float | None:
    """Number of frames that an item will have, by its header; None if that cannot be read."""
    source, transform = preparation.source, preparation.transform
    try:
        if hasattr(source, "length"):
            frames, seconds = source.length(item)
        else:
            frames = sum(1 for _ in source.open(item))
            seconds = frames / source.fps
    except (OSError, ValueError):
        return None
    shown = seconds * transform.fps if transform.fps else frames
    return min(math.ceil(shown / transform.frame_interval), transform.max_frames or math.inf)


def _decode_batch(
    preparation: Preparation, items: Sequence[Item], batch_size: int
) -> tuple[np.ndarray, float]:
    """The frames of the first items, until they fill a batch, and the rate they were decoded at."""
    frames, failure, start = [], None, time.perf_counter()
    for item in items:
        decoding = decode_item(preparation.source, item, preparation.transform, batch_size)
        with contextlib.closing(decoding):
            content = next(decoding)
        if isinstance(content, Outcome):
            failure = failure or content.failure
            continue
        frames.append(content)
        if sum(map(len, frames)) >= batch_size:
            break
    if not frames:
        raise ValueError(f"none of {len(items)} items can be decoded; the first: {failure}")
    seconds = time.perf_counter() - start
    return np.concatenate(frames)[:batch_size], sum(map(len, frames)) / seconds


def _encode_seconds(encoder: Encoder, frames: np.ndarray) -> float:
    """Seconds that the encoder takes for a full batch, filled up by repeating frames."""
    batch = np.resize(frames, (encoder.batch_size, *frames.shape[1:]))
    encoder.encode(batch)  # compiles
    start = time.perf_counter()
    encoder.encode(batch)
    return time.perf_counter() - start

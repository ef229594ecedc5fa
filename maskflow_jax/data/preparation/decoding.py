"""Reading one item: its frames in batches, then its facts.

A batch holds frames of one item only, starting with its first. So the tokens of an item depend on
nothing else, neither on the number of workers nor on restarts.
"""

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from maskflow_jax.data.preparation.frame_transforms import FrameTransform, transform_frames
from maskflow_jax.data.sources.items import Item, content_hash, file_state, total_size
from maskflow_jax.io.video_decoding import TimedFrame


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How reading an item ended.

    Attributes:
        facts: Known facts, as far as the item was read: of the files `bytes`, `state`, `sha256`; of
            the video `source_frames` (those read), `source_fps`, `width`, `height`; of the result
            `frames`, `fps`.
        failure: Reason why the item cannot be used; None if it can.
        seconds: Time that the decoder was busy, without waiting for the encoder.
    """

    facts: dict[str, Any]
    failure: str | None
    seconds: float


def decode_item(
    source: Any, item: Item, transform: FrameTransform, batch_size: int
) -> Iterator[np.ndarray | Outcome]:
    """Reads one item.

    Args:
        source: Source of the item.
        item: Item to read.
        transform: Transform of its frames.
        batch_size: Frames of a batch, B.

    Yields:
        uint8 [B, size, size, 3], the last possibly shorter; at the end an `Outcome`. If it states a
        failure, the batches before it are not to be used.
    """
    clock, facts, failure = _Clock(), {}, None
    try:
        facts["state"] = file_state(item.paths)
        facts["bytes"] = total_size(item.paths)
        facts["sha256"] = content_hash(item.paths) if item.paths else None
        with contextlib.closing(source.open(item)) as frames:
            seen = _Seen(frames, facts)
            for batch in _batches(transform_frames(seen, transform), batch_size, facts):
                with clock.paused():
                    yield batch
        failure = _finish(item, facts, seen, transform)
    except (OSError, ValueError, RuntimeError) as error:  # array_record's reader raises the last
        failure = str(error) or type(error).__name__
    yield Outcome(facts=facts, failure=failure, seconds=clock.seconds())


def _finish(
    item: Item, facts: dict[str, Any], seen: "_Seen", transform: FrameTransform
) -> str | None:
    """Completes the facts of an item that was read; returns why it cannot be used."""
    if file_state(item.paths) != facts["state"]:
        return "the file changed while it was read: run again once it is complete"
    if not facts.get("frames"):
        return "the video has no frames: remove it"
    facts["sha256"] = facts["sha256"] or seen.pixel_hash.hexdigest()
    facts["source_fps"] = round(seen.rate, 6)
    facts["fps"] = transform.rate(seen.rate)
    return None if facts["fps"] else "the file does not state its frame rate: set fps"


class _Seen:
    """Passes the frames of a video on and records their number, rate and size.

    Attributes:
        rate: Mean frames per second; 0 if unknown.
        pixel_hash: Digest of the frames' sizes and pixels, for items that are no files.
    """

    def __init__(self, frames: Iterator[TimedFrame], facts: dict[str, Any]):
        self._frames, self._facts = frames, facts
        self.rate, self.pixel_hash = 0.0, hashlib.sha256()

    def __iter__(self) -> Iterator[TimedFrame]:
        first = None
        for count, frame in enumerate(self._frames, 1):
            first = frame.start if first is None else first
            seconds = frame.start + frame.duration - first
            self.rate = count / seconds if seconds > 0 else 0.0
            height, width = frame.pixels.shape[:2]
            self._facts |= {"source_frames": count, "width": width, "height": height}
            if self._facts["sha256"] is None:
                self.pixel_hash.update(repr(frame.pixels.shape).encode())
                self.pixel_hash.update(np.ascontiguousarray(frame.pixels))
            yield frame


def _batches(
    frames: Iterator[np.ndarray], batch_size: int, facts: dict[str, Any]
) -> Iterator[np.ndarray]:
    """Copies frames into batches and counts them; a batch is not written to again."""
    batch, filled = None, 0
    for count, frame in enumerate(frames, 1):
        facts["frames"] = count
        if batch is None:
            batch = np.empty((batch_size, *frame.shape), np.uint8)
        batch[filled] = frame
        filled += 1
        if filled == batch_size:
            yield batch
            batch, filled = None, 0
    if filled:
        yield batch[:filled]


class _Clock:
    """Counts seconds but for pauses."""

    def __init__(self):
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self._start += time.perf_counter() - begin

    def seconds(self) -> float:
        return time.perf_counter() - self._start

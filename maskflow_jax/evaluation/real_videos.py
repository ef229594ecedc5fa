"""The real videos that generated ones are compared with, and which of their frames are taken.

They come from the validation split of a dataset of tokens, whose frames are those that the
tokenizer decodes ("reconstructed"), or from a source of videos, whose frames are also there as they
are ("raw"). Frames are never resampled in time: a source has the frame rate of the model's data.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskflow_jax.data.sources.registry import make_source
from maskflow_jax.io.video_files import square_frames
from maskflow_jax.tokenizers.tokenizer import Tokenizer

MODES = ("raw", "reconstructed")
Through = Callable[[np.ndarray], np.ndarray]
"""What the frames of whole videos go through, uint8 [F, S, S, 3], such as a lossy file."""

_RATE_TOLERANCE = 0.02
_PATHS = ("root", "train_list", "test_list")  # settings of sources that are paths


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """Consecutive frames of a real video.

    Attributes:
        video: Number of the video.
        start: Number of the first frame.
    """

    video: int
    start: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RealVideos:
    """Real videos.

    Attributes:
        tokens: Tokens int32 [F, h, w] of each.
        tokenizer: The tokenizer that made them.
        digest: SHA-256 of the frames, or of the tokens where no raw frames are known.
        name: Where they come from, for receipts.
        open_raw: Opens the frames of a video by its number, uint8 [F, S, S, 3]; None where only
            tokens are known.
    """

    tokens: Sequence[np.ndarray]
    tokenizer: Tokenizer
    digest: str
    name: str
    open_raw: Callable[[int], np.ndarray] | None = None

    def frames(self, video: int, mode: str) -> np.ndarray:
        """The frames of a video, uint8 [F, S, S, 3]: "raw" or "reconstructed".

        Raises:
            ValueError: If raw frames are asked for and not known.
        """
        if mode == "reconstructed":
            return self.tokenizer.decode(self.tokens[video])
        if self.open_raw is None:
            raise ValueError(
                f"{self.name} holds tokens and no raw frames: name a source of the real videos, or "
                "compare with real='reconstructed'"
            )
        return self.open_raw(video)

    def clips(
        self, chosen: Sequence[Clip], frames: int, mode: str, through: Through | None = None
    ) -> Iterator[np.ndarray]:
        """Yields clips uint8 [frames, S, S, 3]; a video with several of them is opened once.

        Args:
            chosen: The clips, sorted by video.
            frames: Number of frames of each.
            mode: "raw" or "reconstructed".
            through: What whole videos go through before they are cut.
        """
        for video, group in itertools.groupby(chosen, lambda clip: clip.video):
            if mode == "reconstructed" and through is None:  # a frame is decoded by itself
                for clip in group:
                    at = slice(clip.start, clip.start + frames)
                    yield self.tokenizer.decode(self.tokens[video][at])
                continue
            pixels = self.frames(video, mode)
            pixels = pixels if through is None else through(pixels)
            for clip in group:
                yield pixels[clip.start : clip.start + frames]

    @property
    def lengths(self) -> list[int]:
        """Number of frames of each video."""
        return [len(video) for video in self.tokens]


def from_tokens(videos: Iterable[np.ndarray], tokenizer: Tokenizer, name: str) -> RealVideos:
    """Real videos of which tokens are known.

    Args:
        videos: Tokens int [F, h, w] of each.
        tokenizer: The tokenizer that made them.
        name: Where they come from.

    Raises:
        ValueError: If there are none.
    """
    tokens = [np.asarray(video, np.int32) for video in videos]
    if not tokens:
        raise ValueError(f"{name} holds no videos")
    digest = hashlib.sha256()
    for video in tokens:
        digest.update(f"{video.shape}".encode() + video.tobytes())
    return RealVideos(tokens=tokens, tokenizer=tokenizer, digest=digest.hexdigest(), name=name)


def from_source(
    source: str,
    settings: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    fps: float,
    num_videos: int | None = None,
    max_frames: int | None = None,
) -> RealVideos:
    """Real videos of a source: all are read and encoded once, and read again when asked for.

    Args:
        source: Name in `data.sources.registry.SOURCES`.
        settings: Its fields.
        tokenizer: Encodes the frames, scaled to its size.
        fps: Frame rate of the model's data.
        num_videos: Number of videos to take; None for all.
        max_frames: Number of first frames of each to take; None for all.

    Raises:
        FileNotFoundError: If there are no videos.
        ValueError: If a video cannot be read, has another frame rate, or does not change.
    """
    paths = {name: Path(settings[name]) for name in _PATHS if settings.get(name) is not None}
    made = make_source(source, {**settings, **paths})
    if not hasattr(made, "open"):
        raise ValueError(
            f"source {source} holds tokens, not videos: make a dataset of it, or name a source of "
            "frames"
        )
    listed = [item for item in made.listing().items if item.split in (None, "test")]
    if not listed:
        raise FileNotFoundError(f"source {source} has no validation videos; correct its settings")
    items = listed[:num_videos]

    def open_raw(video: int) -> np.ndarray:
        timed = list(itertools.islice(made.open(items[video]), max_frames))
        check_rate(timed[0].start, timed[-1].start, len(timed), fps, items[video].id)
        frames = np.stack([frame.pixels for frame in timed])
        frames = square_frames(frames, tokenizer.identity["frame_size"])
        check_frames(frames, items[video].id)
        return frames

    tokens, digest = [], hashlib.sha256()
    for video in range(len(items)):
        frames = open_raw(video)
        digest.update(f"{frames.shape}".encode() + frames.tobytes())
        tokens.append(tokenizer.encode(frames))
    return RealVideos(
        tokens=tokens,
        tokenizer=tokenizer,
        digest=digest.hexdigest(),
        name=f"source {source}",
        open_raw=open_raw,
    )


def check_rate(first: float, last: float, frames: int, fps: float, name: str) -> None:
    """Raises ValueError unless frames from second `first` to `last` have a frame rate."""
    rate = (frames - 1) / (last - first) if last > first else None
    if rate is not None and abs(rate / fps - 1) > _RATE_TOLERANCE:
        raise ValueError(
            f"{name} has {rate:.4g} frames per second, the model's data {fps:.4g}; real videos are "
            "not resampled here: prepare them at the model's rate"
        )


def check_frames(frames: np.ndarray, name: str) -> None:
    """Raises ValueError for frames that are no video: all pixels of all frames equal."""
    if not np.ptp(frames):
        raise ValueError(
            f"{name} is one colour ({frames.flat[0]}) in all pixels of all {len(frames)} frames, "
            "and no video; remove it"
        )


def random_clips(
    lengths: Sequence[int], count: int, frames: int, rng: np.random.Generator
) -> list[Clip]:
    """Draws clips, as evenly over the videos as possible, sorted by video.

    As many are of even as of odd videos, where there are enough of both.

    Args:
        lengths: Number of frames of each video.
        count: Number of clips.
        frames: Number of frames of a clip.
        rng: Draws the videos and the first frames.

    Raises:
        ValueError: If a video is shorter than a clip.
    """
    check_lengths(lengths, frames)
    order = rng.permutation(len(lengths))
    order = order[np.argsort(_place_among_alike(order % 2), kind="stable")]  # even, odd, even ...
    chosen = np.sort(order[np.arange(count) % len(lengths)])
    return [Clip(video=int(v), start=int(rng.integers(lengths[v] - frames + 1))) for v in chosen]


def _place_among_alike(kinds: np.ndarray) -> np.ndarray:
    """How many entries before each one are of its kind, int [N]."""
    same = kinds[:, None] == kinds[None, :]
    return np.tril(same, -1).sum(axis=1)


def centre_clips(lengths: Sequence[int], frames: int, window: int) -> list[Clip]:
    """The first frames of the window in the middle of each video.

    Args:
        lengths: Number of frames of each video.
        frames: Number of frames of a clip.
        window: Length of the window, which is cut at the length of a video.

    Raises:
        ValueError: If a video is shorter than a clip.
    """
    check_lengths(lengths, frames)
    widths = [min(n, max(window, frames)) for n in lengths]
    starts = [(n - width) // 2 for n, width in zip(lengths, widths, strict=True)]
    return [Clip(video=video, start=start) for video, start in enumerate(starts)]


def check_lengths(lengths: Sequence[int], frames: int) -> None:
    """Raises ValueError if a video has fewer frames than are needed."""
    if short := [(n, video) for video, n in enumerate(lengths) if n < frames]:
        least, video = min(short)
        raise ValueError(
            f"{len(short)} real videos have fewer frames than the {frames} that are needed, such "
            f"as number {video} with {least}; frames are never repeated: leave them out, or take "
            "shorter clips"
        )


def halves(clips: Sequence[Clip]) -> tuple[list[int], list[int]]:
    """Numbers of the clips of the even and of the odd videos, which have no video in common."""
    even = [number for number, clip in enumerate(clips) if clip.video % 2 == 0]
    odd = [number for number, clip in enumerate(clips) if clip.video % 2 == 1]
    return even, odd

"""Contexts: the known frames of a video, from files, arrays, tokens or a dataset."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from maskflow_jax.data.dataset import TokenVideos
from maskflow_jax.generation.request import Generation
from maskflow_jax.generation.scenes import OutOfCaptions
from maskflow_jax.io import video_files
from maskflow_jax.tokenizers.tokenizer import Tokenizer

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def read_frames(
    source: Any, tokenizer: Tokenizer, *, frames: int, fps: float, from_start: bool = False
) -> np.ndarray:
    """Reads the known frames of one or several videos.

    Args:
        source: A path of a video or of an image; a list of images in order; frames as uint8
            [F, H, W, 3] or [B, F, H, W, 3]; an image as uint8 [H, W, 3]; or tokens, int [F, h, w]
            or [B, F, h, w].
        tokenizer: Encodes frames.
        frames: Number of frames wanted. A single image is repeated, as a video that stands still.
        fps: Frames per second of the model; frames of a video file are picked at this rate.
        from_start: Takes the first frames of a longer source instead of the last ones.

    Returns:
        Tokens int32 [B, frames, h, w].

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file cannot be read, a source is too short, or an array has another form.
    """
    grid = tuple(tokenizer.identity["grid"])
    if isinstance(source, str | Path):
        pixels = _read_file(Path(source), frames, fps, from_start)
    elif isinstance(source, Sequence) and all(isinstance(s, str | Path) for s in source):
        pixels = np.concatenate(
            [_square(_read_image(Path(path))[None], tokenizer) for path in source]
        )
    else:
        pixels = np.asarray(source)
        if np.issubdtype(pixels.dtype, np.integer) and pixels.shape[-2:] == grid:
            tokens = pixels[None] if pixels.ndim == 3 else pixels
            if tokens.ndim != 4:
                raise ValueError(f"tokens {pixels.shape} must be [F, h, w] or [B, F, h, w]")
            return _cut(tokens.astype(np.int32), frames, from_start)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4, 5) or pixels.shape[-1] != 3:
        raise ValueError(
            f"a context of type {pixels.dtype} and shape {pixels.shape} is neither frames, uint8 "
            f"[F, H, W, 3], nor tokens, integers [F, {grid[0]}, {grid[1]}]"
        )
    if pixels.ndim == 3:
        pixels = pixels[None]
    batch = pixels[None] if pixels.ndim == 4 else pixels
    batch = _cut(batch, frames, from_start)
    return np.stack([tokenizer.encode(_square(video, tokenizer)) for video in batch])


def _cut(videos: np.ndarray, frames: int, from_start: bool) -> np.ndarray:
    """The first or the last frames of videos [B, F, ...]; a single frame is repeated."""
    length = videos.shape[1]
    if length == 1 and frames > 1:
        return np.repeat(videos, frames, axis=1)
    if length < frames:
        raise ValueError(
            f"the context has {length} frames, {frames} are wanted; give more, or ask for fewer"
        )
    return videos[:, :frames] if from_start else videos[:, length - frames :]


def _read_file(path: Path, frames: int, fps: float, from_start: bool) -> np.ndarray:
    """Frames of a video file at the model's rate, or an image as a video of one frame."""
    if not path.is_file():
        raise FileNotFoundError(f"no video or image at {path}")
    if path.suffix.lower() in IMAGES:
        return _read_image(path)[None]
    pixels, file_fps = video_files.read_video(path)
    # From one end, so that new frames join the file's last, or first, frame.
    offsets = np.round(np.arange(frames) * file_fps / fps).astype(int)
    picked = offsets if from_start else len(pixels) - 1 - offsets[::-1]
    if picked.size and (picked.min() < 0 or picked.max() >= len(pixels)):
        raise ValueError(
            f"{path} lasts {len(pixels) / file_fps:.2f} s; the {frames} frames wanted from it, at "
            f"{fps:g} per second, last longer; use a longer video or fewer frames"
        )
    return pixels[picked]


def _read_image(path: Path) -> np.ndarray:
    """An image file as uint8 [H, W, 3]."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no image at {path}") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


def _square(frames: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """The middle square of frames, scaled to the tokenizer's size."""
    return video_files.square_frames(frames, tokenizer.identity["frame_size"])


class DatasetVideos:
    """Token videos of one or several splits, in order: `videos[i]` is int [F, h, w]."""

    def __init__(self, splits: Sequence[TokenVideos]):
        self._videos = [(split, index) for split in splits for index in range(len(split))]

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> np.ndarray:
        split, number = self._videos[index]
        return split[number]["tokens"]


def video_windows(
    videos: DatasetVideos | np.ndarray,
    indices: Sequence[int] | int | str | None,
    *,
    frames: int,
    seed: int | None,
    source: str,
) -> np.ndarray:
    """Cuts a window out of each of some token videos.

    Args:
        videos: Token videos.
        indices: Numbers of the videos, "all" for every one of them, None for the first one.
        frames: Number of frames of a window.
        seed: Seed of random windows, drawn uniformly; a window depends on the seed and on the
            number of its video. None takes the first frames.
        source: Where the videos are from, for errors.

    Returns:
        Tokens int32 [B, frames, h, w].

    Raises:
        ValueError: if there is no video of such a number, a video is too short, or `indices` is
            another word.
    """
    if isinstance(indices, str):
        if indices != "all":
            raise ValueError(f"indices is {indices!r}; give numbers of videos, or 'all'")
        indices = range(len(videos))
    windows = []
    for index in np.atleast_1d(0 if indices is None else indices).tolist():
        if not -len(videos) <= index < len(videos):
            raise ValueError(f"{source} has {len(videos)} videos, there is no number {index}")
        tokens, start = videos[index], 0
        if len(tokens) < frames:
            raise ValueError(
                f"a video of {source} has {len(tokens)} frames, {frames} are wanted; ask for fewer "
                "frames or other videos"
            )
        if seed is not None:
            number = index % len(videos)
            start = np.random.default_rng([seed, number]).integers(len(tokens) - frames + 1)
        windows.append(tokens[start : start + frames])
    return np.stack(windows).astype(np.int32)


def real_tokens(
    context: Any, generation: Generation, num_videos: int | None, read: Callable[..., np.ndarray]
) -> np.ndarray:
    """Reads the real tokens that a planned generation takes.

    Args:
        context: Any source of `read`, or None for the dataset's first videos.
        generation: The plan.
        num_videos: Number of videos; None for as many as there are contexts.
        read: `VideoGenerator.read_context`.

    Returns:
        int32 [B, source_frames, h, w].

    Raises:
        ValueError: if there is neither one context nor one for every video.
    """
    frames = generation.task.source_frames
    if context is None or frames == 0:
        tokens = read(frames=frames, indices=np.arange(num_videos or 1))
    else:
        tokens = read(context, frames=frames, from_start=generation.task.backward)
    if num_videos is None or len(tokens) == num_videos:
        return tokens
    if len(tokens) == 1:
        return np.repeat(tokens, num_videos, axis=0)
    raise ValueError(
        f"{len(tokens)} contexts for {num_videos} videos; give one context, or one per video"
    )


def both_ends(
    ends: Sequence, generation: Generation, read: Callable[..., np.ndarray]
) -> np.ndarray:
    """Reads both ends of videos; the tokens between them are not used.

    Args:
        ends: The first and the last frames, any sources of `read`.
        generation: The plan of the task "inbetween".
        read: `VideoGenerator.read_context`.

    Returns:
        int32 [B, source_frames, h, w].

    Raises:
        ValueError: if one end is missing, or the task is another one.
    """
    frames = generation.sampling.context_frames
    if len(ends) != 2 or generation.task.source_frames < 2 * frames:
        raise ValueError("first and last belong to the task 'inbetween'; give both")
    first, last = (read(end, frames=frames) for end in ends)
    between = generation.task.source_frames - 2 * frames
    middle = np.zeros((len(first), between, *first.shape[2:]), np.int32)
    return np.concatenate([first, middle, last], axis=1)


def count(context: Any) -> int | None:
    """Number of videos of a context of arrays; None for any other."""
    return len(context) if isinstance(context, np.ndarray) and context.ndim >= 4 else None


def decoded(tokenizer: Tokenizer, chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Decodes chunks of tokens [B, f, h, w] to frames uint8 [B, f, S, S, 3].

    It ends where the captions of endless scenes end; chunks without a frame are left out.
    """
    with contextlib.suppress(OutOfCaptions):
        for chunk in chunks:
            if chunk.shape[1]:
                yield np.stack([tokenizer.decode(video) for video in chunk])

"""From tokenised videos to batches of clips, with grain.

Training: `clip_batches`. In each epoch, every video of a process's slice gives one clip, in
shuffled order, with a random start. So each video has the same weight, however long it is, and more
of a long video is seen over the epochs. Batches cross the borders of epochs, so that a small
dataset can fill a large batch. Batch n is a function of the settings and n alone: n is the whole
state of the iterator, resuming is exact, and the number of workers does not matter.

Evaluation: `eval_clips`. Each video is cut into consecutive clips, visited once, in order.

With `windows` a clip is a window of several scenes with their conditions, `SceneClips` instead of
an array of tokens; which frames it has is the business of `scene_windows`.
"""

import functools
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from maskflow_jax.data.dataset import TokenVideos
from maskflow_jax.data.scene_windows import NumberedVideos, SceneWindows
from maskflow_jax.io.files import differences
from maskflow_jax.scenes import conditions

# Batches are read ahead by threads: reading and unpacking records releases the GIL.
_READ_OPTIONS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


class ClipBatches(grain.DatasetIterator):
    """Endless batches of clips; made by `clip_batches`.

    An Orbax item by way of `grain.checkpoint.CheckpointSave` and `CheckpointRestore`.

    Attributes:
        videos_per_epoch: Videos in this process's slice, so clips in its epoch.
    """

    def __init__(
        self,
        batches: grain.MapDataset,
        *,
        settings: dict[str, int],
        videos_per_epoch: int,
        num_workers: int,
    ):
        super().__init__()
        self._batches, self._settings, self._num_workers = batches, settings, num_workers
        self.videos_per_epoch = videos_per_epoch
        self._next_batch = 0
        self._reader = self._read_from(0)

    def __next__(self) -> np.ndarray:
        batch = next(self._reader)
        self._next_batch += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """The number of the next batch, and the settings that give batches their numbers."""
        return {"next_batch": self._next_batch, "settings": dict(self._settings)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to a saved batch; ValueError if it was counted under other settings."""
        saved = state["settings"]
        if changed := differences(saved, self._settings):
            raise ValueError(
                f"the data iterator cannot resume, {'; '.join(changed)}: restore the old "
                "settings (the number of processes is one of them), or start another run"
            )
        self._reader.close()
        self._next_batch = state["next_batch"]
        self._reader = self._read_from(self._next_batch)

    def start_prefetch(self) -> None:
        """Begins to read ahead, before the first batch is asked for."""
        self._reader.start_prefetch()

    def close(self) -> None:
        """Stops the reading threads and workers."""
        if hasattr(self, "_reader"):  # grain's base also closes what failed to initialise
            self._reader.close()
            super().close()

    def _read_from(self, batch: int) -> grain.DatasetIterator:
        reader = self._batches[batch:].to_iter_dataset(_READ_OPTIONS)
        if self._num_workers:
            options = grain.MultiprocessingOptions(num_workers=self._num_workers)
            reader = reader.mp_prefetch(options)
        return iter(reader)


def clip_batches(
    videos: TokenVideos,
    *,
    clip_frames: int,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
    windows: SceneWindows | None = None,
) -> ClipBatches:
    """Endless batches of random clips from this process's slice of the videos.

    Args:
        videos: The training split.
        clip_frames: Frames of each clip, T.
        batch_size: Clips in a batch over all processes, B.
        seed: Seed of order and starts; processes draw independently.
        process_index: Index of this process (`jax.process_index()`).
        process_count: Number of processes (`jax.process_count()`).
        num_workers: Extra processes to read with. 0 reads in threads, which is enough in most
            cases; above 0, absl must have parsed the flags.
        windows: Windows of scenes of these videos.

    Returns:
        An iterator of tokens int32 [B / process_count, T, h, w], with `windows` of `SceneClips`.

    Raises:
        ValueError: if the clips are too long or the batch or the videos cannot be divided.
    """
    _check(videos, None if windows else clip_frames, batch_size, process_index, process_count)
    if num_workers < 0:
        raise ValueError(f"num_workers is {num_workers}: choose 0 (threads) or more processes")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}: choose one from 0 to 2**32 - 1")
    if process_count > len(videos):
        raise ValueError(
            f"{len(videos)} videos cannot be divided among {process_count} processes: use at most "
            f"{len(videos)} processes, or more videos"
        )
    source = videos if windows is None else NumberedVideos(videos)
    part = grain.MapDataset.source(source)[process_index::process_count]
    cut = functools.partial(_random_clip, clip_frames=clip_frames)
    # A seed of its own for each process, or clip i would start alike in all of them.
    process_seed = int(np.random.SeedSequence([seed, process_index]).generate_state(1)[0])
    batches = (
        part.seed(process_seed)
        .shuffle()
        .repeat()
        .random_map(cut if windows is None else windows.random)
        .batch(batch_size // process_count, drop_remainder=True)
    )
    settings = {
        "clip_frames": clip_frames,
        "batch_size": batch_size,
        "seed": seed,
        "process_index": process_index,
        "process_count": process_count,
        "videos": len(videos),
        "total_frames": int(videos.num_frames.sum()),
    }
    return ClipBatches(
        batches, settings=settings, videos_per_epoch=len(part), num_workers=num_workers
    )


def eval_clips(
    videos: TokenVideos,
    *,
    clip_frames: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    windows: SceneWindows | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One pass over all clips, in order: each video from its start, without overlap.

    What is left of a video after its last whole clip is not visited. Every process yields the same
    number of batches, all of one shape, so the last may be padded in part or in whole.

    Args:
        videos: The split to evaluate on.
        clip_frames: Frames of each clip, T.
        batch_size: Clips in a batch over all processes, B.
        process_index: Index of this process.
        process_count: Number of processes.
        windows: Windows of scenes of these videos.

    Returns:
        An iterator of tokens int32 [B / process_count, T, h, w], zero where padded, and the clips'
        numbers in the split int32 [B / process_count], -1 there; a clip has the same number for any
        batch size and number of processes. With `windows`, `SceneClips` instead of tokens.

    Raises:
        ValueError: if the clips are too long or the batch cannot be divided.
    """
    _check(videos, None if windows else clip_frames, batch_size, process_index, process_count)
    clips = windows.in_order() if windows is not None else _all_clips(videos, clip_frames)
    local_batch = batch_size // process_count
    num_batches = -(-len(clips) // batch_size)
    share = num_batches * local_batch
    first = process_index * share
    clips = list(enumerate(clips))[first : first + share]
    if windows is not None:
        return _put_together(windows, clips, local_batch, num_batches)
    return _cut(videos, clips, clip_frames, local_batch, num_batches)


def _all_clips(videos: TokenVideos, clip_frames: int) -> list[tuple[int, int]]:
    """Video and first frame of every clip."""
    return [
        (video, start)
        for video, frames in enumerate(videos.num_frames)
        for start in range(0, frames - clip_frames + 1, clip_frames)
    ]


def _put_together(
    windows: SceneWindows, clips: list, batch_size: int, num_batches: int
) -> Iterator[tuple[conditions.SceneClips, np.ndarray]]:
    """Reads windows of scenes into batches, padded with the first window."""
    for batch in range(num_batches):
        part = clips[batch * batch_size : (batch + 1) * batch_size]
        missing = batch_size - len(part)
        rows = [windows.clip(parts) for _, parts in part]
        rows += [windows.clip(windows.in_order()[0])] * missing
        tokens = np.stack([row.tokens for row in rows])
        scenes = conditions.stack([row.scenes for row in rows])
        numbers = np.array([number for number, _ in part] + [-1] * missing, np.int32)
        yield conditions.SceneClips(tokens, scenes), numbers


def _cut(
    videos: TokenVideos,
    clips: list[tuple[int, tuple[int, int]]],
    clip_frames: int,
    batch_size: int,
    num_batches: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Reads clips, given by number, video and first frame, into padded batches."""
    video = functools.lru_cache(maxsize=1)(lambda index: videos[index]["tokens"])
    grid = videos.tokenizer["grid"]
    for batch in range(num_batches):
        part = clips[batch * batch_size : (batch + 1) * batch_size]
        tokens = np.zeros((batch_size, clip_frames, *grid), np.int32)
        numbers = np.full(batch_size, -1, np.int32)
        for row, (number, (index, start)) in enumerate(part):
            tokens[row] = video(index)[start : start + clip_frames]
            numbers[row] = number
        yield tokens, numbers


def _random_clip(
    video: dict[str, Any], rng: np.random.Generator, *, clip_frames: int
) -> np.ndarray:
    """A clip int32 [T, h, w] from anywhere in the video; int32, as models add a mask token."""
    start = rng.integers(len(video["tokens"]) - clip_frames + 1)
    return video["tokens"][start : start + clip_frames].astype(np.int32)


def _check(
    videos: TokenVideos,
    clip_frames: int | None,
    batch_size: int,
    process_index: int,
    process_count: int,
) -> None:
    """Raises ValueError for clips or batches that cannot be made."""
    shortest = int(videos.num_frames.min())
    if clip_frames is not None and not 1 <= clip_frames <= shortest:
        raise ValueError(
            f"clip_frames is {clip_frames} but the shortest video of split {videos.split!r} has "
            f"{shortest} frames: choose 1 to {shortest}, or leave out the videos that are shorter"
        )
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size {batch_size} cannot be divided among {process_count} processes: choose a "
            f"multiple of {process_count}"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index is {process_index}: choose 0 to {process_count - 1}, as there are "
            f"{process_count} processes"
        )

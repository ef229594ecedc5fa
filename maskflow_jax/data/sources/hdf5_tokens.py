"""Published token files (HDF5) as a dataset of tokens.

Such a file has all videos behind one another in `video`, integers [total_frames, h, w], and their
ranges in `start_index_list`, [videos, 2]: where each begins and ends. Whether the end is the last
frame or the one after it is read off ranges that follow each other without a gap. Videos are read
one at a time: once to check them all, once to write them.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from maskflow_jax.data.dataset import Video, write_token_dataset

ENDS = ("inclusive", "exclusive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenFile:
    """A file that has been checked.

    Attributes:
        path: of the file.
        end: what the second number of a range is, one of `ENDS`.
        ranges: first frame and the one after the last, [videos, 2].
        digests: SHA-256 of each video's tokens.
    """

    path: Path
    end: str
    ranges: np.ndarray
    digests: tuple[str, ...]


def import_token_files(
    file: str | Path,
    directory: str | Path,
    *,
    tokenizer: Mapping[str, Any],
    fps: float,
    test_file: str | Path | None = None,
    test_fraction: float = 0.05,
    end: str | None = None,
    min_frames: int = 1,
    overwrite: bool = False,
) -> dict[str, int]:
    """Writes published token files as a dataset with the splits `train` and `test`.

    Args:
        file: the HDF5 file.
        directory: of the new dataset.
        tokenizer: identity of the tokenizer that made the tokens (`Tokenizer.identity`).
        fps: frames per second, which the files do not tell.
        test_file: a second file, of the held-out videos. Without it, a video is held out by the
            digest of its tokens, so that it stays held out whatever else is in the file.
        test_fraction: share of held-out videos without a test file; at least one is.
        end: what the ranges' second number is, one of `ENDS`; read off the file by default.
        min_frames: shortest length of a video, such as the training window.
        overwrite: replace an existing dataset, once the new one is complete.

    Returns:
        Number of videos by split.

    Raises:
        FileExistsError: if the directory is taken.
        FileNotFoundError: if a file is missing.
        ImportError: if h5py is missing.
        ValueError: naming all that is wrong with a file.
    """
    check = {"tokenizer": tokenizer, "end": end, "min_frames": min_frames}
    train = test = read_token_file(file, **check)
    if test_file is not None:
        test = read_token_file(test_file, **check)
        chosen = {"train": range(len(train.ranges)), "test": range(len(test.ranges))}
        if shared := set(train.digests) & set(test.digests):
            logging.warning("%d videos are both in %s and in %s", len(shared), file, test_file)
    else:
        held_out = choose_held_out(train.digests, test_fraction)
        chosen = {"train": np.flatnonzero(~held_out), "test": np.flatnonzero(held_out)}
    source = {"name": "hdf5", "file": train.path.name, "fps": fps, "end": train.end}
    source |= {"test": test_fraction if test_file is None else test.path.name}
    splits = {
        split: _videos(of, chosen[split], split, fps)
        for split, of in (("train", train), ("test", test))
    }
    write_token_dataset(
        directory, splits, tokenizer=dict(tokenizer), source=source, overwrite=overwrite
    )
    return {split: len(indices) for split, indices in chosen.items()}


def read_token_file(
    path: str | Path,
    *,
    tokenizer: Mapping[str, Any],
    end: str | None = None,
    min_frames: int = 1,
) -> TokenFile:
    """Checks a whole file, one video in memory at a time.

    Args:
        path: the HDF5 file.
        tokenizer: identity of the tokenizer that made the tokens.
        end: what the ranges' second number is, one of `ENDS`; read off the file by default.
        min_frames: shortest length of a video.

    Raises:
        FileNotFoundError: if the file is missing.
        ImportError: if h5py is missing.
        ValueError: naming all that is wrong with the file, with the numbers of the videos.
    """
    path = Path(path)
    with _open(path) as file:
        _check_layout(path, file, tokenizer)
        ranges, total = file["start_index_list"][:].astype(np.int64), len(file["video"])
        end = infer_end(ranges, total, path) if end is None else end
        if end not in ENDS:
            raise ValueError(f"end is {end!r}; choose one of {', '.join(ENDS)}")
        ranges[:, 1] += end == "inclusive"
        problems, inside = _range_problems(ranges, total, min_frames)
        digests, bad_tokens = {}, {}
        for index in tqdm(np.flatnonzero(inside), f"checking {path.name}", unit="video"):
            tokens = _read(path, file, ranges[index])
            digests[index] = hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest()
            if tokens.min() < 0 or tokens.max() >= tokenizer["codebook_size"]:
                bad_tokens[index] = f"{tokens.min()} to {tokens.max()}"
    last = tokenizer["codebook_size"] - 1
    problems |= {f"have tokens outside 0 to {last} of the tokenizer": bad_tokens}
    lines = [
        f"videos that {kind}: " + ", ".join(f"{index} ({what})" for index, what in found.items())
        for kind, found in problems.items()
        if found
    ]
    if lines:
        raise ValueError(
            f"{path} cannot be imported, with ranges' ends {end}:\n  " + "\n  ".join(lines)
        )
    return TokenFile(path=path, end=end, ranges=ranges, digests=tuple(digests.values()))


def infer_end(ranges: np.ndarray, total: int, path: str | Path) -> str:
    """Tells from ranges [videos, 2] whether their second number is the last frame.

    Returns:
        "exclusive" if every video begins at the number where the one before ends, "inclusive" if it
        begins at the next; a single video must fill the file.

    Raises:
        ValueError: if neither is so.
    """
    gaps = ranges[1:, 0] - ranges[:-1, 1] if len(ranges) > 1 else total - ranges[:, 1]
    for gap, end in ((0, "exclusive"), (1, "inclusive")):
        if np.all(gaps == gap):
            return end
    odd = np.flatnonzero((gaps != 0) & (gaps != 1))
    seen = f"after video {odd[0]} by {gaps[odd[0]]}" if len(odd) else "some by 0, some by 1"
    raise ValueError(
        f"{path} does not tell whether a range's end is its last frame (inclusive) or the one "
        f"after it (exclusive): the next begins {seen}; say which, --end=inclusive|exclusive"
    )


def choose_held_out(digests: Iterable[str], fraction: float) -> np.ndarray:
    """Marks about a fraction of the videos, bool [videos], each by its own digest alone.

    Raises:
        ValueError: if the fraction is not between 0 and 1, or no video would be left.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"test_fraction is {fraction}; choose a share between 0 and 1")
    numbers = np.array([int(digest[:16], 16) / 2**64 for digest in digests])
    # A small file may have none below the fraction; the smallest is as stable a choice.
    held_out = numbers <= max(fraction, numbers.min())
    if held_out.all():
        raise ValueError(
            f"all {len(held_out)} videos would be held out; pass a test_file, or more videos"
        )
    return held_out


def _videos(file: TokenFile, indices: Iterable[int], split: str, fps: float) -> Iterator[Video]:
    with _open(file.path) as opened:
        for index in tqdm(indices, f"writing {split}", unit="video"):
            tokens = _read(file.path, opened, file.ranges[index])
            yield f"{split}_{index:05d}", tokens, fps


def _import_h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "HDF5 files need h5py, which is not installed: pip install 'maskflow_jax[hdf5]' (or "
            "'.[hdf5]' in a checkout)"
        ) from error
    return h5py


def _open(path: Path) -> Any:
    """The opened file, to be closed."""
    h5py = _import_h5py()
    if not path.is_file():
        raise FileNotFoundError(f"no file of tokens at {path}; correct the path")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is damaged or no HDF5 file ({error}); copy it again") from error


def _read(path: Path, file: Any, frames: np.ndarray) -> np.ndarray:
    begin, stop = (int(number) for number in frames)
    try:
        return file["video"][begin:stop]
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read at frames {begin} to {stop} ({error}); copy it again"
        ) from error


def _check_layout(path: Path, file: Any, tokenizer: Mapping[str, Any]) -> None:
    """Raises ValueError unless both arrays are there, in shape and type."""
    height, width = tokenizer["grid"]
    problems = []
    for name, shape in (("video", (None, height, width)), ("start_index_list", (None, 2))):
        array, wanted = file.get(name), ", ".join("any" if n is None else str(n) for n in shape)
        if array is None or not hasattr(array, "shape"):
            problems.append(f"there is no array {name!r}, only {', '.join(file) or 'nothing'}")
        elif array.dtype.kind not in "iu":
            problems.append(f"{name} holds {array.dtype}, it takes integers")
        elif array.shape[1:] != shape[1:] or not len(array):
            problems.append(f"{name} has shape {list(array.shape)}, it takes [{wanted}]")
    if problems:
        raise ValueError(
            f"{path} is no token file of {height}x{width} tokens a frame: {'; '.join(problems)}"
        )


def _range_problems(
    ranges: np.ndarray, total: int, min_frames: int
) -> tuple[dict[str, dict[int, str]], np.ndarray]:
    """What is wrong with ranges, by kind and video; and which can be read, bool [videos]."""
    begin, stop = ranges.T
    inside = (begin >= 0) & (stop <= total) & (begin < stop)
    # Against all before, not the one before: a range may lie within an earlier one.
    reached = np.maximum.accumulate(np.concatenate([[0], stop[:-1]]))
    kinds = {
        f"are not inside the file's {total} frames": (begin < 0) | (stop > total),
        "end where they begin or before": stop <= begin,
        "begin before an earlier one ends": begin < reached,
        f"are shorter than {min_frames} frames": inside & (stop - begin < min_frames),
    }
    problems = {
        kind: {index: f"[{begin[index]}, {stop[index]})" for index in np.flatnonzero(bad)}
        for kind, bad in kinds.items()
    }
    return problems, inside

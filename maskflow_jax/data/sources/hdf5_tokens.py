"""Published token files (HDF5) as a source of videos that are tokens already.

Such a file has all videos one after another in `video`, integers [total_frames, h, w], and their
ranges in `start_index_list`, [videos, 2]: where each begins and ends. Whether the end is the last
frame or the one after it follows from ranges without gaps between them. Videos are read one at a
time: once to check them all, once to write them.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar

import numpy as np
from absl import logging
from tqdm import tqdm

from maskflow_jax.data.splits import choose_splits
from maskflow_jax.data.token_builder import Video
from maskflow_jax.io.files import sha256_of_tokens

ENDS = ("inclusive", "exclusive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HDF5Tokens:
    """A published token file, and perhaps a second one for testing.

    Attributes:
        root: Path of the HDF5 file.
        fps: Frames per second, which the files do not state.
        test_file: Path of a second file with the test videos. Without it, a video's split follows
            from the digest of its tokens, so that it does not depend on the other videos.
        end: Meaning of the ranges' second number, one of `ENDS`; derived from the file by default.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType({"min_frames": 1})

    root: Path
    fps: float
    test_file: Path | None = None
    end: str | None = None

    def token_videos(
        self, tokenizer: Mapping[str, Any], *, min_frames: int = 1, test_fraction: float = 0.05
    ) -> dict[str, Iterator[Video]]:
        """Checks the files as a whole; the videos are read when they are asked for.

        Args:
            tokenizer: Identity of the tokenizer that made the tokens (`Tokenizer.identity`).
            min_frames: Shortest length of a video, such as the training window.
            test_fraction: Share of the videos to test on if there is no test file; 0 makes no test
                split.

        Returns:
            The videos of each split.

        Raises:
            FileNotFoundError: if a file is missing.
            ImportError: if h5py is missing.
            ValueError: naming all that is wrong with a file.
        """
        check = {"tokenizer": tokenizer, "end": self.end, "min_frames": min_frames}
        file = read_token_file(self.root, **check)
        if self.test_file is not None:
            test = read_token_file(self.test_file, **check)
            if shared := set(file.digests) & set(test.digests):
                logging.warning(
                    "%d videos are both in %s and in %s", len(shared), file.path, test.path
                )
            chosen = {
                "train": (file, range(len(file.ranges))),
                "test": (test, range(len(test.ranges))),
            }
        else:
            records = [{"id": d, "sha256": d, "split": None} for d in file.digests]
            split_of = choose_splits(records, test_fraction)
            splits = np.array([split_of[digest] for digest in file.digests])
            chosen = {
                split: (file, np.flatnonzero(splits == split))
                for split in ("train", "test")
                if split in splits
            }
        return {
            split: _videos(of, indices, split, self.fps) for split, (of, indices) in chosen.items()
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenFile:
    """A file that has been checked.

    Attributes:
        path: Path of the file.
        end: Meaning of the second number of a range, one of `ENDS`.
        ranges: First frame and the one after the last, [videos, 2].
        digests: SHA-256 of each video's tokens.
    """

    path: Path
    end: str
    ranges: np.ndarray
    digests: tuple[str, ...]


def read_token_file(
    path: str | Path,
    *,
    tokenizer: Mapping[str, Any],
    end: str | None = None,
    min_frames: int = 1,
) -> TokenFile:
    """Checks a whole file, one video in memory at a time.

    Args:
        path: Path of the HDF5 file.
        tokenizer: Identity of the tokenizer that made the tokens.
        end: Meaning of the ranges' second number, one of `ENDS`; derived from the file by default.
        min_frames: Shortest length of a video.

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
            digests[index] = sha256_of_tokens(tokens)
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
        f"after it (exclusive): the next begins {seen}; set end to one of them"
    )


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

"""Tokenised videos on disk: a TFDS dataset in array_record files.

Each record is a whole video: tokens uint16 [F, h, w] as raw bytes, a text id and the frame rate.
The dataset's metadata, saved beside the records, holds the tokenizer's identity, so that tokens are
never decoded by a tokenizer that did not make them, and the length of every video, so that clips
are planned without reading records.

Writing streams, one video in memory at a time, and works without TensorFlow. It happens in a hidden
directory next to the target, which takes the target's name once it is complete: a dataset is there
as a whole or not at all. A killed process leaves `.NAME.partial-*` behind, which may be deleted.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

MAX_CODEBOOK_SIZE = 2**16  # tokens are stored as uint16

_TOKENIZER_KEYS = ("name", "sha256", "codebook_size", "grid", "frame_size")
_VIDEOS_PER_FILE = 512
_INFO_FILE = "dataset_info.json"  # TFDS writes it; its presence makes a directory a dataset

Video = tuple[str, np.ndarray, float]


class TokenVideosBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes splits of tokenised videos; `write_token_dataset` is the way to run it."""

    name = "token_videos"
    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing is downloaded; TFDS would look for checksums in our package

    def __init__(
        self, *, splits: Mapping[str, Iterable[Video]], tokenizer: dict, source: dict, **kwargs
    ):
        self._splits, self._tokenizer, self._source = splits, tokenizer, source
        self._ids = {}  # id -> split, over all splits: a video in two of them would leak
        self._frames = {split: [] for split in splits}
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Text(),
            "tokens": tfds.features.Tensor(
                shape=(None, *self._tokenizer["grid"]),
                dtype=np.uint16,
                # As integers, tokens would be varints, and ten times slower to parse.
                encoding=tfds.features.Encoding.BYTES,
            ),
            "fps": tfds.features.Scalar(np.float32),
        }
        metadata = {"tokenizer": self._tokenizer, "source": self._source, "frames": self._frames}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Videos as discrete tokens [frames, height, width].",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(metadata),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict]]]:
        del dl_manager  # the videos are at hand
        return {split: self._generate_examples(split) for split in self._splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Checks each video and yields it under its id."""
        for video_id, tokens, fps in self._splits[split]:
            if video_id in self._ids:
                raise ValueError(
                    f"video id {video_id!r} occurs twice, in split {self._ids[video_id]!r} and in "
                    f"{split!r}: give each video its own id, and put it into one split"
                )
            example = _example(video_id, np.asarray(tokens), fps, self._tokenizer)
            self._ids[video_id] = split
            self._frames[split].append(len(example["tokens"]))
            yield video_id, example
        if not self._frames[split]:
            raise ValueError(f"split {split!r} has no videos: leave it out, or check its source")

    def _generate_splits(self, dl_manager: Any, download_config: Any) -> list[Any]:
        """Streams the splits to files, in the order given.

        TFDS's own implementation holds up to 1 GB a split in memory to shuffle the records, and
        beyond that it needs TensorFlow. Reading shuffles; writing need not.
        """
        del download_config
        # Not `self.info`: it names the final directory, and TFDS has moved us to a temporary one.
        info = self._info()
        writer = tfds.core.SequentialWriter(
            info, max_examples_per_shard=_VIDEOS_PER_FILE, file_format="array_record"
        )
        for split, examples in self._split_generators(dl_manager).items():
            writer.initialize_splits([split])
            writer.add_examples({split: (example for _, example in examples)})
            writer.close_splits([split])
        # Sizes tell a whole dataset from one that was copied in part.
        files = Path(self.data_dir).glob("*.array_record*")
        self.info.metadata["files"] = {file.name: file.stat().st_size for file in files}
        return list(info.splits.values())

    def _log_download_bytes(self) -> None:
        """Quiet: TFDS would print that it downloads, and the name of the hidden directory."""

    _log_download_done = _log_download_bytes


class TokenVideos:
    """One split of a dataset of tokenised videos, with random access.

    `videos[i]` is `{"id": str, "tokens": uint16 [F, h, w], "fps": float}`, the tokens read-only.
    Can be pickled, as worker processes need it.

    Attributes:
        directory: of the dataset.
        split: name of the split.
        metadata: what was saved with the dataset: `tokenizer`, `source`, `frames`, `files`.
        tokenizer: identity of the tokenizer that made the tokens.
        num_frames: [videos], frames of each video.
    """

    def __init__(self, directory: str | Path, split: str):
        self.directory, self.split = Path(directory), split
        builder = _open(self.directory)
        self.metadata = dict(builder.info.metadata)
        if split not in builder.info.splits:
            raise ValueError(
                f"{directory!s} has no split {split!r}: choose one of {list(builder.info.splits)}"
            )
        self.tokenizer = self.metadata["tokenizer"]
        self.num_frames = np.array(self.metadata["frames"][split])
        self._records = builder.as_data_source(split=split)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self._records[range(len(self))[index]]  # range: IndexError, negative indices
        return {**example, "id": example["id"].decode(), "fps": float(example["fps"])}

    def __reduce__(self):
        return TokenVideos, (self.directory, self.split)


def write_token_dataset(
    directory: str | Path,
    splits: Mapping[str, Iterable[Video]],
    *,
    tokenizer: dict[str, Any],
    source: dict[str, Any] | None = None,
    overwrite: bool = False,
    attached: Iterable[Path] = (),
) -> None:
    """Writes a dataset of tokenised videos.

    Args:
        directory: of the new dataset; must be free, its parents are created.
        splits: split name to videos `(id, tokens, fps)`, tokens integers [F, h, w], fps in frames
            per second. Each iterable is consumed once, one video at a time.
        tokenizer: identity of the tokenizer (`Tokenizer.identity`).
        source: settings of the videos' source, anything JSON can hold.
        overwrite: replace an existing dataset, once the new one is complete.
        attached: files to copy into the dataset, such as a manifest; read once all videos are.

    Raises:
        FileExistsError: if the directory is taken.
        ValueError: for a tokenizer, source, split or video that cannot be stored.
    """
    directory = Path(directory).absolute()
    _check_record(tokenizer)
    _check_source(source)
    check_free(directory, overwrite=overwrite)
    bad_names = [name for name in splits if not name.isidentifier() or name == "all"]
    if bad_names or not splits:
        raise ValueError(
            f"splits are named {list(splits)}: pass at least one, and use letters, digits and "
            "underscores; 'all' means all of them to TFDS"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{directory.name}.partial-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=directory.parent) as partial:
        builder = TokenVideosBuilder(
            splits=splits, tokenizer=dict(tokenizer), source=dict(source or {}), data_dir=partial
        )
        builder.download_and_prepare(download_dir=partial, file_format="array_record")
        for file in attached:
            shutil.copyfile(file, Path(builder.data_dir) / file.name)
        check_free(directory, overwrite=overwrite)  # again: writing may have taken hours
        _put_in_place(Path(builder.data_dir), directory)


def read_token_dataset(directory: str | Path, split: str) -> TokenVideos:
    """Opens a split of a dataset written by `write_token_dataset`; no record is read yet.

    Args:
        directory: of the dataset.
        split: name of the split.

    Returns:
        The videos, in the order they were written.

    Raises:
        FileNotFoundError: if the directory holds no dataset.
        ValueError: if the dataset is incomplete or has no such split.
    """
    return TokenVideos(directory, split)


def check_free(directory: str | Path, *, overwrite: bool) -> None:
    """Checks that a dataset may take a place.

    Raises:
        FileExistsError: if it is taken.
    """
    directory = Path(directory)
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if not (directory / _INFO_FILE).is_file():
        raise FileExistsError(f"{directory} is not a dataset but in use: choose another directory")
    if not overwrite:
        raise FileExistsError(
            f"{directory} already holds a dataset: choose another directory or pass overwrite=True"
        )


def check_tokenizer(dataset_tokenizer: dict, other: dict, *, other_name: str) -> None:
    """Checks that a dataset's tokens belong to the tokenizer of a tokenizer or a trained model.

    The name may differ, as when a tokenizer's directory is renamed.

    Args:
        dataset_tokenizer: identity saved with the dataset.
        other: identity to compare.
        other_name: what `other` belongs to, for the error, such as "checkpoint".

    Raises:
        ValueError: if they differ.
    """
    ours, theirs = _normalised(dataset_tokenizer), _normalised(other)
    differ = [key for key in _TOKENIZER_KEYS if key != "name" and ours[key] != theirs[key]]
    if differ:
        raise ValueError(
            f"the dataset's tokenizer is {_describe(ours)} but the {other_name}'s is "
            f"{_describe(theirs)}; {', '.join(differ)} differ: tokenize the videos again with the "
            f"{other_name}'s tokenizer, or use the one that made the dataset"
        )


def _example(video_id: str, tokens: np.ndarray, fps: float, tokenizer: dict) -> dict[str, Any]:
    """The record of one video; ValueError if it does not fit the tokenizer."""
    if not isinstance(video_id, str) or not video_id:
        raise ValueError(f"a video's id is {video_id!r}: pass a string that is not empty")
    size, grid = tokenizer["codebook_size"], tuple(tokenizer["grid"])
    if not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"video {video_id!r} has {tokens.dtype} tokens: pass integers")
    if tokens.ndim != 3 or tokens.shape[1:] != grid or not len(tokens):
        raise ValueError(
            f"video {video_id!r} has tokens of shape {list(tokens.shape)}, its tokenizer makes "
            f"[frames, {grid[0]}, {grid[1]}], at least one frame: encode it with that tokenizer"
        )
    if tokens.min() < 0 or tokens.max() >= size:
        raise ValueError(
            f"video {video_id!r} has tokens from {tokens.min()} to {tokens.max()}, its tokenizer "
            f"has 0 to {size - 1}: encode it with that tokenizer (a mask token is no data)"
        )
    if not 0 < fps < math.inf:
        raise ValueError(f"video {video_id!r} has fps {fps}: pass its frames per second, above 0")
    return {"id": video_id, "tokens": tokens.astype(np.uint16), "fps": np.float32(fps)}


def _check_record(tokenizer: dict[str, Any]) -> None:
    """Raises ValueError unless the identity is whole and its tokens fit uint16."""
    size = _normalised(tokenizer)["codebook_size"]
    if not 0 < size <= MAX_CODEBOOK_SIZE:
        raise ValueError(
            f"the tokenizer's codebook_size is {size}: tokens are stored as uint16, choose a "
            f"tokenizer with 1 to {MAX_CODEBOOK_SIZE} codes"
        )


def _check_source(source: dict[str, Any] | None) -> None:
    """Raises ValueError if JSON cannot hold the settings, before hours of writing."""
    try:
        json.dumps(source)
    except TypeError as error:
        raise ValueError(
            f"source cannot be saved: {error}; pass numbers, strings, lists and dicts"
        ) from error


def _put_in_place(new: Path, directory: Path) -> None:
    """Gives a complete dataset its name; what it replaces is deleted last."""
    replaced = Path(tempfile.mkdtemp(prefix=f".{directory.name}.replaced-", dir=directory.parent))
    if directory.exists():
        directory.rename(replaced / directory.name)
    new.rename(directory)
    shutil.rmtree(replaced)


def _open(directory: Path) -> tfds.core.DatasetBuilder:
    """The dataset's builder; its files are there, in full size."""
    if not (directory / _INFO_FILE).is_file():
        raise FileNotFoundError(
            f"no dataset of tokens at {directory!s} ({_INFO_FILE} is missing): write one with "
            "launch/tokenize_videos.py, or correct the path"
        )
    builder = tfds.builder_from_directory(directory)
    metadata = builder.info.metadata or {}
    missing = [key for key in ("tokenizer", "frames", "files") if key not in metadata]
    if missing:
        raise ValueError(
            f"{directory!s} is no complete dataset of tokens: its metadata lacks "
            f"{', '.join(missing)}; write it again"
        )
    broken = [name for name, size in metadata["files"].items() if _size(directory / name) != size]
    if broken:
        raise ValueError(
            f"{directory!s} is incomplete: {', '.join(sorted(broken))} missing or of another size "
            "than was written; copy the dataset again, or write it again"
        )
    return builder


def _size(file: Path) -> int:
    """Bytes of a file, -1 if there is none."""
    return file.stat().st_size if file.is_file() else -1


def _normalised(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The identity with its grid as a list, as JSON gives it back."""
    missing = [key for key in _TOKENIZER_KEYS if key not in tokenizer]
    if missing:
        raise ValueError(
            f"a tokenizer's record lacks {', '.join(missing)}: pass `Tokenizer.identity`"
        )
    return {**tokenizer, "grid": list(tokenizer["grid"])}


def _describe(tokenizer: dict[str, Any]) -> str:
    """A tokenizer in a few words, for errors."""
    height, width = tokenizer["grid"]
    return (
        f"{tokenizer['name']!r} (sha256 {tokenizer['sha256'][:8]}, {tokenizer['codebook_size']} "
        f"codes, {height}x{width} tokens from {tokenizer['frame_size']} pixels)"
    )

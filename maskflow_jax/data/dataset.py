"""Tokenised videos on disk: a TFDS dataset in array_record files.

Each record is a whole video: tokens uint16 [F, h, w] as raw bytes, a text id and the frame rate.
The dataset's metadata, saved beside the records, holds the tokenizer's identity, so that tokens are
never decoded by a tokenizer that did not make them, and the length of every video, so that clips
are planned without reading records.

Writing streams, one video in memory at a time, and works without TensorFlow. It happens in a hidden
directory next to the target, which takes the target's name once it is complete: a dataset is there
as a whole or not at all.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from maskflow_jax.data.token_builder import TokenVideosBuilder, Video
from maskflow_jax.io import files
from maskflow_jax.scenes.records import read_scenes

MAX_CODEBOOK_SIZE = 2**16  # tokens are stored as uint16

_TOKENIZER_KEYS = ("name", "sha256", "codebook_size", "grid", "frame_size")
_INFO_FILE = "dataset_info.json"  # TFDS writes it; its presence makes a directory a dataset
_DESCRIPTIONS = (_INFO_FILE, "features.json", "metadata.json")


class TokenVideos:
    """One split of a dataset of tokenised videos, with random access.

    `videos[i]` is `{"id": str, "tokens": uint16 [F, h, w], "fps": float}`, the tokens read-only,
    and in a dataset with scenes `"scenes"`, a tuple of `Scene`. Can be pickled, as worker processes
    need it.

    Attributes:
        directory: Directory of the dataset.
        split: Name of the split.
        metadata: Metadata saved with the dataset: `tokenizer`, `source`, `frames`, `files`.
        tokenizer: Identity of the tokenizer that made the tokens.
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
        info = builder.info.splits[split]
        self._files, self._ends = info.filenames, np.cumsum(info.shard_lengths)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]  # IndexError, and negative indices
        try:
            example = self._records[index]
        except (RuntimeError, ValueError) as error:
            file = self._files[np.searchsorted(self._ends, index, side="right")]
            raise ValueError(
                f"{self.directory / file} is damaged at video {index} of split {self.split!r} "
                f"({error}); copy the dataset again, or write it again"
            ) from error
        found = {**example, "id": example["id"].decode(), "fps": float(example["fps"])}
        if "scenes" in example:
            found["scenes"] = read_scenes(example["scenes"].decode())
        return found

    @property
    def scenes(self) -> Mapping[str, Any] | None:
        """What the dataset says of its scenes (`token_builder.summarise_scenes`), or None."""
        return self.metadata.get("scenes")

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
    with_scenes: bool = False,
) -> None:
    """Writes a dataset of tokenised videos.

    Args:
        directory: Directory of the new dataset; must be free. Its parents are created.
        splits: Split name to videos `(id, tokens, fps)`, tokens integers [F, h, w], fps in frames
            per second. Each iterable is consumed once, one video at a time.
        tokenizer: Identity of the tokenizer (`Tokenizer.identity`).
        source: Settings of the videos' source, anything JSON can hold.
        overwrite: Replace an existing dataset, once the new one is complete.
        attached: Files to copy into the dataset, such as a manifest; read once all videos are.
        with_scenes: Whether the videos have scenes, `(id, tokens, fps, scenes)`.

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
    inner = f"{TokenVideosBuilder.name}/{TokenVideosBuilder.VERSION}"  # where TFDS writes
    with files.atomic_folder(directory, inner=inner) as part:
        builder = TokenVideosBuilder(
            splits=splits,
            tokenizer=dict(tokenizer),
            source=dict(source or {}),
            with_scenes=with_scenes,
            data_dir=part,
        )
        builder.download_and_prepare(download_dir=part, file_format="array_record")
        for file in attached:
            shutil.copyfile(file, part / inner / file.name)
        check_free(directory, overwrite=overwrite)  # again: writing may have taken hours


def read_token_dataset(directory: str | Path, split: str) -> TokenVideos:
    """Opens a split of a dataset written by `write_token_dataset`; no record is read yet.

    Args:
        directory: Directory of the dataset.
        split: Name of the split.

    Returns:
        The videos, in the order they were written.

    Raises:
        FileNotFoundError: if the directory holds no dataset.
        ValueError: if the dataset is incomplete or has no such split.
    """
    return TokenVideos(directory, split)


def dataset_captions(directory: str | Path) -> list[str]:
    """Returns the different captions of all splits of a dataset, sorted.

    Raises:
        FileNotFoundError: if the directory holds no dataset.
        ValueError: if it has no scenes.
    """
    directory = Path(directory)
    metadata = _open(directory).info.metadata
    if "scenes" not in metadata:
        raise ValueError(f"the dataset in {directory} has no scenes; prepare it with captions")
    splits = [TokenVideos(directory, split) for split in metadata["frames"]]
    found = {scene.caption for videos in splits for video in videos for scene in video["scenes"]}
    return sorted(found - {""})


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
    """Checks that a dataset was made with the tokenizer of a checkpoint or the like.

    The names may differ, since a tokenizer's directory may be renamed.

    Args:
        dataset_tokenizer: Identity saved with the dataset.
        other: Identity to compare.
        other_name: Owner of `other`, for the error, such as "checkpoint".

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


def _open(directory: Path) -> tfds.core.DatasetBuilder:
    """The dataset's builder, once its files are found to be there in full size."""
    if not (directory / _INFO_FILE).is_file():
        raise FileNotFoundError(
            f"no dataset of tokens at {directory!s} ({_INFO_FILE} is missing): prepare one, or "
            "correct the path"
        )
    for name in _DESCRIPTIONS:
        _check_description(directory / name)
    try:
        builder = tfds.builder_from_directory(directory)
    except Exception as error:
        # TFDS and protobuf raise errors of many kinds, few of which name a file.
        raise ValueError(
            f"the dataset at {directory!s} is damaged: {' or '.join(_DESCRIPTIONS[:2])} is not "
            f"what was written ({error}); copy the dataset again, or write it again"
        ) from error
    metadata = builder.info.metadata or {}
    missing = [key for key in ("tokenizer", "frames", "files") if not _is_dict(metadata, key)]
    if missing:
        raise ValueError(
            f"{directory!s} is no complete dataset of tokens: its metadata.json lacks "
            f"{', '.join(missing)}; copy the dataset again, or write it again"
        )
    broken = [name for name, size in metadata["files"].items() if _size(directory / name) != size]
    if broken:
        raise ValueError(
            f"{directory!s} is incomplete: {', '.join(sorted(broken))} missing or of another size "
            "than was written; copy the dataset again, or write it again"
        )
    return builder


def _check_description(file: Path) -> None:
    """Raises ValueError unless a file that describes the dataset is a JSON object."""
    try:
        if isinstance(json.loads(file.read_bytes()), dict):
            return
        reason = "no JSON object"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise ValueError(
        f"{file!s} is damaged or missing ({reason}); copy the dataset again, or write it again"
    )


def _is_dict(metadata: Mapping[str, Any], key: str) -> bool:
    return isinstance(metadata.get(key), Mapping)


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

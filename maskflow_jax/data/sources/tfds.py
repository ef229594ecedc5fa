"""Any TFDS dataset of videos by name, prepared on the disk.

Nothing is downloaded here: `tfds build NAME` does that. Datasets in array_record files are read
with random access and without TensorFlow, others by TFDS's slices, with TensorFlow. Each video is
in memory as a whole. Its id is `split/number`; TFDS's split "train" is for training, all others are
for testing.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from maskflow_jax.data.sources.arrays import check_video, to_rgb
from maskflow_jax.data.sources.items import Item, Listing, make_listing
from maskflow_jax.io.video_decoding import TimedFrame


@dataclasses.dataclass(frozen=True, kw_only=True)
class TFDSVideos:
    """The videos of a TFDS dataset.

    Attributes:
        dataset: Name of the dataset, with config and version as TFDS takes them.
        fps: Frames per second of the videos.
        root: TFDS's data directory; None for the usual one.
        key: Feature that holds the video; needed where there are several.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    dataset: str
    fps: float
    root: Path | None = None
    key: str | None = None

    def listing(self) -> Listing:
        """All examples of all splits."""
        builder = _builder(self.dataset, self.root)
        _feature(builder, self.key)
        items = [
            Item(
                id=f"{split}/{index:08d}",
                split="train" if split == "train" else "test",
                key=(split, index),
            )
            for split, info in builder.info.splits.items()
            for index in range(info.num_examples)
        ]
        return make_listing(items)

    def open(self, item: Item) -> Iterator[TimedFrame]:
        """The example's frames."""
        builder = _builder(self.dataset, self.root)
        split, index = item.key
        video = _example(self.dataset, self.root, split, index)[_feature(builder, self.key)]
        check_video(video.shape, video.dtype, f"{self.dataset} {item.id}")
        for number, frame in enumerate(video):
            yield TimedFrame(to_rgb(frame), number / self.fps, 1 / self.fps)


@functools.lru_cache(maxsize=2)
def _builder(name: str, root: Path | None) -> tfds.core.DatasetBuilder:
    """The dataset's builder; FileNotFoundError unless it is prepared."""
    try:
        builder = tfds.builder(name, data_dir=root)
    except tfds.core.DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"TFDS knows no dataset {name!r} in {root or 'its data directory'}: correct the name"
        ) from error
    if not builder.info.splits:
        raise FileNotFoundError(
            f"the TFDS dataset {name!r} is not prepared in {builder.data_dir}: run `tfds build "
            f"{name}` first, best with the file format array_record"
        )
    return builder


def _feature(builder: tfds.core.DatasetBuilder, key: str | None) -> str:
    """The name of the video's feature; ValueError if that is unclear."""
    features = builder.info.features
    videos = [k for k, feature in features.items() if len(feature.shape or ()) == 4]
    if key is not None and key in videos:
        return key
    if key is None and len(videos) == 1:
        return videos[0]
    raise ValueError(
        f"{builder.name} has the features {', '.join(sorted(features))}, of which {videos} are "
        "videos: set key to one of these"
    )


def _example(name: str, root: Path | None, split: str, index: int) -> Mapping[str, np.ndarray]:
    """One example, read at random where the files allow it."""
    try:
        records = _records(name, root, split)
        if records is not None:
            return records[index]
        examples = _builder(name, root).as_dataset(split=f"{split}[{index}:{index + 1}]")
        return next(iter(tfds.as_numpy(examples)))
    except Exception as error:
        # TensorFlow's errors and those of array_record have no class in common but this one.
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise ValueError(
            f"example {index} of split {split!r} of {name} cannot be read ({reason}): prepare the "
            "dataset again"
        ) from error


@functools.lru_cache(maxsize=8)
def _records(name: str, root: Path | None, split: str) -> Any:
    """The split with random access, or None if its files do not have it."""
    try:
        return _builder(name, root).as_data_source(split=split)
    except NotImplementedError:
        return None

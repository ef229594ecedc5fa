"""Writing tokenised videos with TFDS: one record a video, streamed to array_record files."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from maskflow_jax.scenes.encoders import words_of
from maskflow_jax.scenes.records import Scene, problems_of, write_scenes

_VIDEOS_PER_FILE = 512

Video = tuple[str, np.ndarray, float] | tuple[str, np.ndarray, float, Sequence[Scene]]
"""id, tokens, frames per second, and the scenes if the dataset has any."""


class DeterministicSerializer(example_serializer.ExampleSerializer):
    """Serialises equal records to equal bytes; protobuf alone puts fields in any order."""

    def serialize_example(self, example: Any) -> bytes:
        """The record as bytes."""
        return self.get_tf_example(example).SerializeToString(deterministic=True)


class TokenVideosBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes splits of tokenised videos; `dataset.write_token_dataset` runs it."""

    name = "token_videos"
    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing is downloaded; TFDS would look for checksums in our package

    def __init__(
        self,
        *,
        splits: Mapping[str, Iterable[Video]],
        tokenizer: dict,
        source: dict,
        with_scenes: bool = False,
        **kwargs,
    ):
        self._splits, self._tokenizer, self._source = splits, tokenizer, source
        self._scenes = {split: [] for split in splits} if with_scenes else None
        self._ids = {}  # id -> split, over all splits: no video may be in two of them
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
        if self._scenes is not None:
            features["scenes"] = tfds.features.Text()
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
        for video_id, tokens, fps, *scenes in self._splits[split]:
            if video_id in self._ids:
                raise ValueError(
                    f"video id {video_id!r} occurs twice, in split {self._ids[video_id]!r} and in "
                    f"{split!r}: give each video its own id, and put it into one split"
                )
            example = _example(video_id, np.asarray(tokens), fps, self._tokenizer)
            self._ids[video_id] = split
            self._frames[split].append(len(example["tokens"]))
            if self._scenes is not None:
                example["scenes"] = self._note_scenes(split, example, *scenes)
            yield video_id, example
        if not self._frames[split]:
            raise ValueError(f"split {split!r} has no videos: leave it out, or check its source")

    def _note_scenes(self, split: str, example: dict, scenes: Sequence[Scene] = ()) -> str:
        """Checks and remembers the scenes of a video; returns them as they are stored."""
        scenes = sorted(scenes, key=lambda scene: scene.start)
        problems = problems_of(scenes, len(example["tokens"]))
        if problems or not scenes:
            raise ValueError(
                f"video {example['id']!r}: {'; '.join(problems) or 'it has no scene, give it one'}"
            )
        self._scenes[split].append(scenes)
        return write_scenes(scenes)

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
        writer._serializer = DeterministicSerializer(info.features.get_serialized_info())
        for split, examples in self._split_generators(dl_manager).items():
            writer.initialize_splits([split])
            writer.add_examples({split: (example for _, example in examples)})
            writer.close_splits([split])
        # Sizes tell a whole dataset from one that was copied in part.
        if self._scenes is not None:
            self.info.metadata["scenes"] = summarise_scenes(self._scenes)
        files = Path(self.data_dir).glob("*.array_record*")
        self.info.metadata["files"] = {file.name: file.stat().st_size for file in files}
        return list(info.splits.values())

    def _log_download_bytes(self) -> None:
        """Quiet: TFDS would print that it downloads, and the name of the hidden directory."""

    _log_download_done = _log_download_bytes


def summarise_scenes(scenes: Mapping[str, Sequence[Sequence[Scene]]]) -> dict[str, Any]:
    """What a dataset says of its scenes without reading records.

    Args:
        scenes: Scenes of all videos by split.

    Returns:
        `bounds`: first frame and end of every scene of every video, by split; `labels` and `words`,
        sorted; `longest_caption` in words.
    """
    every = [scene for videos in scenes.values() for video in videos for scene in video]
    captions = [words_of(scene.caption) for scene in every]
    return {
        "bounds": {
            split: [[[scene.start, scene.stop] for scene in video] for video in videos]
            for split, videos in scenes.items()
        },
        "labels": sorted({scene.label for scene in every} - {""}),
        "words": sorted({word for words in captions for word in words}),
        "longest_caption": max(map(len, captions), default=0),
    }


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

"""FaceForensics: the face crops of 150x150 pixels, at 8 frames per second.

The dataset is available on request (github.com/ondyari/FaceForensics); the paper's 704 videos are
crops of it. They are enlarged to the tokenizer's size. Videos of another size are not these crops
and are refused, each with its size.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from maskflow_jax.data.sources.items import Item, Listing
from maskflow_jax.data.sources.video_files import SUFFIXES, header_length, list_videos
from maskflow_jax.io.video_decoding import TimedFrame, iterate_frames

SIDE = 150


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaceForensics:
    """The crops, as video files in a folder or in folders of it.

    Attributes:
        root: Path of the folder.
        split_folders: Whether the folders "train" and "test" in it are the splits.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType({"fps": 8.0, "min_frames": 16})

    root: Path
    split_folders: bool = dataclasses.field(default=False, metadata={"frames": False})

    def listing(self) -> Listing:
        """All video files."""
        return list_videos(self.root, SUFFIXES, split_folders=self.split_folders)

    def open(self, item: Item) -> Iterator[TimedFrame]:
        """The file's frames; ValueError if they are no crops."""
        for frame in iterate_frames(item.paths[0]):
            check_size(frame, SIDE, "the source video_files, perhaps with a crop,")
            yield frame

    def length(self, item: Item) -> tuple[float, float]:
        """Frames and seconds by the file's header."""
        return header_length(item.paths[0])


def check_size(frame: TimedFrame, side: int, other: str) -> None:
    """Raises ValueError unless a frame has this height and width.

    Args:
        frame: Frame to check.
        side: Height and width in pixels.
        other: Name of a source that takes other sizes, for the error.
    """
    height, width = frame.pixels.shape[:2]
    if (height, width) != (side, side):
        raise ValueError(
            f"frames are {width}x{height}, this dataset's are {side}x{side}: {other} takes others"
        )

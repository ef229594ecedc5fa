"""A folder of video files, and of folders of them."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from maskflow_jax.data.sources.items import Item, Listing, folder_split, make_listing, split_files
from maskflow_jax.io.video_decoding import TimedFrame, iterate_frames, read_header

SUFFIXES = (".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".gif")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoFolder:
    """Every video file below a folder; its id is its path from there.

    Attributes:
        root: Path of the folder.
        split_folders: Whether the folders "train" and "test" in it are the splits.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    root: Path
    split_folders: bool = dataclasses.field(default=False, metadata={"frames": False})

    def listing(self) -> Listing:
        """All files with a video's suffix."""
        return list_videos(self.root, SUFFIXES, split_folders=self.split_folders)

    def open(self, item: Item) -> Iterator[TimedFrame]:
        """The file's frames."""
        return iterate_frames(item.paths[0])

    def length(self, item: Item) -> tuple[float, float]:
        """Frames and seconds by the file's header."""
        return header_length(item.paths[0])


def list_videos(root: Path, suffixes: tuple[str, ...], *, split_folders: bool) -> Listing:
    """Lists the files below a folder, one item each.

    Args:
        root: Path of the folder.
        suffixes: Suffixes of the files to take, in lower case.
        split_folders: Whether the first folder of an item is its split.
    """
    taken, ignored = split_files(root, suffixes)
    items = [
        Item(id=name, paths=(path,), split=folder_split(name) if split_folders else None)
        for name, path in taken
    ]
    return make_listing(items, ignored)


def header_length(path: Path) -> tuple[float, float]:
    """Frames and seconds by a video file's header, each derived from the other if it is missing.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds no video.
    """
    header = read_header(path)
    frames = header.frames or header.seconds * header.rate
    return frames, header.seconds or (frames / header.rate if header.rate else 0.0)

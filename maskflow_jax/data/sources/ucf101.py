"""UCF101: a folder for each class, and the official lists of training and test videos.

A video's id is `Class/v_Class_gNN_cNN.avi`, as in the lists, so it includes the class; the manifest
states it under `labels`. Without lists, the folder is the class and the digest decides about the
split. Clips of one group (`_gNN_`) are cut from one recording: digests divide them, the official
lists do not.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from maskflow_jax.data.sources.items import Item, Listing, make_listing
from maskflow_jax.data.sources.video_files import SUFFIXES, header_length, list_videos
from maskflow_jax.io.video_decoding import TimedFrame, iterate_frames


@dataclasses.dataclass(frozen=True, kw_only=True)
class UCF101:
    """The videos of a folder that has one folder for each class.

    Attributes:
        root: Path of the folder.
        train_list: Path of `trainlist01.txt` or another fold's; videos in no list are left out.
        test_list: Path of `testlist01.txt` or another fold's.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    root: Path
    train_list: Path | None = dataclasses.field(default=None, metadata={"frames": False})
    test_list: Path | None = dataclasses.field(default=None, metadata={"frames": False})

    def __post_init__(self):
        """Raises ValueError if one of the lists is missing."""
        if (self.train_list is None) != (self.test_list is None):
            raise ValueError("set both train_list and test_list, or neither")

    def listing(self) -> Listing:
        """The listed videos, whether they are there or not; without lists, those that are there."""
        found = list_videos(self.root, SUFFIXES, split_folders=False)
        ignored = list(found.ignored)
        items = {item.id: item for item in found.items}
        if self.train_list is not None:
            splits = _read_lists({"train": self.train_list, "test": self.test_list})
            ignored += [(name, "in neither list") for name in items if name not in splits]
            items = {
                name: Item(id=name, paths=(self.root / name,), split=split)
                for name, split in splits.items()
            }
        labelled = []
        for name, item in items.items():
            folder, slash, _ = name.partition("/")
            if slash:
                labelled.append(dataclasses.replace(item, labels={"class": folder}))
            else:
                ignored.append((name, "in no class's folder"))
        return make_listing(labelled, ignored)

    def open(self, item: Item) -> Iterator[TimedFrame]:
        """The file's frames."""
        return iterate_frames(item.paths[0])

    def length(self, item: Item) -> tuple[float, float]:
        """Frames and seconds by the file's header."""
        return header_length(item.paths[0])


def _read_lists(lists: Mapping[str, Path]) -> dict[str, str]:
    """The split of each listed video; lines are `Class/name.avi`, perhaps with a number.

    Raises:
        FileNotFoundError: if a list is missing.
        ValueError: if a video is in both lists, or a list is empty.
    """
    splits = {}
    for split, path in lists.items():
        if not path.is_file():
            raise FileNotFoundError(f"no list at {path}: correct {split}_list")
        names = [line.split()[0] for line in path.read_text("utf-8").splitlines() if line.strip()]
        if not names:
            raise ValueError(f"{path} lists no videos: fetch it again")
        for name in names:
            if splits.setdefault(name, split) != split:
                raise ValueError(f"{name} is in both lists: are they of one fold?")
    return splits

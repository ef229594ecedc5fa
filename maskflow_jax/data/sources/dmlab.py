"""DMLab: first-person walks, 300 frames of 64x64 pixels, as `.npz` or `.npy` files.

The layout is that of the published archive (TECO's): folders "train" and "test" of files that hold
`video`, uint8 [F, 64, 64, 3], and `actions`, which are not used. Frames are enlarged to the
tokenizer's size.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from maskflow_jax.data.sources.arrays import array_length, iterate_array, list_arrays
from maskflow_jax.data.sources.faceforensics import check_size
from maskflow_jax.data.sources.items import Item, Listing
from maskflow_jax.io.video_decoding import TimedFrame

SIDE = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class DMLab:
    """The episodes below a folder.

    Attributes:
        root: Path of the folder; "train" and "test" in it are the splits, where they exist.
        fps: Frames per second; the files do not state them, and only the playback depends on it.
        key: Name of the array in `.npz` files.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType({"min_frames": 36, "max_frames": 300})

    root: Path
    fps: float = 15.0
    key: str = "video"

    def listing(self) -> Listing:
        """All episodes."""
        return list_arrays(self.root, split_folders=True)

    def open(self, item: Item) -> Iterator[TimedFrame]:
        """The episode's frames; ValueError if they have another size."""
        for frame in iterate_array(item.paths[0], self.fps, self.key):
            check_size(frame, SIDE, "the source arrays")
            yield frame

    def length(self, item: Item) -> tuple[float, float]:
        """Frames and seconds by the array's shape."""
        return array_length(item.paths[0], self.fps, self.key)

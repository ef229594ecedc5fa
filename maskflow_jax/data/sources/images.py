"""Folders of numbered images, each a video.

Images are shown in the natural order of their names: frame2 before frame10. Turned photographs are
set upright, transparency is dropped, 16-bit greyscale keeps its upper 8 bits.
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageOps

from maskflow_jax.data.sources.items import (
    Item,
    Listing,
    folder_split,
    make_listing,
    natural_key,
    split_files,
)
from maskflow_jax.io.video_decoding import TimedFrame

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSequence:
    """Every folder that holds images, at any depth; its id is its path.

    Attributes:
        root: Path of the outermost folder.
        fps: Frames per second of the videos.
        split_folders: Whether the folders "train" and "test" in it are the splits.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    root: Path
    fps: float
    split_folders: bool = dataclasses.field(default=False, metadata={"frames": False})

    def listing(self) -> Listing:
        """All folders with images."""
        taken, ignored = split_files(self.root, SUFFIXES)
        folders = collections.defaultdict(list)
        for name, path in taken:
            folders[name.rpartition("/")[0] or "."].append(path)
        items = [
            Item(
                id=name,
                paths=tuple(sorted(paths, key=lambda path: natural_key(path.name))),
                split=folder_split(f"{name}/") if self.split_folders else None,
            )
            for name, paths in folders.items()
        ]
        return make_listing(items, ignored)

    def open(self, item: Item) -> Iterator[TimedFrame]:
        """The images, which must be of one size."""
        shape = None
        for index, path in enumerate(item.paths):
            pixels = _read_image(path)
            if shape not in (None, pixels.shape):
                raise ValueError(f"{path} has another size than the images before it: remove it")
            shape = pixels.shape
            yield TimedFrame(pixels, index / self.fps, 1 / self.fps)

    def length(self, item: Item) -> tuple[float, float]:
        """Frames and seconds by the number of images."""
        return len(item.paths), len(item.paths) / self.fps


def _read_image(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]; OSError or ValueError if it cannot be read."""
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return np.array(image.convert("RGB"))
    except PermissionError as error:
        raise PermissionError(f"{path} may not be read: `chmod +r` it") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's, all three
        raise ValueError(f"{path} cannot be read as an image ({error}): fetch it again") from error

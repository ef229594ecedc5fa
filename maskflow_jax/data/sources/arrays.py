"""Videos as numpy files: `.npy` and `.npz` with uint8 arrays [F, H, W, 3].

Greyscale ([F, H, W] or one channel) and four channels are accepted, too. `.npy` files are mapped
into memory; of `.npz` files an array is read as a whole.
"""

import contextlib
import dataclasses
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from maskflow_jax.data.sources.items import Item, Listing, folder_split, make_listing, split_files
from maskflow_jax.io.video_decoding import TimedFrame

SUFFIXES = (".npy", ".npz")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumpyArrays:
    """Every numpy file below a folder; its id is its path from there.

    Attributes:
        root: Path of the folder.
        fps: Frames per second of the videos, which the files do not state.
        key: Name of the array in `.npz` files; needed where more than one is a video.
        split_folders: Whether the folders "train" and "test" in it are the splits.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    root: Path
    fps: float
    key: str | None = None
    split_folders: bool = dataclasses.field(default=False, metadata={"frames": False})

    def listing(self) -> Listing:
        """All files with numpy's suffixes."""
        return list_arrays(self.root, split_folders=self.split_folders)

    def open(self, item: Item) -> Iterator[TimedFrame]:
        """The array's frames."""
        return iterate_array(item.paths[0], self.fps, self.key)

    def length(self, item: Item) -> tuple[float, float]:
        """Frames and seconds by the array's shape."""
        return array_length(item.paths[0], self.fps, self.key)


def list_arrays(root: Path, *, split_folders: bool) -> Listing:
    """Lists the numpy files below a folder."""
    taken, ignored = split_files(root, SUFFIXES)
    items = [
        Item(id=name, paths=(path,), split=folder_split(name) if split_folders else None)
        for name, path in taken
    ]
    return make_listing(items, ignored)


def iterate_array(path: Path, fps: float, key: str | None) -> Iterator[TimedFrame]:
    """Yields the frames of a numpy file.

    Args:
        path: Path of the file.
        fps: Frames per second of the video.
        key: Name of the array, for `.npz`; None if only one is a video.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged or no video.
    """
    with _damage_explained(path):
        for index, frame in enumerate(_load_video(path, key)):
            yield TimedFrame(to_rgb(frame), index / fps, 1 / fps)


def array_length(path: Path, fps: float, key: str | None) -> tuple[float, float]:
    """Number of frames and seconds of a numpy file."""
    with _damage_explained(path):
        frames = len(_load_video(path, key))
        return frames, frames / fps


def to_rgb(frame: np.ndarray) -> np.ndarray:
    """uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] as its own copy [H, W, 3], alpha dropped."""
    frame = frame[..., None] if frame.ndim == 2 else frame[..., :3]
    return np.ascontiguousarray(np.broadcast_to(frame, (*frame.shape[:2], 3))).copy()


def check_video(shape: tuple[int, ...], dtype: np.dtype, where: object) -> None:
    """Raises ValueError unless an array of this shape and type is a video."""
    if not _is_video(shape):
        raise ValueError(f"{where} has shape {list(shape)}: a video is [F, H, W, 3], not empty")
    if dtype != np.uint8:
        raise ValueError(f"{where} holds {dtype}: convert it to uint8, 0 to 255")


def _is_video(shape: tuple[int, ...]) -> bool:
    channels = shape[3] if len(shape) == 4 else 1
    return len(shape) in (3, 4) and channels in (1, 3, 4) and 0 not in shape


@contextlib.contextmanager
def _damage_explained(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise PermissionError(f"{path} may not be read: `chmod +r` it") from error
    except (EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged or cut off ({error}): copy it again") from error
    except RuntimeError as error:  # zipfile's, for what it cannot unpack
        raise ValueError(f"{path} cannot be unpacked ({error}): save it with numpy") from error


def _load_video(path: Path, key: str | None) -> np.ndarray:
    """The array of a file's video, uint8 [F, H, W] or [F, H, W, C], checked."""
    if path.suffix.lower() == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        check_video(array.shape, array.dtype, path)
        return array
    with np.load(path, allow_pickle=False) as archive:
        if key is not None and key in archive.files:
            found = {key: archive[key]}
        else:
            found = {name: archive[name] for name in archive.files}
    arrays = {name: array for name, array in found.items() if isinstance(array, np.ndarray)}
    videos = [n for n, x in arrays.items() if key in (None, n) and (key or _is_video(x.shape))]
    if len(videos) != 1:
        what = f"no array {key!r}" if key else f"{len(videos)} arrays of video"
        raise ValueError(
            f"{path} has {what}, it has {', '.join(arrays) or 'nothing'}: set key to one of them"
        )
    check_video(arrays[videos[0]].shape, arrays[videos[0]].dtype, f"{videos[0]!r} of {path}")
    return arrays[videos[0]]

"""Videos as numpy files: `.npy` and `.npz` with uint8 arrays [F, H, W, 3].

Greyscale ([F, H, W] or one channel) and four channels are taken, too. Neither kind of file is read
as a whole: `.npy` is mapped, and the arrays of `.npz`, compressed or not, are read frame by frame.
"""

import contextlib
import dataclasses
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, ClassVar

import numpy as np

from maskflow_jax.data.sources.items import Item, Listing, folder_split, make_listing, split_files
from maskflow_jax.io.video_decoding import TimedFrame

SUFFIXES = (".npy", ".npz")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumpyArrays:
    """Every numpy file below a folder; its id is its path from there.

    Attributes:
        root: the folder.
        fps: frames per second of the videos, which the files do not tell.
        key: name of the array in `.npz` files; may be left out where they hold but one of video.
        split_folders: folders "train" and "test" in it are the splits.
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
        path: of the file.
        fps: of the video.
        key: name of the array, for `.npz`; None if there is but one of video.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged or no video.
    """
    with _damage_explained(path), _opened(path, key) as (shape, frames):
        for index, frame in enumerate(frames):
            yield TimedFrame(to_rgb(frame), index / fps, 1 / fps)
        if index + 1 < shape[0]:
            raise ValueError(f"{path} ends after {index + 1} of {shape[0]} frames: copy it again")


def array_length(path: Path, fps: float, key: str | None) -> tuple[float, float]:
    """Frames and seconds by an array's shape, without reading its values."""
    with _damage_explained(path), _opened(path, key) as (shape, _):
        return shape[0], shape[0] / fps


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


@contextlib.contextmanager
def _opened(path: Path, key: str | None) -> Iterator[tuple[tuple, Iterator[np.ndarray]]]:
    """The shape of a file's video, and its frames as they are stored."""
    if path.suffix.lower() == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        check_video(array.shape, array.dtype, path)
        yield array.shape, iter(array)
        return
    with zipfile.ZipFile(path) as archive:
        member = _choose_array(path, archive, key)
        with archive.open(member) as file:
            shape, fortran, dtype = _read_header(file)
            check_video(shape, dtype, f"{member.removesuffix('.npy')!r} of {path}")
            if fortran:
                raise ValueError(f"{path} is in Fortran order: save np.ascontiguousarray(video)")
            yield shape, _frames(file, shape)


def _choose_array(path: Path, archive: zipfile.ZipFile, key: str | None) -> str:
    """The name in an archive of the array that `key` names, or of the only video."""
    names = [name for name in archive.namelist() if name.endswith(".npy")]
    if key is not None:
        if f"{key}.npy" in names:
            return f"{key}.npy"
        found = names
    else:
        found = [name for name in names if _is_video(_shape(archive, name))]
        if len(found) == 1:
            return found[0]
    arrays = ", ".join(name.removesuffix(".npy") for name in names) or "nothing"
    what = f"no array {key!r}" if key else f"{len(found)} arrays of video"
    raise ValueError(f"{path} has {what}, it has {arrays}: set key to one of them")


def _shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with archive.open(name) as file:
        return _read_header(file)[0]


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _frames(file: IO[bytes], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Reads frame by frame; the archive checks its checksum at the end."""
    size = int(np.prod(shape[1:]))
    for _ in range(shape[0]):
        data = file.read(size)
        if len(data) < size:
            raise EOFError("the array is shorter than its shape says")
        yield np.frombuffer(data, np.uint8).reshape(shape[1:])
    file.read(1)

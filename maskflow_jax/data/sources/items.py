"""What a source of videos consists of: items, listed without reading them, and their contents.

A source is a frozen dataclass of its settings with two methods:

    listing() -> Listing                      what there is, and the files it does not take
    open(item) -> iterator of TimedFrame      the frames of one item, one at a time

and optionally `length(item) -> (frames, seconds)` by the item's header, for estimates. `DEFAULTS`
holds its usual fields of `FrameTransform`. Sources can be pickled, as worker processes need it. An
item that cannot be read raises an OSError or a ValueError. A source whose videos are tokens already
has the method `token_videos` instead of these (`hdf5_tokens`).
"""

import dataclasses
import hashlib
import itertools
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from maskflow_jax.io.files import sha256_of

SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """One video of a source.

    Attributes:
        id: Name that is unique in the source and the same on every machine, such as the path in
            the folder.
        paths: Files that it is made of; none if it is part of a dataset.
        split: "train" or "test" where the source says so.
        labels: Further facts that the source knows, such as the class.
        key: Key by which the source finds it, beyond the paths.
    """

    id: str
    paths: tuple[Path, ...] = ()
    split: str | None = None
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    key: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """The contents of a source.

    Attributes:
        items: Sorted by id.
        ignored: (id, reason) of the files that the source does not take.
    """

    items: tuple[Item, ...]
    ignored: tuple[tuple[str, str], ...] = ()


def make_listing(items: Iterable[Item], ignored: Iterable[tuple[str, str]] = ()) -> Listing:
    """Sorts the items and checks their ids.

    Raises:
        ValueError: if two items share an id.
    """
    items = sorted(items, key=lambda item: item.id)
    for one, other in itertools.pairwise(items):
        if one.id == other.id:
            where = " and ".join(str(path) for item in (one, other) for path in item.paths[:1])
            raise ValueError(f"the id {one.id!r} occurs twice: rename one of them. {where}")
    return Listing(items=tuple(items), ignored=tuple(sorted(ignored)))


def files_under(root: Path) -> Iterator[tuple[str, Path]]:
    """Yields (id, path) of all files below a folder, through links to folders, each folder once.

    The id is the path from the folder, with slashes, as text whatever bytes the name has.

    Raises:
        FileNotFoundError: if there is no such folder.
        PermissionError: if a folder may not be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder at {root}: correct the input")

    def refuse(error: OSError) -> None:
        raise PermissionError(f"the folder {error.filename} cannot be listed: {error}") from error

    seen = set()
    for folder, inside, names in os.walk(root, followlinks=True, onerror=refuse):
        real = Path(folder).resolve()
        if real in seen:
            inside.clear()
            continue
        seen.add(real)
        inside.sort()
        for name in sorted(names):
            path = Path(folder, name)
            yield text_id(path.relative_to(root)), path


def text_id(path: Path) -> str:
    """A relative path as text that can be written anywhere."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def split_files(
    root: Path, suffixes: Collection[str]
) -> tuple[list[tuple[str, Path]], list[tuple[str, str]]]:
    """Divides the files below a folder into those with such a suffix and the others, with why."""
    taken, ignored = [], []
    for name, path in files_under(root):
        *folders, _ = name.split("/")
        if path.name.startswith("."):
            ignored.append((name, "hidden file"))
        elif any(folder.startswith(".") for folder in folders):
            ignored.append((name, "in a hidden folder"))
        elif path.suffix.lower() not in suffixes:
            ignored.append((name, f"suffix {path.suffix.lower() or '(none)'} is not taken"))
        elif (
            path.exists() and not path.is_file()
        ):  # a link that leads nowhere is an item that fails
            ignored.append((name, "not a regular file"))
        else:
            taken.append((name, path))
    return taken, ignored


def folder_split(item_id: str) -> str | None:
    """The split that an item's first folder names, if it does."""
    first, slash, _ = item_id.partition("/")
    return first if slash and first in SPLITS else None


def natural_key(name: str) -> list:
    """Sorts numbers in names by their value: frame2 before frame10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), part) if i % 2 else (0, part) for i, part in enumerate(parts)]


def stable_hash(item_id: str) -> int:
    """A number that depends on the id alone, on every machine."""
    return int(hashlib.sha256(item_id.encode()).hexdigest()[:15], 16)


def content_hash(paths: Iterable[Path]) -> str:
    """SHA-256 of the files' bytes; of several, of all names and digests in order.

    Raises:
        OSError: if one cannot be read.
    """
    digests = [(path.name, sha256_of(path)) for path in paths]
    if len(digests) == 1:
        return digests[0][1]
    lines = "".join(f"{digest}  {text_id(Path(name))}\n" for name, digest in digests)
    return hashlib.sha256(lines.encode()).hexdigest()


def file_state(paths: Iterable[Path]) -> str:
    """Changes when the files do: their sizes and times of change.

    Raises:
        OSError: if one is missing.
        ValueError: if one is no regular file.
    """
    stats = []
    for path in paths:
        stats.append(path.stat())
        if not stat.S_ISREG(stats[-1].st_mode):  # a pipe would be waited for
            raise ValueError(f"{path} is no regular file: leave it out")
    if len(stats) == 1:
        return f"{stats[0].st_size} {stats[0].st_mtime_ns}"
    text = " ".join(f"{of.st_size} {of.st_mtime_ns}" for of in stats)
    return hashlib.sha256(text.encode()).hexdigest()


def total_size(paths: Iterable[Path]) -> int:
    """Bytes of the files together."""
    return sum(path.stat().st_size for path in paths)


def describe(source: Any, *, frames_only: bool = False) -> dict[str, Any]:
    """A source's name and settings, for records; the folder that it lies in is none of them.

    Args:
        source: The source.
        frames_only: Whether to leave out settings that only affect splits; their fields have
            `metadata={"frames": False}`.
    """
    settings = {
        field.name: getattr(source, field.name)
        for field in dataclasses.fields(source)
        if field.name != "root" and (field.metadata.get("frames", True) or not frames_only)
    }
    settings = {k: v.name if isinstance(v, Path) else v for k, v in settings.items()}
    return {"name": type(source).__module__.rpartition(".")[2], **settings}

"""Files that are written whole or not at all, digests of files, and differences of settings.

A file or folder is written under a hidden temporary name beside its place and then renamed, so a
reader never sees half of it and a failure leaves what was there before. The temporary name holds
the host, the process and a random part: `.NAME.HOST-PID-RANDOM.part`. A killed process leaves such
names behind; the next write to the same place removes those whose process is gone.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_SUFFIX = ".part"
_NAME = re.compile(r"\.(?P<host>[^./]*)-(?P<pid>\d+)-(?P<token>[0-9a-f]{8})\.part$")
_OLD = 24 * 3600  # seconds after which another machine's temporary names are left-overs
_ACTIVE: set[str] = set()  # random parts of this process's temporary names


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8; characters that it cannot hold are escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file."""
    with atomic_file(path) as part:
        part.write_bytes(data)


def write_with(path: str | Path, write: Callable[[Path], object]) -> None:
    """Writes a file by a function that takes the path to write to.

    Args:
        path: Path of the file.
        write: Function of the temporary path, such as `functools.partial(save_file, arrays)`.
    """
    with atomic_file(path) as part:
        write(part)


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path to write to within a `with` block; the file then takes its place.

    The file gets the permissions that new files usually get (the umask decides), whatever mode its
    writer chose. Missing parent folders are created. If the block raises, nothing changes.

    Args:
        path: Path of the file.

    Yields:
        The temporary path, of an empty file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    with _temporary_name(path) as part:
        try:
            part.touch()
            mode = part.stat().st_mode
            yield part
            part.chmod(mode)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path, *, inner: str = ".") -> Iterator[Path]:
    """Gives a temporary folder to fill within a `with` block; it then takes its place.

    A folder that is there is replaced once the new one is complete, and deleted last. If the block
    raises, nothing changes.

    Args:
        path: Path of the folder.
        inner: Path, within the temporary folder, of the folder that takes the place, for libraries
            that write to subfolders of their own.

    Yields:
        The temporary folder, which is empty.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    with _temporary_name(path) as part, _temporary_name(path) as replaced:
        try:
            part.mkdir()
            yield part
            if path.exists():
                path.rename(replaced)
            (part / inner).rename(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            shutil.rmtree(replaced, ignore_errors=True)


def remove_leftovers(path: str | Path) -> None:
    """Removes the temporary files and folders that killed processes left beside a place.

    Those of this machine go once their process has ended, those of other machines after a day.

    Args:
        path: Path of the file or folder whose temporary names are looked for.
    """
    path = Path(path)
    for found in path.parent.glob(f".{_escaped(path.name)}.*{_SUFFIX}"):
        match = _NAME.fullmatch(found.name[len(path.name) + 1 :])
        if match is None or not _is_abandoned(found, match):
            continue
        with contextlib.suppress(OSError):  # another process may remove it at the same time
            shutil.rmtree(found) if found.is_dir() else found.unlink()


def temporary_path(path: Path) -> Path:
    """A temporary name beside a path that no other process uses.

    `remove_leftovers` finds it once this process has ended. `atomic_file` is the usual way.
    """
    token = secrets.token_hex(4)
    _ACTIVE.add(token)
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{token}{_SUFFIX}")


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file as hexadecimal text; PermissionError with advice if it may not be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError as error:
        raise PermissionError(f"{path} may not be read: `chmod +r` it") from error


def sha256_of_files(paths: Iterable[str | Path]) -> str:
    """SHA-256 of the digests of several files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()


def sha256_of_arrays(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """Returns the SHA-256 of arrays with their names, types and shapes, in the given order."""
    whole = hashlib.sha256()
    for name, array in arrays:
        array = np.ascontiguousarray(array)
        whole.update(f"{name} {array.dtype} {array.shape}".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()


def sha256_of_tokens(tokens: np.ndarray) -> str:
    """Returns the SHA-256 of tokens as little-endian 32-bit integers in C order."""
    return hashlib.sha256(np.asarray(tokens).astype("<i4").tobytes()).hexdigest()


def sha256_of_json(value: Any) -> str:
    """Returns the SHA-256 of a JSON value, whose keys may be in any order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def differences(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    text: str = "{} was {} and is {}",
) -> list[str]:
    """Compares nested settings.

    Args:
        before: Settings as they were, dicts within dicts.
        after: Settings as they are.
        text: Format of a line: the dotted name, the value before and the value after.

    Returns:
        A line for each setting that differs, in the order of their names.

    Example:
        >>> differences({"model": {"depth": 2}}, {"model": {"depth": 3}, "seed": 0})
        ['model.depth was 2 and is 3', 'seed was absent and is 0']
    """
    old, new = flat_settings(before), flat_settings(after)

    def shown(settings: dict[str, Any], name: str) -> str:
        return repr(settings[name]) if name in settings else "absent"

    return [
        text.format(name, shown(old, name), shown(new, name))
        for name in sorted(old.keys() | new.keys())
        if name not in old or name not in new or old[name] != new[name]
    ]


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dict with dotted names."""
    flat = {}
    for name, value in settings.items():
        inside = isinstance(value, Mapping) and value
        flat |= flat_settings(value, f"{prefix}{name}.") if inside else {f"{prefix}{name}": value}
    return flat


@contextlib.contextmanager
def _temporary_name(path: Path) -> Iterator[Path]:
    part = temporary_path(path)
    try:
        yield part
    finally:
        _ACTIVE.discard(_NAME.search(part.name)["token"])


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())


def _is_abandoned(path: Path, match: re.Match) -> bool:
    """Whether the process that made a temporary name has ended."""
    if match["token"] in _ACTIVE:
        return False
    if match["host"] != _host():
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime > _OLD
        return False
    pid = int(match["pid"])
    if pid == os.getpid():  # of an earlier process with this number: it is not in _ACTIVE
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _escaped(name: str) -> str:
    """A name as a pattern that matches itself alone."""
    return re.sub(r"([*?\[])", r"[\1]", name)

"""The work directory: the finished items of a preparation, two files each, beside its output.

`XX/NAME.tokens` holds an item's tokens and `XX/NAME.json` its record; NAME is the hash of its id.
Each is written under a temporary name and then renamed, the record last: an item is done if and
only if it has a record. So a preparation can be killed at any moment, several processes can share
the directory, and the disk can become full.

`settings.json` states how the tokens were made; a preparation with other settings is refused.
"""

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from maskflow_jax.data.sources.items import Item, content_hash, file_state, total_size
from maskflow_jax.io import files

WRITTEN, FAILED = "written", "failed"

_TOKENS = np.dtype("<u2")


class PreparationError(RuntimeError):
    """The work cannot go on. Finished items stay valid, and the message says what to do."""


class WorkDirectory:
    """The tokens and records of items, by id.

    Attributes:
        path: The directory.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        """Opens or makes the directory.

        Args:
            path: Path of the directory.
            settings: Settings that the tokens depend on, anything JSON can hold.

        Raises:
            ValueError: if it was made with other settings.
            PreparationError: if it cannot be written, or is damaged.
        """
        self.path = Path(path)
        settings = json.loads(json.dumps(settings))
        file = self.path / "settings.json"
        if file.is_file():
            try:
                stored = json.loads(file.read_bytes())
            except ValueError as error:
                raise PreparationError(
                    f"{file} is damaged ({error}): delete {self.path} and start anew"
                ) from error
            _check_settings(self.path, stored, settings)
        else:
            with self._full_disk_explained():
                self.path.mkdir(parents=True, exist_ok=True)
                files.write_text(file, json.dumps(settings, indent=2, sort_keys=True))

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Holds a lock that ends with the process.

        Raises:
            PreparationError: if another process holds it, or files cannot be locked here.
        """
        with self._full_disk_explained():
            file = (self.path / f"{name}.lock").open("w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PreparationError(
                    f"another process works in {self.path} ({name}): wait for it, or give each a "
                    "shard of its own"
                ) from error
            except OSError as error:
                raise PreparationError(
                    f"{file.name} cannot be locked ({error}): choose an output on a file system "
                    "that supports flock, such as a local disk, and copy the dataset afterwards"
                ) from error
            yield

    def record(self, item: Item) -> dict[str, Any] | None:
        """The record of an item that is done, or None.

        Raises:
            PreparationError: if the record is damaged.
        """
        file = self._file(item.id, ".json")
        try:
            return json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise PreparationError(f"{file} is damaged: delete it and run again") from error

    def is_done(self, item: Item) -> bool:
        """Whether an item needs no work: it has a record, and its files have not changed since.

        Items that failed are tried again; their files may have been repaired.
        """
        record = self.record(item)
        if record is None or record["status"] == FAILED:
            return False
        if record["status"] == WRITTEN and not self._is_whole(record):
            return False
        return self.is_unchanged(item, record)

    def is_unchanged(self, item: Item, record: dict[str, Any]) -> bool:
        """Whether an item's files exist and are the ones that its record was made from."""
        if not item.paths:
            return True
        try:
            return file_state(item.paths) == record["state"] or (
                total_size(item.paths) == record["bytes"]
                and content_hash(item.paths) == record["sha256"]
            )
        except OSError:
            return False

    def writer(self, item: Item) -> "TokenWriter":
        """A writer of an item's tokens and record."""
        tokens, record = self._file(item.id, ".tokens"), self._file(item.id, ".json")
        return TokenWriter(tokens, record, self._full_disk_explained)

    def tokens(self, record: dict[str, Any]) -> np.ndarray:
        """An item's tokens uint16 [F, h, w], mapped from the disk and checked.

        Raises:
            PreparationError: if they are not what was written.
        """
        file = self._file(record["id"], ".tokens")
        if not self._is_whole(record):
            raise PreparationError(
                f"{file} (of {record['id']}) is missing or cut off: copy it again, or delete "
                f"{file.with_suffix('.json')} and run again"
            )
        tokens = np.memmap(file, _TOKENS, "r", shape=tuple(record["shape"]))
        if hashlib.sha256(tokens).hexdigest() != record["tokens_sha256"]:
            raise PreparationError(
                f"{file} (of {record['id']}) is damaged: delete it, and run again"
            )
        return tokens

    def _is_whole(self, record: dict[str, Any]) -> bool:
        file, frames = self._file(record["id"], ".tokens"), record["shape"]
        return file.is_file() and file.stat().st_size == _TOKENS.itemsize * int(np.prod(frames))

    def _file(self, item_id: str, suffix: str) -> Path:
        name = hashlib.sha256(item_id.encode()).hexdigest()[:32]
        return self.path / name[:2] / (name + suffix)

    @contextlib.contextmanager
    def _full_disk_explained(self) -> Iterator[None]:
        """Turns a failed write into an error that says what to do."""
        try:
            yield
        except OSError as error:
            raise PreparationError(
                f"{self.path} cannot be written ({error}): make room or permit it, then start the "
                "same command again; finished items are kept"
            ) from error


class TokenWriter:
    """Writes one item's tokens as they come, then its record."""

    def __init__(self, tokens: Path, record: Path, explained: Any):
        self._tokens, self._record, self._explained = tokens, record, explained
        self._part = files.temporary_path(tokens)
        self._file, self._digest, self._frames, self._grid = None, hashlib.sha256(), 0, ()

    def write(self, tokens: np.ndarray) -> None:
        """Appends tokens, integers [F, h, w]; PreparationError if they cannot be written."""
        with self._explained():
            if self._file is None:
                self._part.parent.mkdir(parents=True, exist_ok=True)
                files.remove_leftovers(self._tokens)
                self._file = self._part.open("wb")
            data = tokens.astype(_TOKENS).tobytes()
            self._file.write(data)
        self._digest.update(data)
        self._frames, self._grid = self._frames + len(tokens), tokens.shape[1:]

    def finish(self, record: dict[str, Any]) -> None:
        """Gives the record, and the tokens if its status is "written", their names."""
        with self._explained():
            if record["status"] == WRITTEN:
                self._file.close()
                self._part.replace(self._tokens)
                record = record | {
                    "shape": [self._frames, *self._grid],
                    "tokens_sha256": self._digest.hexdigest(),
                }
            else:
                self.discard()
                self._tokens.unlink(missing_ok=True)  # of an earlier state of the file
                self._record.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(self._record, json.dumps(record, sort_keys=True))

    def discard(self) -> None:
        """Removes the tokens of an item that was not finished."""
        if self._file is not None:
            # On a full disk the buffer cannot be flushed, which does not matter here.
            with contextlib.suppress(OSError):
                self._file.close()
            self._part.unlink(missing_ok=True)


def _check_settings(path: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises ValueError that names all differences."""
    if changes := files.differences(stored, wanted):
        raise ValueError(
            f"{path} was made with other settings: {'; '.join(changes)}. Go on with those, "
            "delete it, or choose another output"
        )

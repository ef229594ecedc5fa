"""A folder of samples that several processes fill, and that a killed job finishes later.

The samples are divided into blocks of consecutive numbers, and the blocks among the processes. A
sample is complete when its `.npz` is there, which is written last and under its name at once. What
the samples were made with stands in `settings.json`; a folder of other settings is refused.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh

from launch import outputs
from maskflow_jax.parallel import sharding

SETTINGS = "settings.json"


def local_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh of this process's own devices, all or the first few: each process samples alone."""
    devices = np.array(jax.local_devices()[:num_devices]).reshape(-1, 1, 1)
    return Mesh(devices, sharding.AXES, axis_types=(AxisType.Auto,) * len(sharding.AXES))


def digest(tree: Any) -> str:
    """SHA-256 of arrays, their names and shapes."""
    whole = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        whole.update(f"{sharding.path_name(path)} {array.dtype} {array.shape}".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()


class SampleFolder:
    """Samples `sample_00000` and so on, made with one set of settings.

    Args:
        out: the folder; made if missing.
        settings: all that decides what the samples are, JSON values; `contexts` among them is a
            list with what each one goes on from.
        num_samples: how many there will be; more than at first is more of the same.

    Raises:
        FileExistsError: if the folder holds samples of other settings, naming the differences.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], num_samples: int):
        self._out, self._count = out, num_samples
        settings = json.loads(json.dumps({**settings, "num_videos": num_samples}))
        # All look before the first writes: the same error then ends all of them.
        _check_settings(out, settings)
        _wait_for_all("sample folder checked")
        if jax.process_index() == 0:
            out.mkdir(parents=True, exist_ok=True)
            part = out / f"{SETTINGS}.part"
            part.write_text(json.dumps(settings, indent=2) + "\n")
            part.replace(out / SETTINGS)
        _wait_for_all("sample folder claimed")

    def stem(self, number: int) -> Path:
        """The path of a sample's files, without suffix."""
        return self._out / f"sample_{number:05d}"

    def complete(
        self,
        contexts: np.ndarray,
        batch_size: int,
        sample: Callable[[np.ndarray, int], np.ndarray],
        write: Callable[[Path, np.ndarray], None],
    ) -> int:
        """Makes what is missing of this process's share, and waits until all have done so.

        Args:
            contexts: real tokens [num_samples, F, h, w].
            batch_size: at most so many are sampled at a time.
            sample: contexts of consecutive samples and the first one's number, to videos.
            write: writes a video under a path without suffix, complete or not at all.

        Returns:
            How many samples this process wrote.

        Raises:
            RuntimeError: if a sample is not there then, where processes write to different disks.
        """
        written = 0
        share, size = blocks(self._count, batch_size)
        for block in share:
            missing = [number for number in block if not outputs.is_complete(self.stem(number))]
            if missing:
                videos = sample(_fill(contexts, block, size), block.start)
                for number in missing:
                    write(self.stem(number), videos[number - block.start])
                written += len(missing)
        _wait_for_all("samples written")
        absent = [n for n in range(self._count) if not outputs.is_complete(self.stem(n))]
        if absent:
            raise RuntimeError(
                f"{len(absent)} samples are not in {self._out}, first {absent[0]}; put --out on a "
                "disk that all processes share, and start the same command again"
            )
        return written


def blocks(num_samples: int, batch_size: int) -> tuple[list[range], int]:
    """This process's share of the samples, as blocks that are sampled together.

    Every sample is in one block of one process. All blocks are to be filled up to one size, so
    that a sample is computed by the same program wherever it falls.

    Args:
        num_samples: samples in all.
        batch_size: at most so many are sampled at a time.

    Returns:
        The blocks and their size.
    """
    processes = jax.process_count()
    rounds = -(-num_samples // (processes * batch_size))
    size = -(-num_samples // (processes * rounds))
    starts = range(0, num_samples, size)[jax.process_index() :: processes]
    return [range(start, min(start + size, num_samples)) for start in starts], size


def _fill(contexts: np.ndarray, block: range, size: int) -> np.ndarray:
    """The contexts of a block, the last one repeated up to the block's full size."""
    return contexts[np.minimum(np.arange(block.start, block.start + size), block.stop - 1)]


def _check_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Raises FileExistsError unless a folder is free or holds samples of the same settings."""
    if not any(out.glob("sample_*.npz")):
        return
    path = out / SETTINGS
    if not path.is_file():
        raise FileExistsError(
            f"{out} holds samples already, and no {SETTINGS} that says how they were made; choose "
            "another --out"
        )
    there, here = json.loads(path.read_text()), dict(settings)
    fewer = there["num_videos"] > here["num_videos"]
    if not fewer:  # more of the same: what came with the first ones must be theirs
        here["contexts"] = here["contexts"][: there["num_videos"]]
        here["num_videos"] = there["num_videos"]
    old, new = dict(_named(there)), dict(_named(here))
    differences = [
        f"{name}: {old.get(name)!r} there, {new.get(name)!r} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise FileExistsError(
            f"{out} holds samples of other settings; choose another --out, or restore\n  "
            + "\n  ".join(differences)
        )


def _named(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields settings under dotted names, and those of every video under its number."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _named(value, f"{path}{name}.")
        elif name == "contexts":
            yield from ((f"context of video {number}", text) for number, text in enumerate(value))
        else:
            yield f"{path}{name}", value


def _wait_for_all(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

"""A folder of samples that several processes fill, and that a killed job finishes later.

The samples are divided into blocks of consecutive numbers, and the blocks among the processes. The
tokens of a block are kept window by window while it is sampled, so that a killed job loses at most
one window. A sample is complete when its `.npz` of tokens is there; the pixels are made from it.
What the samples were made with is in `settings.json`; a folder of other settings is refused.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh
from tqdm import tqdm

from maskflow_jax.config_files import to_dict
from maskflow_jax.generation.videos import Videos
from maskflow_jax.generator import VideoGenerator
from maskflow_jax.io.files import write_text, write_with
from maskflow_jax.io.settings import flatten
from maskflow_jax.parallel import sharding

SETTINGS = "settings.json"


def local_mesh(num_devices: int | None = None) -> Mesh:
    """Returns a mesh of this process's own devices, all or the first few."""
    devices = np.array(jax.local_devices()[:num_devices]).reshape(-1, 1, 1)
    return Mesh(devices, sharding.AXES, axis_types=(AxisType.Auto,) * len(sharding.AXES))


def digest(tree: Any) -> str:
    """Returns the SHA-256 of arrays, their names and shapes."""
    whole = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        whole.update(f"{sharding.path_name(path)} {array.dtype} {array.shape}".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()


class SampleFolder:
    """Samples `sample_00000` and so on, made by one generator with one set of settings.

    Args:
        generator: The generator; each process samples alone, on its own devices.
        out: The folder, made if missing.
        contexts: Real tokens that the task takes, [N, F, h, w]; N is the number of samples.
        seed: Seed of all samples.
        length: Number of frames of a video.
        task: The task.
        options: Options of `VideoGenerator.generate`.

    Raises:
        FileExistsError: if the folder holds samples of other settings, naming the differences.
        ValueError: if there is no such video.
    """

    def __init__(
        self,
        generator: VideoGenerator,
        out: str | Path,
        contexts: np.ndarray,
        *,
        seed: int,
        length: int,
        task: str = "prediction",
        options: Mapping[str, Any] | None = None,
    ):
        self._generator, self._out = generator, Path(out)
        self._contexts, self._seed = np.asarray(contexts), seed
        self._request = {"length": length, "task": task, **(options or {})}
        self._plan = generator.plan(**self._request)
        settings = json.loads(json.dumps(self._settings()))
        # All look before the first writes: the same error then ends all of them.
        _check_settings(self._out, settings)
        _wait_for_all("sample folder checked")
        if jax.process_index() == 0:
            self._out.mkdir(parents=True, exist_ok=True)
            write_text(self._out / SETTINGS, json.dumps(settings, indent=2) + "\n")
        _wait_for_all("sample folder claimed")

    def complete(self, batch_size: int, *, gif: bool | None = None, pixels: bool = True) -> int:
        """Makes what is missing of this process's share, and waits until all have done so.

        Args:
            batch_size: Largest number of videos that are sampled at a time.
            gif: Whether GIFs are written; None writes them for short videos.
            pixels: Whether anything but tokens is written.

        Returns:
            Number of samples that this process wrote.

        Raises:
            RuntimeError: if a sample is not there then, where processes write to different disks.
        """
        written, count = 0, len(self._contexts)
        share, size = blocks(count, batch_size)
        for block in tqdm(share, "batches", disable=not share):
            missing = [n for n in block if not (self._out / f"sample_{n:05d}.npz").is_file()]
            if not missing:
                continue
            videos = self._sample(block, size)
            for number in missing:
                videos[number - block.start].save(self._out, first=number, gif=gif, pixels=pixels)
            written += len(missing)
            self._unfinished(block).unlink(missing_ok=True)
        _wait_for_all("samples written")
        names = [self._out / f"sample_{number:05d}.npz" for number in range(count)]
        if absent := [path.name for path in names if not path.is_file()]:
            raise RuntimeError(
                f"{len(absent)} samples are not in {self._out}, first {absent[0]}; put the folder "
                "on a disk that all processes share, and start the same job again"
            )
        return written

    def _sample(self, block: range, size: int) -> Videos:
        """Samples a block, going on from the windows that a killed job has left."""
        generator, plan = self._generator, self._plan
        real = _fill(self._contexts, block, size)
        path, windows = self._unfinished(block), []
        if path.is_file():
            with np.load(path) as arrays:
                windows = [arrays[name] for name in sorted(arrays)]
        chunks = generator.sample_windows(
            plan, real, seed=self._seed, first_sample=block.start, finished=windows
        )
        tokens, total = [], len(plan.plan.windows)
        for chunk in tqdm(chunks, f"videos from {block.start}", total=total):
            tokens.append(chunk)
            if len(windows) == len(tokens) < total:
                _save_windows(path, windows)
        return generator.finish(plan, real, tokens, first_sample=block.start)

    def _unfinished(self, block: range) -> Path:
        return self._out / f"unfinished_{block.start:05d}.npz"

    def _digest(self, number: int) -> str:
        """What is given of a video: its context, and the captions of its scenes."""
        context, texts = self._contexts[number], self._plan.texts
        if texts is None:
            return digest(context)
        texts = texts.of_video(number)
        said = np.frombuffer(json.dumps(texts.captions).encode(), np.uint8)
        return digest({"context": context, "captions": said, "scene_id": texts.scene_id})

    def _settings(self) -> dict[str, Any]:
        """All that decides what the samples are; not how they are divided."""
        options = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self._request.items()
            if name in ("length", "task", "box", "frames_per_scene")
        }
        if "known" in self._request:
            options["known"] = digest(np.asarray(self._request["known"], bool))
        return {
            **options,
            "sampling": {
                name: value
                for name, value in to_dict(self._plan.sampling).items()
                if name != "frame_block"
            },
            "seed": self._seed,
            "contexts": [self._digest(number) for number in range(len(self._contexts))],
            "weights": digest(self._generator.model.params),
            "step": self._generator.model.step,
            "tokenizer": self._generator.tokenizer.identity["sha256"],
            "num_videos": len(self._contexts),
        }


def _save_windows(path: Path, windows: list[np.ndarray]) -> None:
    """Keeps the windows of an unfinished block."""

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, **{f"{i:06d}": window for i, window in enumerate(windows)})

    write_with(path, write)


def blocks(num_samples: int, batch_size: int) -> tuple[list[range], int]:
    """Returns this process's share of the samples, as blocks that are sampled together.

    Every sample is in one block of one process. All blocks are to be filled up to one size, so
    that a sample is computed by the same program wherever it falls.

    Args:
        num_samples: Number of samples in all.
        batch_size: Largest number of samples of a block.

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
    if not any(out.glob("sample_*.npz")) and not any(out.glob("unfinished_*.npz")):
        return
    path = out / SETTINGS
    if not path.is_file():
        raise FileExistsError(
            f"{out} holds samples already, and no {SETTINGS} that says how they were made; choose "
            "another folder"
        )
    there, here = json.loads(path.read_text()), dict(settings)
    if there["num_videos"] <= here["num_videos"]:  # more of the same: the first ones must agree
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
            f"{out} holds samples of other settings; choose another folder, or restore\n  "
            + "\n  ".join(differences)
        )


def _named(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields settings under dotted names, and the contexts under their numbers."""
    for name, value in flatten(settings):
        if name == "contexts":
            yield from ((f"context of video {number}", text) for number, text in enumerate(value))
        else:
            yield name, value


def _wait_for_all(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

"""A folder of samples that several processes fill, and that a killed job finishes later.

The samples are divided into blocks of consecutive numbers, and the blocks among the processes. The
tokens of a block are kept window by window while it is sampled, so that a killed job loses at most
one window. A sample is complete when its `.npz` of tokens is there; the pixels are made from it.
What the samples were made with is in `settings.json`; a folder of other settings is refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh
from tqdm import tqdm

from maskflow_jax.config_files import to_dict
from maskflow_jax.generation.request import Generation
from maskflow_jax.generation.videos import Videos
from maskflow_jax.generator import VideoGenerator
from maskflow_jax.io.files import differences, sha256_of_arrays, write_text, write_with
from maskflow_jax.parallel import sharding
from maskflow_jax.training.model_files import TrainedModel

SETTINGS = "settings.json"


def local_mesh(num_devices: int | None = None) -> Mesh:
    """Returns a mesh of this process's own devices, all or the first few."""
    devices = np.array(jax.local_devices()[:num_devices]).reshape(-1, 1, 1)
    return Mesh(devices, sharding.AXES, axis_types=(AxisType.Auto,) * len(sharding.AXES))


def digest(tree: Any) -> str:
    """Returns the SHA-256 of arrays, their names and shapes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return sha256_of_arrays((sharding.path_name(path), leaf) for path, leaf in leaves)


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
        settings = self._settings()
        # All look before the first writes: the same error then ends all of them.
        check_settings(self._out, settings)
        wait_for_all("sample folder checked")
        if jax.process_index() == 0:
            self._out.mkdir(parents=True, exist_ok=True)
            write_text(self._out / SETTINGS, json.dumps(settings, indent=2) + "\n")
        wait_for_all("sample folder claimed")

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
        wait_for_all("samples written")
        names = [self._out / f"sample_{number:05d}.npz" for number in range(count)]
        if absent := [path.name for path in names if not path.is_file()]:
            raise RuntimeError(
                f"{len(absent)} samples are not in {self._out}, first {absent[0]}; put the folder "
                "on a disk that all processes share, and start the same job again"
            )
        return written

    def _sample(self, block: range, size: int) -> Videos:
        """Samples a block, going on from the windows that a killed job has left."""
        return sample_resumably(
            self._generator,
            self._plan,
            _fill(self._contexts, block, size),
            self._unfinished(block),
            seed=self._seed,
            first_sample=block.start,
            title=f"videos from {block.start}",
        )

    def _unfinished(self, block: range) -> Path:
        return self._out / f"unfinished_{block.start:05d}.npz"

    def _settings(self) -> dict[str, Any]:
        """All that decides what the samples are; not how they are divided."""
        return describe_samples(
            self._plan, self._request, self._contexts, self._seed, describe_model(self._generator)
        )


def default_folder(model: TrainedModel) -> Path:
    """Returns the folder for samples: in that of the model, or `samples/NAME` if it is shipped."""
    return Path("samples", model.name) if model.shipped else model.directory / "samples"


def describe_model(generator: VideoGenerator) -> dict[str, Any]:
    """What decides samples of a model beside their settings: its weights and its tokenizer."""
    return {
        "weights": digest(generator.model.params),
        "step": generator.model.step,
        "tokenizer": generator.tokenizer.identity["sha256"],
    }


def describe_samples(
    plan: Generation,
    request: Mapping[str, Any],
    contexts: np.ndarray,
    seed: int,
    model: Mapping[str, Any],
) -> dict[str, Any]:
    """All that decides what the samples of a folder are, as `settings.json` holds it.

    Args:
        plan: The plan of the samples.
        request: Length, task and options that it was made from.
        contexts: Real tokens, [N, F, h, w]; N is the number of samples.
        seed: Seed of all samples.
        model: What `describe_model` returned.
    """
    options = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in request.items()
        if name in ("length", "task", "box", "frames_per_scene")
    }
    if "known" in request:
        options["known"] = digest(np.asarray(request["known"], bool))
    sampling = to_dict(plan.sampling)
    settings = {
        **options,
        "sampling": {name: value for name, value in sampling.items() if name != "frame_block"},
        "seed": seed,
        "contexts": [_digest_given(plan, contexts[i], i) for i in range(len(contexts))],
        **model,
        "num_videos": len(contexts),
    }
    return json.loads(json.dumps(settings))


def _digest_given(plan: Generation, context: np.ndarray, number: int) -> str:
    """What is given of a video: its context, and the captions of its scenes."""
    if plan.texts is None:
        return digest(context)
    texts = plan.texts.of_video(number)
    said = np.frombuffer(json.dumps(texts.captions).encode(), np.uint8)
    return digest({"context": context, "captions": said, "scene_id": texts.scene_id})


def sample_resumably(
    generator: VideoGenerator,
    plan: Generation,
    real: np.ndarray,
    path: Path,
    *,
    seed: int | np.ndarray,
    first_sample: int | np.ndarray = 0,
    title: str = "",
) -> Videos:
    """Samples a batch, keeping its windows in a file, and going on from those that are there.

    Args:
        generator: The generator.
        plan: The plan.
        real: Real tokens that the task takes, int32 [B, F, h, w].
        path: File of the finished windows; the caller removes it when the samples are stored.
        seed: Seed of all samples, or of each, [B].
        first_sample: Number of the first sample, or of each, [B].
        title: Text of the progress bar.

    Returns:
        The videos.
    """
    windows = []
    if path.is_file():
        with np.load(path) as arrays:
            windows = [arrays[name] for name in sorted(arrays)]
    numbers = {"first_sample": first_sample}
    chunks = generator.sample_windows(plan, real, seed=seed, finished=windows, **numbers)
    tokens, total = [], len(plan.plan.windows)
    for chunk in tqdm(chunks, title, total=total):
        tokens.append(chunk)
        if len(windows) == len(tokens) < total:
            _save_windows(path, windows)
    return generator.finish(plan, real, tokens, **numbers)


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


def check_settings(out: Path, settings: Mapping[str, Any]) -> None:
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
    if changed := differences(_named(there), _named(here), "{}: {} there, {} now"):
        raise FileExistsError(
            f"{out} holds samples of other settings; choose another folder, or restore\n  "
            + "\n  ".join(changed)
        )


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with a name for the context of every video."""
    named = {name: value for name, value in settings.items() if name != "contexts"}
    contexts = enumerate(settings["contexts"])
    return named | {f"context of video {number}": text for number, text in contexts}


def wait_for_all(name: str) -> None:
    """Waits until all processes have come to a place of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

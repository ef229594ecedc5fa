"""Features of video clips, streamed through a network in batches over all local devices.

A network that judges video maps a clip of a fixed number of frames to a vector. Clips arrive from
an iterator, a batch at a time, so that memory does not grow with their number; what is kept is the
vectors. Where a file is named, they are saved in it as they come, and an interrupted extraction
goes on from there.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from maskflow_jax.io.files import write_with

SAVE_EVERY = 16  # batches


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FeatureNetwork:
    """A network that judges clips.

    Attributes:
        name: Name for receipts.
        sha256: Digest of the file of its weights.
        clip_frames: Number of frames T of a clip.
        frame_size: Side of the square frames that it takes; None for any size.
        dimensions: Number of features D.
        params: Its parameters.
        apply: (params, clips uint8 [B, T, H, W, 3]) -> features float32 [B, D].
    """

    name: str
    sha256: str
    clip_frames: int
    frame_size: int | None
    dimensions: int
    params: Any
    apply: Callable[[Any, jax.Array], jax.Array]


class FeatureExtractor:
    """A network compiled for batches that are split over this process's devices.

    Args:
        network: The network.
        batch_size: Clips of a batch, rounded up to a multiple of the devices.
    """

    def __init__(self, network: FeatureNetwork, batch_size: int = 8):
        devices = jax.local_devices()
        mesh = jax.sharding.Mesh(np.array(devices), ("clips",))
        whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("clips",)))
        self.network = network
        self.batch_size = -(-batch_size // len(devices)) * len(devices)
        self._split, self._params = split, jax.device_put(network.params, whole)
        self._apply = jax.jit(network.apply, in_shardings=(whole, split), out_shardings=split)

    def extract(
        self,
        clips: Callable[[int], Iterable[np.ndarray]],
        count: int,
        *,
        keep: str | Path | None = None,
        key: str = "",
        label: str = "features",
    ) -> np.ndarray:
        """Extracts the features of clips.

        Args:
            clips: Function of a number i that iterates over the clips from number i on, uint8
                [T, H, W, 3] each.
            count: Number of clips.
            keep: File in which the features are kept as they come. If it holds features under the
                same key already, those clips are not looked at again.
            key: Text of all that decides what the clips are.
            label: Text of the progress bar.

        Returns:
            Features float32 [count, D].

        Raises:
            ValueError: If a clip has another number of frames or another size than the network
                takes, or its features are not finite, or there are fewer clips than `count`.
        """
        done = _kept(keep, key, self.network.dimensions)[:count]
        parts, missing = [done], iter(() if len(done) == count else clips(len(done)))
        bar = tqdm(total=count, initial=len(done), desc=label, unit="clip", disable=count == 0)
        while len(done) < count:
            batch = list(itertools.islice(missing, min(self.batch_size, count - len(done))))
            if not batch:
                raise ValueError(f"{label}: {len(done)} clips came, {count} are needed")
            parts.append(self._batch(batch, len(done), label))
            done = np.concatenate(parts) if len(parts) > 1 else done
            parts = [done]
            bar.update(len(batch))
            batches = len(done) // self.batch_size
            if keep is not None and (batches % SAVE_EVERY == 0 or len(done) == count):
                _save(Path(keep), key, done)
        bar.close()
        return done

    def _batch(self, batch: list[np.ndarray], first: int, label: str) -> np.ndarray:
        """Features of up to a batch of clips, the last one repeated up to the full size."""
        for number, clip in enumerate(batch, start=first):
            _check_clip(clip, self.network, f"{label}: clip {number}")
        stacked = np.stack([*batch, *[batch[-1]] * (self.batch_size - len(batch))])
        found = np.asarray(self._apply(self._params, jax.device_put(stacked, self._split)))
        found = found[: len(batch)]
        if not np.isfinite(found).all():
            bad = first + int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
            raise ValueError(
                f"{label}: the features of clip {bad} are not finite; the weights of "
                f"{self.network.name} are damaged or of another network"
            )
        return found


def _check_clip(clip: np.ndarray, network: FeatureNetwork, name: str) -> None:
    """Raises ValueError unless a network takes a clip."""
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3:
        raise ValueError(
            f"{name} is {clip.dtype} {clip.shape}; give frames uint8 [T, H, W, 3], 0 to 255"
        )
    if len(clip) != network.clip_frames:
        raise ValueError(
            f"{name} has {len(clip)} frames, {network.name} takes {network.clip_frames}; frames "
            "are never repeated or resampled: give longer videos"
        )
    size = network.frame_size
    if size is not None and clip.shape[1:3] != (size, size):
        raise ValueError(
            f"{name} has frames of {clip.shape[1]}x{clip.shape[2]}, {network.name} takes "
            f"{size}x{size}; frames are not resized"
        )


def digest_of(features: np.ndarray) -> str:
    """SHA-256 of features, their type and shape."""
    head = f"{features.dtype} {features.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(features).tobytes()).hexdigest()


def _kept(keep: str | Path | None, key: str, dimensions: int) -> np.ndarray:
    """The features that a file holds under a key; none if it is missing or of another key."""
    if keep is not None and Path(keep).is_file():
        with np.load(keep) as arrays:
            if str(arrays["key"]) == key:
                return arrays["features"]
    return np.zeros((0, dimensions), np.float32)


def _save(path: Path, key: str, features: np.ndarray) -> None:
    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, features=features, key=key)

    write_with(path, write)

"""Judges: a feature network with the rule by which its features are compared.

A judge compares generated with real clips by a Frechet and a kernel distance on its features:

    maze_fd, maze_kd              this project's own network, on generated mazes; never called FVD
    fvd_NAME, kvd_NAME            I3D under one of the protocols of `protocols`
"""

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from maskflow_jax.evaluation.features import FeatureNetwork
from maskflow_jax.evaluation.frechet import frechet_distance
from maskflow_jax.evaluation.maze_features import maze_features
from maskflow_jax.evaluation.protocols import Protocol, check_amount, fvd_features
from maskflow_jax.evaluation.real_videos import (
    Clip,
    Through,
    centre_clips,
    halves,
    random_clips,
)
from maskflow_jax.io import video_files

MP4_FPS = 8.0  # of the released script


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """How clips are compared.

    Attributes:
        name: Name of the Frechet distance.
        kernel_name: Name of the kernel distance.
        network: The network of the features.
        distance: Features [N, D] and [M, D] -> Frechet distance.
        mode: Real videos that it compares with, "raw" or "reconstructed".
        protocol: The protocol of an FVD; None for other networks.
    """

    name: str
    kernel_name: str
    network: FeatureNetwork
    distance: Callable[[np.ndarray, np.ndarray], float]
    mode: str
    protocol: Protocol | None = None

    def real_clips(
        self, lengths: Sequence[int], *, num_generated: int, length: int, seed: int
    ) -> list[Clip]:
        """Chooses the real clips of a draw; `reference` says which are compared with.

        Args:
            lengths: Number of frames of each real video.
            num_generated: Number of generated videos.
            length: Number of frames of a generated video.
            seed: Seed of the draw.

        Returns:
            One clip of each video, as the protocol says; for other networks twice as many clips as
            there are generated videos, so that each of the two `halves` is a set of their size.
        """
        rng = np.random.default_rng([seed, 0])
        frames = self.network.clip_frames
        if self.protocol is None:
            return random_clips(lengths, 2 * num_generated, frames, rng)
        if self.protocol.real_clip == "centre":
            return centre_clips(lengths, frames, length)
        most = self.protocol.most_videos or len(lengths)
        return random_clips(lengths, min(most, len(lengths)), frames, rng)

    def reference(self, clips: Sequence[Clip]) -> list[int]:
        """Numbers of the clips that generated ones are compared with.

        All of them under a protocol. Otherwise those of the odd videos: the even ones, from which
        the contexts are taken, then give the floor, at the same number of clips.
        """
        return halves(clips)[1] if self.protocol is None else list(range(len(clips)))

    def check(self, num_generated: int, num_real: int, *, permit_few: bool) -> None:
        """Refuses too few videos of an FVD."""
        if self.protocol is not None:
            least = min(num_generated, num_real)
            check_amount(least, self.network.clip_frames, permit_few=permit_few)

    @property
    def through(self) -> Through | None:
        """What videos go through before they are cut."""
        return _through_mp4 if self.protocol is not None and self.protocol.mp4 else None


def maze_judge() -> Judge:
    """The judge of generated mazes; it compares with decoded real videos."""
    return Judge(
        name="maze_fd",
        kernel_name="maze_kd",
        network=maze_features(),
        distance=functools.partial(frechet_distance, ddof=1, root="exact"),
        mode="reconstructed",
    )


def fvd_judge(
    protocol: Protocol, weights: str | Path, *, clip_frames: int | None, mode: str | None
) -> Judge:
    """The judge of a protocol.

    Args:
        protocol: The protocol.
        weights: File of the I3D weights.
        clip_frames: Number of frames of a clip; None for the protocol's.
        mode: Real videos to compare with; None for the protocol's.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds other weights.
    """
    frames = clip_frames or protocol.clip_frames
    suffix = "" if frames == protocol.clip_frames else f"_{frames}f"
    return Judge(
        name=f"fvd_{protocol.name}{suffix}",
        kernel_name=f"kvd_{protocol.name}{suffix}",
        network=fvd_features(protocol, weights, frames),
        distance=protocol.distance,
        mode=mode or protocol.real,
        protocol=protocol,
    )


def _through_mp4(frames: np.ndarray) -> np.ndarray:
    """A video after it was written as a lossy mp4 of 8 frames per second, and read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        video_files.write_mp4(path, frames, MP4_FPS)
        read, _ = video_files.read_video(path)
    return read[:, : frames.shape[1], : frames.shape[2]]

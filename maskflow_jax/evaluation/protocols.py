"""Three published ways to measure FVD, frozen by name.

They differ in what is fed to the network and in how the distance is computed, so their numbers must
not be compared with each other. A number is called FVD only under one of these names and with the
I3D weights that a user gives.

    styleganv           StyleGAN-V's fvd2048_16f
    videogpt            VideoGPT's
    maskflow_official   what MaskFlow's released script computes: VideoGPT's, on lossy mp4 files,
                        against real videos that went through the tokenizer, of long videos only
                        the first 16 frames

None can be reproduced exactly: the offsets of the clips were drawn without a seed, and the bytes of
an mp4 depend on the encoder. VideoGPT leaves the choice of clips to its caller; here they are those
of `styleganv`.
"""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskflow_jax.evaluation.features import FeatureNetwork
from maskflow_jax.evaluation.frechet import frechet_distance
from maskflow_jax.evaluation.i3d import MIN_FRAMES, NUM_LOGITS, load_i3d
from maskflow_jax.io.files import sha256_of

SIDE = 224  # pixels, what the network was trained on
FEWEST_VIDEOS, FEWEST_FRAMES = 256, 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way to measure FVD.

    Attributes:
        name: Its name.
        epsilon: What batch normalisation adds to the variance.
        resize: "stretch" to 224x224, or "short_side" to 224 and cut the middle square out.
        ddof: 0 for covariances divided by N, 1 for N - 1.
        root: How the matrix root is taken, a name in `frechet.ROOTS`.
        clip_frames: Number of frames of a clip.
        real_clip: Which frames of a real video: "random" ones, or the first ones of the "centre"
            window that is as long as the generated video.
        most_videos: Largest number of videos of each side; None for no limit.
        real: Real videos as they are ("raw"), or through the tokenizer ("reconstructed").
        mp4: Whether all videos go through a lossy mp4 file first.
    """

    name: str
    epsilon: float
    resize: str
    ddof: int
    root: str
    clip_frames: int
    real_clip: str
    most_videos: int | None
    real: str
    mp4: bool

    def distance(self, generated: np.ndarray, real: np.ndarray) -> float:
        """Frechet distance of features [N, 400] and [M, 400]."""
        return frechet_distance(generated, real, ddof=self.ddof, root=self.root)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="styleganv",
            epsilon=1e-3,
            resize="stretch",
            ddof=0,
            root="exact",
            clip_frames=16,
            real_clip="random",
            most_videos=2048,
            real="raw",
            mp4=False,
        ),
        Protocol(
            name="videogpt",
            epsilon=1e-5,
            resize="short_side",
            ddof=1,
            root="svd_float32",
            clip_frames=16,
            real_clip="random",
            most_videos=None,
            real="raw",
            mp4=False,
        ),
        Protocol(
            name="maskflow_official",
            epsilon=1e-5,
            resize="short_side",
            ddof=1,
            root="svd_float32",
            clip_frames=16,
            real_clip="centre",
            most_videos=None,
            real="reconstructed",
            mp4=True,
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """Returns a protocol; ValueError for an unknown name."""
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def check_amount(num_videos: int, num_frames: int, *, permit_few: bool = False) -> None:
    """Refuses amounts of video whose FVD says little.

    Args:
        num_videos: Number of videos of the smaller side.
        num_frames: Number of frames of a clip.
        permit_few: Whether to allow fewer than 256 videos, and clips of 9 frames.

    Raises:
        ValueError: If there are too few.
    """
    if num_frames < MIN_FRAMES:
        raise ValueError(f"clips of {num_frames} frames: I3D needs {MIN_FRAMES} or more")
    problems = []
    if num_videos < FEWEST_VIDEOS:
        problems.append(f"{num_videos} videos; the covariance of {NUM_LOGITS} features needs more")
    if num_frames < FEWEST_FRAMES:
        problems.append(f"clips of {num_frames} frames; I3D was trained on longer ones")
    if problems and not permit_few:
        raise ValueError(
            f"{'; '.join(problems)}: FVD takes at least {FEWEST_VIDEOS} videos and clips of "
            f"{FEWEST_FRAMES} frames; give more, or set permit_few to measure all the same"
        )


def preprocess(protocol: Protocol, clips: jax.Array) -> jax.Array:
    """Scales clips as a protocol does.

    Args:
        protocol: The protocol.
        clips: uint8 [B, T, H, W, 3].

    Returns:
        float32 [B, T, 224, 224, 3] in [-1, 1].
    """
    batch, frames, height, width, channels = clips.shape
    x = clips.astype(jnp.float32) / 255.0
    if protocol.resize == "stretch":
        return _resize(x * 2.0 - 1.0, (SIDE, SIDE))
    if height < width:
        rows, columns = SIDE, math.ceil(width * SIDE / height)
    else:
        rows, columns = math.ceil(height * SIDE / width), SIDE
    top, left = (rows - SIDE) // 2, (columns - SIDE) // 2
    x = _resize(x, (rows, columns))[..., top : top + SIDE, left : left + SIDE, :]
    return x.reshape(batch, frames, SIDE, SIDE, channels) * 2.0 - 1.0


def _resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear without antialiasing, corners not aligned: as torch's `interpolate`."""
    shape = (*x.shape[:2], *size, x.shape[-1])
    return jax.image.resize(x, shape, "bilinear", antialias=False, precision="highest")


def fvd_features(protocol: Protocol, weights: str | Path, clip_frames: int) -> FeatureNetwork:
    """The network of a protocol.

    Args:
        protocol: The protocol.
        weights: File of the I3D weights (`i3d.load_i3d` has the formats).
        clip_frames: Number of frames of a clip.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds other weights.
    """
    graphdef, state = nnx.split(load_i3d(weights, epsilon=protocol.epsilon))

    def apply(params: nnx.State, clips: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params)(preprocess(protocol, clips))

    return FeatureNetwork(
        name=f"i3d_{protocol.name}",
        sha256=sha256_of(weights),
        clip_frames=clip_frames,
        frame_size=None,
        dimensions=NUM_LOGITS,
        params=state,
        apply=apply,
    )

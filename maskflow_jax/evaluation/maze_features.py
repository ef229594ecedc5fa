"""Features of maze clips: a small 3-D convolutional network that knows what happens in 16 frames.

The network was trained on the generated mazes, whose simulator gives exact labels: which motion
leads from each frame to the next (straight, left, right) and which wall colours are in view in each
quarter of the clip. Its last hidden layer, 64 numbers per clip, is what `maze_fd` compares. It is
to the mazes what a network trained on Kinetics is to natural video, and it ships with the package.
Distances on these features are never called FVD: other features give other numbers.

`maze_feature_training` trains it.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from maskflow_jax.data.sources.maze_map import WALL_COLOURS
from maskflow_jax.data.sources.maze_motion import MOTIONS
from maskflow_jax.evaluation.features import FeatureNetwork
from maskflow_jax.io.files import sha256_of, write_with
from maskflow_jax.io.weights import check_finite, check_weights

CLIP_FRAMES, FRAME_SIZE, DIMENSIONS = 16, 64, 64
QUARTERS = 4
SHIPPED = Path(__file__).parent / "pretrained" / "maze_features.safetensors"

_POOLING = 2  # pixels along a side that are averaged
_KERNEL = 3
_LAYERS = ((24, (1, 2, 2)), (48, (2, 2, 2)), (96, (2, 2, 2)), (128, (1, 2, 2)))

Convolution = Callable[[jax.Array, jax.Array, tuple[int, int, int]], jax.Array]
"""(x [B, T, H, W, C], kernel [3, 3, 3, C, D], strides) -> [B, T', H', W', D]."""


def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, int, int]) -> jax.Array:
    """Convolves with a frame and a pixel of zeros on each side."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        [(1, 1)] * 3,
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        precision="highest",
    )


def convolve_patches(x: jax.Array, kernel: jax.Array, strides: tuple[int, int, int]) -> jax.Array:
    """The same as `convolve`, as one matrix product over patches.

    XLA's CPU backend differentiates it an order of magnitude faster; it needs more memory.
    """
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    ends = x.shape[1:4]
    parts = [
        padded[
            (slice(None), *(slice(o, o + n, s) for o, n, s in zip(at, ends, strides, strict=True)))
        ]
        for at in itertools.product(range(_KERNEL), repeat=3)
    ]
    patches = jnp.concatenate(parts, axis=-1)  # [B, T', H', W', 27 C]
    return patches @ kernel.reshape(-1, kernel.shape[-1])


class MazeNetwork(nnx.Module):
    """The network: four convolutions over time and space, and a linear map to the features."""

    def __init__(self, rngs: nnx.Rngs):
        normal = jax.nn.initializers.he_normal(in_axis=(0, 1, 2, 3))
        self.kernels, self.biases, channels = nnx.List(), nnx.List(), 3
        for width, _ in _LAYERS:
            shape = (_KERNEL, _KERNEL, _KERNEL, channels, width)
            self.kernels.append(nnx.Param(normal(rngs.params(), shape)))
            self.biases.append(nnx.Param(jnp.zeros(width)))
            channels = width
        self.project = nnx.Linear(channels * 4 * 2 * 2, DIMENSIONS, rngs=rngs)
        self.motion = nnx.Linear(DIMENSIONS, (CLIP_FRAMES - 1) * len(MOTIONS), rngs=rngs)
        self.colours = nnx.Linear(DIMENSIONS, QUARTERS * len(WALL_COLOURS), rngs=rngs)

    def features(self, clips: jax.Array, convolution: Convolution = convolve) -> jax.Array:
        """Maps clips uint8 [B, 16, 64, 64, 3] to features float32 [B, 64]."""
        x = clips.astype(jnp.float32) / 127.5 - 1.0
        p = _POOLING
        x = einops.reduce(x, "b t (h p) (w q) c -> b t h w c", "mean", p=p, q=p)
        for kernel, bias, (_, strides) in zip(self.kernels, self.biases, _LAYERS, strict=True):
            x = jax.nn.gelu(convolution(x, kernel[...], strides) + bias[...])
        return self.project(einops.rearrange(x, "b t h w c -> b (t h w c)"))

    def labels(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps features to logits of motions [B, 15, 3] and of colours in view [B, 4, 8]."""
        motion = self.motion(features).reshape(-1, CLIP_FRAMES - 1, len(MOTIONS))
        return motion, self.colours(features).reshape(-1, QUARTERS, len(WALL_COLOURS))


def save_maze_network(network: MazeNetwork, path: str | Path) -> None:
    """Writes a network in half precision."""
    flat = nnx.traversals.flatten_mapping(nnx.to_pure_dict(nnx.state(network, nnx.Param)))
    arrays = {".".join(map(str, at)): np.asarray(x, np.float16) for at, x in flat.items()}
    write_with(path, lambda part: save_file(arrays, part))


def load_maze_network(path: str | Path = SHIPPED) -> MazeNetwork:
    """Loads a network, by default the one that ships with the package.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or holds other weights, every mismatch named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no maze features at {path}: train a network and save it there")
    try:
        arrays = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read: {error}; copy it again") from error
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: MazeNetwork(nnx.Rngs(0))))
    flat = nnx.traversals.flatten_mapping(nnx.to_pure_dict(abstract))
    names = {at: ".".join(map(str, at)) for at in flat}
    check_weights(
        {name: x.shape for name, x in arrays.items()},
        {names[at]: leaf.shape for at, leaf in flat.items()},
        f"{path} does not hold the network of the maze features:",
    )
    check_finite(arrays, str(path))
    values = {at: jnp.asarray(arrays[name], jnp.float32) for at, name in names.items()}
    nnx.replace_by_pure_dict(abstract, nnx.traversals.unflatten_mapping(values))
    return nnx.merge(graphdef, abstract)


def maze_features(path: str | Path = SHIPPED) -> FeatureNetwork:
    """The feature network behind `maze_fd`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or holds other weights.
    """
    graphdef, state = nnx.split(load_maze_network(path))

    def apply(params: nnx.State, clips: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return nnx.merge(graphdef, params).features(clips)

    return FeatureNetwork(
        name="maze",
        sha256=sha256_of(path),
        clip_frames=CLIP_FRAMES,
        frame_size=FRAME_SIZE,
        dimensions=DIMENSIONS,
        params=state,
        apply=apply,
    )

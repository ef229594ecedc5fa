"""I3D (Inception-v1 inflated to three dimensions), the network of FVD, in Flax.

The weights are not part of this project: a user gives a file, and its SHA-256 is recorded. The file
may be a state dict of one of the two torch ports (`InceptionI3d`, whose names are those used here,
or `i3dpt`) as a pickle, as safetensors or as an npz, or a TorchScript archive with such names.
Matrix products run at the highest precision everywhere.

Padding: a convolution or pool "SAME" puts the extra row at the end, as TensorFlow and XLA do.

Source: Carreira and Zisserman 2017; Unterthiner et al. 2018 (FVD).
"""

import functools
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskflow_jax.io.torch_files import read_torch_file, read_torchscript
from maskflow_jax.io.weights import check_finite, check_weights

NUM_LOGITS = 400
MIN_FRAMES = 9  # fewer leave the last pool without a frame

_STEM = (
    ("Conv3d_1a_7x7", 3, 64, 7, 2),
    ("Conv3d_2b_1x1", 64, 64, 1, 1),
    ("Conv3d_2c_3x3", 64, 192, 3, 1),
)
# Widths of the branches b0, b1a, b1b, b2a, b2b, b3b.
_MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
_POOLS = {  # after which layer: (window, strides)
    "Conv3d_1a_7x7": ((1, 3, 3), (1, 2, 2)),
    "Conv3d_2c_3x3": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3c": ((3, 3, 3), (2, 2, 2)),
    "Mixed_4f": ((2, 2, 2), (2, 2, 2)),
}
# The names of the other port, i3dpt, from which the TorchScript archive was made.
_I3DPT = (
    (r"^conv3d_0c_1x1\.", "logits."),
    (r"^conv3d_", "Conv3d_"),
    (r"^mixed_", "Mixed_"),
    (r"\.branch_0\.", ".b0."),
    (r"\.branch_([12])\.0\.", r".b\1a."),
    (r"\.branch_([12])\.1\.", r".b\1b."),
    (r"\.branch_3\.1\.", ".b3b."),
    (r"\.batch3d\.", ".bn."),
)
_BATCH_NORM = {
    "weight": "scale",
    "bias": "shift",
    "running_mean": "mean",
    "running_var": "variance",
}


class Unit(nnx.Module):
    """A convolution without bias, batch normalisation by stored statistics, and a ReLU."""

    def __init__(self, inputs: int, outputs: int, side: int, *, stride: int = 1, epsilon: float):
        self.stride, self.epsilon = stride, epsilon
        self.kernel = nnx.Param(jnp.zeros((side, side, side, inputs, outputs)))
        self.scale, self.shift, self.mean, self.variance = (
            nnx.Param(jnp.zeros(outputs)) for _ in range(4)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, T, H, W, inputs] to [B, T', H', W', outputs]."""
        x = _convolve(x, self.kernel[...], self.stride)
        factor = self.scale[...] * jax.lax.rsqrt(self.variance[...] + self.epsilon)
        return jax.nn.relu((x - self.mean[...]) * factor + self.shift[...])


class Mixed(nnx.Module):
    """An inception block: four branches side by side."""

    def __init__(self, inputs: int, widths: tuple[int, ...], epsilon: float):
        unit = functools.partial(Unit, epsilon=epsilon)
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = unit(inputs, b0, 1)
        self.b1a, self.b1b = unit(inputs, b1a, 1), unit(b1a, b1b, 3)
        self.b2a, self.b2b = unit(inputs, b2a, 1), unit(b2a, b2b, 3)
        self.b3b = unit(inputs, b3b, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, T, H, W, inputs] to as many channels as b0, b1b, b2b and b3b have."""
        pooled = _max_pool(x, (3, 3, 3), (1, 1, 1))
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled))
        return jnp.concatenate(branches, axis=-1)


class I3D(nnx.Module):
    """The network.

    Args:
        epsilon: What batch normalisation adds to the variance: 1e-3 in TensorFlow's module and
            in `i3dpt`, 1e-5 in `InceptionI3d`.
    """

    def __init__(self, epsilon: float):
        self.layers = nnx.Dict()
        for name, inputs, outputs, side, stride in _STEM:
            self.layers[name] = Unit(inputs, outputs, side, stride=stride, epsilon=epsilon)
        channels = _STEM[-1][2]
        for name, widths in _MIXED.items():
            self.layers[name] = Mixed(channels, widths, epsilon)
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.kernel = nnx.Param(jnp.zeros((1, 1, 1, channels, NUM_LOGITS)))
        self.bias = nnx.Param(jnp.zeros(NUM_LOGITS))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps clips in [-1, 1], float32 [B, T, 224, 224, 3], to logits [B, 400].

        T is at least `MIN_FRAMES`; logits are averaged over time.
        """
        for name in (*(row[0] for row in _STEM), *_MIXED):
            x = self.layers[name](x)
            if name in _POOLS:
                x = _max_pool(x, *_POOLS[name])
        x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 7, 7, 1), (1,) * 5, "VALID") / 98
        return jnp.mean(_convolve(x, self.kernel[...], 1) + self.bias[...], axis=(1, 2, 3))


def load_i3d(path: str | Path, *, epsilon: float) -> I3D:
    """Loads the network from a file of weights.

    Args:
        path: `.npz`, `.safetensors`, or a torch pickle or TorchScript archive (`.pt`, `.pth`,
            `.ckpt`, `.bin`), which need torch.
        epsilon: See `I3D`.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If torch is needed and missing.
        ValueError: If the file is damaged or holds other weights; all missing and unexpected names
            are listed.
    """
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: I3D(epsilon)))
    wanted = nnx.traversals.flatten_mapping(nnx.to_pure_dict(abstract))
    names = {at: _torch_name(at) for at in wanted}
    found = read_i3d_weights(path)
    check_weights(
        {name: _to_flax(x).shape for name, x in found.items()},
        {names[at]: leaf.shape for at, leaf in wanted.items()},
        f"{path} does not hold the weights of I3D (shapes with the channels last):",
    )
    check_finite(found, str(path))
    values = {at: jnp.asarray(_to_flax(found[name]), jnp.float32) for at, name in names.items()}
    nnx.replace_by_pure_dict(abstract, nnx.traversals.unflatten_mapping(values))
    return nnx.merge(graphdef, abstract)


def read_i3d_weights(path: str | Path) -> Mapping[str, np.ndarray]:
    """Reads a file of weights as arrays by their names in `InceptionI3d`, without counters.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If torch is needed and missing.
        ValueError: If the file is damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no file of I3D weights at {path}; the evaluation page of the documentation says "
            "where they are published"
        )
    if path.suffix == ".npz":
        try:
            with np.load(path) as arrays:
                found = {name: arrays[name] for name in arrays}
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path} cannot be read: {error}; copy it again") from error
    else:
        found = read_torchscript(path) or read_torch_file(path).state_dict()
    return {
        _standard_name(name): x
        for name, x in found.items()
        if not name.endswith("num_batches_tracked")
    }


def _standard_name(name: str) -> str:
    """The name of a weight in `InceptionI3d`."""
    for pattern, replacement in _I3DPT:
        name = re.sub(pattern, replacement, name)
    return name


def _torch_name(at: tuple) -> str:
    """The torch port's name of a parameter."""
    *layer, leaf = (part for part in at if part != "layers")
    layer = layer or ["logits"]
    torch_leaf = {ours: f"bn.{theirs}" for theirs, ours in _BATCH_NORM.items()}
    torch_leaf |= {"kernel": "conv3d.weight", "bias": "conv3d.bias"}
    return ".".join([*map(str, layer), torch_leaf[leaf]])


def _to_flax(array: np.ndarray) -> np.ndarray:
    """Kernels from [O, I, T, H, W] to [T, H, W, I, O]; the rest as it is."""
    return np.transpose(array, (2, 3, 4, 1, 0)) if array.ndim == 5 else array


def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride,) * 3,
        "SAME",
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        precision="highest",
    )


def _max_pool(x: jax.Array, window: tuple[int, ...], strides: tuple[int, ...]) -> jax.Array:
    """Padding with minus infinity equals the reference's zeros: a ReLU comes before every pool."""
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, *window, 1), (1, *strides, 1), "SAME"
    )

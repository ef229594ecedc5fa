"""The parts of the Latte transformer: attention, MLP, modulation, embeddings.

Matrix products run in the compute type `dtype`. LayerNorm statistics and the time embedding are
computed in float32 whatever the compute type. Initialisation follows DiT: Xavier-uniform linears
with zero bias, everything that gates or ends a residual branch zero, so that a new network is the
identity (Peebles & Xie 2023, section 3).
"""

from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

TIME_FREQUENCIES = 256  # sinusoidal channels of a time

xavier = jax.nn.initializers.xavier_uniform()
zeros = jax.nn.initializers.zeros


def linear(
    width_in: int,
    width_out: int,
    rngs: nnx.Rngs,
    *,
    dtype: jnp.dtype,
    kernel_init: jax.nn.initializers.Initializer = xavier,
) -> nnx.Linear:
    """A linear layer with float32 parameters and zero bias that computes in `dtype`."""
    return nnx.Linear(width_in, width_out, dtype=dtype, kernel_init=kernel_init, rngs=rngs)


def apply_flat(layer: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Applies a layer of the last axis to [..., D] as one matrix of rows.

    The gradient of a product over several leading axes is transposed and copied by some compilers
    (on CPUs it took 1.3 times as long); that of a matrix is a plain product.
    """
    rows = layer(x.reshape(-1, x.shape[-1]))
    return rows.reshape(*x.shape[:-1], rows.shape[-1])


def layer_norm(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Normalises the last axis to zero mean and unit variance, without learned scale or shift.

    Args:
        x: [..., D].
        dtype: Type of the result; the statistics are computed in float32.

    Returns:
        [..., D].
    """
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True)
    return ((wide - mean) * jax.lax.rsqrt(variance + 1e-6)).astype(dtype)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Scales and shifts normalised activations: x (1 + scale) + shift."""
    return x * (1 + scale) + shift


class Attention(nnx.Module):
    """The projections of multi-head self-attention; `attention.attend` stands between them."""

    def __init__(self, width: int, num_heads: int, rngs: nnx.Rngs, *, dtype: jnp.dtype):
        self.num_heads = num_heads
        self.qkv = linear(width, 3 * width, rngs, dtype=dtype)
        self.proj = linear(width, width, rngs, dtype=dtype)

    def queries_keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Maps [..., D] to three arrays [..., h, d]."""
        # Head by head, so that splitting the outputs over devices splits heads.
        heads = einops.rearrange(
            apply_flat(self.qkv, x), "... (h three d) -> three ... h d", three=3, h=self.num_heads
        )
        return tuple(heads)

    def output(self, attended: jax.Array) -> jax.Array:
        """Maps [..., h, d] to [..., D]."""
        return apply_flat(self.proj, einops.rearrange(attended, "... h d -> ... (h d)"))


class MLP(nnx.Module):
    """Two linears with a tanh-approximated GELU between them."""

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs, *, dtype: jnp.dtype):
        self.fc1 = linear(width, hidden, rngs, dtype=dtype)
        self.fc2 = linear(hidden, width, rngs, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., D] to the same shape."""
        return apply_flat(lambda x: self.fc2(jax.nn.gelu(self.fc1(x), approximate=True)), x)


class TimeEmbedding(nnx.Module):
    """Frame times to conditioning vectors: sinusoids, then Linear, SiLU, Linear, in float32."""

    def __init__(self, width: int, rngs: nnx.Rngs, *, num_frequencies: int = TIME_FREQUENCIES):
        normal = jax.nn.initializers.normal(0.02)
        self.num_frequencies = num_frequencies
        self.fc1 = linear(num_frequencies, width, rngs, dtype=jnp.float32, kernel_init=normal)
        self.fc2 = linear(width, width, rngs, dtype=jnp.float32, kernel_init=normal)

    def __call__(self, times: jax.Array) -> jax.Array:
        """Maps times [B, T] in [0, 1] to float32 [B, T, D]."""
        return self.fc2(jax.nn.silu(self.fc1(sinusoids(times, self.num_frequencies))))


def sinusoids(times: jax.Array, width: int) -> jax.Array:
    """Sinusoidal features of a time, cosines first, with periods up to 10,000.

    The time enters unscaled, as in the released models: it lies in [0, 1], not in diffusion steps.

    Args:
        times: float [...].
        width: number of features, even.

    Returns:
        float32 [..., width].
    """
    half = width // 2
    frequencies = jnp.exp(-np.log(10_000) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = times.astype(jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def sincos_1d(positions: np.ndarray, width: int) -> np.ndarray:
    """Fixed embedding of positions [L]: sines, then cosines, float64 [L, width]."""
    frequencies = 10_000.0 ** -(np.arange(width // 2) / (width / 2))
    angles = np.outer(positions, frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_2d(side: int, width: int) -> np.ndarray:
    """Fixed embedding of a square grid of patches, row by row.

    The first half of the channels encodes the column, the second half the row: the convention of
    MAE's published code, which the released models inherit.

    Args:
        side: patches along one side.
        width: channels, a multiple of 4.

    Returns:
        float64 [side * side, width].
    """
    rows, columns = np.divmod(np.arange(side * side), side)
    return np.concatenate([sincos_1d(columns, width // 2), sincos_1d(rows, width // 2)], axis=1)

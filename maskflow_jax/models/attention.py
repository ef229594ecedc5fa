"""Attention kernels: XLA's everywhere, cuDNN's flash attention where a probe finds that it works.

The flash kernel never writes the score matrix to memory, but it exists for bfloat16 on GPUs only,
and not for every shape and version. So the choice "auto" compiles the very shapes that are asked
for, once in a process, and takes XLA's path where that fails, saying why, or where the kernel
cannot be: inside a `shard_map` over some of a mesh's axes.
"""

import functools

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import AxisType

IMPLEMENTATIONS = ("auto", "xla", "cudnn")

# How jax says that its cuDNN kernel does not support a shape, a device or a version.
_REFUSALS = (NotImplementedError, ValueError, RuntimeError)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """Softmax attention, scores scaled by 1 / sqrt(d) and accumulated in float32.

    Args:
        query: [B, L, h, d].
        key: [B, M, h, d].
        value: [B, M, h, d].
        mask: bool [B, L, M], which keys a query sees; every query sees at least one. None for all.
        implementation: one of `IMPLEMENTATIONS`.

    Returns:
        [B, L, h, d].

    Raises:
        ValueError: if cuDNN is asked for on other devices than GPUs.
    """
    check_devices(implementation)
    if implementation == "auto":
        if _partly_mapped():
            implementation = "xla"
        else:
            implementation = probe(query.shape, key.shape[1], query.dtype.name, mask is not None)
    return _attend(query, key, value, mask, implementation)


def check_devices(implementation: str) -> None:
    """Raises ValueError if a kernel does not exist for this process's devices."""
    if implementation == "cudnn" and jax.default_backend() != "gpu":
        raise ValueError(
            f"attention is 'cudnn', which needs a GPU, and jax runs on {jax.default_backend()} "
            "here; choose 'auto' or 'xla'"
        )


def _partly_mapped() -> bool:
    """Whether a `shard_map` around this leaves some axes to the compiler.

    cuDNN's kernel says itself how it is split, which jax allows outside of a `shard_map` and within
    one of all axes.
    """
    kinds = set(jax.sharding.get_abstract_mesh().axis_types)
    return AxisType.Manual in kinds and len(kinds) > 1


def _attend(query, key, value, mask, implementation: str) -> jax.Array:
    mask = None if mask is None else mask[:, None]  # [B, 1, L, M]: the same for all heads
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation=implementation)


@functools.cache
def probe(shape: tuple[int, ...], num_keys: int, dtype: str, masked: bool) -> str:
    """Which kernel to use for queries of that shape.

    Args:
        shape: of the queries, [B, L, h, d].
        num_keys: M.
        dtype: type of all arrays.
        masked: whether there is a mask.

    Returns:
        "cudnn" if its kernel and the kernel's gradient compile on this process's GPU, else "xla".
    """
    if jax.default_backend() != "gpu" or dtype != "bfloat16":
        return "xla"
    batch, length, heads, channels = 2, *shape[1:]  # no kernel depends on the batch

    def loss(query, key, value, mask):
        return jnp.sum(_attend(query, key, value, mask, "cudnn").astype(jnp.float32))

    query = jax.ShapeDtypeStruct((batch, length, heads, channels), dtype)
    key = jax.ShapeDtypeStruct((batch, num_keys, heads, channels), dtype)
    mask = jax.ShapeDtypeStruct((batch, length, num_keys), bool) if masked else None
    try:
        jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(query, key, key, mask).compile()
    except _REFUSALS as error:
        logging.info(
            "attention of %d queries and %d keys runs without cuDNN: %s", length, num_keys, error
        )
        return "xla"
    return "cudnn"

"""Pixels between uint8 and the range [-1, 1] of the networks; nothing else converts them."""

import jax
import jax.numpy as jnp
import numpy as np


def to_unit_range(frames: jax.Array | np.ndarray) -> jax.Array:
    """Maps uint8 pixels to float32 in [-1, 1]."""
    return frames.astype(jnp.float32) / 127.5 - 1


def to_uint8(images: jax.Array) -> jax.Array:
    """Maps float pixels, clipped to [-1, 1], to uint8, rounding to nearest."""
    return jnp.round((jnp.clip(images, -1, 1) + 1) * 127.5).astype(jnp.uint8)

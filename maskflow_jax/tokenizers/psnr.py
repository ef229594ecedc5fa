"""Peak signal-to-noise ratio, of NumPy arrays and within compiled programs."""

import jax
import jax.numpy as jnp
import numpy as np


def psnr(mean_squared_error: jax.Array | np.ndarray | float, value_range: float) -> jax.Array:
    """Peak signal-to-noise ratio in dB.

    Args:
        mean_squared_error: Mean squared error over pixels, of any shape.
        value_range: Difference between the largest and the smallest pixel value: 255, or 2 for
            pixels in [-1, 1].

    Returns:
        10 log10(value_range^2 / mean_squared_error), in NumPy unless the error is a JAX array.
    """
    xp = jnp if isinstance(mean_squared_error, jax.Array) else np
    return 10 * xp.log10(value_range**2 / mean_squared_error)

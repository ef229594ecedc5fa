"""The corruption of the probability path: each token is clean or masked, by a coin of its own.

p(xt | x1) puts probability kappa on x1 and 1 - kappa on the mask (MaskFlow, Eq. 5, where kappa(t)
is t), so a corrupted clip is one Bernoulli draw per token.
"""

import jax
import jax.numpy as jnp


def mask_tokens(key: jax.Array, tokens: jax.Array, kappa: jax.Array, mask_id: int) -> jax.Array:
    """Masks each token with probability 1 - kappa of its frame.

    Args:
        key: PRNG key.
        tokens: clean tokens int [B, T, H, W].
        kappa: probability of staying clean, float [B, T].
        mask_id: the mask token.

    Returns:
        Corrupted tokens int [B, T, H, W].
    """
    clean = jax.random.bernoulli(key, kappa[:, :, None, None], tokens.shape)
    return jnp.where(clean, tokens, mask_id)

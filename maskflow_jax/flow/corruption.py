"""Corruption of clean tokens: each token is masked independently of all others.

The probability path p(xt | x1) gives the clean token x1 the probability kappa and the mask token
the probability 1 - kappa (MaskFlow, arXiv 2502.11234, Eq. 5, where kappa(t) = t). A corrupted clip
is therefore one Bernoulli draw per token.
"""

import jax
import jax.numpy as jnp


def mask_tokens(key: jax.Array, tokens: jax.Array, kappa: jax.Array, mask_id: int) -> jax.Array:
    """Masks each token with probability 1 - kappa of its frame.

    Args:
        key: PRNG key.
        tokens: Clean tokens, int [B, T, H, W].
        kappa: Probability with which a token of a frame stays clean, float [B, T].
        mask_id: The mask token.

    Returns:
        Corrupted tokens, int [B, T, H, W].

    Source: MaskFlow, arXiv 2502.11234, Eq. 5.
    """
    clean = jax.random.bernoulli(key, kappa[:, :, None, None], tokens.shape)
    return jnp.where(clean, tokens, mask_id)

"""Masking: the share that stays clean, and what it may change."""

import jax
import jax.numpy as jnp
import numpy as np

from maskflow_jax.flow.corruption import mask_tokens


def test_each_frame_keeps_its_own_share_of_tokens():
    tokens = jax.random.randint(jax.random.key(0), (2, 3, 100, 100), 0, 9)
    kappa = jnp.array([[0.0, 0.3, 1.0], [0.9, 0.5, 0.1]])
    corrupted = mask_tokens(jax.random.key(1), tokens, kappa, 9)
    clean = np.asarray((corrupted != 9).mean(axis=(2, 3)))
    np.testing.assert_allclose(clean, kappa, atol=0.02)  # standard error 0.005
    assert clean[0, 0] == 0
    assert clean[0, 2] == 1
    np.testing.assert_array_equal(np.where(corrupted == 9, tokens, corrupted), tokens)


def test_tokens_are_masked_independently():
    corrupted = mask_tokens(
        jax.random.key(0), jnp.zeros((1, 1, 200, 200), jnp.int32), jnp.full((1, 1), 0.5), 1
    )
    masked = np.asarray(corrupted[0, 0])
    assert abs(np.corrcoef(masked[:, :-1].ravel(), masked[:, 1:].ravel())[0, 1]) < 0.02

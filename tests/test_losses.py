"""The blockwise loss against the released numbers and against the plain computation."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskflow_jax.flow.losses import accuracy, frame_sums, weighted_loss
from maskflow_jax.flow.schedules import make_schedule
from maskflow_jax.flow.weighting import none, snr

REFERENCE = np.load(Path(__file__).parent / "reference" / "training_loss.npz")
CASES = [name.removeprefix("loss_") for name in REFERENCE if name.startswith("loss_")]


def patches_as_features(logits):
    """Disguises logits as features [B, T, N, K] of one patch per token."""
    return logits.reshape(*logits.shape[:2], -1, logits.shape[-1])


@pytest.mark.parametrize("case", CASES)
def test_loss_and_accuracy_match_the_released_implementation(case):
    schedule, weight, positions = re.fullmatch(r"(\w+)_(none|snr)_(masked|all)", case).groups()
    x1, xt, times = REFERENCE["x1"], REFERENCE["xt"], REFERENCE["noise_levels"]
    logits = REFERENCE["logits"]
    mask_id = logits.shape[-1] - 1
    masked = xt == mask_id
    weigh = none if weight == "none" else lambda s, t: snr(s, t, fused=True)
    weights = weigh(make_schedule(schedule), times)

    def logits_fn(features):
        return features.reshape(*features.shape[:2], *x1.shape[2:], -1)

    features = patches_as_features(logits)
    counted = masked if positions == "masked" else np.ones_like(masked)
    sums = frame_sums(logits_fn, features, x1, masked, counted=counted, frame_block=3)
    loss = weighted_loss(sums, weights)
    np.testing.assert_allclose(loss, REFERENCE[f"loss_{case}"], rtol=1e-5)
    np.testing.assert_allclose(accuracy(sums), REFERENCE[f"acc_{case}"], rtol=1e-5)


@pytest.mark.parametrize("frame_block", [1, 2, 6])
def test_gradient_does_not_depend_on_the_blocks(frame_block):
    keys = jax.random.split(jax.random.key(0), 3)
    head = jax.random.normal(keys[0], (5, 4))
    features = jax.random.normal(keys[1], (2, 6, 9, 5))
    tokens = jax.random.randint(keys[2], (2, 6, 3, 3), 0, 4)
    counted = tokens != 1

    def loss(head, block):
        def logits_fn(features):
            return (features @ head).reshape(*features.shape[:2], 3, 3, 4)

        sums = frame_sums(logits_fn, features, tokens, counted, frame_block=block)
        return weighted_loss(sums, jnp.ones((2, 6)))

    def plain(head):
        log_probs = jax.nn.log_softmax(features @ head).reshape(2, 6, 3, 3, 4)
        picked = jnp.take_along_axis(log_probs, tokens[..., None], -1)[..., 0]
        return -jnp.sum(picked * counted) / jnp.sum(counted)

    np.testing.assert_allclose(loss(head, frame_block), plain(head), rtol=1e-5)
    np.testing.assert_allclose(
        jax.grad(loss)(head, frame_block), jax.grad(plain)(head), rtol=1e-4, atol=1e-6
    )


def test_nothing_masked_gives_zero_and_not_nan():
    features = jnp.zeros((1, 2, 4, 3))
    tokens = jnp.zeros((1, 2, 2, 2), jnp.int32)
    sums = frame_sums(
        lambda f: f.reshape(1, -1, 2, 2, 3), features, tokens, jnp.zeros(tokens.shape, bool)
    )
    assert float(weighted_loss(sums, jnp.ones((1, 2)))) == 0
    assert float(accuracy(sums)) == 0


def test_block_that_does_not_divide_the_clip_is_refused():
    with pytest.raises(ValueError, match="does not divide"):
        frame_sums(
            lambda f: f,
            jnp.zeros((1, 3, 4, 3)),
            jnp.zeros((1, 3, 2, 2), jnp.int32),
            jnp.ones((1, 3, 2, 2), bool),
            frame_block=2,
        )

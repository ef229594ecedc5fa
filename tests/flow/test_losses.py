"""The head's loss against the released numbers, and its gradients against jax's."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import make_schedule

from maskflow_jax.flow.losses import head_loss
from maskflow_jax.flow.weighting import none, snr

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "training_loss.npz")
CASES = [name.removeprefix("loss_") for name in REFERENCE if name.startswith("loss_")]


@pytest.mark.parametrize("case", CASES)
def test_loss_and_accuracy_match_the_released_implementation(case):
    """Its logits are the features of a head that is the identity."""
    schedule, weight, positions = re.fullmatch(r"(\w+)_(none|snr)_(masked|all)", case).groups()
    x1, xt, times = REFERENCE["x1"], REFERENCE["xt"], REFERENCE["noise_levels"]
    classes = REFERENCE["logits"].shape[-1]
    masked = xt == classes - 1
    weigh = none if weight == "none" else lambda s, t: snr(s, t, fused=True)
    weights = weigh(make_schedule(schedule), times)
    counted = masked if positions == "masked" else np.ones_like(masked)
    loss, _ = head_loss(
        jnp.asarray(REFERENCE["logits"].reshape(-1, classes)),
        jnp.eye(classes),
        jnp.zeros(classes),
        jnp.asarray(x1.reshape(-1, 1), jnp.int32),
        jnp.asarray(counted.reshape(-1, 1)),
        block_rows=7,
    )
    cross_entropy = np.asarray(loss.cross_entropy).reshape(x1.shape).sum((2, 3))
    mean = np.sum(weights * cross_entropy) / counted.sum()
    np.testing.assert_allclose(mean, REFERENCE[f"loss_{case}"], rtol=1e-5)
    correct = np.asarray(loss.correct).reshape(x1.shape) & masked
    np.testing.assert_allclose(correct.sum() / masked.sum(), REFERENCE[f"acc_{case}"], rtol=1e-5)


def example(num_rows=11, places=3, width=5, classes=4):
    keys = jax.random.split(jax.random.key(0), 6)
    return {
        "features": jax.random.normal(keys[0], (num_rows, width)),
        "kernel": jax.random.normal(keys[1], (width, places * classes)),
        "bias": jax.random.normal(keys[2], (places * classes,)),
        "targets": jax.random.randint(keys[3], (num_rows, places), 0, classes),
        "counted": jax.random.bernoulli(keys[4], 0.6, (num_rows, places)),
        "weights": jax.random.uniform(keys[5], (num_rows, places)),
    }


def plain(features, kernel, bias, targets, counted, weights):
    logits = (features @ kernel + bias).reshape(*targets.shape, -1)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    correct = (jnp.argmax(logits, -1) == targets) & counted
    return -jnp.sum(weights * counted * picked), (-picked * counted, correct)


@pytest.mark.parametrize("block_rows", [1, 3, 4, 11, 100])
def test_losses_and_gradients_are_those_of_the_plain_computation(block_rows):
    arrays = example()
    loss, gradients = head_loss(**arrays, block_rows=block_rows)
    (_, (cross_entropy, correct)), expected = jax.value_and_grad(plain, (0, 1, 2), has_aux=True)(
        *arrays.values()
    )
    np.testing.assert_allclose(loss.cross_entropy, cross_entropy, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(loss.correct, correct)
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    without_weights = {k: v for k, v in arrays.items() if k != "weights"}
    measured, nothing = head_loss(**without_weights, block_rows=block_rows)
    assert nothing is None
    np.testing.assert_array_equal(measured.cross_entropy, loss.cross_entropy)


def test_rows_that_do_not_count_are_never_run():
    arrays = example()
    poisoned = arrays["features"].at[4].set(jnp.nan)
    arrays |= {"features": poisoned, "counted": arrays["counted"].at[4].set(False)}
    # Blocks of one row, so that no row that does not count comes along to fill a block.
    loss, gradients = head_loss(**arrays, block_rows=1)
    assert all(bool(jnp.all(jnp.isfinite(a))) for a in (loss.cross_entropy, *gradients))


def test_nothing_counted_gives_zero_and_not_nan():
    arrays = example() | {"counted": jnp.zeros((11, 3), bool)}
    loss, gradients = head_loss(**arrays, block_rows=4)
    assert not np.any(loss.cross_entropy)
    assert all(not np.any(a) for a in gradients)


def test_bfloat16_features_give_float32_sums():
    arrays = example()
    arrays["features"] = arrays["features"].astype(jnp.bfloat16)
    loss, gradients = head_loss(**arrays, block_rows=4)
    assert {a.dtype for a in (loss.cross_entropy, *gradients)} == {jnp.dtype("float32")}
    exact, _ = plain(**arrays)[1]
    np.testing.assert_allclose(loss.cross_entropy, exact, atol=0.1)


def test_head_products_are_accumulated_in_float32():
    """Sums of 4,096 products: rounded to bfloat16 they would be off by up to 0.2 nats."""
    arrays = example(num_rows=6, places=1, width=4096, classes=16)
    arrays["features"] = arrays["features"].astype(jnp.bfloat16)
    arrays["kernel"] = (arrays["kernel"] / 16).astype(jnp.bfloat16).astype(jnp.float32)
    loss, _ = head_loss(**arrays, block_rows=4)
    exact, _ = plain(**arrays | {"features": arrays["features"].astype(jnp.float32)})[1]
    np.testing.assert_allclose(loss.cross_entropy, exact, atol=3e-3)

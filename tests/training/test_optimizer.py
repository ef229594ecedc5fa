"""Clipping, warm-up, decay and the averaging rate, each against its definition."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskflow_jax.config import OptimizerConfig
from maskflow_jax.training.optimizer import ema_rate, make_optimizer

PARAMS = {"w": jnp.array([1.0, -2.0, 3.0])}


def test_defaults_are_the_papers():
    assert vars(OptimizerConfig()) == {
        "learning_rate": 1e-4,
        "warmup_steps": 0,
        "decay_steps": 0,
        "final_learning_rate_fraction": 0.0,
        "beta1": 0.9,
        "beta2": 0.999,
        "weight_decay": 0.0,
        "clip_norm": 2.0,
        "ema_decay": 0.9999,
        "ema_warmup": False,
        "micro_batches": 1,
    }


@pytest.mark.parametrize(("norm", "clipped"), [(0.5, 0.5), (2.0, 2.0), (50.0, 2.0)])
def test_gradients_are_clipped_by_their_global_norm_before_adam(norm, clipped):
    optimizer = make_optimizer(OptimizerConfig())
    direction = np.array([2.0, -1.0, 2.0]) / 3
    grads = {"w": jnp.asarray(norm * direction)}
    _, state = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    # Adam itself does not see the size of a gradient, its first moment does.
    moment = optax.tree_utils.tree_get(state, "mu")["w"]
    np.testing.assert_allclose(moment, 0.1 * clipped * direction, rtol=1e-6)


def test_rate_grows_linearly_and_stays():
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, warmup_steps=4))
    state, sizes = optimizer.init(PARAMS), []
    for _ in range(7):
        # Under a constant gradient Adam's step is the rate.
        updates, state = optimizer.update({"w": jnp.ones(3)}, state, PARAMS)
        sizes.append(-float(updates["w"][0]))
    np.testing.assert_allclose(sizes, [0, 0.025, 0.05, 0.075, 0.1, 0.1, 0.1], atol=1e-6)


def step_sizes(config, steps):
    """Sizes of Adam's steps under a constant gradient: the learning rates."""
    optimizer = make_optimizer(config)
    state, sizes = optimizer.init(PARAMS), []
    for _ in range(steps):
        updates, state = optimizer.update({"w": jnp.ones(3)}, state, PARAMS)
        sizes.append(-float(updates["w"][0]))
    return sizes


def test_rate_falls_by_a_half_cosine_after_the_warm_up_and_stays():
    config = OptimizerConfig(
        learning_rate=0.1, warmup_steps=2, decay_steps=6, final_learning_rate_fraction=0.2
    )
    cosine = 0.02 + 0.08 * (1 + np.cos(np.pi * np.arange(5) / 4)) / 2
    expected = [0, 0.05, *cosine, 0.02, 0.02]
    np.testing.assert_allclose(step_sizes(config, 9), expected, atol=1e-6)


def test_decay_without_warm_up_begins_at_the_peak():
    sizes = step_sizes(OptimizerConfig(learning_rate=0.1, decay_steps=2), 4)
    np.testing.assert_allclose(sizes, [0.1, 0.05, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay_steps": 5, "warmup_steps": 5}, "raise decay_steps"),
        ({"final_learning_rate_fraction": 1.5}, "use 0 to 1"),
    ],
)
def test_an_impossible_decay_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**settings)


def test_without_warm_up_the_first_step_is_whole():
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1))
    updates, _ = optimizer.update({"w": jnp.ones(3)}, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["w"], -0.1, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_weight_decay_is_decoupled(decay):
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, weight_decay=decay))
    updates, _ = optimizer.update({"w": jnp.zeros(3)}, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["w"], -0.1 * decay * PARAMS["w"], atol=1e-7)


def test_average_rate():
    plain, warm = OptimizerConfig(), OptimizerConfig(ema_warmup=True)
    assert float(ema_rate(plain, jnp.int32(0))) == pytest.approx(1e-4)
    assert float(ema_rate(warm, jnp.int32(0))) == pytest.approx(0.9)  # 1 - 1/10
    assert float(ema_rate(warm, jnp.int32(90))) == pytest.approx(0.09)  # 1 - 91/100
    assert float(ema_rate(warm, jnp.int32(10**6))) == pytest.approx(1e-4, rel=1e-2)


def test_no_part_is_refused():
    with pytest.raises(ValueError, match="micro_batches is 0"):
        OptimizerConfig(micro_batches=0)

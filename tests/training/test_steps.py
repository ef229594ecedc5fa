"""The train step against its definition."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from distributions import quick_jit
from flax import nnx
from tiny import OPTIMIZER, host_copy, quick_compilation, tiny_config

from maskflow_jax.flow.corruption import mask_tokens
from maskflow_jax.flow.frame_times import frame
from maskflow_jax.flow.schedules import quadratic
from maskflow_jax.flow.weighting import WEIGHTINGS, snr
from maskflow_jax.parallel import sharding
from maskflow_jax.training.building import model_builder
from maskflow_jax.training.objective import Layout, weighted_head_loss
from maskflow_jax.training.state import init_state
from maskflow_jax.training.steps import make_train_step

BATCH = np.random.default_rng(0).integers(0, 8, (4, 4, 4, 4)).astype(np.int32)

FULL = (BATCH, np.arange(4))


def corrupted(key, tokens):
    """Times and corrupted tokens of the step with this number's key."""
    time_key, mask_key = jax.random.split(key)
    times = frame(time_key, *tokens.shape[:2])
    return times, mask_tokens(mask_key, tokens, jnp.square(times), 8)


def plain_loss(graphdef, params, *, key, tokens):
    """Algorithm 1 with full logits."""
    times, xt = corrupted(key, tokens)
    model = nnx.merge(graphdef, params)
    log_p = jax.nn.log_softmax(model.logits(model.features(xt, times)))
    cross_entropy = -jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
    weights = snr(quadratic(), times, fused=True)[:, :, None, None]
    masked = xt == 8
    return jnp.sum(cross_entropy * weights * masked) / jnp.sum(masked)


def test_a_step_is_its_definition(world):
    state = world.state()
    # Zero heads hide most of the gradient: start from a state that has learned for two steps.
    for _ in range(2):
        state, _ = world.step(state, BATCH)
    before = host_copy(state)
    after, metrics = world.step(state, BATCH)

    key = jax.random.fold_in(world.key, 2)
    loss_of = functools.partial(plain_loss, world.graphdef, key=key, tokens=BATCH)

    @quick_jit
    def expected_step(params, opt_state):
        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, _ = world.optimizer.update(grads, opt_state, params)
        return loss, grads, optax.apply_updates(params, updates)

    loss, grads, expected = expected_step(before["params"], before["opt_state"])
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-4)
    parts = {name: optax.tree.norm(part) for name, part in grads.items()}
    assert metrics["grad_norms"].keys() == parts.keys()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7),
        metrics["grad_norms"],
        parts,
    )
    np.testing.assert_allclose(metrics["masked"], np.mean(corrupted(key, BATCH)[1] == 8), rtol=1e-6)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), after["params"], expected
    )
    average = jax.tree.map(
        lambda old, new: OPTIMIZER.ema_decay * old + (1 - OPTIMIZER.ema_decay) * np.asarray(new),
        before["ema_params"],
        after["params"],
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after["ema_params"], average
    )
    assert after["step"] == 3


def test_the_average_warms_up_with_the_steps(world):
    """A warm-up that stays at its first step would keep 1/10 of the average at every step."""
    settings = dataclasses.replace(OPTIMIZER, ema_warmup=True, ema_decay=0.999)
    state = world.state()
    with quick_compilation():
        step = make_train_step(world.graphdef, world.flow, world.optimizer, settings, state)
    before = host_copy(state | {"step": jnp.int32(40)})
    after, _ = step(jax.device_put(before, sharding.replicated(world.mesh)), world.key, BATCH)
    rate = 1 - 41 / 50
    for old, new, average in zip(
        *(jax.tree.leaves(tree) for tree in (before["ema_params"], after["params"])),
        jax.tree.leaves(after["ema_params"]),
        strict=True,
    ):
        np.testing.assert_allclose(average, (1 - rate) * old + rate * np.asarray(new), atol=1e-6)
    assert any(
        np.any(a != b)
        for a, b in zip(
            *map(jax.tree.leaves, (before["params"], host_copy(after["params"]))), strict=True
        )
    )


def test_one_compilation_donated_buffers_and_pinned_shardings(world):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # jax warns of donated buffers that it cannot use
        build = model_builder(world.config)
        with quick_compilation():
            graphdef, state = init_state(build, world.optimizer, jax.random.key(0), world.mesh)
            train_step = make_train_step(graphdef, world.flow, world.optimizer, OPTIMIZER, state)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        for _ in range(3):
            old = state
            batch = sharding.place_batch(world.mesh, BATCH)
            state, _ = train_step(state, world.key, batch)
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
            assert jax.tree.map(lambda leaf: leaf.sharding, state) == shardings
    assert train_step._cache_size() == 1


def test_randomness_is_the_key_and_the_step(world):
    def losses(key):
        state, found = world.state(), []
        for _ in range(2):
            state, metrics = world.step(state, BATCH, key)
            found.append(float(metrics["masked"]))
        return found

    first, second = losses(jax.random.key(5))
    assert first != second
    assert losses(jax.random.key(5)) == [first, second]
    assert losses(jax.random.key(6)) != [first, second]


def test_masked_share_follows_the_schedule(world):
    state, shares = world.state(), []
    for _ in range(60):
        state, metrics = world.step(state, BATCH)
        shares.append(float(metrics["masked"]))
    # E[1 - t^2] = 2/3; the times of 960 frames, of deviation 0.3, are averaged.
    assert np.mean(shares) == pytest.approx(2 / 3, abs=0.04)


def test_training_learns(world):
    state, batches, losses = world.state(), world.batches(), []
    for _ in range(150):
        state, metrics = world.step(state, next(batches))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:20])
    assert float(metrics["accuracy"]) > 0.5  # 1/8 by chance


class Recorder(nnx.Module):
    """A model whose logits are one learned row, whatever it sees."""

    def __init__(self, rngs):
        self.head = nnx.Linear(1, 8, rngs=rngs)
        self.head.bias[...] = jnp.arange(8.0) / 8

    def features(self, tokens, times):
        return jnp.zeros((*tokens.shape[:2], 16, 1))

    def to_patches(self, tokens):
        return tokens.reshape(*tokens.shape[:2], 16, 1)


def run_recorder(world, flow, tokens=BATCH):
    with quick_compilation():
        graphdef, state = init_state(Recorder, world.optimizer, jax.random.key(0), world.mesh)
        step = make_train_step(graphdef, flow, world.optimizer, OPTIMIZER, state)
    return step(state, world.key, tokens)[1]


@pytest.mark.parametrize(("time", "masked"), [(0.0, 1.0), (1.0, 0.0)])
def test_times_come_from_the_flow(world, time, masked):
    flow = dataclasses.replace(world.flow, frame_times=lambda key, b, t: jnp.full((b, t), time))
    metrics = run_recorder(world, flow)
    assert metrics["masked"] == masked
    assert np.isfinite(metrics["loss"])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_clean_frames_among_others_leave_the_loss_finite(world, weighting):
    """A time of exactly 1 has an infinite signal-to-noise ratio."""
    weigh = functools.partial(WEIGHTINGS[weighting], quadratic())
    times = jnp.tile(jnp.array([1.0, 0.3, 1.0, 1.0]), (4, 1))
    assert np.all(np.isfinite(weigh(times)))
    flow = dataclasses.replace(world.flow, frame_times=lambda *_: times, weigh=weigh)
    metrics = run_recorder(world, flow)
    assert 0 < metrics["masked"] < 0.25
    assert np.isfinite(metrics["loss"]) and metrics["loss"] > 0


def test_a_clean_frame_may_weigh_infinitely_much(world):
    times = jnp.tile(jnp.array([1.0, 0.3, 1.0, 0.5]), (4, 1))
    flow = dataclasses.replace(
        world.flow, frame_times=lambda *_: times, weigh=lambda t: 1 / (1 - t)
    )
    metrics = run_recorder(world, flow)
    assert np.isfinite(metrics["loss"])
    assert np.isfinite(metrics["grad_norm"])


def test_the_loss_can_be_differentiated_by_its_weights():
    layout = Layout(sharding.make_mesh(), 1)
    keys = jax.random.split(jax.random.key(0), 4)
    features, kernel = jax.random.normal(keys[0], (1, 2, 3, 5)), jax.random.normal(keys[1], (5, 8))
    targets = jax.random.randint(keys[2], (1, 2, 3, 2), 0, 4)
    counted = jax.random.bernoulli(keys[3], 0.5, targets.shape)

    def loss(weights):
        return weighted_head_loss(layout, features, kernel, jnp.zeros(8), targets, counted, weights)

    gradient, positions = jax.grad(loss, has_aux=True)(jnp.ones(targets.shape))
    np.testing.assert_allclose(gradient, positions.cross_entropy)
    assert np.any(gradient)


def test_every_position_counts_without_mask_ce(world):
    flow = dataclasses.replace(world.flow, weigh=jnp.ones_like, mask_ce=False)
    expected = -np.mean(jax.nn.log_softmax(jnp.arange(8.0) / 8)[BATCH])
    metrics = run_recorder(world, flow)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    # The accuracy is that of masked positions all the same: clean tokens are easy to predict.
    assert float(metrics["accuracy"]) == pytest.approx(np.mean(BATCH == 7), abs=0.1)


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_parts_of_a_batch_add_up_to_the_whole(world, micro_batches):
    settings = dataclasses.replace(OPTIMIZER, micro_batches=micro_batches)
    state, _ = world.step(world.state(), BATCH)
    whole, expected = world.step(state, BATCH)
    whole = host_copy(whole)
    state, _ = world.step(world.state(), BATCH)
    with quick_compilation():
        step = make_train_step(world.graphdef, world.flow, world.optimizer, settings, state)
    parts, metrics = step(state, world.key, sharding.place_batch(world.mesh, BATCH))
    for name in ("loss", "accuracy", "masked", "grad_norm"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), parts["params"], whole["params"]
    )


def test_a_batch_that_cannot_be_cut_is_refused(world):
    settings = dataclasses.replace(OPTIMIZER, micro_batches=3)
    step = make_train_step(world.graphdef, world.flow, world.optimizer, settings, world.state())
    with pytest.raises(ValueError, match=r"4 cannot be cut into 3 equal parts"):
        step.lower(world.state(), world.key, BATCH)


def test_bfloat16_compute_keeps_float32_parameters(world):
    config = tiny_config(model__dtype="bfloat16")
    build = model_builder(config)
    with quick_compilation():
        graphdef, state = init_state(build, world.optimizer, jax.random.key(0), world.mesh)
        step = make_train_step(graphdef, world.flow, world.optimizer, OPTIMIZER, state)
    model = nnx.merge(graphdef, state["params"])
    features = jax.eval_shape(model.features, jnp.asarray(BATCH), jnp.ones((4, 4)))
    assert features.dtype == jnp.bfloat16
    for _ in range(3):
        state, metrics = step(state, world.key, sharding.place_batch(world.mesh, BATCH))
        assert np.isfinite(metrics["loss"])
        assert metrics["loss"].dtype == jnp.float32
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim}
    assert dtypes == {jnp.dtype("float32")}

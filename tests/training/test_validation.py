"""The validation measure: its definition, and that it does not depend on how clips are batched."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import quick_jit
from flax import nnx
from tiny import assert_same, host_copy, quick_compilation

from maskflow_jax.flow.corruption import mask_tokens
from maskflow_jax.flow.frame_times import MIN_TIME
from maskflow_jax.parallel import sharding
from maskflow_jax.training.loop import validate
from maskflow_jax.training.steps import TIME_BINS, make_eval_step

BATCH = np.random.default_rng(0).integers(0, 8, (4, 4, 4, 4)).astype(np.int32)
FULL = (BATCH, np.arange(4))


@quick_jit
def plain_logits(model, tokens, times):
    return model.logits(model.features(tokens, times))


def plain_sums(world, params, key, tokens, numbers):
    """Validation sums per time bin, position by position."""
    times, xt = [], []
    for clip, number in zip(tokens, numbers, strict=True):
        time_key, mask_key = jax.random.split(jax.random.fold_in(key, number))
        times.append(jax.random.uniform(time_key, clip.shape[:1], minval=MIN_TIME))
        xt.append(mask_tokens(mask_key, clip[None], jnp.square(times[-1])[None], 8)[0])
    times, xt = jnp.stack(times), jnp.stack(xt)
    model = nnx.merge(world.graphdef, params)
    logits = np.asarray(plain_logits(model, xt, times), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    sums = np.zeros((3, TIME_BINS))
    for index in np.argwhere(np.asarray(xt) == 8):
        b, t, h, w = index
        if numbers[b] >= 0:
            at = int(times[b, t] * TIME_BINS)
            right = logits[b, t, h, w].argmax() == tokens[b, t, h, w]
            sums[:, at] += (-log_p[b, t, h, w, tokens[b, t, h, w]], 1, right)
    return sums


@pytest.fixture(scope="module")
def learned(world):
    state = world.state()
    for _ in range(5):
        state, _ = world.step(state, BATCH)
    return state["params"]


def test_validation_sums_by_time_bin_leave_out_padding(world, learned):
    key, numbers = jax.random.key(3), np.array([7, -1, 2, -1])
    measure = functools.partial(world.eval_step, learned, key)
    sums = measure(*sharding.place_batch(world.mesh, (BATCH, numbers)))
    expected = plain_sums(world, learned, key, BATCH, numbers)
    np.testing.assert_allclose(np.stack(sums), expected, rtol=1e-4)
    garbage = np.where((numbers >= 0)[:, None, None, None], BATCH, 5)
    other = measure(*sharding.place_batch(world.mesh, (garbage, numbers)))
    assert_same(host_copy(other), host_copy(sums))


def test_validation_is_the_same_every_time_and_weighs_tokens_alike(world, learned):
    last = np.array([4, -1, -1, -1])
    clips = [FULL, (BATCH, last)]
    summary = validate(world.eval_step, learned, clips, world.mesh)
    assert validate(world.eval_step, learned, clips, world.mesh) == summary
    sums = plain_sums(world, learned, jax.random.key(0), BATCH, np.arange(4))
    sums += plain_sums(world, learned, jax.random.key(0), BATCH, last)
    assert summary["cross_entropy"] == pytest.approx(sums[0].sum() / sums[1].sum(), rel=1e-4)
    assert summary["accuracy"] == pytest.approx(sums[2].sum() / sums[1].sum(), rel=1e-6)
    assert validate(world.eval_step, learned, clips, world.mesh, seed=1) != summary


def test_validation_does_not_depend_on_the_batches(world, learned):
    """Nor, since a process's share is a part of the batch, on the number of processes."""
    whole = validate(world.eval_step, learned, [FULL], world.mesh)
    order = np.array([2, 0, 3, 1])
    halves = [
        (BATCH[order], np.where(np.arange(4) < 2, order, -1)),
        (BATCH[order], np.where(np.arange(4) >= 2, order, -1)),
    ]
    parts = validate(world.eval_step, learned, halves, world.mesh)
    assert parts == pytest.approx(whole, rel=1e-6)


def test_validation_without_a_clip_is_an_error(world, learned):
    padding = [(BATCH, np.full(4, -1))]
    for clips in ([], padding):
        with pytest.raises(ValueError, match="no masked token"):
            validate(world.eval_step, learned, clips, world.mesh)


def test_validation_times_do_not_follow_the_training(world, learned):
    flow = dataclasses.replace(world.flow, frame_times=None, weigh=None, mask_ce=False)
    with quick_compilation():
        measure = make_eval_step(world.graphdef, flow, world.mesh)
    arguments = (learned, jax.random.key(3), *sharding.place_batch(world.mesh, FULL))
    assert_same(host_copy(measure(*arguments)), host_copy(world.eval_step(*arguments)))

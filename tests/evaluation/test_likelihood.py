"""Validation cross-entropy after a clean context, and what a cached context is said to cost."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import make_schedule, quick_jit
from flax import nnx
from tiny import TOKENIZER, quick_compilation, random_params, tiny_config

from maskflow_jax.evaluation.likelihood import bits_per_token, context_cross_entropy
from maskflow_jax.generation.cache_costs import as_markdown, compare
from maskflow_jax.models.latte import Latte, LatteConfig
from maskflow_jax.training.building import model_builder
from maskflow_jax.training.model_files import TrainedModel

K, T, SIDE, B = 7, 5, 4, 2


@functools.cache
def network(isolated_context):
    config = LatteConfig(
        codebook_size=K, depth=4, width=16, num_heads=2, isolated_context=isolated_context
    )

    def build():
        return Latte(config, nnx.Rngs(0))

    params = jax.tree.map(jnp.asarray, random_params(build, scale=0.3))
    return nnx.merge(nnx.graphdef(nnx.eval_shape(build)), params)


TOKENS = jax.random.randint(jax.random.key(0), (B, T, SIDE, SIDE), 0, K)
VALID = jnp.array([True, False])


def measure(isolated_context, cached):
    model = network(isolated_context)
    return quick_jit(
        lambda key: context_cross_entropy(
            model,
            make_schedule("sigmoid"),
            key,
            TOKENS,
            VALID,
            context_frames=3,
            mask_id=K,
            cached=cached,
        )
    )(jax.random.key(7))


def test_it_is_the_plain_sum_over_the_masked_tokens_of_new_frames():
    model = network(False)
    time_key, mask_key = jax.random.split(jax.random.key(7))
    times = np.array(jax.random.uniform(time_key, (B, T), maxval=1 - 1e-6))
    times[:, :3] = 1.0
    kappa = make_schedule("sigmoid").kappa(times)
    uniform = jax.random.uniform(mask_key, TOKENS.shape)
    x = np.where(uniform < kappa[:, :, None, None], TOKENS, K)
    assert (x[:, :3] == TOKENS[:, :3]).all()
    logits = quick_jit(lambda x, t: model.logits(model.features(x, t)))(x, times)
    picked = np.take_along_axis(
        np.asarray(jax.nn.log_softmax(logits)), np.asarray(TOKENS)[..., None], -1
    )[..., 0]
    cross_entropy, count = measure(False, False)
    np.testing.assert_allclose(cross_entropy, [-picked[0][x[0] == K].sum(), 0.0], rtol=1e-4)
    np.testing.assert_array_equal(count, [(x[0] == K).sum(), 0])


def test_a_cache_costs_nothing_only_where_the_context_is_isolated():
    for isolated_context in (True, False):
        (plain, count), (cached, cached_count) = (
            measure(isolated_context, cached) for cached in (False, True)
        )
        np.testing.assert_array_equal(cached_count, count)
        assert np.allclose(cached, plain, rtol=1e-5) == isolated_context


@pytest.fixture(scope="module")
def run():
    config = tiny_config(model__isolated_context=True)
    build = model_builder(config)
    params = jax.tree.map(jnp.asarray, random_params(lambda: build(nnx.Rngs(0)), scale=0.3))
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    return TrainedModel(config=config, graphdef=graphdef, params=params, step=0, directory=Path())


class Videos:
    """As much of `TokenVideos` as clips are cut from."""

    num_frames, tokenizer = np.array([4, 9]), TOKENIZER

    def __len__(self):
        return 2

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        shape = (self.num_frames[index], *TOKENIZER["grid"])
        return {"tokens": rng.integers(0, TOKENIZER["codebook_size"], shape).astype(np.uint16)}


def test_a_run_is_measured_with_and_without_a_cache(run):
    with quick_compilation():
        row = compare("runs/x", run, Videos(), 2, batch_size=2, passes=2)
    assert row.plain == pytest.approx(row.cached, abs=1e-5)
    assert abs(row.cost) < 1e-5
    assert row.plain_seconds > 0
    assert row.cached_seconds > 0
    table = as_markdown([row])
    assert "| runs/x | 2 |" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1
    with pytest.raises(ValueError, match="context_frames is 4: y has clips of 4 frames"):
        compare("y", run, Videos(), 4, batch_size=2, passes=1)


class Uniform:
    """A network that knows nothing: every token has probability 1 / K."""

    def features(self, x, times):
        return jnp.zeros((*x.shape, 1))

    def logits(self, features):
        return jnp.zeros((*features.shape[:-1], K))


def bits(network, clips, **options):
    options = {"mask_id": K, "batch_size": 3} | options
    return bits_per_token(lambda _: network, {}, make_schedule("sigmoid"), clips, **options)


def test_bits_of_a_network_that_knows_nothing():
    clips = np.random.default_rng(0).integers(0, K, (40, T, SIDE, SIDE))
    found = bits(Uniform(), clips, bound=True)
    assert found.mean == pytest.approx(np.log2(K))
    assert found.error == pytest.approx(0, abs=1e-6)
    assert len(found.by_time) == 10 and len(found.by_frame) == T
    np.testing.assert_allclose(found.by_time, np.log2(K), rtol=1e-5)
    np.testing.assert_allclose(found.by_frame, np.log2(K), rtol=1e-5)
    # The bound is exact for it: each token costs its log K, once.
    assert found.bound == pytest.approx(np.log2(K), rel=0.05)


def test_bits_depend_on_times_and_not_on_batches():
    """A real network: the same figures for other batches, others for another seed."""
    clips = np.random.default_rng(0).integers(0, K, (5, T, SIDE, SIDE))
    with quick_compilation():
        found = bits(network(False), clips)
        again = bits(network(False), clips, batch_size=2)
        other = bits(network(False), clips, seed=1)
    assert found.mean == pytest.approx(again.mean, rel=1e-5)
    assert found.by_time == pytest.approx(again.by_time, rel=1e-5)
    assert abs(found.mean - other.mean) > 1e-5
    assert found.error > 0 and found.bound is None
    with pytest.raises(ValueError, match="no validation clips"):
        bits(Uniform(), clips[:0])

"""Proposals: the exact law of the draw, at the edges of float32 too, and what it must not touch."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import follows, proposer, quick_jit, sample_keys, step_at

from maskflow_jax.sampling.proposal import BLOCK, INVALID, Decoding, draw

ALMOST_ONE = np.nextafter(np.float32(1.0), np.float32(0.0))
quick_draw = quick_jit(draw)


def random_logits(num_classes, seed=0, scale=1.0):
    return scale * jax.random.normal(jax.random.key(seed), (num_classes,))


def draw_many(logits, num, seed=1, **settings):
    uniform = jax.random.uniform(jax.random.key(seed), (num,))
    logits = jnp.broadcast_to(logits, (num, len(logits)))
    return quick_jit(lambda u, logits: draw(u, logits, Decoding(**settings)))(uniform, logits)


def softmax(logits):
    return np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)), np.float64)


@pytest.mark.parametrize("num_classes", [5, 300])
def test_draws_follow_the_softmax(num_classes):
    logits = random_logits(num_classes, scale=0.7)
    tokens, log_probability = draw_many(logits, 30_000)
    assert follows(np.bincount(tokens, minlength=num_classes), softmax(logits))
    expected = jax.nn.log_softmax(logits)[tokens]
    np.testing.assert_allclose(log_probability, expected, atol=1e-5)


def test_the_chi_square_can_fail():
    tokens, _ = draw_many(random_logits(300, scale=0.7), 30_000, temperature=1.1)
    law = softmax(random_logits(300, scale=0.7))
    assert not follows(np.bincount(tokens, minlength=300), law)


@pytest.mark.parametrize("num_classes", [7, 16_384])
def test_even_uniforms_give_even_counts(num_classes):
    """An inverse CDF maps a grid of uniforms to counts within one of N p, plus rounding."""
    num = 4000
    logits = random_logits(num_classes, scale=3.0)
    grid = (jnp.arange(num, dtype=jnp.float32) + 0.5) / num
    tokens, _ = jax.lax.map(lambda u: draw(u, logits), grid, batch_size=100)
    counts = np.bincount(tokens, minlength=num_classes)
    assert np.max(np.abs(counts - num * softmax(logits))) < 1.1
    assert np.all(np.diff(tokens) >= 0)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature(temperature):
    logits = random_logits(10, scale=0.7)
    tokens, log_probability = draw_many(logits, 30_000, temperature=temperature)
    assert follows(np.bincount(tokens, minlength=10), softmax(logits / temperature))
    np.testing.assert_allclose(
        log_probability, jax.nn.log_softmax(logits / temperature)[tokens], atol=1e-5
    )


def test_temperature_zero_is_the_most_likely_class_with_its_own_confidence():
    logits = jnp.array([[0.0, 2.0, 1.0], [3.0, 3.0, 0.0]])
    tokens, log_probability = draw(jnp.array([0.99, 0.99]), logits, Decoding(temperature=0.0))
    np.testing.assert_array_equal(tokens, [1, 0])
    expected = jax.nn.log_softmax(logits)[jnp.arange(2), tokens]
    np.testing.assert_allclose(log_probability, expected, rtol=1e-6)


@pytest.mark.parametrize("top_k", [1, 40])
def test_top_k_keeps_the_k_likeliest(top_k):
    logits = np.asarray(random_logits(300, scale=0.7))
    kept = np.argsort(-logits, kind="stable")[:top_k]
    law = np.zeros(300)
    law[kept] = softmax(logits[kept])
    tokens, log_probability = draw_many(jnp.asarray(logits), 20_000, top_k=top_k)
    counts = np.bincount(tokens, minlength=300)
    assert counts.sum() == counts[kept].sum()
    if top_k > 1:
        assert follows(counts, law)
    # Confidence is that of the whole law, so that it still tells tokens apart where k is 1.
    np.testing.assert_allclose(log_probability, np.log(softmax(logits)[tokens]), atol=1e-5)


def test_top_k_of_equal_logits_keeps_the_lower_ids():
    tokens, _ = draw_many(jnp.array([1.0, 5.0, 5.0, 5.0, 5.0]), 500, top_k=2)
    assert set(tokens.tolist()) == {1, 2}


def test_top_p_keeps_the_fewest_classes_that_hold_it():
    law = np.array([0.1, 0.4, 0.2, 0.3])
    tokens, _ = draw_many(jnp.log(law), 20_000, top_p=0.65)  # 0.4 + 0.3 >= 0.65
    assert follows(np.bincount(tokens, minlength=4), np.array([0, 0.4, 0, 0.3]) / 0.7)
    tokens, _ = draw_many(jnp.log(law), 20_000, top_p=0.75, top_k=3)  # of 0.9: 4/9 + 3/9 >= 0.75
    assert follows(np.bincount(tokens, minlength=4), np.array([0, 0.4, 0, 0.3]) / 0.7)
    tokens, _ = draw_many(jnp.log(law), 20_000, top_p=1.0)
    assert follows(np.bincount(tokens, minlength=4), law)
    tokens, _ = draw_many(jnp.log(law), 100, top_p=1e-6)
    assert set(tokens.tolist()) == {1}


@pytest.mark.parametrize("num_classes", [3, 2 * BLOCK + 5, 16_384])
def test_a_class_of_probability_zero_is_never_drawn(num_classes):
    rng = np.random.default_rng(num_classes)
    uniform = np.tile(np.array([0.0, 1e-7, 0.5, ALMOST_ONE], np.float32), 10)
    logits = rng.normal(size=(40, num_classes)).astype(np.float32) * 5
    allowed = rng.random(logits.shape) < rng.choice([0.02, 0.5], (40, 1))
    allowed[:, [0, -1]] = False  # the classes that a sloppy inverse CDF falls into
    allowed[:, num_classes // 2] = True
    tokens, log_probability = quick_draw(uniform, np.where(allowed, logits, -np.inf))
    assert np.all(allowed[np.arange(40), tokens])
    assert np.all(np.isfinite(log_probability))


def test_extreme_logits():
    logits = jnp.array([[1e30, -1e30, 0.0], [-1e30, -1e30, -1e30], [0.0, 80.0, -jnp.inf]])
    tokens, log_probability = quick_draw(jnp.full(3, 0.4), logits)
    np.testing.assert_array_equal(tokens, [0, 1, 1])
    np.testing.assert_allclose(log_probability, [0.0, -np.log(3.0), 0.0], atol=1e-6)


def test_logits_that_are_no_law_give_an_invalid_token():
    logits = jnp.array([[jnp.nan, 0.0], [-jnp.inf, -jnp.inf], [jnp.inf, 0.0], [0.0, -jnp.inf]])
    tokens, _ = quick_draw(jnp.full(4, 0.5), logits)
    np.testing.assert_array_equal(tokens, [INVALID, INVALID, INVALID, 0])


B, T, H, W, K = 3, 5, 2, 3, 400


def toy_propose(**settings):
    """Logits that differ by token, time and frame, without any cross-sample term."""
    table = jax.random.normal(jax.random.key(5), (K + 1, 4))
    head = jax.random.normal(jax.random.key(6), (4, K))

    def features(x, t):
        mixed = table[x].reshape(*x.shape[:2], H * W, 4) + t[:, :, None, None]
        return (mixed + jnp.sum(mixed, axis=1, keepdims=True))[:, first_frame:]

    def logits(features):
        return jnp.einsum("btnd,dk->btnk", features, head).reshape(*features.shape[:2], H, W, K)

    around = {k: settings.pop(k) for k in ("first_frame", "frame_block") if k in settings}
    first_frame = around.get("first_frame", 0)
    propose = proposer(features, logits, decoding=Decoding(**settings), **around)
    return lambda keys, x, t: propose(keys, x, step_at(x, t))


@pytest.fixture(scope="module")
def inputs():
    x = jax.random.randint(jax.random.key(0), (B, T, H, W), 0, K + 1)
    return sample_keys(3, B), x, jax.random.uniform(jax.random.key(1), (B, T))


def test_draws_do_not_depend_on_frame_block(inputs):
    tokens, log_confidence = quick_jit(toy_propose())(*inputs)
    assert tokens.shape == log_confidence.shape == (B, T, H, W)
    assert tokens.dtype == jnp.int32
    assert log_confidence.dtype == jnp.float32
    for frame_block in (2, 99):  # 2 does not divide 5
        other = quick_jit(toy_propose(frame_block=frame_block))(*inputs)
        np.testing.assert_array_equal(other.tokens, tokens)
        np.testing.assert_allclose(other.log_confidence, log_confidence, atol=1e-5)


def test_draws_do_not_depend_on_the_batch(inputs):
    propose = quick_jit(toy_propose())
    tokens, _ = propose(*inputs)
    alone = propose(*(a[1:2] for a in inputs))
    np.testing.assert_array_equal(alone.tokens[0], tokens[1])
    assert not np.array_equal(tokens[0], tokens[1])


def test_frames_limits_the_head_and_no_draw(inputs):
    keys, x, t = inputs
    whole = quick_jit(toy_propose())(keys, x, t)
    part = quick_jit(toy_propose(first_frame=2))(keys, x, t)
    np.testing.assert_array_equal(part.tokens[:, 2:], whole.tokens[:, 2:])
    np.testing.assert_array_equal(part.tokens[:, :2], x[:, :2])
    assert np.all(np.isneginf(part.log_confidence[:, :2]))
    jaxpr = str(jax.make_jaxpr(toy_propose(first_frame=2))(keys, x, t))
    assert "length=3" in jaxpr
    assert "length=5" not in jaxpr


def test_full_logits_never_exist(inputs):
    jaxpr = str(jax.make_jaxpr(toy_propose(top_k=10))(*inputs))
    sizes = [np.prod([int(n) for n in s.split(",")]) for s in re.findall(r"f32\[([\d,]+)\]", jaxpr)]
    assert max(sizes) == B * H * W * K  # one frame of them


def test_bfloat16_logits_are_drawn_in_float32():
    logits = jnp.zeros((1, 1, 1, 1, 300), jnp.bfloat16)
    propose = proposer(lambda x, t: jnp.zeros((1, 1, 1, 1)), lambda features: logits)
    x = jnp.zeros((1, 1, 1, 1), jnp.int32)
    _, log_confidence = propose(sample_keys(0, 1), x, step_at(x, jnp.zeros((1, 1))))
    np.testing.assert_allclose(log_confidence, -np.log(300.0), rtol=1e-6)


def test_refusals():
    for settings in ({"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            toy_propose(**settings)
    with pytest.raises(ValueError, match="top_k is 6, of 5"):
        draw(jnp.float32(0.5), jnp.zeros(5), Decoding(top_k=6))

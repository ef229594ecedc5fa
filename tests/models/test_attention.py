"""Attention against its definition, and which kernel is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskflow_jax.models import attention
from maskflow_jax.parallel import sharding


def example(dtype="float32"):
    keys = jax.random.split(jax.random.key(0), 4)
    query = jax.random.normal(keys[0], (2, 3, 4, 8), dtype)
    key, value = (jax.random.normal(k, (2, 5, 4, 8), dtype) for k in keys[1:3])
    mask = jax.random.bernoulli(keys[3], 0.5, (2, 3, 5)).at[..., 0].set(True)
    return query, key, value, mask


def by_definition(query, key, value, mask):
    query, key, value = (np.asarray(a, np.float64) for a in (query, key, value))
    scores = np.einsum("blhd,bmhd->bhlm", query, key) / np.sqrt(8)
    scores = np.where(np.asarray(mask)[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhlm,bmhd->blhd", weights, value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_is_its_definition(dtype):
    query, key, value, mask = example(dtype)
    tolerance = 1e-5 if dtype == "float32" else 0.03
    for shown in (mask, jnp.ones_like(mask)):
        expected = by_definition(query, key, value, shown)
        ours = attention.attend(query, key, value, mask=shown)
        assert ours.dtype == query.dtype
        np.testing.assert_allclose(np.asarray(ours, np.float64), expected, atol=tolerance)
    without = attention.attend(query, key, value)
    np.testing.assert_allclose(np.asarray(without, np.float64), expected, atol=tolerance)


@pytest.fixture
def gpu(monkeypatch):
    """A process that takes itself for one with a GPU; returns how often a kernel is asked for."""
    asked, forget = [], attention.probe.cache_clear
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    forget()
    yield monkeypatch, asked
    forget()


def test_the_probe_takes_cudnn_where_it_compiles_and_asks_once(gpu):
    monkeypatch, asked = gpu

    def works(query, key, value, mask, implementation):
        asked.append((query.shape, key.shape, mask is not None, implementation))
        return query * jnp.sum(key * value)

    monkeypatch.setattr(attention, "_attend", works)
    for _ in range(2):
        assert attention.probe((64, 16, 4, 8), 20, "bfloat16", True) == "cudnn"
    assert set(asked) == {((2, 16, 4, 8), (2, 20, 4, 8), True, "cudnn")}
    assert attention.probe((64, 16, 4, 8), 20, "float32", True) == "xla"  # no flash in float32


@pytest.mark.parametrize("error", [NotImplementedError, ValueError, RuntimeError])
def test_the_probe_takes_xla_where_cudnn_refuses_and_says_why(gpu, caplog, error):
    monkeypatch, _ = gpu

    def refuses(*_):
        raise error("head dim 9 is odd")

    monkeypatch.setattr(attention, "_attend", refuses)
    with caplog.at_level("INFO", logger="absl"):
        assert attention.probe((64, 16, 4, 9), 16, "bfloat16", False) == "xla"
    assert "head dim 9 is odd" in caplog.text


def test_a_bug_in_the_probe_is_not_taken_for_a_refusal(gpu):
    monkeypatch, _ = gpu
    monkeypatch.setattr(attention, "_attend", lambda *_: {}["missing"])
    with pytest.raises(KeyError):
        attention.probe((64, 16, 4, 8), 16, "bfloat16", False)


@pytest.mark.parametrize(("tensor", "expected"), [(1, ["cudnn"]), (2, [])])
def test_samples_that_are_mapped_over_some_axes_only_take_xla(gpu, tensor, expected):
    """There cuDNN's own rule of how it is split cannot be asked, and jax ends in an error."""
    monkeypatch, asked = gpu
    monkeypatch.setattr(attention, "probe", lambda *_: "cudnn")

    def record(query, key, value, mask, implementation):
        asked.append(implementation)
        return query

    monkeypatch.setattr(attention, "_attend", record)
    mesh = jax.sharding.AbstractMesh(
        (1, 1, tensor), sharding.AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3
    )
    attend = sharding.map_samples(mesh, lambda _, query: attention.attend(query, query, query))
    jax.eval_shape(attend, jnp.zeros(()), example("bfloat16")[0])
    assert [name for name in asked if name == "cudnn"] == expected
    asked.clear()
    attention.attend(*example("bfloat16")[:3])
    assert asked == ["cudnn"]


def test_the_choice_can_be_overridden(monkeypatch):
    """On a CPU "auto" is XLA; asked for by name, cuDNN is refused with what to choose."""
    query, key, value, mask = example("bfloat16")
    assert attention.probe(query.shape, 5, "bfloat16", True) == "xla"
    with pytest.raises(ValueError, match=r"needs a GPU, and jax runs on cpu here; choose 'auto'"):
        attention.attend(query, key, value, mask=mask, implementation="cudnn")

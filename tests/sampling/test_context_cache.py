"""Cached context: exact where clean frames see clean frames only, else an approximation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import quick_jit, sample_keys, window_sampler
from flax import nnx
from tiny import random_params

from maskflow_jax.generation.window_program import WindowProgram
from maskflow_jax.models.latte import Latte, LatteConfig
from maskflow_jax.sampling.types import Window, WindowTokens

K, T, SIDE, B = 7, 5, 4, 2
REVERSED = np.arange(T)[::-1]


@functools.cache
def network(isolated_context):
    config = LatteConfig(
        codebook_size=K, depth=4, width=16, num_heads=2, isolated_context=isolated_context
    )

    def build():
        return Latte(config, nnx.Rngs(0))

    params = jax.tree.map(jnp.asarray, random_params(build, scale=0.3))
    return nnx.merge(nnx.graphdef(nnx.eval_shape(build)), params)


def clips(context_frames, seed=0):
    """Clips whose first frames are clean."""
    keys = jax.random.split(jax.random.key(seed), 2)
    tokens = jax.random.randint(keys[0], (B, T, SIDE, SIDE), 0, K + 1)
    times = jax.random.uniform(keys[1], (B, T), maxval=0.99)
    return tokens, times.at[:, :context_frames].set(1.0)


@functools.cache
def compiled(isolated_context):
    """Features of all frames, and of the new ones after a cached context."""
    model = network(isolated_context)

    @functools.partial(quick_jit, static_argnums=(2, 3))
    def whole(tokens, times, num_wanted=None, backward=False):
        positions = REVERSED if backward else None
        return model.features(tokens, times, positions=positions, num_wanted=num_wanted)

    @functools.partial(quick_jit, static_argnums=(2, 3))
    def cached(tokens, times, context, backward=False):
        positions = REVERSED if backward else np.arange(T)
        cache = model.context_cache(
            tokens[:, :context], times[:, :context], positions=positions[:context]
        )
        return model.features(
            tokens[:, context:], times[:, context:], positions=positions[context:], context=cache
        )

    return whole, cached


@pytest.mark.parametrize(("context", "backward"), [(1, True), (3, False), (4, False)])
def test_a_cached_context_is_exact_for_an_isolated_one(context, backward):
    whole, cached = compiled(True)
    tokens, times = clips(context)
    expected = whole(tokens, times, None, backward)[:, context:]
    np.testing.assert_allclose(cached(tokens, times, context, backward), expected, atol=2e-5)


def test_a_new_frame_that_is_clean_is_isolated_from_the_others_too():
    """The cached context does not know of it, so what sees that context is not compared."""
    whole, _ = compiled(True)
    tokens, times = clips(2)
    times = times.at[:, 3].set(1.0)
    np.testing.assert_allclose(
        whole(tokens, times)[:, 3], whole(tokens.at[:, [2, 4]].set(K), times)[:, 3], atol=2e-5
    )


def test_of_an_ordinary_network_it_is_an_approximation():
    whole, cached = compiled(False)
    tokens, times = clips(3)
    difference = cached(tokens, times, 3) - whole(tokens, times)[:, 3:]
    assert float(jnp.abs(difference).max()) > 1e-3


@pytest.mark.parametrize("isolated_context", [False, True])
def test_clean_frames_see_unclean_ones_unless_isolated(isolated_context):
    whole, _ = compiled(isolated_context)
    tokens, times = clips(3)
    other = tokens.at[:, 3:].set((tokens[:, 3:] + 1) % K)
    change = jnp.abs(whole(other, times) - whole(tokens, times)).max(axis=(0, 2, 3))
    assert bool(jnp.all(change[:3] < 1e-6)) == isolated_context
    assert bool(jnp.all(change[3:] > 1e-3))
    # Without a clean frame there is nothing to isolate.
    times = jnp.minimum(times, 0.99)
    assert bool(jnp.all(jnp.abs(whole(other, times) - whole(tokens, times)).max((0, 2, 3)) > 1e-4))


@pytest.mark.parametrize("num_wanted", [1, 3])
def test_wanted_frames_are_those_of_the_whole(num_wanted):
    whole, _ = compiled(False)
    tokens, times = clips(2)
    np.testing.assert_allclose(
        whole(tokens, times, num_wanted), whole(tokens, times)[:, -num_wanted:], atol=2e-5
    )


def window(name, context_cache, *, backward=False, context=3):
    sample = window_sampler(name, num_steps=4, context_cache=context_cache)
    known = jnp.broadcast_to((jnp.arange(T) < context)[:, None, None], (B, T, SIDE, SIDE))
    stage = "start" if name == "rolling" else "chunk"
    model = network(True)
    return lambda keys, tokens: sample(
        model,
        keys,
        WindowTokens(jnp.where(known, tokens, K), known),
        context_frames=context,
        stage=stage,
        backward=backward,
    )[0]


@pytest.mark.parametrize("name", ["mgm", "fm", "rolling"])
def test_samples_are_the_same_with_and_without_a_cache(name):
    tokens, keys = clips(3, seed=5)[0] % K, sample_keys(0, B)
    backward = name == "mgm"
    plain, cached = (
        quick_jit(window(name, cache, backward=backward))(keys, tokens) for cache in (False, True)
    )
    np.testing.assert_array_equal(cached, plain)
    assert len(np.unique(plain[:, 3:])) > 2


def test_the_context_is_run_once_and_not_at_every_step():
    """In the loop over steps, the only rows are those of the one new frame."""
    cached, plain = (
        jax.make_jaxpr(window("mgm", cache, context=T - 1))(sample_keys(0, B), clips(4)[0])
        for cache in (True, False)
    )
    patches = (SIDE // 2) ** 2
    assert rows_in_loop(cached) == {B * patches}
    # Uncached, only the last temporal block leaves the context out.
    assert rows_in_loop(plain) == {B * patches, B * T * patches}


def rows_in_loop(jaxpr):
    """Rows of the MLPs' products inside the loop over steps, which carries the window."""
    rows = set()

    def visit(jaxpr, inside):
        for equation in jaxpr.eqns:
            shapes = [variable.aval.shape for variable in equation.outvars]
            if inside and equation.primitive.name == "dot_general" and shapes[0][-1] == 64:
                rows.add(shapes[0][0])
            loop = equation.primitive.name in ("while", "scan") and (B, T, SIDE, SIDE) in shapes
            for inner in jax.core.jaxprs_in_params(equation.params):
                visit(inner, inside or loop)

    visit(jaxpr.jaxpr, False)
    return rows


@pytest.mark.parametrize("context_cache", [True, False])
def test_a_cache_holds_all_of_a_larger_context(context_cache):
    """Often that of the last window: its frames beyond the usual context are clean like others."""
    built = []

    class Recorder:
        """A window sampler that samples nothing."""

        def __init__(self):
            self.context_cache = context_cache

        def __call__(self, network, keys, window, *, context_frames, **_):
            built.append(context_frames)
            return window.tokens, None

    graphdef, params = nnx.split(nnx.Linear(1, 1, rngs=nnx.Rngs(0)))
    program = WindowProgram(graphdef, Recorder(), context_frames=2, mask_id=K)
    tokens = np.zeros((B, T, SIDE, SIDE), np.int32)
    for context in (1, 2, 4):
        program(params, sample_keys(0, B), tokens, tokens == 0, Window(context, 1))
    assert built == ([1, 2, 4] if context_cache else [1, 2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_weight": 1.0}, "context_cache cannot keep"),
        ({"context_time": 0.9}, "context_cache cannot keep"),
        ({"independent_time": 1.0}, "all frames are passed as clean"),
    ],
)
def test_what_a_cache_cannot_go_with_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        window_sampler(context_cache=True, **settings)

"""Latte against the released implementation's numbers, and against its own promises."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from released import REFERENCE, NumpyLatte, load_reference, silu
from tiny import quick_compilation

from maskflow_jax.models import latte_torch, layers
from maskflow_jax.models.attention import attend
from maskflow_jax.models.latte import VARIANTS, Latte, LatteConfig, latte_config

TINY = LatteConfig(codebook_size=7, depth=4, width=32, num_heads=2)


def build(config: LatteConfig, params: dict | None = None) -> Latte:
    """A model with given parameters or with random ones, none of them zero."""
    abstract = nnx.eval_shape(lambda: Latte(config, nnx.Rngs(0)))
    if params is not None:
        return nnx.merge(nnx.graphdef(abstract), jax.tree.map(jnp.asarray, params))
    shapes = nnx.to_pure_dict(nnx.state(abstract))
    rng = np.random.default_rng(0)
    return nnx.merge(
        nnx.graphdef(abstract),
        jax.tree.map(lambda x: jnp.asarray(0.15 * rng.normal(size=x.shape), x.dtype), shapes),
    )


def logits(model: Latte, tokens, times):
    return jax.jit(lambda tokens, times: model.logits(model.features(tokens, times)))(tokens, times)


def assert_close(ours, theirs):
    """Within 1e-5 of the largest value."""
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("time_conditioning", [True, False])
def test_logits_match_the_released_implementation(index, time_conditioning):
    reference, config, state = load_reference(index)
    params = latte_torch.from_torch(state, config)
    config = LatteConfig(**{**vars(config), "time_conditioning": time_conditioning})
    ours = logits(build(config, params), reference["tokens"], reference["times"])
    name = "logits" if time_conditioning else "logits_time_independent"
    # [B, V, T, H, W] with the mask token as the last class
    theirs = reference[name].transpose(0, 2, 3, 4, 1)
    assert_close(ours, theirs[..., :-1])
    times = reference["times"] if time_conditioning else np.zeros_like(reference["times"])
    assert_close(NumpyLatte(state, config.num_heads).logits(reference["tokens"], times), theirs)


@pytest.mark.parametrize("index", [0, 1])
def test_every_stage_matches(index):
    """The stages of the NumPy model, whose logits are the released ones."""
    reference, config, state = load_reference(index)
    theirs, tokens, times = (
        NumpyLatte(state, config.num_heads),
        reference["tokens"],
        reference["times"],
    )
    ours = build(config, latte_torch.from_torch(state, config))
    embedded, condition = theirs.embed(tokens), silu(theirs.time_embedding(times))
    with quick_compilation():
        run = jax.jit(lambda stage, *args: stage(*args), static_argnums=0)
        assert_close(run(ours.time_embedding, times), theirs.time_embedding(times))
        assert_close(run(ours._embed, tokens), embedded)
        pair = jax.tree.map(lambda leaf: leaf[config.depth // 2 - 1], ours.blocks)
        x, blocks = jnp.asarray(embedded, jnp.float32), (pair.spatial, pair.temporal)
        for block, number in zip(blocks, (config.depth - 2, config.depth - 1), strict=True):
            attended = theirs.attention(f"blocks.{number}.attn", embedded[0])
            assert_close(run(attention_of(block), x[0]), attended)
            mixed = theirs.block(number, embedded, condition)
            axis = "frames" if number % 2 else "patches"
            result, _ = run(
                functools.partial(block, axis=axis), x, jnp.asarray(condition, jnp.float32)
            )
            assert_close(result, mixed)


def attention_of(block):
    """The attention of a block on [B, L, D]."""

    def attention(x):
        return block.attention.output(attend(*block.attention.queries_keys_values(x)))

    return attention


def test_position_tables_match_the_released_implementation():
    _, config, state = load_reference(0)
    side = round(state["pos_embed"].shape[1] ** 0.5)
    frames = state["temp_embed"].shape[1]
    np.testing.assert_allclose(
        layers.sincos_2d(side, config.width), state["pos_embed"][0], atol=1e-6
    )
    np.testing.assert_allclose(
        layers.sincos_1d(np.arange(frames), config.width), state["temp_embed"][0], atol=1e-6
    )


def parameter_counts(variant):
    """Parameters in all, in the token table, in the final layer; nothing is allocated."""
    config = latte_config(f"{variant}/2", codebook_size=16384)
    shapes = nnx.to_pure_dict(nnx.eval_shape(lambda: nnx.state(Latte(config, nnx.Rngs(0)))))

    def count(tree):
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))

    final = {name: shapes[name] for name in ("final_modulation", "head")}
    return {"all": count(shapes), "embed": count(shapes["token_embedding"]), "final": count(final)}


def test_parameter_counts_are_the_released_ones_but_for_the_mask_class():
    released = json.loads((REFERENCE / "param_counts.json").read_text())
    for variant in ("S", "B"):
        ours, theirs = parameter_counts(variant), released[f"{variant}/2"]
        # One class less in each of the 2 x 2 tokens of a patch: a row of weights and a bias.
        mask_class = 4 * (VARIANTS[variant]["width"] + 1)
        assert ours["all"] == theirs["trainable"] - mask_class
        assert ours["embed"] == theirs["embed"]
        assert ours["final"] == theirs["final"] - mask_class


def test_parameter_counts_of_the_papers_sizes():
    counts = {variant: parameter_counts(variant) for variant in VARIANTS}
    assert {variant: count["all"] for variant, count in counts.items()} == {
        "S": 61_134_400,
        "B": 187_378_816,
        "L": 534_427_136,
        "XL": 761_281_216,  # the paper's 760M
    }
    # The paper's 129M: B/2 without token table and final layer.
    inner = counts["B"]["all"] - counts["B"]["embed"] - counts["B"]["final"]
    assert round(inner / 1e6, 1) == 129.5


@pytest.mark.parametrize("patch_size", [1, 2, 4, 8])
def test_every_patch_size_sees_and_predicts_each_token_in_its_place(patch_size):
    config = LatteConfig(**{**vars(TINY), "patch_size": patch_size})
    model = build(config)
    tokens = jax.random.randint(jax.random.key(0), (1, 2, 8, 8), 0, 7)
    times = jnp.full((1, 2), 0.5)
    before = logits(model, tokens, times)
    assert before.shape == (1, 2, 8, 8, 7)
    assert before.dtype == jnp.float32
    after = logits(model, tokens.at[0, 1, 3, 5].set(7), times)
    assert float(jnp.abs(after - before).max()) > 1e-4


def test_each_frame_is_conditioned_on_its_own_time():
    # Without temporal mixing of values (one frame each), a frame's output depends on its time only.
    model = build(TINY)
    tokens = jnp.broadcast_to(jnp.arange(4).reshape(2, 2) % 7, (1, 3, 2, 2))
    features = jax.jit(lambda times: model.features(tokens, times))
    same, other = features(jnp.full((1, 3), 0.2)), features(jnp.array([[0.2, 0.9, 0.2]]))
    change = jnp.abs(other - same).mean(axis=(0, 2, 3))
    assert int(jnp.argmax(change)) == 1
    independent = build(LatteConfig(**{**vars(TINY), "time_conditioning": False}))
    features = jax.jit(lambda times: independent.features(tokens, times))
    np.testing.assert_array_equal(
        features(jnp.full((1, 3), 0.2)), features(jnp.array([[0.2, 0.9, 0.2]]))
    )


def test_new_network_predicts_uniformly():
    model = Latte(TINY, nnx.Rngs(0))
    tokens = jnp.zeros((1, 2, 4, 4), jnp.int32)
    np.testing.assert_array_equal(logits(model, tokens, jnp.zeros((1, 2))), 0.0)


def test_rematerialisation_does_not_change_gradients():
    config = LatteConfig(**{**vars(TINY), "depth": 2, "width": 16})
    tokens = jax.random.randint(jax.random.key(0), (2, 3, 4, 4), 0, 8)
    times = jax.random.uniform(jax.random.key(1), (2, 3))
    params = nnx.to_pure_dict(nnx.state(build(config)))

    def gradient(remat):
        settings = LatteConfig(**{**vars(config), "remat": remat})
        graphdef = nnx.graphdef(nnx.eval_shape(lambda: Latte(settings, nnx.Rngs(0))))

        def loss(params):
            model = nnx.merge(graphdef, params)
            return jnp.mean(model.logits(model.features(tokens, times)) ** 2)

        return jax.tree.leaves(jax.jit(jax.grad(loss))(params))

    plain = gradient("none")
    for remat in ("dots", "full"):
        for ours, theirs in zip(gradient(remat), plain, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_bfloat16_computes_in_bfloat16_and_stays_close():
    model = build(TINY)
    params = nnx.to_pure_dict(nnx.state(model))
    narrow = build(LatteConfig(**{**vars(TINY), "dtype": "bfloat16"}), params)
    tokens = jax.random.randint(jax.random.key(0), (2, 3, 4, 4), 0, 8)
    times = jax.random.uniform(jax.random.key(1), (2, 3))
    wide, close = logits(model, tokens, times), logits(narrow, tokens, times)
    features = narrow.features(tokens, times)
    assert features.dtype == jnp.bfloat16
    # The logits are accumulated and returned in float32.
    assert close.dtype == jnp.float32
    kernel = np.asarray(narrow.head.kernel[...].astype(jnp.bfloat16), np.float64)
    exact = np.asarray(features, np.float64).reshape(-1, TINY.width) @ kernel
    exact += np.asarray(narrow.head.bias[...])
    ours = jnp.sort(narrow.logits(features).reshape(-1))
    np.testing.assert_allclose(ours, np.sort(exact.ravel()), atol=1e-4)
    error = jnp.linalg.norm(wide - close) / jnp.linalg.norm(wide)
    assert 0 < float(error) < 0.05


def test_layer_norm_computes_its_statistics_in_float32():
    """Of values around 100, bfloat16 keeps not one digit after the point."""
    x = 100 + np.random.default_rng(0).normal(size=(16, 64)).astype(np.float32)
    exact = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    ours = layers.layer_norm(jnp.asarray(x), jnp.bfloat16)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(ours, np.float32), exact, atol=0.02)


def test_the_residual_stream_is_float32():
    """One rounded to bfloat16 after every branch gives an error of 1.4 % here."""
    shape = {"codebook_size": 7, "depth": 28, "width": 64, "num_heads": 4}
    init = jax.jit(lambda: nnx.state(Latte(LatteConfig(**shape), nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    # The initialisation, but with open gates.
    params = jax.tree.map(
        lambda x: x + 0.05 * rng.normal(size=x.shape).astype(np.float32),
        nnx.to_pure_dict(init()),
    )
    tokens = jax.random.randint(jax.random.key(0), (1, 4, 4, 4), 0, 8)
    times = jax.random.uniform(jax.random.key(1), (1, 4))

    def features(model: Latte) -> jax.Array:
        return jax.jit(lambda: model.features(tokens, times))()

    wide, narrow = (
        np.asarray(features(build(LatteConfig(**shape, dtype=dtype), params)), float)
        for dtype in ("float32", "bfloat16")
    )
    error = np.linalg.norm(wide - narrow) / np.linalg.norm(wide)
    assert 0.001 < error < 0.009


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 3}, "odd"),
        ({"width": 30}, "multiple of 4"),
        ({"patch_size": 3}, "patch_size"),
        ({"remat": "some"}, "remat"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_impossible_shapes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LatteConfig(**{**vars(TINY), **settings})


@pytest.mark.parametrize("variant", ["XXL/2", "B", "B/x", "B/3"])
def test_unknown_variants_are_refused(variant):
    with pytest.raises(ValueError, match=r"variant|patch_size"):
        latte_config(variant, codebook_size=16)


def test_grid_that_patches_cannot_tile_is_refused():
    with pytest.raises(ValueError, match="patches"):
        build(TINY).features(jnp.zeros((1, 1, 3, 3), jnp.int32), jnp.zeros((1, 1)))


def test_named_sizes_are_the_published_ones():
    assert set(VARIANTS) == {"S", "B", "L", "XL"}
    assert latte_config("XL/2", codebook_size=16).depth == 28


def test_programs_do_not_grow_with_depth():
    """The gradient of twelve blocks has as many operations to compile as that of four."""

    def size(depth):
        config = LatteConfig(**{**vars(TINY), "depth": depth})
        graphdef, params = nnx.split(nnx.eval_shape(lambda: Latte(config, nnx.Rngs(0))))
        tokens = jnp.zeros((1, 2, 4, 4), jnp.int32)

        def loss(params):
            model = nnx.merge(graphdef, params)
            wanted = model.features(tokens, jnp.ones((1, 2)), num_wanted=1)
            return jnp.sum(model.features(tokens, jnp.ones((1, 2)))) + jnp.sum(wanted)

        return str(jax.make_jaxpr(jax.grad(loss))(params)).count("\n")

    assert size(4) == size(12)

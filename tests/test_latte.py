"""Latte against the released implementation's numbers, and against its own promises."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskflow_jax.models import latte_torch, layers
from maskflow_jax.models.latte import VARIANTS, Latte, LatteConfig, latte_config

REFERENCE = Path(__file__).parent / "reference"
TINY = LatteConfig(codebook_size=7, depth=4, width=32, num_heads=2)


def load_reference(index: int):
    """The reference file, its config in our names and the state dict."""
    reference = np.load(REFERENCE / f"latte_{index}.npz")
    settings = json.loads(str(reference["config"]))
    config = LatteConfig(
        codebook_size=settings["vocab_size"] - 1,
        depth=settings["depth"],
        width=settings["hidden_size"],
        num_heads=settings["num_heads"],
        patch_size=settings["patch_size"],
    )
    state = {name.removeprefix("state/"): reference[name] for name in reference if "state/" in name}
    return reference, config, state


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


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("time_conditioning", [True, False])
def test_logits_match_the_released_implementation(index, time_conditioning):
    reference, config, state = load_reference(index)
    params = latte_torch.from_torch(state, config)
    config = LatteConfig(**{**vars(config), "time_conditioning": time_conditioning})
    model = build(config, params)
    ours = logits(model, reference["tokens"], reference["times"])
    name = "logits" if time_conditioning else "logits_time_independent"
    # [B, V, T, H, W] with the mask token as the last class
    theirs = reference[name].transpose(0, 2, 3, 4, 1)[..., :-1]
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


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


def test_import_names_every_mismatch_at_once():
    _, config, state = load_reference(1)
    del state["blocks.1.mlp.fc1.bias"]
    state["blocks.7.mlp.fc1.bias"] = np.zeros(3)
    state["t_embedder.mlp.0.bias"] = np.zeros(5)
    with pytest.raises(ValueError, match="does not fit") as error:
        latte_torch.from_torch(state, config)
    for part in ("missing blocks.1.mlp.fc1.bias", "unexpected blocks.7", "has shape (5,)"):
        assert part in str(error.value)


def test_released_parameter_counts():
    # reference/param_counts.json: 61,135,940 and 187,381,892 trainable parameters with a mask
    # class in the head, which ours has not: p*p*(D + 1) fewer.
    for variant, width, released in (("S/2", 384, 61_135_940), ("B/2", 768, 187_381_892)):
        config = latte_config(variant, codebook_size=16384)
        shapes = nnx.eval_shape(lambda config=config: nnx.state(Latte(config, nnx.Rngs(0))))
        count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        assert count == released - 4 * (width + 1)


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
    assert close.dtype == jnp.bfloat16
    error = jnp.linalg.norm(wide - close) / jnp.linalg.norm(wide)
    assert 0 < float(error) < 0.05


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

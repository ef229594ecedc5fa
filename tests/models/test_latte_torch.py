"""Weights go to torch and back unharmed, and what does not fit is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import quick_jit
from flax import nnx
from released import NumpyLatte, load_reference, random_latte
from tiny import assert_same

from maskflow_jax.models import latte_torch
from maskflow_jax.models.latte import Latte, LatteConfig, latte_config

CONFIG = LatteConfig(codebook_size=7, depth=4, width=16, num_heads=2, patch_size=2)


@pytest.mark.parametrize("changes", [{}, {"patch_size": 1}, {"patch_size": 4}, {"mlp_ratio": 2}])
def test_parameters_come_back_from_torch_bit_for_bit(changes):
    config = LatteConfig(**{**vars(CONFIG), **changes})
    params = random_latte(config)
    state = latte_torch.to_torch(params, config)
    assert_same(latte_torch.from_torch(state, config), params)
    assert all(array.dtype == np.float32 for array in state.values())


@pytest.mark.parametrize("index", [0, 1])
def test_a_released_model_comes_back_as_it_was_but_for_the_mask_class(index):
    _, config, state = load_reference(index)
    sizes = latte_torch.sizes_from_torch(state)
    back = latte_torch.to_torch(
        latte_torch.from_torch(state, config),
        config,
        grid_size=sizes["grid_size"],
        num_frames=sizes["num_frames"],
    )
    assert back.keys() == state.keys()
    for name, array in state.items():
        if not name.startswith("final_layer.linear."):
            np.testing.assert_array_equal(back[name], array, err_msg=name)
            continue
        # Each of the p x p tokens of a patch has its classes in a row, the mask token last.
        shape = (config.patch_size**2, config.codebook_size + 1, *array.shape[1:])
        ours, theirs = back[name].reshape(shape), array.reshape(shape)
        np.testing.assert_array_equal(ours[:, :-1], theirs[:, :-1])
        assert np.all(ours[:, -1] == (0.0 if name.endswith("weight") else latte_torch.MASK_BIAS))


@pytest.mark.parametrize("patch_size", [1, 2])
def test_an_exported_model_computes_the_same_elsewhere(patch_size):
    """In the NumPy model that reproduces the released logits; it never draws the mask token."""
    config = LatteConfig(**{**vars(CONFIG), "patch_size": patch_size})
    params = jax.tree.map(lambda leaf: 0.2 * leaf, random_latte(config))
    state = latte_torch.to_torch(params, config, grid_size=4, num_frames=3)
    rng = np.random.default_rng(0)
    tokens, times = rng.integers(0, 8, (2, 3, 4, 4)), rng.uniform(size=(2, 3))
    theirs = NumpyLatte(state, config.num_heads).logits(tokens, times)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: Latte(config, nnx.Rngs(0))))

    @quick_jit
    def logits(params):
        model = nnx.merge(graphdef, params)
        return model.logits(model.features(jnp.asarray(tokens), jnp.asarray(times)))

    np.testing.assert_allclose(
        logits(params), theirs[..., :-1], rtol=0, atol=1e-5 * np.abs(theirs[..., :-1]).max()
    )
    assert theirs[..., -1].max() < theirs[..., :-1].min() - 1000


def test_the_mask_class_is_never_drawn_and_never_breaks_arithmetic():
    for dtype in (np.float16, np.float32):
        logits = np.array([-80.0, 0.0, latte_torch.MASK_BIAS], dtype)
        assert np.all(np.isfinite(logits))
        assert np.exp(logits - logits.max())[-1] == 0
        log_sum = np.log(np.exp(logits - logits.max()).sum())
        assert np.isfinite(logits - log_sum).all()


def test_every_mismatch_is_named_at_once():
    _, config, state = load_reference(1)
    del state["blocks.1.mlp.fc1.bias"]
    state["head.bias"] = np.zeros(3)
    state["t_embedder.mlp.0.bias"] = np.zeros(5)
    with pytest.raises(ValueError, match="does not fit the model:") as error:
        latte_torch.from_torch(state, config)
    for part in ("missing blocks.1.mlp.fc1.bias", "unexpected head.bias", "has shape (5,)"):
        assert part in str(error.value)


def test_another_size_is_explained():
    state = latte_torch.to_torch(random_latte(CONFIG), CONFIG)
    other = LatteConfig(**{**vars(CONFIG), "depth": 6, "patch_size": 4})
    with pytest.raises(ValueError, match="does not fit") as error:
        latte_torch.from_torch(state, other)
    assert (
        "(the checkpoint has depth 4, width 16, patch_size 2, codebook_size 7; "
        "the config says depth 6, patch_size 4):"
    ) in str(error.value)
    assert "missing blocks.5.attn.qkv.weight" in str(error.value)


def test_a_named_size_is_recognised():
    """XL/2's shapes alone: nothing is allocated."""
    config = latte_config("XL/2", codebook_size=16384)
    empty = np.broadcast_to(np.float32(0), ())
    state = {
        "x_embedder.proj.weight": np.broadcast_to(empty, (1152, 576, 2, 2)),
        "vocab_embedding.weight": np.broadcast_to(empty, (16385, 576)),
        "blocks.27.attn.proj.bias": np.broadcast_to(empty, (1152,)),
    }
    assert latte_torch.sizes_from_torch(state) == {
        name: getattr(config, name) for name in ("depth", "width", "patch_size", "codebook_size")
    }
    with pytest.raises(ValueError, match=r"codebook_size 16384 \(XL/2\); the config says depth 4"):
        latte_torch.from_torch(state, CONFIG)


def test_sizes_of_a_damaged_state_dict_are_those_that_are_there():
    assert latte_torch.sizes_from_torch({"pos_embed": np.zeros(3)}) == {}


@pytest.mark.parametrize("name", latte_torch.TABLES)
@pytest.mark.parametrize("change", ["learned", "flat"])
def test_other_position_tables_are_not_dropped_quietly(name, change):
    _, config, state = load_reference(1)
    state[name] = state[name] + 0.01 if change == "learned" else state[name][0]
    with pytest.raises(ValueError, match=f"{name} is not the sine-cosine table"):
        latte_torch.from_torch(state, config)
    del state[name]
    latte_torch.from_torch(state, config)

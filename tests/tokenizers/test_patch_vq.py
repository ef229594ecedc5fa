"""The patch tokenizer: local codes, a decoder that starts from them, files that keep both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskflow_jax.tokenizers.architectures import config_from_json, config_to_json
from maskflow_jax.tokenizers.patch_vq import (
    PatchVQ,
    PatchVQConfig,
    bytes_per_frame,
    to_images,
    to_patches,
)
from maskflow_jax.tokenizers.tokenizer import Tokenizer, save_tokenizer
from maskflow_jax.tokenizers.vqgan import VQGANConfig

CONFIG = PatchVQConfig(
    frame_size=16, patch_size=4, codebook_size=32, width=8, num_blocks=1, head_width=8
)


def parameters(seed=0, random_out=True):
    """Parameters with random codes, and a decoder that does something if asked."""
    params = nnx.to_pure_dict(nnx.split(PatchVQ(CONFIG, nnx.Rngs(seed)))[1])
    keys = jax.random.split(jax.random.key(seed))
    codes = jax.random.uniform(keys[0], params["codebook"].shape, minval=-1, maxval=1)
    params["codebook"] = codes.astype(jnp.float16).astype(jnp.float32)
    if random_out:
        shape = params["out"]["kernel"].shape
        params["out"]["kernel"] = 0.1 * jax.random.normal(keys[1], shape)
    return params


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


def load(folder, params):
    save_tokenizer(folder, CONFIG, params)
    return Tokenizer.load(folder)


def test_patches_come_back_as_images(frames):
    patches = to_patches(jnp.asarray(frames), 4)
    assert patches.shape == (5, 4, 4, 48)
    np.testing.assert_array_equal(patches[2, 1, 3].reshape(4, 4, 3), frames[2, 4:8, 12:16])
    np.testing.assert_array_equal(to_images(patches, 4), frames)


def test_a_token_is_the_nearest_code_of_its_patch_alone(tmp_path, frames):
    tokenizer = load(tmp_path / "t", parameters())
    tokens = tokenizer.encode(frames)
    patch = frames[3, 8:12, 4:8].reshape(-1) / 127.5 - 1
    distance = np.sum((tokenizer.codebook - patch) ** 2, axis=1)
    assert tokens[3, 2, 1] == np.argmin(distance)
    changed = frames.copy()
    changed[:, :4, :4] = 0
    assert np.array_equal(tokenizer.encode(changed)[:, 1:], tokens[:, 1:])


def test_decoding_starts_from_the_codes(tmp_path):
    params = parameters(random_out=False)
    tokenizer = load(tmp_path / "t", params)
    tokens = np.arange(32, dtype=np.int32).reshape(2, 4, 4)
    expected = to_images(params["codebook"][tokens], 4)
    expected = np.round((np.clip(expected, -1, 1) + 1) * 127.5)
    np.testing.assert_array_equal(tokenizer.decode(tokens), expected)
    np.testing.assert_array_equal(tokenizer.encode(tokenizer.decode(tokens)), tokens)


def test_the_decoder_looks_at_neighbours(tmp_path):
    tokenizer = load(tmp_path / "t", parameters())
    tokens = np.zeros((1, 4, 4), np.int32)
    other = tokens.copy()
    other[0, 0, 0] = 5
    change = np.abs(tokenizer.decode(other).astype(int) - tokenizer.decode(tokens)).sum(-1)[0]
    assert change[4:8, 4:8].any(), "one block sees one patch farther"
    assert not change[8:].any()


def test_files_are_half_precision_and_keep_tokens_and_identity(tmp_path, frames):
    params = parameters()
    tokenizer = load(tmp_path / "t", params)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert (tmp_path / "t" / "model.safetensors").stat().st_size < 2 * size + 4000
    assert tokenizer.config == CONFIG
    assert tokenizer.identity["grid"] == [4, 4]
    assert tokenizer.identity["codebook_size"] == 32
    np.testing.assert_array_equal(tokenizer.codebook, params["codebook"])
    again = load(tmp_path / "copy", params)
    assert again.identity["sha256"] == tokenizer.identity["sha256"]
    np.testing.assert_array_equal(again.encode(frames), tokenizer.encode(frames))


def test_configs_of_both_kinds_are_written_and_read():
    for config in (CONFIG, VQGANConfig()):
        assert config_from_json(config_to_json(config)) == config
    assert "kind" not in config_to_json(VQGANConfig())
    with pytest.raises(ValueError, match=r"kind 'vqx'.*vqgan, patch_vq"):
        config_from_json({"kind": "vqx"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_size": 60}, "frame_size 60 is not a multiple of patch_size 8"),
        ({"codebook_size": 0}, "codebook_size is 0"),
        ({"width": -1}, "width is -1"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PatchVQConfig(**change)


def test_memory_of_a_frame_is_estimated_from_above():
    config = PatchVQConfig()
    graphdef, state = nnx.split(PatchVQ(config, nnx.Rngs(0)))
    codes = jax.ShapeDtypeStruct((8, 8, 8, config.embed_dim), jnp.float32)
    compiled = jax.jit(lambda s, c: nnx.merge(graphdef, s).decode(c)).lower(state, codes).compile()
    taken = compiled.memory_analysis().temp_size_in_bytes / 8
    assert taken <= bytes_per_frame(config)

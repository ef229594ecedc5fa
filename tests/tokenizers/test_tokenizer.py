"""The tokenizer: files, identity, batches, pixels, and what it refuses."""

import json
import os
import shutil
import stat

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskflow_jax.tokenizers.tokenizer import (
    PRETRAINED,
    Tokenizer,
    save_tokenizer,
    to_uint8,
    to_unit_range,
)
from maskflow_jax.tokenizers.vqgan import VQGAN, VQGANConfig

CONFIG = VQGANConfig(
    frame_size=16,
    base_width=4,
    width_multipliers=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(8,),
    z_channels=3,
    embed_dim=3,
    codebook_size=20,
    norm_groups=2,
)


@pytest.fixture(scope="module")
def params():
    abstract = nnx.eval_shape(lambda: nnx.to_pure_dict(nnx.state(VQGAN(CONFIG, nnx.Rngs(0)))))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(scale=0.3, size=x.shape).astype(x.dtype), abstract)


@pytest.fixture(scope="module")
def directory(params, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizers") / "tiny"
    save_tokenizer(directory, CONFIG, params)
    return directory


@pytest.fixture(scope="module")
def tokenizer(directory):
    return Tokenizer.load(directory, batch_size=4)


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)


def test_pixels_survive_the_round_trip_exactly():
    pixels = np.arange(256, dtype=np.uint8)
    unit = np.asarray(to_unit_range(pixels))
    assert (unit.min(), unit.max()) == (-1, 1)
    np.testing.assert_array_equal(to_uint8(unit), pixels)
    np.testing.assert_array_equal(to_uint8(np.array([-7.0, 7.0])), [0, 255])


def test_saved_tokenizer_is_the_network_that_was_saved(tokenizer, params, frames):
    model = nnx.merge(nnx.graphdef(nnx.eval_shape(lambda: VQGAN(CONFIG, nnx.Rngs(0)))), params)
    expected = jax.jit(lambda x: model.nearest_code(model.encode(to_unit_range(x))))(frames)
    tokens = tokenizer.encode(frames)
    assert tokens.shape == (10, 8, 8)
    assert len(np.unique(tokens)) > 3
    np.testing.assert_array_equal(tokens, expected)
    images = jax.jit(
        lambda tokens: to_uint8(model.decode(jnp.take(model.codebook[...], tokens, axis=0)))
    )(tokens)
    decoded = tokenizer.decode(tokens)
    assert decoded.dtype == np.uint8
    # One grey level of rounding where a different batch size sums in a different order.
    assert np.abs(decoded.astype(int) - np.asarray(images).astype(int)).max() <= 1


def test_padding_of_the_last_batch_changes_nothing(tokenizer, frames):
    np.testing.assert_array_equal(tokenizer.encode(frames)[:5], tokenizer.encode(frames[:5]))
    assert tokenizer.encode(frames[:0]).shape == (0, 8, 8)


def test_identity_follows_weights_and_config(tokenizer, directory, params, tmp_path):
    assert tokenizer.identity["name"] == "tiny"
    assert tokenizer.identity["grid"] == [8, 8]
    assert Tokenizer.load(directory).identity == tokenizer.identity
    changed = {**params, "codebook": params["codebook"] + 1}
    save_tokenizer(tmp_path, CONFIG, changed)
    assert Tokenizer.load(tmp_path).identity["sha256"] != tokenizer.identity["sha256"]


def test_frames_of_another_size_or_type_are_refused(tokenizer, frames):
    with pytest.raises(ValueError, match=r"takes uint8 frames \[F, 16, 16, 3\]"):
        tokenizer.encode(frames[:, :8])
    with pytest.raises(ValueError, match="takes uint8"):
        tokenizer.encode(frames.astype(np.float32))


@pytest.mark.parametrize("token", [-1, 20])
def test_mask_and_negative_tokens_are_never_decoded(tokenizer, token):
    with pytest.raises(ValueError, match="must be sampled, not decoded"):
        tokenizer.decode(np.full((1, 8, 8), token))


def test_another_grid_is_not_decoded(tokenizer):
    with pytest.raises(ValueError, match=r"decodes grids of \[8, 8\]"):
        tokenizer.decode(np.zeros((1, 4, 4), int))


def test_missing_tokenizer_names_the_shipped_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match="maze"):
        Tokenizer.load(tmp_path / "nothing")


def test_damaged_weights_are_refused(directory, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read"):
        Tokenizer.load(tmp_path)


def test_weights_of_another_config_are_refused_with_all_names(directory, tmp_path):
    (tmp_path / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes())
    settings = json.loads((directory / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"codebook_size": 21}))
    with pytest.raises(ValueError, match=r"codebook has shape \(20, 3\)"):
        Tokenizer.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings | {"depth": 3}))
    with pytest.raises(ValueError, match="depth"):
        Tokenizer.load(tmp_path)


def test_files_that_are_not_those_of_the_digest_are_refused(tmp_path):
    shutil.copytree(PRETRAINED / "maze", tmp_path / "maze")
    weights = tmp_path / "maze" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(ValueError, match="damaged or was changed by hand"):
        Tokenizer.load(tmp_path / "maze")
    (tmp_path / "maze" / "sha256").unlink()  # a folder without it is read as it is
    assert (
        Tokenizer.load(tmp_path / "maze").identity["sha256"]
        != Tokenizer.load("maze").identity["sha256"]
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(params, tmp_path, value):
    codebook = params["codebook"].copy()
    codebook[3, 1] = value
    save_tokenizer(tmp_path / "t", CONFIG, params | {"codebook": codebook})
    with pytest.raises(ValueError, match=r"model\.safetensors .* not finite in codebook"):
        Tokenizer.load(tmp_path / "t")


def test_files_have_the_mode_that_new_files_have(params, tmp_path):
    before = os.umask(0o022)
    try:
        save_tokenizer(tmp_path / "t", CONFIG, params)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "t").iterdir()}
    assert modes == dict.fromkeys(["config.json", "model.safetensors", "sha256"], 0o644)

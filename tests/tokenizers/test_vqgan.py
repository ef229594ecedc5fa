"""The autoencoder against published numbers, climbing from encoder to image."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ldm import ldm_config
from safetensors.numpy import load_file

from maskflow_jax.tokenizers import vqgan_torch
from maskflow_jax.tokenizers.vqgan import VQGANConfig, abstract_vqgan, nearest_code

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="module")
def reference():
    return np.load(REFERENCE / "vq_f8_tiny.npz")


@pytest.fixture(scope="module")
def state_dict():
    return load_file(REFERENCE / "vq_f8_tiny.safetensors")


@pytest.fixture(scope="module")
def model(reference, state_dict):
    config = ldm_config(reference)
    return nnx.merge(abstract_vqgan(config)[0], vqgan_torch.from_torch(state_dict, config))


def test_latents_and_tokens_match_the_reference(model, reference):
    images = reference["images"].transpose(0, 2, 3, 1)
    latents = jax.jit(lambda images: model.encode(images))(images)
    np.testing.assert_allclose(latents, reference["prequant"].transpose(0, 2, 3, 1), atol=1e-4)
    np.testing.assert_array_equal(model.nearest_code(latents), reference["tokens"])


def test_decoded_images_match_the_reference(model, reference):
    decoded = jax.jit(lambda tokens: model.decode(jnp.take(model.codebook[...], tokens, axis=0)))(
        reference["tokens"]
    )
    np.testing.assert_allclose(decoded, reference["decoded"].transpose(0, 2, 3, 1), atol=1e-4)


def test_import_names_every_mismatch_at_once(reference, state_dict):
    broken = dict(state_dict)
    del broken["encoder.conv_in.bias"]
    broken["decoder.extra.bias"] = np.zeros(3, np.float32)
    broken["quant_conv.bias"] = np.zeros(7, np.float32)
    broken["loss.discriminator.weight"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="does not fit") as error:
        vqgan_torch.from_torch(broken, ldm_config(reference))
    message = str(error.value)
    assert "missing encoder.conv_in.bias" in message
    assert "unexpected decoder.extra.bias" in message
    assert "quant_conv.bias has shape (7,)" in message
    assert "discriminator" not in message


def test_nearest_code_agrees_with_the_definition():
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(2, 3, 5)).astype(np.float32)
    codebook = rng.normal(size=(11, 5)).astype(np.float32)
    codebook[7] = codebook[2]  # a tie goes to the lower index
    distances = ((latents[..., None, :] - codebook) ** 2).sum(-1)
    tokens = nearest_code(latents, codebook)
    np.testing.assert_array_equal(tokens, distances.argmin(-1))
    np.testing.assert_array_equal(nearest_code(codebook[7], codebook), 2)


def test_the_look_up_builds_nothing_of_pixels_by_codes_by_width():
    pixels, codes, width = 48, 40, 5
    shapes = [jax.ShapeDtypeStruct((*n, width), np.float32) for n in [(6, 8), (codes,)]]
    jaxpr = jax.make_jaxpr(nearest_code)(*shapes)
    sizes = [variable.aval.size for eqn in jaxpr.eqns for variable in eqn.outvars]
    assert max(sizes) == pixels * codes


def test_defaults_are_sd_vq_f8():
    config = VQGANConfig()
    assert (config.grid_size, config.downsampling, config.codebook_size) == (32, 8, 16384)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"frame_size": 100}, "multiple of the downsampling"), ({"base_width": 20}, "norm_groups")],
)
def test_impossible_shapes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VQGANConfig(**settings)

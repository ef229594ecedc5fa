"""Batches of frames: their size, their padding, their devices, their precision."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from tiny import AUTOENCODER, quick_compilation, random_params

from maskflow_jax.tokenizers import batching
from maskflow_jax.tokenizers.tokenizer import Tokenizer, save_tokenizer
from maskflow_jax.tokenizers.vqgan import VQGAN, VQGANConfig
from maskflow_jax.tokenizers.vqgan_configs import PRESETS

# Temporary bytes per frame of XLA's programs for CPU (jax 0.10.2), at one and two frames: encoder,
# decoder.
MEASURED = {
    "ldm-vq-f4": (218e6, 235e6),
    "ldm-vq-f8": (105e6, 235e6),
    "taming-f16-16384": (101e6, 101e6),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers") / "tiny"
    params = random_params(lambda: VQGAN(AUTOENCODER, nnx.Rngs(0)), scale=0.3)
    save_tokenizer(folder, AUTOENCODER, params)
    return folder


def frames_of(count):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8])
def test_any_number_of_items_as_if_there_were_no_batches(count):
    items, sizes = np.arange(2 * count).reshape(count, 2), []

    def double(batch):
        sizes.append(len(batch))
        return 2 * batch

    np.testing.assert_array_equal(batching.in_batches(double, items, 4), 2 * items)
    assert sizes == [4] * max(1, -(-count // 4))


@pytest.mark.parametrize("name", MEASURED)
def test_the_estimate_of_memory_is_above_what_was_measured_and_near_it(name):
    estimate = batching.bytes_per_frame(PRESETS[name])
    assert 1 <= estimate / max(MEASURED[name]) < 1.7


def test_the_estimate_holds_for_a_compiled_network(folder):
    config = VQGANConfig(
        frame_size=32,
        base_width=8,
        width_multipliers=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(),
        codebook_size=64,
        norm_groups=4,
    )
    params = random_params(lambda: VQGAN(config, nnx.Rngs(0)))
    tokenizer = Tokenizer(config, params, name="c", sha256="0", batch_size=8)
    for function, item in (
        (tokenizer._encode, ((8, 32, 32, 3), np.uint8)),
        (tokenizer._decode, ((8, 16, 16), np.int32)),
    ):
        lowered = function.lower(tokenizer._params, jax.ShapeDtypeStruct(*item))
        taken = lowered.compile().memory_analysis().temp_size_in_bytes / 8
        assert 0.2 < taken / batching.bytes_per_frame(config) <= 1


def test_batch_sizes():
    frame = batching.bytes_per_frame(PRESETS["ldm-vq-f8"])
    assert batching.choose_batch_size(frame, None, 1) == 11  # 4 GB
    assert batching.choose_batch_size(frame, 1.0, 1) == 2
    assert batching.choose_batch_size(frame, 1.0, 8) == 16
    assert batching.choose_batch_size(frame, 1000, 8) == 64
    assert batching.choose_batch_size(frame, 1000, 3) == 63
    with pytest.raises(ValueError, match=r"memory_gb 0\.1 does not hold one frame"):
        batching.choose_batch_size(frame, 0.1, 1)


def test_the_small_tokenizer_takes_64_frames_unless_it_is_told(folder):
    assert Tokenizer.load("maze").batch_size == 64
    assert Tokenizer.load(folder, memory_gb=0.0001).batch_size < 64
    assert Tokenizer.load(folder, batch_size=7).batch_size == 7


def test_bfloat16_changes_little(folder):
    with quick_compilation():
        exact, fast = (
            Tokenizer.load(folder, batch_size=8, dtype=d) for d in ("float32", "bfloat16")
        )
        tokens = exact.encode(frames_of(8))
        assert np.mean(fast.encode(frames_of(8)) == tokens) > 0.8
        difference = exact.decode(tokens).astype(int) - fast.decode(tokens)
    assert 0 < np.abs(difference).mean() < 2
    assert fast.identity == exact.identity
    np.testing.assert_array_equal(fast.codebook, exact.codebook)
    with pytest.raises(ValueError, match="dtype 'float16' is not one of float32, bfloat16"):
        Tokenizer.load(folder, dtype="float16")


def eight_devices(folder, reference):
    """Runs in the other process, against what one device made."""
    assert jax.local_device_count() == 8
    saved = np.load(reference)
    with quick_compilation():
        tokenizer = Tokenizer.load(folder, batch_size=13)
        assert tokenizer.batch_size == 16  # two frames a device
        tokens = tokenizer.encode(frames_of(21))
        np.testing.assert_array_equal(tokens, saved["tokens"])
        difference = tokenizer.decode(tokens).astype(int) - saved["frames"]
    assert np.abs(difference).max() <= 1
    batch = tokenizer._encode(tokenizer._params, frames_of(16))
    assert [shard.data.shape for shard in batch.addressable_shards] == [(2, 4, 4)] * 8
    assert Tokenizer.load(folder).batch_size == 64


def test_eight_devices_do_what_one_does(folder, tmp_path):
    with quick_compilation():
        tokenizer = Tokenizer.load(folder, batch_size=21)
        tokens = tokenizer.encode(frames_of(21))
        np.savez(tmp_path / "one.npz", tokens=tokens, frames=tokenizer.decode(tokens))
    folders = [str(folder) for folder in Path(__file__).parents[:3]]
    script = (
        f"import sys; sys.path[:0] = {folders!r}; import pathlib; "
        f"import test_batching; test_batching.eight_devices(pathlib.Path({str(folder)!r}), "
        f"{str(tmp_path / 'one.npz')!r})"
    )
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]

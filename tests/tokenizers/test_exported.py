"""Tokenizers of torch as exported programs: what is written, read, compared and refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from maskflow_jax.data.dataset import (
    check_tokenizer,
    read_token_dataset,
    write_token_dataset,
)
from maskflow_jax.tokenizers import exported
from maskflow_jax.tokenizers.exporting import export_tokenizer
from maskflow_jax.tokenizers.tokenizer import Tokenizer

HERE = Path(__file__).parents[1]
SIZES = {"frame_size": 64, "codebook_size": 128}


@pytest.fixture(scope="module")
def vq():
    pytest.importorskip("torch")
    import torch_vq

    return torch_vq


@pytest.fixture(scope="module")
def folder(vq, tmp_path_factory):
    """The reference tokenizer, exported by the program."""
    folder = tmp_path_factory.mktemp("exported") / "mine"
    command = [sys.executable, "-m", "launch.export_tokenizer", f"--out={folder}"]
    command += ["--module=torch_vq:make_reference", "--frame_size=64", "--codebook_size=128"]
    # The user's module lies in the current folder.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "can run code" in done.stderr
    return folder


@pytest.fixture(scope="module")
def reference():
    return np.load(HERE / "reference" / "vq_f8_tiny.npz")


def frames_of(count, size=64):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_the_reference_as_a_program(folder, reference, vq):
    import torch

    tokenizer = Tokenizer.load(folder)
    assert tokenizer.identity["name"] == "mine"
    assert tokenizer.identity["grid"] == [8, 8]
    assert [path.name for path in sorted(folder.parent.iterdir())] == ["mine"]
    images = torch.from_numpy(reference["images"])
    with torch.no_grad():
        tokens = tokenizer._encoder(images).numpy()
        decoded = tokenizer._decoder(torch.from_numpy(tokens)).numpy()
    np.testing.assert_array_equal(tokens, reference["tokens"])
    np.testing.assert_allclose(decoded, reference["decoded"], atol=1e-4)


def test_it_does_what_the_original_does_and_what_the_import_does(folder, vq, tmp_path):
    import torch

    from maskflow_jax.tokenizers.importing import import_tokenizer

    tokenizer, original, frames = (
        Tokenizer.load(folder, batch_size=4),
        vq.make_reference(),
        frames_of(5),
    )
    tokens = tokenizer.encode(frames)
    assert (tokens.shape, tokens.dtype) == ((5, 8, 8), np.int32)
    images = torch.from_numpy(frames.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    with torch.no_grad():
        np.testing.assert_array_equal(original.encode(images).numpy(), tokens)
        decoded = original.decode(torch.from_numpy(tokens).long())
    expected = ((decoded.clamp(-1, 1) + 1) * 127.5).round().numpy().transpose(0, 2, 3, 1)
    pixels = tokenizer.decode(tokens)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 1
    import_tokenizer(HERE / "reference/vq_f8_tiny.safetensors", tmp_path / "jax", frame_size=64)
    native = Tokenizer.load(tmp_path / "jax", batch_size=5)
    np.testing.assert_array_equal(native.encode(frames), tokens)
    assert np.abs(native.decode(tokens).astype(int) - pixels).max() <= 1


def test_a_dataset_of_its_tokens(folder, tmp_path):
    tokenizer = Tokenizer.load(folder)
    tokens = tokenizer.encode(frames_of(3))
    write_token_dataset(
        tmp_path / "data", {"train": [("a", tokens, 8.0)]}, tokenizer=tokenizer.identity
    )
    videos = read_token_dataset(tmp_path / "data", "train")
    check_tokenizer(videos.tokenizer, Tokenizer.load(folder).identity, other_name="tokenizer")
    np.testing.assert_array_equal(videos[0]["tokens"], tokens)
    np.testing.assert_array_equal(tokenizer.decode(videos[0]["tokens"]), tokenizer.decode(tokens))


def test_batches_leave_no_trace(folder):
    tokenizer = Tokenizer.load(folder, batch_size=2)
    tokens = tokenizer.encode(frames_of(3))
    np.testing.assert_array_equal(tokens[:2], Tokenizer.load(folder).encode(frames_of(2)))
    assert tokenizer.encode(frames_of(0)).shape == (0, 8, 8)
    assert tokenizer.decode(tokens[:0]).shape == (0, 64, 64, 3)
    assert 1 < Tokenizer.load(folder, memory_gb=0.02).batch_size < 64
    with pytest.raises(ValueError, match="does not hold one frame"):
        Tokenizer.load(folder, memory_gb=1e-6)


def test_what_is_refused(folder):
    tokenizer = Tokenizer.load(folder)
    with pytest.raises(ValueError, match="takes uint8 frames"):
        tokenizer.encode(frames_of(1, 32))
    with pytest.raises(ValueError, match="must be sampled, not decoded"):
        tokenizer.decode(np.full((1, 8, 8), 128))
    with pytest.raises(ValueError, match=r"decodes grids of \[8, 8\]"):
        tokenizer.decode(np.zeros((1, 4, 4), int))
    with pytest.raises(ValueError, match="without a codebook"):
        _ = tokenizer.codebook
    with pytest.raises(ValueError, match="dtype was fixed at its export"):
        Tokenizer.load(folder, dtype="bfloat16")


def copy(folder, target, **changes):
    target.mkdir()
    for name in exported.FILES:
        (target / name).write_bytes((folder / name).read_bytes())
    settings = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(settings))
    return target


def test_identity_covers_config_and_both_programs(folder, tmp_path):
    shas = {Tokenizer.load(folder).identity["sha256"]}
    shas.add(Tokenizer.load(copy(folder, tmp_path / "config")).identity["sha256"])
    for name in exported.FILES[1:]:
        other = copy(folder, tmp_path / name[:-4])
        data = bytearray((other / name).read_bytes())
        place = data.index(b"serialization_id")  # stored beside the program, never read
        data[place : place + 2] = b"SE"
        place = data.rindex(b"serialization_id")
        data[place : place + 2] = b"SE"
        (other / name).write_bytes(data)
        shas.add(Tokenizer.load(other).identity["sha256"])
    assert len(shas) == 4


def test_damaged_and_missing_files_are_named(folder, tmp_path):
    for share in (0.0, 0.5, 0.99):
        cut = copy(folder, tmp_path / str(share))
        whole = (cut / "decoder.pt2").read_bytes()
        (cut / "decoder.pt2").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match=r"decoder\.pt2 is damaged, or torch"):
            Tokenizer.load(cut)
    (cut / "decoder.pt2").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks decoder\.pt2"):
        Tokenizer.load(cut)
    with pytest.raises(ValueError, match=r"config\.json cannot be read.*extra"):
        Tokenizer.load(copy(folder, tmp_path / "extra", extra=1))


def test_an_encoder_that_leaves_the_codebook_is_named(folder, tmp_path):
    lying = copy(folder, tmp_path / "lying", codebook_size=3)
    with pytest.raises(ValueError, match="not 0 to 2; export it with the right codebook_size"):
        Tokenizer.load(lying).encode(frames_of(1))


def test_a_fixed_batch_size_and_a_pair_of_functions(vq, tmp_path):
    pair = vq.Patches().encode, vq.Patches().decode
    sizes = {"frame_size": 8, "codebook_size": 16}
    tokenizer = export_tokenizer(pair, tmp_path / "pair", batch_size=3, **sizes)
    assert Tokenizer.load(tmp_path / "pair", batch_size=64).batch_size == 3
    tokens = tokenizer.encode(frames_of(4, 8))
    assert tokens.shape == (4, 2, 2)
    assert tokenizer.decode(tokens).shape == (4, 8, 8, 3)
    with pytest.raises(FileExistsError, match="is not empty"):
        export_tokenizer(pair, tmp_path / "pair", **sizes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codebook_size": 2}, "codebook_size is 2; correct it"),
        ({"encode": lambda x: (x, x)}, r"encode returned tuple \[\]; it must return"),
        ({"encode": lambda x: x[:, 0]}, "encode returned torch.float32"),
        ({"decode": lambda x: x}, r"decode returned torch.int64 \[2, 2, 2\]"),
    ],
)
def test_tokenizers_that_break_the_contract(vq, tmp_path, change, message):
    sizes = {"frame_size": 8, "codebook_size": change.pop("codebook_size", 16)}
    functions = {"encode": vq.Patches().encode, "decode": vq.Patches().decode, **change}
    with pytest.raises(ValueError, match=message):
        export_tokenizer(tuple(functions.values()), tmp_path / "bad", **sizes)
    assert not any(tmp_path.iterdir())


def test_no_tokenizer_at_all(vq, tmp_path):
    with pytest.raises(ValueError, match="a dict is no tokenizer"):
        export_tokenizer({}, tmp_path / "bad", **SIZES)


def test_a_network_for_one_batch_size_says_what_to_do(vq, tmp_path):
    rigid = (lambda x: vq.Patches().encode(x.reshape(2, 3, 8, 8)), vq.Patches().decode)
    with pytest.raises(Exception, match="batch") as error:
        export_tokenizer(rigid, tmp_path / "rigid", frame_size=8, codebook_size=16)
    assert "set batch_size" in error.value.__notes__[-1]


def test_without_torch_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    settings = exported.ExportedConfig(
        frame_size=8,
        codebook_size=16,
        grid=(2, 2),
        batch_size=None,
        bytes_per_frame=1,
        torch_version="2",
    )
    for name in exported.FILES[1:]:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "config.json").write_text(json.dumps(vars(settings)))
    with pytest.raises(ImportError, match=r"pip install 'maskflow_jax\[torch\]'"):
        Tokenizer.load(tmp_path)

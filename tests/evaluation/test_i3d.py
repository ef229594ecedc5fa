"""I3D: parity with the torch network, files of weights in every form, refused files."""

import json
import os
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from maskflow_jax.evaluation import i3d
from maskflow_jax.evaluation.frechet import frechet_distance
from maskflow_jax.evaluation.protocols import PROTOCOLS, preprocess
from maskflow_jax.io.torch_files import write_state_dict

REFERENCE = Path(__file__).parents[1] / "reference/i3d.npz"


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def weights(reference):
    """The reference's random weights, drawn by name."""
    drawn = {}
    for name, shape in json.loads(str(reference["weight_shapes"])).items():
        seed = zlib.crc32(name.encode()) + int(reference["weight_seed"])
        z = np.random.default_rng(seed).standard_normal(shape)
        if name.endswith("running_var"):
            z = 1 + 0.1 * abs(z)
        elif name.endswith("bn.weight"):
            z = 1 + 0.1 * z
        elif name.endswith(("bias", "running_mean")):
            z = 0.1 * z
        else:
            z = z * np.sqrt(2 / np.prod(shape[1:]))
        drawn[name] = np.asarray(z, np.float32)
    return drawn


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("i3d") / "i3d.safetensors"
    write_state_dict(path, weights)
    return path


def test_there_are_as_many_weights_as_published(weights):
    counted = [w for name, w in weights.items() if "num_batches" not in name]
    assert len(counted) == 57 * 5 + 2
    assert sum(w.size for w in counted) == pytest.approx(12.71e6, rel=1e-3)


def test_logits_agree_with_torch(reference, file):
    network = i3d.load_i3d(file, epsilon=1e-5)
    x = preprocess(PROTOCOLS["videogpt"], reference["videos"])
    expected = np.moveaxis(reference["preprocessed_slice"], 1, -1)
    np.testing.assert_allclose(x[:, ::5, ::16, ::16], expected, atol=1e-6)
    logits = np.asarray(jax.jit(lambda n, x: n(x))(network, x))
    error = np.abs(logits - reference["logits"]).max() / np.abs(reference["logits"]).max()
    assert error < 1e-5


def test_the_names_of_the_other_port(weights):
    """The names of `i3dpt`, which the TorchScript archive has."""
    branches = {"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1"}
    branches |= {"b2a": "branch_2.0", "b2b": "branch_2.1", "b3b": "branch_3.1"}
    for name in weights:
        layer, *rest = name.split(".")
        layer = "conv3d_0c_1x1" if layer == "logits" else layer.lower()
        rest = [{"bn": "batch3d"}.get(part, branches.get(part, part)) for part in rest]
        other = ".".join([layer, *rest])
        assert other != name
        assert i3d._standard_name(other) == name == i3d._standard_name(name)


def parameters(network):
    return nnx.traversals.flatten_mapping(nnx.to_pure_dict(nnx.state(network)))


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_other_files_hold_the_same_weights(weights, file, tmp_path, suffix):
    path = tmp_path / f"i3d{suffix}"
    if suffix == ".npz":
        np.savez(path, **weights)
    else:
        pytest.importorskip("torch")
        write_state_dict(path, {"module." + name: x for name, x in weights.items()})
    expected = parameters(i3d.load_i3d(file, epsilon=1e-5))
    for at, value in parameters(i3d.load_i3d(path, epsilon=1e-5)).items():
        np.testing.assert_array_equal(value, expected[at])


def test_a_torchscript_archive_is_read_or_refused_by_names(tmp_path):
    torch = pytest.importorskip("torch")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "i3d.pt"))
    found = i3d.read_i3d_weights(tmp_path / "i3d.pt")
    assert {name: x.shape for name, x in found.items()} == {"weight": (2, 2), "bias": (2,)}
    with pytest.raises(ValueError, match=r"missing logits.conv3d.weight[\s\S]*unexpected weight"):
        i3d.load_i3d(tmp_path / "i3d.pt", epsilon=1e-3)


def test_wrong_files_are_refused(weights, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file of I3D weights"):
        i3d.load_i3d(tmp_path / "none.pt", epsilon=1e-3)
    (tmp_path / "cut.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="cannot be read"):
        i3d.load_i3d(tmp_path / "cut.npz", epsilon=1e-3)
    biases = {name: x for name, x in weights.items() if x.ndim == 1}
    np.savez(tmp_path / "some.npz", **biases, extra=np.zeros(3))
    with pytest.raises(ValueError, match="does not hold the weights of I3D") as error:
        i3d.load_i3d(tmp_path / "some.npz", epsilon=1e-3)
    lines = str(error.value).splitlines()[1:]
    assert "  missing Mixed_5c.b3b.conv3d.weight" in lines
    assert "  unexpected extra" in lines
    assert len(lines) == 58 + 1
    bad = biases | {"Conv3d_1a_7x7.bn.bias": np.full(64, np.nan)}
    shapes = {name: x for name, x in weights.items() if x.ndim > 1}
    np.savez(tmp_path / "nan.npz", **shapes, **bad)
    with pytest.raises(ValueError, match=r"not finite in Conv3d_1a_7x7.bn.bias"):
        i3d.load_i3d(tmp_path / "nan.npz", epsilon=1e-3)


@pytest.mark.skipif("I3D_WEIGHTS" not in os.environ, reason="set I3D_WEIGHTS to a file of weights")
@pytest.mark.parametrize("epsilon", [1e-3, 1e-5])
def test_published_distance_of_noise(epsilon):
    """10.138 of TensorFlow's module, on noise in [0, 1]; takes minutes."""
    network = i3d.load_i3d(os.environ["I3D_WEIGHTS"], epsilon=epsilon)
    apply = jax.jit(lambda n, x: n(x))
    sets = []
    for seed in (1, 2):
        videos = np.random.RandomState(seed).rand(128, 16, 224, 224, 3).astype(np.float32)
        sets.append(np.concatenate([apply(network, videos[i : i + 4]) for i in range(0, 128, 4)]))
    assert frechet_distance(*sets, ddof=1) == pytest.approx(10.138, rel=3e-3)

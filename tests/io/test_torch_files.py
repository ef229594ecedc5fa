"""Files of weights: what is in them, what is refused, and that torch is only needed for pickles."""

import pickle
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from maskflow_jax.io import torch_files
from maskflow_jax.io.torch_files import read_torch_file, write_state_dict

ARRAYS = {
    "a.weight": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32),
    "b": np.arange(5, dtype=np.int64),
}
BOTH = ["weights.safetensors", "weights.pt"]


def read_state_dict(path, section=None):
    return read_torch_file(path).state_dict(section)


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
        assert ours[name].dtype == array.dtype


def needs_torch(name):
    return pytest.importorskip("torch") if not name.endswith(".safetensors") else None


def save(path, contents, **settings):
    torch = pytest.importorskip("torch")
    torch.save(contents, path, **settings)
    return torch


@pytest.mark.parametrize("name", BOTH)
def test_written_arrays_are_read_back(tmp_path, name):
    needs_torch(name)
    # A transposed view, as `to_torch` returns them.
    contents = ARRAYS | {"view": ARRAYS["a.weight"].T}
    write_state_dict(tmp_path / "new" / name, contents)
    assert_equal(read_state_dict(tmp_path / "new" / name), contents)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_sections_and_numbers_are_read_back(tmp_path):
    pytest.importorskip("torch")
    ema = {name: array + 1 for name, array in ARRAYS.items()}
    contents = {"model": ARRAYS, "ema": ema, "train_steps": 7, "best_fid": 1.5, "opt": {"lr": 0.1}}
    write_state_dict(tmp_path / "w.pt", contents)
    file = read_torch_file(tmp_path / "w.pt")
    assert file.numbers == {"train_steps": 7, "best_fid": 1.5}
    assert list(file.sections) == ["model", "ema"]
    assert_equal(read_state_dict(tmp_path / "w.pt", section="ema"), ema)
    with pytest.raises(ValueError, match=r"w\.pt has no section 'emma'.*'model', 'ema'"):
        read_state_dict(tmp_path / "w.pt", section="emma")
    with pytest.raises(ValueError, match=r"w\.pt holds several.*choose.*'model', 'ema'"):
        read_state_dict(tmp_path / "w.pt")


def test_a_section_of_one_state_dict(tmp_path):
    write_state_dict(tmp_path / "w.safetensors", ARRAYS)
    with pytest.raises(ValueError, match=r"no section 'ema'.*none, it is one state dict"):
        read_state_dict(tmp_path / "w.safetensors", section="ema")


@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_of_torch_and_a_single_section(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array.copy()) for name, array in ARRAYS.items()}
    contents = {"state_dict": tensors, "epoch": 3, "note": "text"}
    save(tmp_path / "w.ckpt", contents, _use_new_zipfile_serialization=zipped)
    assert_equal(read_state_dict(tmp_path / "w.ckpt"), ARRAYS)
    assert_equal(read_state_dict(tmp_path / "w.ckpt", section="state_dict"), ARRAYS)


def test_half_precision_of_torch_is_widened(tmp_path):
    torch = pytest.importorskip("torch")
    wide = torch.tensor([1.0, 0.333, -2e-3])
    dtypes = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    save(tmp_path / "w.pt", {str(dtype): wide.to(dtype) for dtype in dtypes})
    read = read_state_dict(tmp_path / "w.pt")
    for dtype in dtypes[:3]:
        assert read[str(dtype)].dtype == np.float32
        np.testing.assert_array_equal(read[str(dtype)], wide.to(dtype).float().numpy())
    assert read["torch.float64"].dtype == np.float64


def test_half_precision_of_safetensors_is_widened(tmp_path):
    wide = np.array([1.0, 0.333, -2e-3], np.float32)
    narrow = {str(np.dtype(d)): wide.astype(d) for d in (np.float16, ml_dtypes.bfloat16)}
    save_file(narrow, tmp_path / "w.safetensors")
    read = read_state_dict(tmp_path / "w.safetensors")
    assert_equal(read, {name: array.astype(np.float32) for name, array in narrow.items()})


WRAPPED = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."]


@pytest.mark.parametrize("prefix", WRAPPED)
@pytest.mark.parametrize("name", BOTH)
def test_wrappers_leave_no_prefix(tmp_path, name, prefix):
    needs_torch(name)
    write_state_dict(tmp_path / name, {prefix + key: array for key, array in ARRAYS.items()})
    assert_equal(read_state_dict(tmp_path / name), ARRAYS)


def test_names_that_become_one_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    write_state_dict(path, {"module.b": np.ones(2), "_orig_mod.b": np.zeros(2)})
    with pytest.raises(ValueError, match=r"w\.safetensors has both '.*b' and '.*b'.*one name"):
        read_state_dict(path)


class RunsCode:
    """Pickled, it would write a file where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_not_loaded(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    contents = {"a": torch.ones(3), "trap": RunsCode(tmp_path / "ran")}
    save(tmp_path / "w.pt", contents, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"w\.pt holds objects other than tensors.*not loaded"):
        read_state_dict(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_cut_file_is_named(tmp_path, kind, share):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "legacy":
        torch = pytest.importorskip("torch")
        save(path, {"a": torch.ones(99)}, _use_new_zipfile_serialization=False)
    else:
        needs_torch(path.name)
        write_state_dict(path, {"a": np.ones(99, np.float32)})
    cut(path, share)
    with pytest.raises(ValueError, match=rf"w\.{path.suffix[1:]} (is|holds)"):
        read_state_dict(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_bytes_gone_wrong_raise_our_error_or_change_values_only(tmp_path):
    torch = pytest.importorskip("torch")
    path, rng = tmp_path / "w.pt", np.random.default_rng(0)
    for zipped in (True, False):
        save(path, {"a": torch.ones(9)}, _use_new_zipfile_serialization=zipped)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(150):
            damaged = whole.copy()
            damaged[rng.integers(len(whole), size=4)] = rng.integers(256, size=4)
            path.write_bytes(damaged.tobytes())
            try:
                read_state_dict(path)
            except ValueError as error:
                assert "w.pt" in str(error)


@pytest.mark.parametrize("contents", [b"hello world, I am no checkpoint", b"\x80\x02junk"])
def test_a_file_that_is_something_else_is_named(tmp_path, contents):
    pytest.importorskip("torch")
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(contents)
        with pytest.raises(ValueError, match=rf"{name} (is damaged|holds objects)"):
            read_state_dict(tmp_path / name)


@pytest.mark.parametrize("contents", [{"a": 1}, {}, [1, 2], {"model": {}}, {"m": {"x": 3}}])
def test_a_pickle_without_a_state_dict_is_named(tmp_path, contents):
    save(tmp_path / "w.pt", contents)
    with pytest.raises(ValueError, match=r"w\.pt holds no state dict"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_an_array_archive_is_no_checkpoint(tmp_path):
    pytest.importorskip("torch")
    np.savez(tmp_path / "w.npz", a=np.ones(3))
    (tmp_path / "w.npz").rename(tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt is damaged or no checkpoint of torch"):
        read_state_dict(tmp_path / "w.pt")
    (tmp_path / "p.pt").write_bytes(pickle.dumps({"a": np.ones(3)}))
    with pytest.raises(ValueError, match=r"p\.pt"):
        read_state_dict(tmp_path / "p.pt")


def test_missing_files_and_other_suffixes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of weights at .*none"):
        read_state_dict(tmp_path / "none.pt")
    (tmp_path / "w.npz").write_bytes(b"x")
    for act in (read_state_dict, lambda path: write_state_dict(path, ARRAYS)):
        with pytest.raises(ValueError, match=r"suffix '\.npz'.*\.safetensors, \.pt"):
            act(tmp_path / "w.npz")


def test_safetensors_hold_no_sections(tmp_path):
    with pytest.raises(ValueError, match="one state dict only, not model, train_steps"):
        write_state_dict(tmp_path / "w.safetensors", {"model": ARRAYS, "train_steps": 3})
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(ValueError, match="holds no tensors"):
        read_state_dict(tmp_path / "empty.safetensors")


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    write_state_dict(path, ARRAYS)

    def full_disk(arrays, part):
        part.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch_files, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_state_dict(path, {"other": np.ones(3)})
    assert_equal(read_state_dict(path), ARRAYS)


def test_without_torch_pickles_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "w.pt").write_bytes(b"x")
    for act in (read_state_dict, lambda path: write_state_dict(path, ARRAYS)):
        with pytest.raises(ImportError, match=r"pip install 'maskflow_jax\[torch\]'"):
            act(tmp_path / "w.pt")
    write_state_dict(tmp_path / "w.safetensors", ARRAYS)
    assert_equal(read_state_dict(tmp_path / "w.safetensors"), ARRAYS)


def test_reading_safetensors_imports_no_torch(tmp_path):
    write_state_dict(tmp_path / "w.safetensors", ARRAYS)
    program = (
        "import sys; from maskflow_jax.io.torch_files import read_torch_file; "
        f"read_torch_file({str(tmp_path / 'w.safetensors')!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

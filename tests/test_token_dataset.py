"""Datasets of tokenised videos: nothing is lost, nothing half-written or misfit is accepted."""

import json
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from maskflow_jax.data.dataset import (
    check_tokenizer,
    read_token_dataset,
    write_token_dataset,
)

TOKENIZER = {
    "name": "tiny",
    "sha256": "0123456789abcdef" * 4,
    "codebook_size": 2**16,
    "grid": [2, 3],
    "frame_size": 16,
}


def video(index, frames=None):
    tokens = np.random.default_rng(index).integers(0, 2**16, (frames or 4 + index, 2, 3))
    tokens[0], tokens[-1] = 2**16 - 1, 0  # both ends of uint16; trailing zero bytes stay
    return f"video {index} é", tokens, 8.0 + index / 3


def write(directory, videos=None, **kwargs):
    splits = {"train": [video(0), video(1)] if videos is None else videos}
    write_token_dataset(directory, splits, tokenizer=TOKENIZER, **kwargs)


def assert_same(stored, original):
    video_id, tokens, fps = original
    assert stored["id"] == video_id
    assert stored["tokens"].dtype == np.uint16
    np.testing.assert_array_equal(stored["tokens"], tokens)
    assert stored["fps"] == np.float32(fps)


def test_round_trip(tmp_path):
    source = {"kind": "maze", "config": {"seed": 3, "rates": [1, 2.5]}}
    splits = {"train": (video(i) for i in range(600)), "test": iter([video(600, frames=1)])}
    write_token_dataset(tmp_path / "a" / "b", splits, tokenizer=TOKENIZER, source=source)
    train = read_token_dataset(tmp_path / "a" / "b", "train")
    test = read_token_dataset(str(tmp_path / "a" / "b"), "test")
    assert (len(train), len(test)) == (600, 1)
    for index in (0, 7, 511, 512, 599):  # over two files, in the order of writing
        assert_same(train[index], video(index))
    assert_same(train[-1], video(599))
    assert_same(test[0], video(600, frames=1))
    assert train.tokenizer == TOKENIZER and test.metadata["source"] == source
    np.testing.assert_array_equal(train.num_frames, 4 + np.arange(600))
    np.testing.assert_array_equal(test.num_frames, [1])
    assert_same(pickle.loads(pickle.dumps(train))[5], video(5))
    with pytest.raises(IndexError):
        train[600]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]  # nothing left behind


def test_streams(tmp_path):
    write(tmp_path / "warm_up")
    videos = ((str(i), np.full((90_000, 2, 3), i, np.uint16), 8.0) for i in range(40))  # 1 MB each
    tracemalloc.start()
    try:
        write(tmp_path / "d", videos)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12e6
    assert read_token_dataset(tmp_path / "d", "train")[39]["tokens"].mean() == 39


WITHOUT_TENSORFLOW = """
import json, os, sys
from importlib.machinery import PathFinder
import numpy as np
find = PathFinder.find_spec
def without(cls, name, path=None, target=None):
    return None if name.split(".")[0] == "tensorflow" else find(name, path, target)
PathFinder.find_spec = classmethod(without)
from maskflow_jax.data.dataset import read_token_dataset, write_token_dataset

directory, tokenizer = sys.argv[1], json.loads(sys.argv[2])
tokens = np.arange(5 * 6).reshape(5, 2, 3)
write_token_dataset(directory, {"train": [("a", tokens, 8.0)]}, tokenizer=tokenizer)
videos = read_token_dataset(directory, "train")
assert (videos[0]["tokens"] == tokens).all() and videos.tokenizer == tokenizer
try:
    import tensorflow
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("tensorflow was not blocked")

def killed():
    for index in range(600):  # one file is complete, a second one begun
        yield str(index), tokens, 8.0
    os._exit(9)

write_token_dataset(directory + "_killed", {"train": killed()}, tokenizer=tokenizer)
"""


def test_without_tensorflow_and_killed(tmp_path):
    target = tmp_path / "d"
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, str(target), json.dumps(TOKENIZER)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 9, run.stderr
    assert "TensorFlow" not in run.stdout + run.stderr
    stored = read_token_dataset(target, "train")
    assert_same(stored[0], ("a", np.arange(30).reshape(5, 2, 3), 8.0))
    killed = tmp_path / "d_killed"
    remains = [path for path in tmp_path.rglob("*") if path.is_dir() and path != target]
    assert any("partial" in path.name for path in remains)  # it was killed half way
    for directory in [killed, *remains]:
        with pytest.raises((FileNotFoundError, ValueError)):
            read_token_dataset(directory, "train")
    write(killed)
    assert_same(read_token_dataset(killed, "train")[1], video(1))


def test_failure_leaves_the_old_dataset(tmp_path):
    def failing():
        yield video(2)
        raise RuntimeError("camera unplugged")

    with pytest.raises(RuntimeError, match="unplugged"):
        write(tmp_path / "d", failing())
    assert not list(tmp_path.iterdir())
    write(tmp_path / "d")
    with pytest.raises(RuntimeError, match="unplugged"):
        write(tmp_path / "d", failing(), overwrite=True)
    assert_same(read_token_dataset(tmp_path / "d", "train")[1], video(1))
    write(tmp_path / "d", [video(5)], overwrite=True)
    assert [v["id"] for v in read_token_dataset(tmp_path / "d", "train")] == [video(5)[0]]
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_occupied_directories(tmp_path):
    write(tmp_path / "d")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write(tmp_path / "d", [video(5)])
    assert len(read_token_dataset(tmp_path / "d", "train")) == 2
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine")  # empty: free
    shutil.rmtree(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("dear to me")
    with pytest.raises(FileExistsError, match="another directory"):
        write(tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "dear to me"


def changed(**changes):
    video_id, tokens, fps = video(3)
    example = {"id": video_id, "tokens": tokens, "fps": fps, **changes}
    return [video(0), (example["id"], example["tokens"], example["fps"])]


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        (changed(tokens=np.full((4, 2, 3), -1)), "video 3.*-1.*0 to 65535"),
        (changed(tokens=np.full((4, 2, 3), 2**16)), "video 3.*65536"),
        (changed(tokens=np.zeros((4, 3, 2), int)), r"\[4, 3, 2\].*\[frames, 2, 3\]"),
        (changed(tokens=np.zeros((4, 6), int)), r"\[4, 6\]"),
        (changed(tokens=np.zeros((0, 2, 3), int)), "at least one frame"),
        (changed(tokens=np.zeros((4, 2, 3))), "float64.*integers"),
        (changed(fps=0.0), "fps 0.0"),
        (changed(fps=float("nan")), "fps nan"),
        (changed(id=""), "not empty"),
        (changed(id=video(0)[0]), "'video 0 é' occurs twice"),
        ([], "'train' has no videos"),
    ],
)
def test_refuses_videos(tmp_path, videos, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "d", videos)
    assert not list(tmp_path.iterdir())


def test_refuses_a_video_in_two_splits(tmp_path):
    splits = {"train": [video(0), video(1)], "test": [video(1)]}
    with pytest.raises(
        ValueError, match="'video 1 é' occurs twice, in split 'train' and in 'test'"
    ):
        write_token_dataset(tmp_path / "d", splits, tokenizer=TOKENIZER)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tokenizer": {**TOKENIZER, "codebook_size": 2**16 + 1}}, "65537.*uint16"),
        ({"tokenizer": {"name": "x", "grid": [2, 3]}}, "lacks sha256, codebook_size, frame_size"),
        ({"source": {"path": Path("/data")}}, "source cannot be saved"),
        ({"splits": {}}, "at least one"),
        ({"splits": {"train": [], "a/b": []}}, "named .*'a/b'.*underscores"),
        ({"splits": {"all": []}}, "'all' means"),
    ],
)
def test_refuses_before_consuming(tmp_path, kwargs, message):
    def never():
        raise AssertionError("consumed")
        yield

    arguments = {"splits": {"train": never()}, "tokenizer": TOKENIZER, **kwargs}
    with pytest.raises(ValueError, match=message):
        write_token_dataset(tmp_path / "d", **arguments)


def test_reader_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*correct the path"):
        read_token_dataset(tmp_path / "nowhere", "train")
    write(tmp_path / "d")
    with pytest.raises(ValueError, match=r"no split 'valid'.*\['train'\]"):
        read_token_dataset(tmp_path / "d", "valid")
    records = next((tmp_path / "d").glob("*.array_record*"))
    whole = records.read_bytes()
    records.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=f"incomplete: {records.name}"):
        read_token_dataset(tmp_path / "d", "train")
    records.unlink()
    with pytest.raises(ValueError, match=f"incomplete: {records.name}"):
        read_token_dataset(tmp_path / "d", "train")
    records.write_bytes(whole)
    (tmp_path / "d" / "metadata.json").unlink()
    with pytest.raises(ValueError, match="lacks tokenizer, frames, files"):
        read_token_dataset(tmp_path / "d", "train")


def test_check_tokenizer():
    check_tokenizer(
        TOKENIZER, {**TOKENIZER, "name": "renamed", "grid": (2, 3)}, other_name="tokenizer"
    )
    other = {**TOKENIZER, "name": "big", "sha256": "f" * 64, "codebook_size": 512}
    message = (
        r"'tiny' \(sha256 01234567, 65536 codes, 2x3 .*checkpoint's is 'big' "
        r"\(sha256 ffffffff, 512 codes, 2x3 .*sha256, codebook_size differ"
    )
    with pytest.raises(ValueError, match=message):
        check_tokenizer(TOKENIZER, other, other_name="checkpoint")
    with pytest.raises(ValueError, match="grid differ"):
        check_tokenizer(TOKENIZER, {**TOKENIZER, "grid": [3, 2]}, other_name="checkpoint")

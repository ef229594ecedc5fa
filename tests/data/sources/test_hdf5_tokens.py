"""Published token files become datasets; whatever is wrong with one is named."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from tiny import TOKENIZER

from maskflow_jax.data.dataset import read_token_dataset, write_token_dataset
from maskflow_jax.data.sources import hdf5_tokens
from maskflow_jax.data.sources.hdf5_tokens import HDF5Tokens, infer_end, read_token_file
from maskflow_jax.tokenizers.tokenizer import Tokenizer

ROOT = Path(__file__).parents[3]
LENGTHS = (5, 9, 4, 6, 7, 12)


def import_token_files(
    file, directory, *, min_frames=1, test_fraction=0.05, overwrite=False, **settings
):
    """Writes a dataset; number of videos by split."""
    videos = HDF5Tokens(root=file, **settings).token_videos(
        TOKENIZER, min_frames=min_frames, test_fraction=test_fraction
    )
    write_token_dataset(directory, videos, tokenizer=TOKENIZER, overwrite=overwrite)
    return {split: len(read_token_dataset(directory, split)) for split in videos}


def make_videos(lengths=LENGTHS, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 8, (length, 4, 4)).astype(np.int32) for length in lengths]


def ranges_of(lengths, end="exclusive"):
    stops = np.cumsum(lengths)
    return np.stack([stops - lengths, stops - (end == "inclusive")], axis=1).astype(np.int32)


def write_file(path, videos, ranges=None, **changes):
    """A file as the published ones; `changes` replace its arrays, None leaves one out."""
    lengths = [len(video) for video in videos]
    ranges = ranges_of(lengths) if ranges is None else ranges
    arrays = {"video": np.concatenate(videos), "start_index_list": ranges} | changes
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file.create_dataset(name, data=array)
    return path


def contents(directory):
    """Tokens of all videos by split and id."""
    return {
        (split, video["id"]): video
        for split in ("train", "test")
        for video in map(
            read_token_dataset(directory, split).__getitem__,
            range(len(read_token_dataset(directory, split))),
        )
    }


@pytest.mark.parametrize("end", ["exclusive", "inclusive"])
def test_every_video_arrives_whole_in_one_split(tmp_path, end):
    videos = make_videos()
    path = write_file(tmp_path / "ffs.h5", videos, ranges_of(LENGTHS, end))
    counts = import_token_files(path, tmp_path / "data", fps=8.0, test_fraction=0.3)
    written = contents(tmp_path / "data")
    assert sum(counts.values()) == len(written) == len(videos)
    for (split, name), video in written.items():
        assert name.startswith(f"{split}_")
        np.testing.assert_array_equal(video["tokens"], videos[int(name[-5:])])
        assert video["fps"] == 8.0
    dataset = read_token_dataset(tmp_path / "data", "test")
    assert len(dataset) == counts["test"] >= 1
    assert dataset.tokenizer == TOKENIZER
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "ffs.h5"]


def test_a_video_keeps_its_split_when_others_come_or_go(tmp_path):
    videos = make_videos((4,) * 40)
    held = {}
    for name, part in (("all", videos), ("fewer", videos[::-1][:25])):
        path = write_file(tmp_path / f"{name}.h5", part)
        arguments = {"fps": 8.0, "test_fraction": 0.3}
        import_token_files(path, tmp_path / name, **arguments)
        held[name] = {
            video["tokens"].tobytes(): split
            for (split, _), video in contents(tmp_path / name).items()
        }
    assert all(held["all"][tokens] == split for tokens, split in held["fewer"].items())
    assert 5 <= sum(split == "test" for split in held["all"].values()) <= 20


def test_a_test_file_is_the_test_split(tmp_path, caplog):
    train, test = make_videos(seed=1), make_videos(seed=2)[:2]
    for share in (False, True):
        files = [
            write_file(tmp_path / "train.h5", train),
            write_file(tmp_path / "test.h5", [*test, *train[:share]]),
        ]
        counts = import_token_files(
            files[0], tmp_path / "d", fps=8, test_file=files[1], overwrite=True
        )
        assert counts == {"train": len(train), "test": 2 + share}
        assert ("1 videos are both in" in caplog.text) is share
    written = contents(tmp_path / "d")
    np.testing.assert_array_equal(written["test", "test_00001"]["tokens"], test[1])


@pytest.mark.parametrize(
    ("ranges", "total", "end"),
    [
        ([[0, 3], [3, 9]], 9, "exclusive"),
        ([[0, 3], [3, 9]], 12, "exclusive"),
        ([[0, 2], [3, 8]], 9, "inclusive"),
        ([[0, 9]], 9, "exclusive"),
        ([[0, 8]], 9, "inclusive"),
    ],
)
def test_ends_that_the_file_tells(ranges, total, end):
    assert infer_end(np.array(ranges), total, "f.h5") == end


@pytest.mark.parametrize(
    ("ranges", "total", "message"),
    [
        ([[0, 3], [5, 9]], 9, "begins after video 0 by 2"),
        ([[0, 3], [3, 8], [9, 12]], 12, "begins some by 0, some by 1"),
        ([[0, 5]], 9, "begins after video 0 by 4"),
        ([[0, 5], [2, 8]], 9, "begins after video 0 by -3"),
    ],
)
def test_ends_that_must_be_said(ranges, total, message):
    with pytest.raises(ValueError, match=rf"f\.h5 does not tell.*{message}.*set end"):
        infer_end(np.array(ranges), total, "f.h5")


def test_a_said_end_allows_gaps(tmp_path):
    videos, ranges = make_videos((9, 9)), np.array([[1, 4], [10, 14]])
    path = write_file(tmp_path / "f.h5", videos, ranges)
    for end, lengths in (("inclusive", [4, 5]), ("exclusive", [3, 4])):
        file = read_token_file(path, tokenizer=TOKENIZER, end=end)
        assert list(np.diff(file.ranges).ravel()) == lengths
    with pytest.raises(ValueError, match="end is 'open'"):
        read_token_file(path, tokenizer=TOKENIZER, end="open")


def test_all_that_is_wrong_with_videos_is_named_at_once(tmp_path):
    videos = make_videos((9, 9, 9, 9))
    videos[0][2, 1, 1] = 8  # the mask token
    videos[3][0, 0, 0] = -1
    ranges = np.array([[0, 9], [7, 16], [16, 18], [20, 19], [27, 36], [30, 40], [-1, 3]])
    path = write_file(tmp_path / "f.h5", videos, ranges)
    with pytest.raises(ValueError, match=r"f\.h5 cannot be imported, with ranges' ends ex") as err:
        import_token_files(path, tmp_path / "d", fps=8, end="exclusive", min_frames=5)
    lines = str(err.value).splitlines()[1:]
    assert [line.strip() for line in lines] == [
        "videos that are not inside the file's 36 frames: 5 ([30, 40)), 6 ([-1, 3))",
        "videos that end where they begin or before: 3 ([20, 19))",
        "videos that begin before an earlier one ends: 1 ([7, 16)), 5 ([30, 40)), 6 ([-1, 3))",
        "videos that are shorter than 5 frames: 2 ([16, 18))",
        "videos that have tokens outside 0 to 7 of the tokenizer: 0 (0 to 8), 4 (-1 to 7)",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


def test_a_range_within_an_earlier_one_is_named(tmp_path):
    path = write_file(tmp_path / "f.h5", make_videos((30,)), np.array([[0, 20], [20, 24], [2, 9]]))
    with pytest.raises(ValueError, match=r"one ends: 2 \(\[2, 9\)\)$"):
        read_token_file(path, tokenizer=TOKENIZER, end="exclusive")
    path = write_file(tmp_path / "f.h5", make_videos((30,)), np.array([[0, 20], [2, 4], [10, 14]]))
    with pytest.raises(ValueError, match=r"one ends: 1 \(\[2, 4\)\), 2 \(\[10, 14\)\)$"):
        read_token_file(path, tokenizer=TOKENIZER, end="exclusive")


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"video": None}, ["no array 'video', only start_index_list"]),
        ({"video": np.zeros((5, 4, 4))}, ["video holds float64, it takes integers"]),
        (
            {"video": np.zeros((5, 8, 8), int), "start_index_list": np.zeros(3, int)},
            [
                r"video has shape \[5, 8, 8\], it takes \[any, 4, 4\]",
                r"start_index_list has shape \[3\], it takes \[any, 2\]",
            ],
        ),
        ({"start_index_list": np.zeros((0, 2), int)}, [r"start_index_list has shape \[0, 2\]"]),
    ],
)
def test_another_layout_is_named(tmp_path, changes, messages):
    path = write_file(tmp_path / "f.h5", make_videos(), **changes)
    for message in messages:
        with pytest.raises(ValueError, match=rf"no token file of 4x4 tokens a frame: .*{message}"):
            read_token_file(path, tokenizer=TOKENIZER)


def test_missing_cut_and_other_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of tokens at .*none\.h5"):
        read_token_file(tmp_path / "none.h5", tokenizer=TOKENIZER)
    path = write_file(tmp_path / "f.h5", make_videos())
    whole = path.read_bytes()
    for damaged in (b"", b"no HDF5 file at all", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"f\.h5 is damaged or no HDF5 file"):
            read_token_file(path, tokenizer=TOKENIZER)


def test_chunks_gone_wrong_are_named(tmp_path):
    tokens = np.concatenate(make_videos((64,)))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("video", data=tokens, chunks=(64, 4, 4), fletcher32=True)
        file.create_dataset("start_index_list", data=[[0, 64]])
        place = file["video"].id.get_chunk_info(0).byte_offset
    damaged = bytearray((tmp_path / "f.h5").read_bytes())
    damaged[place] ^= 1
    (tmp_path / "f.h5").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"f\.h5 cannot be read at frames 0 to 64.*copy it again"):
        read_token_file(tmp_path / "f.h5", tokenizer=TOKENIZER)


def test_only_one_video_is_in_memory(tmp_path, monkeypatch):
    path, longest, read = write_file(tmp_path / "f.h5", make_videos()), [], hdf5_tokens._read

    def watched(path, file, frames):
        tokens = read(path, file, frames)
        longest.append(len(tokens))
        return tokens

    monkeypatch.setattr(hdf5_tokens, "_read", watched)
    import_token_files(path, tmp_path / "d", fps=8, test_fraction=0.3)
    assert sorted(longest) == sorted(2 * LENGTHS)


def test_a_write_that_fails_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    path, calls, read = write_file(tmp_path / "f.h5", make_videos()), [], hdf5_tokens._read

    def failing(*args):
        calls.append(args)
        if len(calls) == len(LENGTHS) + 3:  # in the second pass
            raise OSError("the disk is gone")
        return read(*args)

    monkeypatch.setattr(hdf5_tokens, "_read", failing)
    with pytest.raises(OSError, match="disk is gone"):
        import_token_files(path, tmp_path / "d", fps=8)
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


def test_a_file_can_be_used_whole_for_training(tmp_path):
    path = write_file(tmp_path / "f.h5", make_videos())
    assert import_token_files(path, tmp_path / "d", fps=8, test_fraction=0) == {"train": 6}
    with pytest.raises(ValueError, match=r"test_fraction is -0\.5"):
        import_token_files(path, tmp_path / "d", fps=8, test_fraction=-0.5)


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'maskflow_jax\[hdf5\]'"):
        read_token_file(tmp_path / "f.h5", tokenizer=TOKENIZER)


def test_the_program(tmp_path):
    tokens = np.random.default_rng(0).integers(0, 512, (8, 5, 8, 8))
    path = write_file(tmp_path / "f.h5", list(tokens))
    command = [
        sys.executable,
        "-m",
        "launch.prepare_data",
        "--source=hdf5_tokens",
        "--source_fps=8",
    ]
    command += [f"--input={path}", "--tokenizer=maze", f"--output={tmp_path}/new", "--min_frames=4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train: 7 videos, 35 frames" in done.stderr and "test: 1 videos" in done.stderr
    assert "writing train: 100%" in done.stderr
    again = subprocess.run([*command, "--fps=3"], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 1 and "already holds a dataset" in again.stderr
    command += ["--overwrite", "--fps=3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: the source holds tokens: fps cannot change them"
    dataset = read_token_dataset(tmp_path / "new", "train")
    assert dataset.tokenizer == Tokenizer.load("maze").identity
    source = dataset.metadata["source"]
    assert (source["name"], source["file"], source["fps"]) == ("hdf5_tokens", "f.h5", 8)

"""`launch.prepare_data` from end to end: a folder of videos becomes a dataset that trains."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from videos import MeanEncoder, contents, moving, write_video

from configs import own_videos
from launch import preparing, training
from maskflow_jax.data.dataset import read_token_dataset
from maskflow_jax.data.preparation.work_directory import PreparationError
from maskflow_jax.io import video_files
from maskflow_jax.tokenizers.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
DEFAULTS = {
    "source": "video_files",
    "fps": 5.0,
    "min_frames": 4,
    "test_fraction": 0.3,
    "segment_frames": None,
    "overwrite": False,
    "batch_size": 8,
    "workers": 0,
    "shard": None,
    "merge": False,
    "beam": None,
    "dry_run": False,
    "keep_work": False,
    "max_failed": 0.0,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tokenizer that was never trained, and a folder of videos."""
    folder = tmp_path_factory.mktemp("world")
    tiny.write_world(folder)
    kinds = [("mp4", "libx264", "yuv420p"), ("avi", "mpeg4", "yuv420p"), ("gif", "gif", "rgb8")]
    for index in range(9):
        suffix, tokenizer, pix_fmt = kinds[index % 3]
        name = folder / "films" / f"{index}.{suffix}"
        write_video(name, moving(24 + index, 20 + 2 * index, 36, index), 10, tokenizer, pix_fmt)
    (folder / "films" / "notes.txt").write_text("mine")
    return folder


def run(world, output, **values):
    """Calls the program's work with the values of its flags; returns its exit code."""
    with tiny.quick_compilation():
        return preparing.run(
            DEFAULTS
            | {"input": f"{world}/films", "tokenizer": f"{world}/tokenizer", "output": str(output)}
            | values
        )


@pytest.fixture(scope="module")
def dataset(world):
    assert run(world, world / "made") == 0
    return world / "made"


def test_dataset_is_what_the_tokenizer_makes_of_the_files(world, dataset):
    tokenizer, found = Tokenizer.load(world / "tokenizer"), {}
    for split in ("train", "test"):
        found |= {video["id"]: video for video in read_token_dataset(dataset, split)}
    assert len(found) == 9
    for name in ("0.mp4", "4.avi", "8.gif"):
        frames, fps = video_files.read_video(world / "films" / name)
        assert fps == pytest.approx(10)
        shown = video_files.square_frames(frames[::2], 8)
        np.testing.assert_array_equal(found[name]["tokens"], tokenizer.encode(shown))
    assert not (world / "made.work").exists()


def test_dataset_trains(world, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "preview_hook", lambda *_, **__: lambda step, state: None)
    settings = tiny.settings_of(world, run__num_steps=2)
    settings["data"] |= {"directory": str(dataset), "source": {"fps": 5.0}}
    with tiny.quick_compilation():
        assert training.train_from_config(settings, tmp_path / "run")
    settings["data"]["source"] = own_videos.get_config().data.source.to_dict()
    assert settings["data"]["source"] == {}


def test_dry_run_writes_nothing(world, tmp_path, caplog):
    with caplog.at_level("INFO"):
        assert run(world, tmp_path / "out", dry_run=True) == 0
    assert "9 items, 1 files ignored; about 9 videos" in caplog.text
    assert re.search(r"decoding \d+, encoding \d+ frames/s", caplog.text)
    assert not any(tmp_path.iterdir())


def test_shards_and_merge(world, dataset, tmp_path):
    for index in range(2):
        assert run(world, tmp_path / "out", shard=f"{index}/2") == 0
        lines = (tmp_path / f"out.work/shard-{index}-of-2.jsonl").read_text().splitlines()
        assert {json.loads(line)["status"] for line in lines} == {"written"}
        if not index:
            with pytest.raises(PreparationError, match="run the shards they belong to"):
                run(world, tmp_path / "out", merge=True)
    assert run(world, tmp_path / "out", merge=True, keep_work=True) == 0
    assert contents(tmp_path / "out") == contents(dataset)
    assert (tmp_path / "out.work").is_dir()
    with pytest.raises(ValueError, match="i/n"):
        run(world, tmp_path / "out", shard="two")


def test_failures_decide_the_exit_code(world, tmp_path, caplog):
    films = tmp_path / "in" / "films"
    films.mkdir(parents=True)
    for name in ("0.mp4", "1.avi", "2.gif"):
        (films / name).symlink_to(world / "films" / name)
    (films / "bad.mp4").write_text("no video")
    given = {"input": str(films), "test_fraction": 0.0}
    with caplog.at_level("INFO"):
        assert run(world, tmp_path / "out", **given) == 1
    assert "1 failed, 3 written" in caplog.text
    assert len(read_token_dataset(tmp_path / "out", "train")) == 3
    assert (tmp_path / "out.work").is_dir()  # kept, as the file may be repaired
    with pytest.raises(FileExistsError, match="already holds a dataset"):
        run(world, tmp_path / "out", **given)
    assert run(world, tmp_path / "out", **given, overwrite=True, max_failed=0.25) == 0
    assert not (tmp_path / "out.work").exists()


def test_impossible_flags(world, tmp_path):
    with pytest.raises(ValueError, match="video_files takes no fps"):
        run(world, tmp_path / "out", source_fps=3)
    with pytest.raises(ValueError, match=r"no videos.*suffix \.txt"):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.txt").touch()
        run(world, tmp_path / "out", input=f"{tmp_path}/in")
    with pytest.raises(ValueError, match="does not lie in a frame"):
        run(world, tmp_path / "out", crop=["0", "0", "999", "9"], dry_run=True)
    assert not (tmp_path / "out.work").exists()


def test_defaults_come_from_the_source():
    values = {"source": "dmlab", "input": "in", "output": "out", "min_frames": None}
    made = preparing.make_preparation(MeanEncoder(), values)
    assert (made.transform.min_frames, made.transform.max_frames) == (36, 300)
    assert made.describe()["fps"] == 15
    values |= {"source": "faceforensics", "crop": ["1", "2", "3", "4"], "min_frames": 20}
    made = preparing.make_preparation(MeanEncoder(), values)
    assert (made.transform.fps, made.transform.min_frames) == (8, 20)
    assert made.transform.crop == (1, 2, 3, 4)
    made = preparing.make_preparation(MeanEncoder(), values | {"source": "video_files"})
    assert made.transform.fps is None
    images = values | {"source": "images", "source_fps": 12.0, "frame_interval": 3}
    assert preparing.make_preparation(MeanEncoder(), images).describe()["fps"] == 4


def test_beam_makes_the_same_dataset(world, dataset, tmp_path):
    pytest.importorskip("apache_beam")
    assert run(world, tmp_path / "out", beam=["--runner=DirectRunner"]) == 0
    assert contents(tmp_path / "out") == contents(dataset)


def test_the_program(world, dataset, tmp_path):
    """The command line, with processes that decode."""
    given = [f"--input={world}/films", f"--tokenizer={world}/tokenizer", f"--output={tmp_path}/out"]
    same = ["--fps=5", "--min_frames=4", "--test_fraction=0.3", "--batch_size=8", "--workers=2"]
    program = subprocess.run(
        [sys.executable, "-m", "launch.prepare_data", *given, *same],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert program.returncode == 0, program.stderr
    assert re.search(r"decoding \d+, encoding \d+, together \d+ frames/s", program.stderr)
    assert "files: 1 ignored, 9 written" in program.stderr
    made = contents(tmp_path / "out")
    assert made.keys() == contents(dataset).keys()
    assert made["manifest.jsonl"] == contents(dataset)["manifest.jsonl"]


def test_merge_names_files_that_changed(world, tmp_path):
    films = tmp_path / "films"
    shutil.copytree(world / "films", films)
    given = {"input": str(films)}
    assert run(world, tmp_path / "out", **given, shard="0/1") == 0
    shutil.copy(films / "3.mp4", films / "0.mp4")
    os.utime(films / "6.mp4")  # touched, and the same
    with pytest.raises(PreparationError, match=r"1 of 9 items have changed since.*: 0\.mp4; run"):
        run(world, tmp_path / "out", **given, merge=True)
    assert run(world, tmp_path / "out", **given, shard="0/1") == 0
    assert run(world, tmp_path / "out", **given, merge=True) == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shard": "0/2", "merge": True}, "--shard and --merge exclude"),
        ({"shard": "0/2", "beam": ["--x"]}, "--shard and --beam exclude"),
        ({"merge": True, "beam": ["--x"]}, "--merge and --beam exclude"),
        ({"memory_gb": 3.0}, "--batch_size and --memory_gb exclude"),
        ({"shard": "2/2"}, "choose i from 0 to n - 1"),
        ({"shard": "0/0"}, "choose i from 0 to n - 1"),
        ({"shard": ""}, "i/n"),
        ({"test_fraction": 5.0}, "test_fraction=5.0"),
        ({"max_failed": float("nan")}, "max_failed=nan"),
    ],
)
def test_flags_are_checked_before_any_work(world, tmp_path, monkeypatch, values, message):
    monkeypatch.setattr(preparing, "load_encoder", None)
    with pytest.raises(ValueError, match=message):
        run(world, tmp_path / "out", **values)


def test_segments_are_checked_before_any_work(world, tmp_path):
    with pytest.raises(ValueError, match="--segment_frames=3 is below min_frames 4"):
        run(world, tmp_path / "out", segment_frames=3)
    assert not any(tmp_path.iterdir())


def test_output_is_where_its_link_leads_and_outside_the_input(tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far")
    values = {"source": "video_files", "input": "~/in", "output": f"{tmp_path}/link"}
    monkeypatch.setenv("HOME", str(tmp_path))
    made = preparing.make_preparation(MeanEncoder(), values)
    assert made.output == tmp_path.resolve() / "far"
    assert made.source.root == tmp_path / "in"
    (tmp_path / "in").symlink_to(tmp_path / "far")
    for output in ("link", "far", "in/out", "far/a/out"):
        with pytest.raises(ValueError, match="choose an output outside"):
            preparing.make_preparation(MeanEncoder(), values | {"output": f"{tmp_path}/{output}"})


def test_mazes_are_prepared_like_any_other_source(world, tmp_path):
    pytest.importorskip("vizdoom")
    settings = ["train_videos=2", "test_videos=1", "num_frames=12", "seed=4"]
    output = tmp_path / "mazes"
    assert run(world, output, source="maze", input=None, fps=None, maze=settings) == 0
    splits = {name: read_token_dataset(output, name) for name in ("train", "test")}
    assert {name: len(videos) for name, videos in splits.items()} == {"train": 2, "test": 1}
    assert splits["train"].metadata["source"]["name"] == "maze"
    assert splits["train"][0]["tokens"].shape[0] == 12


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "maze", "maze": ["num_frames"]}, "write name=value"),
        ({"source": "maze", "maze": ["num_frames=many"]}, "give a number"),
        ({"source": "maze", "maze": ["num_frames=12"]}, "needs train_videos, test_videos"),
        ({"source": "maze", "maze": ["floor=12"]}, "takes no floor"),
        ({"source": "video_files"}, "--input is missing"),
    ],
)
def test_settings_of_mazes_and_a_missing_input_are_explained(world, tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        run(world, tmp_path / "out", **{"input": None, **values})

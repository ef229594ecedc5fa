"""Preparation from end to end: a folder of videos becomes a dataset that trains."""

import dataclasses
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

from maskflow_jax.data.dataset import read_token_dataset
from maskflow_jax.data.pipeline import clip_batches
from maskflow_jax.data.preparation.prepare import (
    estimate_dataset,
    make_preparation,
    prepare_dataset,
)
from maskflow_jax.data.preparation.settings import PreparationSettings
from maskflow_jax.data.preparation.work_directory import PreparationError
from maskflow_jax.data.sources.my_way_home import MazeConfig, maze_videos
from maskflow_jax.io import video_files
from maskflow_jax.io.files import sha256_of
from maskflow_jax.tokenizers.tokenizer import Tokenizer

ROOT = Path(__file__).parents[3]
FRAMES = {"fps": 5.0, "min_frames": 4}
WORK = {"test_fraction": 0.3, "batch_size": 8}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tokenizer that was never trained, and a folder of videos."""
    folder = tmp_path_factory.mktemp("world")
    tiny.write_world(folder)
    kinds = [("mp4", "libx264", "yuv420p"), ("avi", "mpeg4", "yuv420p"), ("gif", "gif", "rgb8")]
    for index in range(9):
        suffix, codec, pix_fmt = kinds[index % 3]
        split = "test" if index in (1, 6) else "train"
        name = folder / "films" / split / f"{index}.{suffix}"
        write_video(name, moving(24 + index, 20 + 2 * index, 36, index), 10, codec, pix_fmt)
    (folder / "films" / "notes.txt").write_text("mine")
    return folder


def arguments(world, output, *, input=None, source="video_files", source_settings=None, **values):
    """The arguments of `prepare_dataset`; `values` are fields of the frames or the settings."""
    named = {field.name for field in dataclasses.fields(PreparationSettings)}
    return {
        "source": source,
        "input": input or f"{world}/films",
        "output": output,
        "tokenizer": f"{world}/tokenizer",
        "source_settings": {"split_folders": True} | (source_settings or {}),
        "frames": FRAMES | {name: values[name] for name in values.keys() - named},
        "settings": PreparationSettings(
            **WORK | {name: values[name] for name in values.keys() & named}
        ),
    }


def run(world, output, **values):
    with tiny.quick_compilation():
        return prepare_dataset(**arguments(world, output, **values))


@pytest.fixture(scope="module")
def dataset(world):
    assert run(world, world / "made").counts == {"written": 9, "ignored": 1}
    return world / "made"


def test_the_card_of_a_dataset_has_its_contents_and_hashes(world, dataset):
    card = (dataset / "card.md").read_text()
    videos = read_token_dataset(dataset, "train")
    assert f"| split train | {len(videos)} videos, {videos.num_frames.sum()} frames |" in card
    assert Tokenizer.load(world / "tokenizer").identity["sha256"] in card
    assert '"name": "video_files"' in card
    for path in dataset.iterdir():
        assert path.name == "card.md" or f"| {path.name} | `{sha256_of(path)}` |" in card


def test_dataset_is_what_the_tokenizer_makes_of_the_files(world, dataset):
    tokenizer, found = Tokenizer.load(world / "tokenizer"), {}
    for split in ("train", "test"):
        found |= {video["id"]: video for video in read_token_dataset(dataset, split)}
    assert len(found) == 9
    for name in ("train/0.mp4", "train/4.avi", "train/8.gif"):
        frames, fps = video_files.read_video(world / "films" / name)
        assert fps == pytest.approx(10)
        shown = video_files.square_frames(frames[::2], 8)
        np.testing.assert_array_equal(found[name]["tokens"], tokenizer.encode(shown))
    assert not (world / "made.work").exists()


def test_dataset_makes_batches(dataset):
    videos = read_token_dataset(dataset, "train")
    batches = clip_batches(videos, clip_frames=4, batch_size=3, seed=0)
    assert next(batches).shape == (3, 4, 4, 4)
    batches.close()


def test_an_estimate_writes_nothing(world, tmp_path):
    with tiny.quick_compilation():
        found = str(estimate_dataset(**arguments(world, tmp_path / "out")))
    assert "9 items, 1 files ignored; about 9 videos" in found
    assert re.search(r"decoding \d+, encoding \d+ frames/s", found)
    assert not any(tmp_path.iterdir())


def test_shards_and_merge(world, dataset, tmp_path):
    for index in range(2):
        assert run(world, tmp_path / "out", shard=f"{index}/2").failed_share == 0
        lines = (tmp_path / f"out.work/shard-{index}-of-2.jsonl").read_text().splitlines()
        assert {json.loads(line)["status"] for line in lines} == {"written"}
        if not index:
            with pytest.raises(PreparationError, match="run the shards they belong to"):
                run(world, tmp_path / "out", merge=True)
    assert run(world, tmp_path / "out", merge=True, keep_work=True).counts["written"] == 9
    assert contents(tmp_path / "out") == contents(dataset)
    assert (tmp_path / "out.work").is_dir()
    with pytest.raises(ValueError, match="i/n"):
        run(world, tmp_path / "out", shard="two")


def test_failures_are_named_and_keep_the_work(world, tmp_path, caplog):
    films = tmp_path / "in" / "films"
    films.mkdir(parents=True)
    for name in ("0.mp4", "4.avi", "2.gif"):
        (films / name).symlink_to(world / "films" / "train" / name)
    for index in range(9):
        (films / f"bad {index}.mp4").write_text("no video")
    given = {"input": films, "test_fraction": 0.0}
    with caplog.at_level("INFO"):
        summary = run(world, tmp_path / "out", **given)
    assert "9 failed, 3 written" in caplog.text
    for index in range(9):
        assert f"bad {index}.mp4" in caplog.text and f"bad {index}.mp4" in summary.failed
    assert f"{tmp_path}/out/manifest.jsonl names all files" in caplog.text
    assert summary.failed_share == 0.75
    assert len(read_token_dataset(tmp_path / "out", "train")) == 3
    assert (tmp_path / "out.work").is_dir()  # kept, as the files may be repaired
    with pytest.raises(FileExistsError, match="already holds a dataset"):
        run(world, tmp_path / "out", **given)
    summary = run(world, tmp_path / "out", **given, overwrite=True, max_failed=0.75)
    assert not (tmp_path / "out.work").exists()


def test_impossible_settings(world, tmp_path):
    with pytest.raises(ValueError, match="video_files takes no fps"):
        run(world, tmp_path / "out", source_settings={"fps": 3})
    with pytest.raises(ValueError, match=r"frames takes no fpz; it takes crop, "):
        run(world, tmp_path / "out", fpz=3)
    with pytest.raises(ValueError, match=r"no videos.*suffix \.txt"):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.txt").touch()
        run(world, tmp_path / "out", input=f"{tmp_path}/in")
    with pytest.raises(ValueError, match="does not lie in a frame"), tiny.quick_compilation():
        estimate_dataset(**arguments(world, tmp_path / "out", crop=(0, 0, 999, 9)))
    with pytest.raises(ValueError, match="crop is a,b,c,d: give left, top, width and height"):
        run(world, tmp_path / "out", crop=["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="needs an input"):
        prepare_dataset(**arguments(world, tmp_path / "out") | {"input": None})
    with pytest.raises(ValueError, match="my_way_home makes its videos itself"):
        run(world, tmp_path / "out", source="my_way_home")
    assert not (tmp_path / "out.work").exists()


def test_defaults_come_from_the_source():
    def make(source, settings=None, **frames):
        return make_preparation(source, "in", Path("/out"), MeanEncoder(), settings, frames)

    made = make("dmlab", min_frames=None)
    assert (made.transform.min_frames, made.transform.max_frames) == (36, 300)
    assert made.describe()["fps"] == 15
    given = {"crop": ["1", "2", "3", "4"], "min_frames": 20}
    made = make("faceforensics", **given)
    assert (made.transform.fps, made.transform.min_frames) == (8, 20)
    assert made.transform.crop == (1, 2, 3, 4)
    assert make("video_files", **given).transform.fps is None
    assert make("images", {"fps": 12.0}, frame_interval=3).describe()["fps"] == 4


def test_rendered_mazes_are_a_source(world, tmp_path):
    pytest.importorskip("vizdoom")
    settings = {"train_videos": 2, "test_videos": 1, "num_frames": 5, "fps": 10.0, "seed": 3}
    given = {
        "source": "my_way_home",
        "source_settings": settings,
        "tokenizer": f"{world}/tokenizer",
    }
    with tiny.quick_compilation():
        summary = prepare_dataset(**given, output=tmp_path / "out", frames={"min_frames": 5})
    assert summary.videos == {"train": 2, "test": 1}
    video = read_token_dataset(tmp_path / "out", "test")[0]
    config = MazeConfig(num_videos=1, num_frames=5, fps=10.0, frame_size=8, seed=3, split="test")
    ((name, frames, fps),) = maze_videos(config)
    assert (video["id"], video["fps"]) == (name, fps)
    tokens = Tokenizer.load(world / "tokenizer").encode(frames)
    np.testing.assert_array_equal(video["tokens"], tokens)


@pytest.mark.parametrize("segment", [None, 8])
def test_one_long_video_becomes_a_dataset(world, tmp_path, segment):
    write_video(tmp_path / "in" / "long.mp4", moving(80), 10)
    summary = run(world, tmp_path / "out", input=tmp_path / "in", segment_frames=segment)
    if segment is None:
        assert summary.videos == {"train": 1}
        return
    assert summary.videos == {"train": 3, "test": 2}  # of 40 frames the last 16 are for testing
    ids = {s: [v["id"] for v in read_token_dataset(tmp_path / "out", s)] for s in summary.videos}
    assert ids == {
        "train": ["long.mp4#000000", "long.mp4#000008", "long.mp4#000016"],
        "test": ["long.mp4#000024", "long.mp4#000032"],
    }


def test_beam_makes_the_same_dataset(world, dataset, tmp_path):
    pytest.importorskip("apache_beam")
    assert run(world, tmp_path / "out", beam=("--runner=DirectRunner",)).counts["written"] == 9
    assert contents(tmp_path / "out") == contents(dataset)


def test_the_program(world, dataset, tmp_path):
    """The command line, with processes that decode."""
    given = [f"--input={world}/films", f"--tokenizer={world}/tokenizer", f"--output={tmp_path}/out"]
    same = [
        "--fps=5",
        "--source_setting=split_folders=true",
        "--min_frames=4",
        "--batch_size=8",
        "--workers=2",
    ]
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
    run(world, tmp_path / "out", **given, shard="0/1")
    shutil.copy(films / "train/3.mp4", films / "train/0.mp4")
    os.utime(films / "test/6.mp4")  # touched, and the same
    with pytest.raises(PreparationError, match=r"1 of 9 items have changed.*: train/0\.mp4; run"):
        run(world, tmp_path / "out", **given, merge=True)
    run(world, tmp_path / "out", **given, shard="0/1")
    assert run(world, tmp_path / "out", **given, merge=True).counts["written"] == 9


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shard": "0/2", "merge": True}, "shard and merge exclude"),
        ({"shard": "0/2", "beam": ("--x",)}, "shard and beam exclude"),
        ({"merge": True, "beam": ("--x",)}, "merge and beam exclude"),
        ({"memory_gb": 3.0, "batch_size": 4}, "batch_size and memory_gb exclude"),
        ({"shard": "2/2"}, "i from 0 to n - 1"),
        ({"shard": "0/0"}, "i from 0 to n - 1"),
        ({"shard": ""}, "i/n"),
        ({"test_fraction": 5.0}, r"test_fraction is 5\.0"),
        ({"max_failed": float("nan")}, "max_failed is nan"),
        ({"workers": -1}, "workers is -1: choose 0 or more"),
    ],
)
def test_settings_are_checked_before_any_work(values, message):
    with pytest.raises(ValueError, match=message):
        PreparationSettings(**values)


def test_segments_are_checked_before_any_work(world, tmp_path):
    with pytest.raises(ValueError, match="segment_frames is 3, below min_frames 4"):
        run(world, tmp_path / "out", segment_frames=3)
    assert not any(tmp_path.iterdir())


def test_output_is_where_its_link_leads_and_outside_the_input(world, tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far")
    shutil.copytree(world / "films", tmp_path / "in")
    monkeypatch.setenv("HOME", str(tmp_path))
    run(world, tmp_path / "link", input="~/in")
    assert len(read_token_dataset(tmp_path / "far", "train")) == 7
    assert (tmp_path / "link").is_symlink()
    for output in ("in", "in/out", "in/train/a/out"):
        with pytest.raises((ValueError, FileExistsError), match="choose an"):
            run(world, tmp_path / output, input="~/in")

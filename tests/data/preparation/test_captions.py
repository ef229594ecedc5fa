"""Captions beside videos: from a file of lines to scenes in frames of a dataset."""

import json

import numpy as np
import pytest
import tiny

from maskflow_jax.data.dataset import dataset_captions, read_token_dataset
from maskflow_jax.data.preparation.captions import (
    read_caption_file,
    scenes_in_frames,
    with_captions,
)
from maskflow_jax.data.preparation.prepare import prepare_dataset
from maskflow_jax.data.preparation.settings import PreparationSettings
from maskflow_jax.data.sources.items import Item, Listing
from maskflow_jax.scenes.records import Scene


def line(file, start, end, **more):
    return {"file": file, "start": start, "end": end, **({"caption": "a walk"} | more)}


def write(path, lines):
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Six videos of 20 frames at 10 per second, and a tokenizer."""
    folder = tmp_path_factory.mktemp("films")
    tiny.write_world(folder)
    (folder / "films").mkdir()
    for index in range(6):
        frames = np.random.default_rng(index).integers(0, 256, (20, 8, 8, 3), np.uint8)
        np.save(folder / "films" / f"{index}.npy", frames)
    return folder


def prepare(films, output, lines, **settings):
    captions = write(output.with_suffix(".jsonl"), lines)
    with tiny.quick_compilation():
        return prepare_dataset(
            source="arrays",
            input=films / "films",
            output=output,
            tokenizer=films / "tokenizer",
            source_settings={"fps": 10.0},
            frames={"fps": 5.0, "min_frames": 4},
            settings=PreparationSettings(
                captions=str(captions), test_fraction=0.3, batch_size=8, **settings
            ),
        )


def all_lines(**more):
    return [
        line(f"{index}.npy", start, start + 1.0, **more, label=f"part {start:g}")
        for index in range(6)
        for start in (1.0, 0.0)
    ]


def test_scenes_are_in_the_dataset_in_its_own_frames(films, tmp_path):
    prepare(films, tmp_path / "d", all_lines())
    videos = read_token_dataset(tmp_path / "d", "train")
    assert videos.num_frames.tolist() == [10] * len(videos)  # half the rate
    assert videos[0]["scenes"] == (
        Scene(start=0, stop=5, label="part 0", caption="a walk"),
        Scene(start=5, stop=10, label="part 1", caption="a walk"),
    )
    assert videos.scenes["labels"] == ["part 0", "part 1"]
    assert videos.scenes["words"] == ["a", "walk"]
    assert dataset_captions(tmp_path / "d") == ["a walk"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines, line("0.npy", 0.5, 1.5)], r"0\.npy: .*scenes 0-5 and 2-8 overlap"),
        (
            lambda lines: [*lines[:-2], line("5.npy", 0, 9.0)],
            r"5\.npy: scene 0-45 leaves the",
        ),
        (lambda lines: [*lines, line("0.npy", 2.0, 2.01)], r"0\.npy: scene 10-10 has no frame"),
    ],
)
def test_scenes_that_do_not_fit_the_videos_are_named(films, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        prepare(films, tmp_path / "d", change(all_lines()))
    prepare(films, tmp_path / "d", all_lines())  # the same work goes on with other captions


def test_captions_do_not_go_with_segments(films, tmp_path):
    with pytest.raises(ValueError, match="captions and segment_frames exclude each other"):
        prepare(films, tmp_path / "d", all_lines(), segment_frames=5)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1 is no JSON"),
        (["[]"], "line 1: it is no JSON object"),
        ([line("a", 0, 1), line("a", 2, 1)], "line 2: the scene goes from 2 to 1 s"),
        ([line("a", 0, 1, captoin="b")], "line 1: unknown captoin; a scene has file, start"),
        ([{"file": "a", "start": 0}], "line 1: end missing"),
        ([line("a", "0", 1)], "line 1: start is '0'"),
        ([line("a", 0, 1, caption="")], "neither a label nor a caption"),
        ([" "], "has no captions: write a line"),
    ],
)
def test_wrong_lines_are_named(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        read_caption_file(write(tmp_path / "c.jsonl", lines))


def test_videos_and_captions_belong_together(tmp_path):
    listing = Listing(items=(Item(id="a.mp4"), Item(id="b.mp4")))
    path = write(tmp_path / "c.jsonl", [line("a.mp4", 0, 1), line("c.mp4", 0, 1)])
    with pytest.raises(ValueError, match=r"'b\.mp4' has no scene.*'c\.mp4' is not in the input"):
        with_captions(listing, path)
    with pytest.raises(FileNotFoundError, match="no captions at"):
        with_captions(listing, tmp_path / "nothing.jsonl")


def test_the_end_of_a_video_may_be_a_frame_off():
    record = {"id": "a", "frames": 10, "fps": 5.0}
    scenes = [{"start": 0.0, "end": 2.13, "label": "", "caption": "b"}]
    (scene,) = scenes_in_frames(record | {"labels": {"scenes": scenes}})
    assert (scene.start, scene.stop) == (0, 10)

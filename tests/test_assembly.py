"""Splits follow the content, the manifest names every file, records can be cut."""

import json
import os
import shutil

import numpy as np
import pytest
from videos import MeanEncoder, greys, moving, preparation, write_video

from maskflow_jax.data.dataset import read_token_dataset
from maskflow_jax.data.preparation import decoding
from maskflow_jax.data.preparation.assembly import assemble, choose_splits, summarise
from maskflow_jax.data.preparation.run import prepare_items
from maskflow_jax.data.sources import items


def contents(count, start=0):
    rng = np.random.default_rng(start)
    return [{"id": str(i), "sha256": rng.bytes(32).hex(), "split": None} for i in range(count)]


def test_split_is_stable_when_files_are_added():
    few, more = contents(300), contents(300) + contents(300, 1)
    first, later = choose_splits(few, 0.2), choose_splits(more, 0.2)
    assert first.items() <= later.items()
    held_out = sum(split == "test" for split in later.values())
    assert 90 <= held_out <= 150
    larger = choose_splits(few, 0.4)
    assert all(larger[c] == "test" for c, split in first.items() if split == "test")


def test_few_videos_have_one_held_out(caplog):
    records = [r | {"sha256": f"{i + 8:x}" * 64} for i, r in enumerate(contents(5))]
    with caplog.at_level("WARNING"):
        splits = choose_splits(records, 0.05)
    assert [splits[r["sha256"]] for r in records] == ["test"] + ["train"] * 4
    assert "--test_fraction=0.534" in caplog.text
    assert choose_splits(records, 0.534) == splits
    assert set(choose_splits(records, 0).values()) == {"train"}
    assert set(choose_splits(records, 1).values()) == {"test"}
    with pytest.raises(ValueError, match="all of the 1 videos would be held out"):
        choose_splits(records[:1], 0.05)
    with pytest.raises(ValueError, match=r"test_fraction is 1\.5"):
        choose_splits(records, 1.5)


def test_official_splits_win_and_contents_are_not_divided(caplog):
    records = contents(6)
    for index, split in enumerate(["train", "test", "train", "test", None, None]):
        records[index]["split"] = split
    records[3]["sha256"] = records[2]["sha256"]  # in both
    records[4]["sha256"] = records[0]["sha256"]  # a copy without a split of its own
    with caplog.at_level("WARNING"):
        splits = choose_splits(records, 0.0)
    assert [splits[r["sha256"]] for r in records] == [
        "train", "test", "test", "test", "train", "train"
    ]  # fmt: skip
    assert "in both splits" in caplog.text


def run(root, output, test_fraction=0.5, encoder=None, source=None, **transform):
    prep = preparation(root, output, **transform)
    if source is not None:
        object.__setattr__(prep, "source", source)
    listing, work = prep.source.listing(), prep.work_directory()
    prepare_items(prep, listing.items, encoder or MeanEncoder(), work, progress=False)
    summary = assemble(prep, listing, work, test_fraction=test_fraction)
    lines = (output / "manifest.jsonl").read_text("utf-8").splitlines()
    return summary, {line["id"]: line for line in map(json.loads, lines)}


def test_every_bad_file_is_named_with_its_reason(tmp_path, monkeypatch):
    root = tmp_path / "in"
    good = write_video(root / "good.mp4", moving(20))
    write_video(
        root / "good.avi", moving(12, 17, 31), tokenizer="ffv1", pix_fmt="bgr0"
    )  # same stem
    (root / "sub").mkdir()
    shutil.copy(good, root / "sub" / "good.mp4")  # same name, same content
    write_video(root / "one.mp4", moving(1))
    write_video(root / "höhe 高.gif", greys([0, 99, 200] * 4), 10, "gif", "rgb8")
    (root / os.fsdecode(b"not utf \xff.mp4")).write_bytes(good.read_bytes())
    (root / "empty.mp4").write_bytes(b"")
    (root / "text.mkv").write_bytes(b"not a video at all" * 50)
    (root / "cut.mp4").write_bytes(good.read_bytes()[:-500])
    (root / "notes.txt").write_text("mine")
    (root / ".hidden.mp4").write_text("?")
    (root / "gone.mp4").symlink_to(root / "nowhere.mp4")
    (root / "loop").symlink_to(root)
    write_video(root / "secret.mp4", moving(20, phase=1))
    write_video(root / "growing.mp4", moving(20, phase=2))
    hashed, iterate = items._file_hash, decoding.transform_frames

    def refuse(path):
        if path.name == "secret.mp4":
            raise PermissionError(f"{path} may not be read: `chmod +r` it")
        return hashed(path)

    def grow(frames, transform):
        yield from iterate(frames, transform)
        with (root / "growing.mp4").open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(items, "_file_hash", refuse)
    monkeypatch.setattr(decoding, "transform_frames", grow)
    # Each item's end makes growing.mp4 longer; only its own reading minds.
    summary, manifest = run(root, tmp_path / "out", min_frames=2)
    expected = {
        "good.mp4": "written",
        "good.avi": "written",
        "sub/good.mp4": "written",
        "höhe 高.gif": "written",
        "not utf \\xff.mp4": "written",
        "one.mp4": "filtered: fewer frames than min_frames 2",
        "empty.mp4": "failed: cannot be decoded as video",
        "text.mkv": "failed: cannot be decoded as video",
        "cut.mp4": "failed: cut.mp4",
        "secret.mp4": "failed: may not be read",
        "growing.mp4": "failed: changed while it was read",
        "gone.mp4": "failed: No such file",
        "notes.txt": "ignored: suffix .txt",
        ".hidden.mp4": "ignored: hidden",
    }
    assert manifest.keys() == expected.keys()
    for name, what in expected.items():
        status, _, reason = what.partition(": ")
        assert manifest[name]["status"] == status, manifest[name]
        assert reason in (manifest[name]["reason"] or "")
    assert summary.counts == {"written": 5, "filtered": 1, "failed": 6, "ignored": 2}
    assert summary.duplicates == 2
    assert summary.failed_share == 6 / 12
    assert "failed: FILE may not be read" in str(summary)
    copies = [manifest[n] for n in ("good.mp4", "sub/good.mp4", "not utf \\xff.mp4")]
    assert len({line["sha256"] for line in copies}) == len({line["split"] for line in copies}) == 1
    found = [
        video["id"]
        for split in ("train", "test")
        for video in read_token_dataset(tmp_path / "out", split)
    ]
    assert sorted(found) == sorted(n for n, what in expected.items() if what == "written")


def test_failed_items_are_tried_again(tmp_path):
    root = tmp_path / "in"
    good = write_video(root / "a.mp4", moving(20))
    write_video(root / "b.mp4", moving(20, phase=1))
    (root / "bad.mp4").write_bytes(b"")
    summary, _ = run(root, tmp_path / "out", test_fraction=0)
    assert summary.counts["failed"] == 1
    (root / "bad.mp4").write_bytes(good.read_bytes())
    shutil.rmtree(tmp_path / "out")
    encoder = MeanEncoder()
    summary, manifest = run(root, tmp_path / "out", test_fraction=0, encoder=encoder)
    assert summary.counts == {"written": 3}
    assert encoder.calls == 1 + 5
    assert manifest["bad.mp4"]["sha256"] == manifest["a.mp4"]["sha256"]


def test_segments(tmp_path):
    for index, frames in enumerate((10, 4, 7)):
        write_video(tmp_path / "in" / f"{index}.mp4", moving(frames, phase=index))
    prep = preparation(tmp_path / "in", tmp_path / "out", min_frames=3)
    listing, work = prep.source.listing(), prep.work_directory()
    prepare_items(prep, listing.items, MeanEncoder(), work, progress=False)
    with pytest.raises(ValueError, match="segment_frames 2 is below min_frames 3"):
        assemble(prep, listing, work, segment_frames=2)
    summary = assemble(prep, listing, work, test_fraction=0, segment_frames=4)
    videos = read_token_dataset(tmp_path / "out", "train")
    assert {v["id"]: len(v["tokens"]) for v in videos} == {
        "0.mp4#000000": 4,
        "0.mp4#000004": 4,  # two frames are too few
        "1.mp4": 4,
        "2.mp4#000000": 4,
        "2.mp4#000004": 3,
    }
    assert (summary.videos, summary.frames) == ({"train": 5}, {"train": 19})
    assert summary.tokens == 4 * 19
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    assert [line["frames"] for line in lines] == [10, 4, 7]
    assert [line["frames_written"] for line in lines] == [8, 4, 7]
    assert [line["tokens"] for line in lines] == [32, 16, 28]
    whole = work.tokens(work.record(listing.items[0]))
    np.testing.assert_array_equal(videos[1]["tokens"], whole[4:8])


def test_rates_of_the_files_are_kept_unless_asked(tmp_path):
    for fps in (10, 20):
        write_video(tmp_path / "in" / f"{fps}.mp4", moving(12, phase=fps), fps)
    run(tmp_path / "in", tmp_path / "out", test_fraction=0, frame_interval=2)
    videos = read_token_dataset(tmp_path / "out", "train")
    assert [video["fps"] for video in videos] == [5, 10]
    assert videos.metadata["source"]["fps"] is None


def test_nothing_to_write(tmp_path):
    write_video(tmp_path / "in" / "a.mp4", moving(5))
    with pytest.raises(ValueError, match=r"no video to write.*1 filtered"):
        run(tmp_path / "in", tmp_path / "out", min_frames=6)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("good", [0, 1])
def test_manifest_is_left_when_no_dataset_can_be(tmp_path, good):
    root = tmp_path / "in"
    root.mkdir()
    (root / "bad.mp4").touch()
    if good:
        write_video(root / "good.mp4", moving(5))
    with pytest.raises(ValueError, match=r"out\.work/manifest\.jsonl") as caught:
        run(root, tmp_path / "out", test_fraction=0.05)
    assert "--test_fraction=0 " not in str(caught.value)
    lines = (tmp_path / "out.work" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["failed", "written"][: 1 + good]


def test_reasons_are_counted_whatever_the_names(tmp_path):
    made = [items.Item(id=f"{i}", paths=(tmp_path / f"a film {i}.mp4",)) for i in range(30)]
    causes = ["{} is cut", "elsewhere: '/other/{}' is bad", *(f"cause {i}" for i in range(18))]
    records = [
        {"id": item.id, "status": "failed", "sha256": None}
        | {"reason": causes[max(0, index - 10)].format(item.paths[0])}
        for index, item in enumerate(made)
    ]
    records[11]["reason"] = f"[Errno 2] gone: '/other/{made[11].paths[0].name}'"
    summary = summarise(records, items.Listing(items=tuple(made)))
    assert summary.reasons["failed: FILE is cut"] == 11
    assert summary.reasons["failed: [Errno 2] gone: 'FILE'"] == 1
    assert (len(summary.reasons), summary.more_reasons) == (10, 10)
    assert "and 10 more reasons" in str(summary)

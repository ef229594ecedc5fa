"""Preparation: whatever interrupts it, the dataset comes out the same; nothing disappears."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from videos import MeanEncoder, contents, greys, moving, preparation, prepare, write_video

from maskflow_jax.data.dataset import read_token_dataset
from maskflow_jax.data.preparation import decoding, work_directory
from maskflow_jax.data.preparation.assembly import assemble
from maskflow_jax.data.preparation.decoders import DecoderDiedError
from maskflow_jax.data.preparation.estimates import estimate
from maskflow_jax.data.preparation.run import in_shard, prepare_items
from maskflow_jax.data.preparation.work_directory import PreparationError
from maskflow_jax.data.sources.items import Item, Listing, make_listing
from maskflow_jax.io.video_decoding import TimedFrame

NAMES = (
    "test/a.mp4",
    "test/ü 日.mp4",
    "train/c.mp4",
    "train/d.mkv",
    "train/e.mp4",
    "train/f/f.mp4",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six videos of 9 to 19 frames."""
    root = tmp_path_factory.mktemp("films") / "in"
    for index, name in enumerate(NAMES):
        write_video(root / name, moving(9 + 2 * index, phase=index))
    return root


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory):
    """The dataset of a run that nothing interrupts."""
    output = tmp_path_factory.mktemp("expected") / "out"
    prepare(preparation(folder, output, fps=5))
    return contents(output)


def manifest(output):
    lines = (output / "manifest.jsonl").read_text("utf-8").splitlines()
    return {line["id"]: line for line in map(json.loads, lines)}


def test_dataset_holds_the_tokens_of_the_frames(folder, expected, tmp_path):
    prep = preparation(folder, tmp_path / "out", fps=5)
    summary = prepare(prep)
    assert contents(tmp_path / "out") == expected
    assert summary.counts == {"written": 6}
    found = {}
    for split in ("train", "test"):
        videos = read_token_dataset(tmp_path / "out", split)
        found |= {video["id"]: (split, video) for video in videos}
        assert [video["id"] for video in videos] == sorted(video["id"] for video in videos)
    assert sorted(found) == sorted(NAMES)
    source = videos.metadata["source"]
    assert (source["name"], source["fps"]) == ("video_files", 5)
    assert source["transform"] == prep.transform.describe()
    assert str(folder) not in json.dumps(source)
    for name, line in manifest(tmp_path / "out").items():
        split, video = found[name]
        item = Item(id=name, paths=(folder / name,))
        frames = next(decoding.decode_item(prep.source, item, prep.transform, 99))
        np.testing.assert_array_equal(video["tokens"], MeanEncoder().encode(frames))
        assert video["fps"] == 5
        assert (line["split"], line["frames"]) == (split, len(frames))
        assert line["tokens"] == 4 * len(frames)
        assert (line["width"], line["height"], line["source_fps"]) == (32, 24, 10)


@pytest.mark.parametrize("calls", [1, 4, 9])
def test_interrupted_and_continued(folder, expected, tmp_path, calls):
    def interrupt():
        raise KeyboardInterrupt

    prep = preparation(folder, tmp_path / "out", fps=5)
    with pytest.raises(KeyboardInterrupt):
        prepare(prep, MeanEncoder(fail_at=calls, error=interrupt))
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "out.work").rglob("*.part"))
    encoder = MeanEncoder()
    prepare(prep, encoder)
    assert contents(tmp_path / "out") == expected
    if calls == 9:
        full = MeanEncoder()
        prepare(preparation(folder, tmp_path / "full", fps=5), full)
        assert encoder.calls < full.calls  # what was done is not done again


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from videos import MeanEncoder, preparation
from maskflow_jax.data.preparation.run import prepare_items
prep = preparation(Path(sys.argv[1]), Path(sys.argv[2]), fps=5)
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
encoder = MeanEncoder(fail_at=7, error=kill)  # within a video
prepare_items(prep, prep.source.listing().items, encoder, prep.work_directory(), progress=False)
"""


def test_killed_and_continued(folder, expected, tmp_path):
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "out"), *paths],
        capture_output=True,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert len(list((tmp_path / "out.work").rglob("*.json"))) > 1
    assert len(list((tmp_path / "out.work").rglob(".*.part"))) == 1
    prep = preparation(folder, tmp_path / "out", fps=5)
    listing, work = prep.source.listing(), prep.work_directory()
    prepare_items(prep, listing.items, MeanEncoder(), work, progress=False)
    assert not list((tmp_path / "out.work").rglob(".*.part"))  # the next run removes it
    prepare(prep)
    assert contents(tmp_path / "out") == expected


def test_processes_make_the_same_dataset(folder, expected, tmp_path):
    prepare(preparation(folder, tmp_path / "out", fps=5), workers=2)
    assert contents(tmp_path / "out") == expected


class DyingSource:
    """Not a dataclass field in sight: only what the decoders need."""

    def open(self, item):
        os.kill(os.getpid(), signal.SIGKILL)
        yield


def test_a_decoding_process_that_dies_is_reported(folder, tmp_path):
    prep = preparation(folder, tmp_path / "out")
    object.__setattr__(prep, "source", DyingSource())
    work = work_directory.WorkDirectory(tmp_path / "out.work", {})
    with pytest.raises(DecoderDiedError, match=r"code -9 while reading a:.*lower workers"):
        prepare_items(
            prep, [Item(id="a")], MeanEncoder(), work, workers=1, progress=False, warm_up=False
        )


def test_shards_make_the_same_dataset(folder, expected, tmp_path):
    prep = preparation(folder, tmp_path / "out", fps=5)
    listing, work = prep.source.listing(), prep.work_directory()
    parts = [in_shard(listing.items, (index, 3)) for index in range(3)]
    assert sorted(item.id for part in parts for item in part) == sorted(NAMES)
    for part in parts[:2]:
        prepare_items(prep, part, MeanEncoder(), work, progress=False)
    with pytest.raises(PreparationError, match=rf"{len(parts[2])} of 6.*{parts[2][0].id}.*shards"):
        assemble(prep, listing, work)
    prepare_items(prep, parts[2], MeanEncoder(), work, progress=False)
    assemble(prep, listing, work, test_fraction=0.3)
    assert contents(tmp_path / "out") == expected
    with pytest.raises(ValueError, match=r"0/3 to 2/3"):
        in_shard(listing.items, (3, 3))


def test_changed_files_are_done_again(folder, tmp_path):
    root = tmp_path / "in"
    for name in NAMES[:3]:
        write_video(root / name, moving(9))
    prep = preparation(root, tmp_path / "out")
    work = prep.work_directory()
    prepare_items(prep, prep.source.listing().items, MeanEncoder(), work, progress=False)
    write_video(root / "test/a.mp4", moving(20))
    os.utime(root / "train/c.mp4")  # touched, and the same
    encoder = MeanEncoder()
    prepare_items(prep, prep.source.listing().items, encoder, work, progress=False)
    assert encoder.calls == 1 + 5  # to warm up; one video of 20 frames
    assert work.record(prep.source.listing().items[0])["frames"] == 20


def test_codebook_beyond_uint16(folder, tmp_path):
    prep = preparation(folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"codebook_size is 65537.*uint16"):
        type(prep)(
            source=prep.source,
            transform=prep.transform,
            tokenizer=prep.tokenizer | {"codebook_size": 65537},
            batch_size=4,
            output=prep.output,
        )


class Film:
    """A source of one endless film, which counts the frames that are alive."""

    def __init__(self, frames):
        self.frames, self.alive, self.most = frames, 0, 0

    def open(self, item):
        for index in range(self.frames):
            pixels = np.full((16, 16, 3), index % 251, np.uint8)
            self._count(1)
            weakref.finalize(pixels, self._count, -1)
            yield TimedFrame(pixels, index / 10, 1 / 10)
            del pixels

    def _count(self, change):
        self.alive += change
        self.most = max(self.most, self.alive)


class WatchingEncoder(MeanEncoder):
    """Counts the batches that are alive beside the one that it encodes."""

    alive, most = 0, 0

    def encode(self, frames):
        base = frames if frames.base is None else frames.base
        self.alive += 1
        weakref.finalize(base, self._forget)
        self.most = max(self.most, self.alive)
        return super().encode(frames)

    def _forget(self):
        self.alive -= 1


def test_memory_is_bounded_by_the_batch(folder, tmp_path):
    """20,000 frames pass; a few frames and batches are alive at any time."""
    prep, film, encoder = preparation(folder, tmp_path / "out"), Film(20_000), WatchingEncoder(64)
    object.__setattr__(prep, "source", film)
    work = work_directory.WorkDirectory(tmp_path / "out.work", {})
    gc.collect()
    prepare_items(prep, [Item(id="film")], encoder, work, progress=False, warm_up=False)
    record = work.record(Item(id="film"))
    assert record["frames"] == 20_000
    assert film.most <= 4
    assert encoder.most <= 3
    tokens = work.tokens(record)
    assert isinstance(tokens, np.memmap)
    np.testing.assert_array_equal(tokens[::251], np.zeros((80, 2, 2)))


def test_an_estimate_writes_nothing(folder, tmp_path):
    prep = preparation(folder, tmp_path / "out", fps=5, min_frames=6)
    write_video(tmp_path / "more" / "x.mp4", greys([1, 2]))
    listing = prep.source.listing()
    bad = Item(id="bad", paths=(tmp_path / "nowhere.mp4",))
    listing = Listing(items=(*listing.items, bad), ignored=(("a.txt", "no video"),))
    found = estimate(prep, listing, MeanEncoder())
    assert (found.items, found.ignored, found.unreadable, found.videos) == (7, 1, 1, 5)
    assert found.frames == sum(-(-frames // 2) for frames in (11, 13, 15, 17, 19))
    assert found.bytes == found.frames * 4 * 2
    assert "5 videos of 40 frames" in str(found)
    assert not (tmp_path / "out.work").exists()


class CountingEncoder(MeanEncoder):
    """Takes as long for any batch, as a compiled network does, which fills batches up."""

    def encode(self, frames):
        time.sleep(0.02)
        self.sizes = [*getattr(self, "sizes", []), len(frames)]
        return super().encode(frames)


def test_the_estimate_measures_a_full_batch(tmp_path):
    for index in range(6):
        write_video(tmp_path / "in" / f"{index}.mkv", greys(range(5)), codec="ffv1", pix_fmt="bgr0")
    prep, encoder = preparation(tmp_path / "in", tmp_path / "out"), CountingEncoder(64)
    found = estimate(prep, prep.source.listing(), encoder)
    assert set(encoder.sizes) == {64}
    # Each video is a batch of its own.
    encoding = 6 * 64 / found.encode_rate
    assert found.seconds == pytest.approx(max(encoding, found.frames / found.decode_rate))


class WaitingEncoder(MeanEncoder):
    """Ends a batch once frames beyond it have been decoded."""

    def encode(self, frames):
        expected = min(self.batch_size * (self.calls + 1) + 1, self.film.frames)
        with self.film.decoded:
            assert self.film.decoded.wait_for(lambda: self.film.count >= expected, timeout=60)
        return super().encode(frames)


class CountedFilm(Film):
    count, decoded = 0, threading.Condition()

    def open(self, item):
        for frame in super().open(item):
            with self.decoded:
                self.count += 1
                self.decoded.notify()
            yield frame


def test_decoding_overlaps_encoding(folder, tmp_path):
    prep, encoder = preparation(folder, tmp_path / "out"), WaitingEncoder(8)
    encoder.film = CountedFilm(200)
    object.__setattr__(prep, "source", encoder.film)
    work = work_directory.WorkDirectory(tmp_path / "out.work", {})
    prepare_items(prep, [Item(id="film")], encoder, work, progress=False, warm_up=False)
    assert encoder.calls == 25


def test_ids_are_unique():
    with pytest.raises(ValueError, match=r"'a' occurs twice.*one/a.*two/a"):
        make_listing([Item(id="a", paths=(Path(p),)) for p in ("one/a", "two/a")])

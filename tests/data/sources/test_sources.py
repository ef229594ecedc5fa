"""Sources list without reading, and give the frames that were put in."""

import os
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image
from source_reading import by_id, failure, read
from videos import moving, write_video

from maskflow_jax.data.preparation.decoding import decode_item
from maskflow_jax.data.preparation.frame_transforms import FrameTransform
from maskflow_jax.data.sources import registry
from maskflow_jax.data.sources.items import Item, describe, files_under, natural_key
from maskflow_jax.data.sources.maze import MazeSettings, maze_videos
from maskflow_jax.data.sources.registry import make_source

# The sources that read a folder of files.
NO_FOLDERS = ("tfds", "hdf5_tokens", "maze", "maze_scenes", "my_way_home")
FOLDERS = [name for name in registry.SOURCES if name not in NO_FOLDERS]


def test_natural_order():
    names = ["f10.png", "f9.png", "f1.png", "f01.png", "g.png", "12.png", "2b.png"]
    assert sorted(names, key=natural_key) == [
        "2b.png", "12.png", "f01.png", "f1.png", "f9.png", "f10.png", "g.png"
    ]  # fmt: skip


def test_unknown_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"unknown source 'movies'.*video_files.*tfds"):
        make_source("movies", {})
    with pytest.raises(ValueError, match=r"video_files takes no fps.*root, split_folders"):
        make_source("video_files", {"root": tmp_path, "fps": 3})
    with pytest.raises(ValueError, match="images needs fps"):
        make_source("images", {"root": tmp_path, "fps": None})
    with pytest.raises(FileNotFoundError, match="no folder"):
        make_source("video_files", {"root": tmp_path / "x"}).listing()


def test_settings_are_read_from_texts():
    texts = ["train_videos=3", "fps=2.5", "textures=plain"]
    assert registry.read_settings("maze", texts) == {
        "train_videos": 3, "fps": 2.5, "textures": "plain"
    }  # fmt: skip
    assert registry.read_settings("hdf5_tokens", ["end=inclusive", "test_file=a.h5"]) == {
        "end": "inclusive", "test_file": "a.h5"
    }  # fmt: skip
    assert registry.read_settings("video_files", ["split_folders=true"]) == {"split_folders": True}
    for text, message in (
        ("room=3", "source maze takes no room; it takes train_videos"),
        ("rooms", "setting 'rooms' of the source: write name=value"),
        ("rooms=x", "setting rooms of the source is 'x', not an int"),
    ):
        with pytest.raises(ValueError, match=message):
            registry.read_settings("maze", [text])


@pytest.mark.parametrize("name", FOLDERS)
def test_descriptions_are_json_without_the_folder(tmp_path, name):
    needed = {"fps": 5.0} if name in ("images", "arrays") else {}
    source = make_source(name, {"root": tmp_path, **needed})
    assert describe(source)["name"] == name
    assert str(tmp_path) not in repr(describe(source))
    assert not source.listing().items


def test_video_folder_takes_splits_from_folders(tmp_path):
    for name in ("train/a.mp4", "test/b/c.avi", "other/d.gif", "train.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    items = by_id(make_source("video_files", {"root": tmp_path, "split_folders": True}))
    assert {name: item.split for name, item in items.items()} == {
        "train/a.mp4": "train", "test/b/c.avi": "test", "other/d.gif": None, "train.mp4": None
    }  # fmt: skip
    assert not any(item.split for item in by_id(make_source("video_files", {"root": tmp_path}))
                   .values())  # fmt: skip


def test_folders_are_visited_once(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "far").mkdir()
    (tmp_path / "in" / "a" / "x").touch()
    (tmp_path / "far" / "y").touch()
    (tmp_path / "in" / "a" / "again").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "far").symlink_to(tmp_path / "far")
    assert [name for name, _ in files_under(tmp_path / "in")] == ["a/x", "far/y"]


def test_what_is_no_file_or_hidden_is_ignored(tmp_path):
    for name in ("a.mp4", ".git/b.mp4", "c/.d/e/f.mp4", "c/.g.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "lost.mp4").symlink_to(tmp_path / "nowhere")
    source = make_source("video_files", {"root": tmp_path})
    assert sorted(by_id(source)) == ["a.mp4", "lost.mp4"]
    assert dict(source.listing().ignored) == {
        ".git/b.mp4": "in a hidden folder",
        "c/.d/e/f.mp4": "in a hidden folder",
        "c/.g.mp4": "hidden file",
        "pipe.mp4": "not a regular file",
    }


def test_faceforensics(tmp_path):
    write_video(tmp_path / "a.avi", moving(40, 150, 150), 25, "ffv1", "bgr0")
    write_video(tmp_path / "b.avi", moving(4, 150, 152), 25, "ffv1", "bgr0")
    source = make_source("faceforensics", {"root": tmp_path})
    items = by_id(source)
    transform = FrameTransform(size=256, **source.DEFAULTS)
    batch, outcome = decode_item(source, items["a.avi"], transform, 64)
    assert batch.shape == (13, 256, 256, 3) and outcome.facts["fps"] == 8
    enlarged = Image.fromarray(moving(40, 150, 150)[3]).resize((256, 256), Image.BICUBIC)
    np.testing.assert_array_equal(batch[1], enlarged)
    assert "152x150" in failure(source, items["b.avi"])
    assert source.length(items["a.avi"])[0] == 40


def test_dmlab(tmp_path):
    video = moving(300, 64, 64)
    for split in ("train", "test"):
        (tmp_path / split / "0").mkdir(parents=True)
    np.savez_compressed(tmp_path / "train/0/a.npz", video=video, actions=np.zeros(300, int))
    np.save(tmp_path / "test/0/b.npy", video)
    np.savez(tmp_path / "test/0/c.npz", video=moving(3, 64, 65))
    source = make_source("dmlab", {"root": tmp_path})
    items = by_id(source)
    assert [items[n].split for n in sorted(items)] == ["test", "test", "train"]
    for name in ("train/0/a.npz", "test/0/b.npy"):
        frames, starts = read(source, items[name])
        np.testing.assert_array_equal(frames, video)
        assert starts[30] == pytest.approx(2)
        assert source.length(items[name]) == (300, 20)
    assert "65x64" in failure(source, items["test/0/c.npz"])


def test_numpy_arrays(tmp_path):
    video = moving(5, 9, 7)
    arrays = {
        "grey": video[..., 0],
        "one": video[..., :1],
        "four": np.concatenate([video, video[..., :1]], -1),
        "fortran": np.asfortranarray(video),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "order.npz", np.asfortranarray(video))
    np.savez(tmp_path / "film.npz", film=video, mask=np.zeros((5, 9)), rate=3.0)
    np.savez(tmp_path / "two.npz", a=video, b=video[::-1])
    source = make_source("arrays", {"root": tmp_path, "fps": 4.0})
    items = by_id(source)
    grey = np.repeat(video[..., :1], 3, -1)
    expected = {"grey": grey, "one": grey, "four": video, "fortran": video}
    for name, frames in expected.items():
        np.testing.assert_array_equal(read(source, items[f"{name}.npy"])[0], frames)
    np.testing.assert_array_equal(read(source, items["order.npz"])[0], video)
    frames, starts = read(source, items["film.npz"])
    np.testing.assert_array_equal(frames, video)
    assert starts == [0, 0.25, 0.5, 0.75, 1]
    assert "2 arrays of video, it has a, b: set key to one of them" in failure(
        source, items["two.npz"]
    )
    keyed = make_source("arrays", {"root": tmp_path, "fps": 4.0, "key": "b"})
    np.testing.assert_array_equal(read(keyed, items["two.npz"])[0], video[::-1])
    assert "no array 'b', it has film" in failure(keyed, items["film.npz"])


def test_bad_numpy_files(tmp_path):
    video = np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3), np.uint8)
    np.save(tmp_path / "cut.npy", video)
    np.savez_compressed(tmp_path / "cut.npz", video)
    np.savez_compressed(tmp_path / "flipped.npz", video)
    np.save(tmp_path / "float.npy", video / 255)
    np.save(tmp_path / "flat.npy", video[0, 0])
    np.save(tmp_path / "none.npy", video[:0])
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "empty.npz").touch()
    (tmp_path / "text.npy").write_text("frames")
    with zipfile.ZipFile(tmp_path / "words.npz", "w") as archive:
        archive.writestr("readme.txt", "no arrays")
    for name in ("cut.npy", "cut.npz"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    data = bytearray((tmp_path / "flipped.npz").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "flipped.npz").write_bytes(data)
    reasons = {
        "cut.npy": "mmap length",
        "cut.npz": "damaged or cut off",
        "flipped.npz": "damaged or cut off",
        "float.npy": "float64: convert it to uint8",
        "flat.npy": r"shape [16, 3]",
        "none.npy": "not empty",
        "objects.npy": "",
        "empty.npz": "damaged or cut off",
        "text.npy": "",
        "words.npz": "it has nothing",
    }
    source = make_source("arrays", {"root": tmp_path, "fps": 4.0})
    items = by_id(source)
    assert items.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert failure(source, items[name]) is not None, name
        assert reason in failure(source, items[name]), name


def test_ucf101(tmp_path):
    root = tmp_path / "UCF-101"
    for name in ("A/v_A_g01_c01.avi", "A/v_A_g02_c01.avi", "B/v_B_g01_c01.avi", "lost.avi"):
        write_video(root / name, moving(3), codec="mpeg4")
    source = make_source("ucf101", {"root": root})
    items = by_id(source)
    assert {name: item.labels["class"] for name, item in items.items()} == {
        "A/v_A_g01_c01.avi": "A", "A/v_A_g02_c01.avi": "A", "B/v_B_g01_c01.avi": "B"
    }  # fmt: skip
    assert dict(source.listing().ignored) == {"lost.avi": "in no class's folder"}
    train, test = tmp_path / "trainlist01.txt", tmp_path / "testlist01.txt"
    train.write_text("A/v_A_g01_c01.avi 1\nB/v_B_g07_c01.avi 2\n")
    test.write_text("B/v_B_g01_c01.avi\n")
    lists = {"train_list": train, "test_list": test}
    source = make_source("ucf101", {"root": root, **lists})
    items = by_id(source)
    assert {name: item.split for name, item in items.items()} == {
        "A/v_A_g01_c01.avi": "train", "B/v_B_g07_c01.avi": "train", "B/v_B_g01_c01.avi": "test"
    }  # fmt: skip
    assert "No such file" in failure(source, items["B/v_B_g07_c01.avi"])
    assert dict(source.listing().ignored)["A/v_A_g02_c01.avi"] == "in neither list"
    assert describe(source)["train_list"] == "trainlist01.txt"
    assert describe(source, frames_only=True) == {"name": "ucf101"}
    with pytest.raises(ValueError, match="both train_list and test_list"):
        make_source("ucf101", {"root": root, "train_list": train})
    test.write_text("A/v_A_g01_c01.avi\n")
    with pytest.raises(ValueError, match="in both lists"):
        source.listing()


def test_image_sequence(tmp_path):
    video = moving(11, 9, 7)
    for index, frame in enumerate(video):
        (tmp_path / "a/b").mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "a/b" / f"frame{index}.png")
    (tmp_path / "a/b/times.csv").touch()
    (tmp_path / "kinds").mkdir()
    grey = video[0, ..., 0]
    turned = Image.Exif()
    turned[0x0112] = 6  # shown after a quarter turn
    Image.fromarray(video[0].transpose(1, 0, 2)[::-1].copy()).save(
        tmp_path / "kinds/1.png", exif=turned
    )
    Image.fromarray(grey).save(tmp_path / "kinds/2.png")
    Image.fromarray(grey.astype(np.uint16) * 256 + 255).save(tmp_path / "kinds/3.png")
    Image.fromarray(np.dstack([video[0], grey])).save(tmp_path / "kinds/4.png")
    source = make_source("images", {"root": tmp_path, "fps": 4.0})
    items = by_id(source)
    frames, starts = read(source, items["a/b"])
    np.testing.assert_array_equal(frames, video)
    assert starts[4] == 1 and source.length(items["a/b"]) == (11, 2.75)
    assert dict(source.listing().ignored) == {"a/b/times.csv": "suffix .csv is not taken"}
    frames, _ = read(source, items["kinds"])
    for frame, expected in zip(frames, (video[0], grey, grey, video[0]), strict=True):
        np.testing.assert_array_equal(frame, np.dstack([expected] * 3)[..., :3])


def test_bad_images(tmp_path):
    for name in ("cut", "sizes", "text"):
        (tmp_path / name).mkdir()
        Image.fromarray(moving(1, 64, 64)[0]).save(tmp_path / name / "1.png")
    data = (tmp_path / "cut/1.png").read_bytes()
    (tmp_path / "cut/1.png").write_bytes(data[: len(data) // 2])
    Image.fromarray(moving(1, 9, 9)[0]).save(tmp_path / "sizes/2.png")
    (tmp_path / "text/2.png").write_text("image")
    source = make_source("images", {"root": tmp_path, "fps": 4.0})
    items = by_id(source)
    assert "cut/1.png cannot be read as an image" in failure(source, items["cut"])
    assert "sizes/2.png has another size" in failure(source, items["sizes"])
    assert "text/2.png cannot be read as an image" in failure(source, items["text"])


@pytest.mark.parametrize("error", [RuntimeError("bad CRC"), StopIteration()])
def test_a_damaged_example_fails_alone(error):
    class Damaged:
        def open(self, item):
            yield from ()
            raise error

    *_, outcome = decode_item(Damaged(), Item(id="x"), FrameTransform(size=8), 8)
    assert outcome.failure


def test_a_list_that_names_a_pipe_fails_alone(tmp_path):
    """Reading a pipe would wait for ever."""
    (tmp_path / "A").mkdir()
    os.mkfifo(tmp_path / "A" / "pipe.avi")
    write_video(tmp_path / "A" / "good.avi", moving(3), codec="mpeg4")
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text("A/pipe.avi 1\n")
    test.write_text("A/good.avi 1\n")
    source = make_source("ucf101", {"root": tmp_path, "train_list": train, "test_list": test})
    items = by_id(source)
    assert "A/pipe.avi is no regular file" in failure(source, items["A/pipe.avi"])
    assert failure(source, items["A/good.avi"]) is None


def test_mazes_are_a_source_of_the_videos_that_the_generator_makes():
    sizes = {"train_videos": 2, "test_videos": 1, "num_frames": 5, "seed": 3}
    source = make_source("maze", {**sizes, "textures": "plain", "root": None})
    items = by_id(source)
    assert sorted(items) == ["test/000000", "train/000000", "train/000001"]
    assert {name: item.split for name, item in items.items()} == {
        name: name.split("/")[0] for name in items
    }
    assert describe(source)["name"] == "maze"
    assert source.length(items["test/000000"]) == (5, 0.5)
    assert pickle.loads(pickle.dumps(source)) == source
    settings = MazeSettings(num_videos=2, num_frames=5, seed=3, textures="plain")
    expected = list(maze_videos(settings))[1].frames
    timed = list(source.open(items["train/000001"]))
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in timed]), expected)
    np.testing.assert_allclose([frame.start for frame in timed], np.arange(5) / 10)


def test_impossible_mazes_are_refused_before_any_work():
    with pytest.raises(ValueError, match="rooms is 0"):
        make_source("maze", {"rooms": 0})

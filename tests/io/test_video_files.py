"""Video files come back as they went in; pictures show what they should; errors leave nothing."""

import pathlib

import av
import numpy as np
import pytest
from PIL import Image

from maskflow_jax.io import video_files

WRITERS = {"mp4": video_files.write_mp4, "gif": video_files.write_gif}
LEAST_PSNR = {"mp4": 32, "gif": 28}  # these gradients hold far more than the 256 colours of gif


def moving(num_frames=13, height=32, width=48):
    """Smooth coloured gradients that drift: what codecs are made for. uint8 [F, H, W, 3]."""
    f, y, x = np.mgrid[:num_frames, :height, :width]
    waves = [np.sin(x / 7 + f / 5), np.cos(y / 6 - f / 4), np.sin((x + y) / 9)]
    return (127 + 120 * np.stack(waves, -1)).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("fps", [5, 10.0, 12.5, 29.97, 0.5])
def test_round_trip(tmp_path, kind, fps):
    frames, path = moving(), tmp_path / f"video.{kind}"
    WRITERS[kind](path, frames, fps)
    back, rate = video_files.read_video(path)
    assert back.dtype == np.uint8
    assert back.shape == frames.shape
    assert rate == pytest.approx(fps, rel=0.01)
    assert psnr(back, frames) > LEAST_PSNR[kind]
    assert psnr(back[:-1], frames[1:]) < 25  # the bound tells one frame from the next
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("num_frames", [1, 5])
def test_frames_that_repeat_are_kept(tmp_path, kind, num_frames):
    frames = np.repeat(moving(1), num_frames, axis=0)
    WRITERS[kind](tmp_path / "still", frames, 10)
    back, rate = video_files.read_video(tmp_path / "still")
    assert len(back) == num_frames
    assert rate == pytest.approx(10)


def test_gif_loops_and_is_right_on_average(tmp_path):
    video_files.write_gif(tmp_path / "a.gif", moving(31), 30)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.info["loop"] == 0
        shown = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            shown.append(gif.info["duration"])
    assert set(shown) == {30, 40}
    assert sum(shown) == 1030
    worst = max(abs(sum(shown[:f]) - 1000 * f / 30) for f in range(32))
    assert worst <= 5.001


def test_gif_of_few_colours_is_exact(tmp_path):
    frames = (moving() // 64) * 64  # at most 4 ** 3 colours
    video_files.write_gif(tmp_path / "a.gif", frames, 10)
    np.testing.assert_array_equal(video_files.read_video(tmp_path / "a.gif")[0], frames)


@pytest.mark.parametrize("kind", WRITERS)
def test_upscale_repeats_pixels(tmp_path, kind):
    frames = moving()
    WRITERS[kind](tmp_path / "big", frames, 10, upscale=3)
    back, _ = video_files.read_video(tmp_path / "big")
    assert psnr(back, frames.repeat(3, axis=1).repeat(3, axis=2)) > LEAST_PSNR[kind]


def test_mp4_pads_odd_sizes_by_repeating_the_edge(tmp_path):
    frames = moving(height=33, width=47)
    video_files.write_mp4(tmp_path / "odd.mp4", frames, 10)
    back, _ = video_files.read_video(tmp_path / "odd.mp4")
    assert back.shape == (13, 34, 48, 3)
    assert psnr(back[:, :33, :47], frames) > 32
    assert psnr(back[:, 33, :47], frames[:, 32]) > 28
    video_files.write_mp4(tmp_path / "even.mp4", frames, 10, upscale=2)
    assert video_files.read_video(tmp_path / "even.mp4")[0].shape == (13, 66, 94, 3)


def test_mp4_plays_everywhere(tmp_path):
    video_files.write_mp4(tmp_path / "a.mp4", moving(), 10)
    with av.open(str(tmp_path / "a.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")


def test_png_round_trip_and_missing_folders(tmp_path):
    image = moving(1)[0]
    video_files.write_png(tmp_path / "new" / "folder" / "a.png", image)
    np.testing.assert_array_equal(Image.open(tmp_path / "new" / "folder" / "a.png"), image)


def test_strip_marks_context_and_shows_every_frame():
    frames = moving(5, 4, 6) // 2
    strip = video_files.frame_strip(frames, columns=3, marked=range(2), gap=1, upscale=2)
    assert strip.shape == (2 * 10, 3 * 14, 3)
    for f in range(6):
        row, column = divmod(f, 3)
        cell = strip[row * 10 : row * 10 + 10, column * 14 : column * 14 + 14]
        border = np.concatenate([cell[0], cell[-1], cell[:, 0], cell[:, -1]])
        assert np.all(border == (video_files.CONTEXT_COLOUR if f < 2 else 255))
        if f < 5:
            np.testing.assert_array_equal(cell[1:-1:2, 1:-1:2], frames[f])
        else:
            assert np.all(cell == 255)


def test_grid_is_a_row_per_video():
    videos = [moving(3, 4, 6), 255 - moving(3, 4, 6)]
    grid = video_files.frame_grid(videos, marked=[2], gap=2)
    assert grid.shape == (2 * 8, 3 * 10, 3)
    for row, video in enumerate(videos):
        strip = video_files.frame_strip(video, marked=[2], gap=2)
        np.testing.assert_array_equal(grid[row * 8 : row * 8 + 8], strip)


def test_side_by_side():
    left, right = moving(3, 4, 6), 255 - moving(3, 4, 6)
    both = video_files.side_by_side([left, right], gap=1)
    assert both.shape == (3, 4, 13, 3)
    np.testing.assert_array_equal(both[:, :, :6], left)
    np.testing.assert_array_equal(both[:, :, 7:], right)
    assert np.all(both[:, :, 6] == 255)


BAD = {
    "empty": (moving()[:0], 10, 1),
    "uint8": (moving().astype(np.float32), 10, 1),
    "numpy array": ([[1]], 10, 1),
    "F, H, W, 3": (moving()[0], 10, 1),
    "RGB": (moving()[..., :1], 10, 1),
    "fps": (moving(), 0, 1),
    "fps is nan": (moving(), float("nan"), 1),
    "upscale": (moving(), 10, 0),
    "whole factor": (moving(), 10, 1.5),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("message", BAD)
def test_bad_video_is_refused_and_leaves_no_file(tmp_path, kind, message):
    frames, fps, upscale = BAD[message]
    with pytest.raises(ValueError, match=message) as error:
        WRITERS[kind](tmp_path / "bad_name", frames, fps, upscale=upscale)
    assert "bad_name" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_gif_refuses_rates_that_browsers_slow_down(tmp_path):
    with pytest.raises(ValueError, match="mp4"):
        video_files.write_gif(tmp_path / "a.gif", moving(), 60)


@pytest.mark.parametrize("kind", [*WRITERS, "png"])
@pytest.mark.parametrize("moment", ["mid-way", "at the end"])
def test_failure_while_writing_keeps_the_old_file_and_no_part(tmp_path, kind, moment, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(self, *_):
        assert moment == "mid-way" or self.stat().st_size > 0
        raise OSError("disk full")

    def fail_to_save(self, part, **_):
        fail(pathlib.Path(part).write_bytes(b"half"))

    if moment == "at the end":
        monkeypatch.setattr(pathlib.Path, "replace", fail)
    elif kind == "png":
        monkeypatch.setattr(Image.Image, "save", fail_to_save)
    else:
        monkeypatch.setattr(av.container.OutputContainer, "mux", fail, raising=False)
    with pytest.raises(OSError, match="disk full"):
        if kind == "png":
            video_files.write_png(path, moving()[0])
        else:
            WRITERS[kind](path, moving(), 10)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"not a video at all" * 50])
def test_unreadable_file_is_named(tmp_path, content):
    (tmp_path / "broken.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.mp4"):
        video_files.read_video(tmp_path / "broken.mp4")


@pytest.mark.parametrize("index_first", [False, True])
def test_truncated_file_is_refused(tmp_path, index_first):
    # With its index in front, FFmpeg decodes what is left of a file without a word.
    options = {"movflags": "faststart"} if index_first else {}
    with av.open(str(tmp_path / "whole.mp4"), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for frame in moving(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert len(video_files.read_video(tmp_path / "whole.mp4")[0]) == 40
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ValueError, match=r"half\.mp4"):
        video_files.read_video(tmp_path / "half.mp4")


def test_missing_and_video_free_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        video_files.read_video(tmp_path / "nowhere.mp4")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 80), np.int16), "s16", "mono")
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
    with pytest.raises(ValueError, match=r"sound\.wav"):
        video_files.read_video(tmp_path / "sound.wav")


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("marked", lambda: video_files.frame_strip(moving(3), marked=[3])),
        ("columns", lambda: video_files.frame_strip(moving(3), columns=0)),
        ("one shape", lambda: video_files.frame_grid([moving(3), moving(4)])),
        ("at least one", lambda: video_files.frame_grid([])),
        ("one shape", lambda: video_files.side_by_side([moving(3), moving(4)])),
    ],
)
def test_layouts_refuse_what_they_cannot_show(message, call):
    with pytest.raises(ValueError, match=message):
        call()

"""Whatever a file holds, frames come upright, in RGB, one at a time and with their times."""

import av
import numpy as np
import pytest
from videos import greys, moving, write_video

from maskflow_jax.io import video_decoding, video_files
from maskflow_jax.io.video_decoding import iterate_frames, read_header

KINDS = {  # suffix, codec, pixel format, least PSNR
    "mp4": ("libx264", "yuv420p", 30),
    "avi": ("mpeg4", "yuv420p", 24),
    "mov": ("mjpeg", "yuvj420p", 24),
    "webm": ("libvpx-vp9", "yuv420p", 28),
    "mkv": ("ffv1", "bgr0", 90),
}


def frames_of(path):
    return np.stack([frame.pixels for frame in iterate_frames(path)])


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fps", [12.5, 30])
def test_kinds_of_files(tmp_path, kind, fps):
    codec, pix_fmt, least = KINDS[kind]
    frames = moving(11, 32, 48)
    source = {"source_format": "rgb24"}
    path = write_video(tmp_path / f"a.{kind}", frames, fps, codec, pix_fmt, **source)
    back = list(iterate_frames(path))
    pixels = np.stack([frame.pixels for frame in back])
    assert pixels.dtype == np.uint8 and pixels.flags["C_CONTIGUOUS"]
    assert psnr(pixels, frames) > least
    for index, frame in enumerate(back):
        assert abs(frame.start - back[0].start - index / fps) <= frame.rounding + 1e-6
        assert frame.duration == pytest.approx(1 / fps, abs=2e-3)
    header = read_header(path)
    assert (header.width, header.height) == (48, 32)
    assert header.frames in (0, 11)
    assert header.seconds == pytest.approx(11 / fps, abs=0.05)


@pytest.mark.parametrize("size", [(17, 23), (1, 1), (2, 99)])
def test_odd_sizes(tmp_path, size):
    frames = moving(3, *size)
    path = write_video(tmp_path / "odd.mkv", frames, codec="ffv1", pix_fmt="bgr0")
    np.testing.assert_array_equal(frames_of(path), frames)


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_is_applied(tmp_path, degrees):
    frames = moving(4, 32, 48)
    plain = frames_of(write_video(tmp_path / "plain.mp4", frames))
    turned = frames_of(write_video(tmp_path / "turned.mp4", frames, rotation=degrees))
    upright = np.rot90(plain, degrees // 90, axes=(1, 2))
    assert turned.shape == upright.shape
    assert psnr(turned, upright) > 30  # x264 does not always write the same


@pytest.mark.parametrize(
    ("pix_fmt", "source_format", "make"),
    [
        ("gray", "gray", lambda rgb: rgb[..., 0]),
        ("gray16le", "gray16le", lambda rgb: rgb[..., 0].astype(np.uint16) * 257),
        ("bgra", "rgba", lambda rgb: np.concatenate([rgb, rgb[..., :1] // 2], -1)),
    ],
)
def test_greyscale_and_alpha(tmp_path, pix_fmt, source_format, make):
    rgb = np.repeat(moving(3)[..., :1], 3, axis=-1)
    path = write_video(
        tmp_path / "a.mkv", make(rgb), codec="ffv1", pix_fmt=pix_fmt, source_format=source_format
    )
    assert np.abs(frames_of(path).astype(int) - rgb).max() <= 1


def test_ten_bits(tmp_path):
    frames = moving(4, 32, 48)
    path = write_video(tmp_path / "a.mkv", frames, codec="ffv1", pix_fmt="yuv444p10le")
    with av.open(str(path)) as container:
        assert container.streams.video[0].pix_fmt == "yuv444p10le"
    assert psnr(frames_of(path), frames) > 35


def test_variable_rate_keeps_its_times(tmp_path):
    times = [0, 40, 80, 480, 520, 1500]
    path = write_video(tmp_path / "a.mkv", greys([0, 50, 100, 150, 200, 250]), times=times, fps=25)
    starts = [frame.start for frame in iterate_frames(path)]
    np.testing.assert_allclose(starts, np.array(times) / 1000, atol=1e-3)


def test_only_a_few_frames_are_held(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving(40))
    frames = iterate_frames(path)
    assert next(frames).start == 0
    frames.close()  # half-way


@pytest.mark.parametrize("kind", ["mp4", "avi", "webm", "mkv"])
def test_cut_off_files_are_refused(tmp_path, kind):
    codec, pix_fmt, _ = KINDS[kind]
    options = {"movflags": "faststart"} if kind == "mp4" else {}
    noise = np.random.default_rng(0).integers(0, 255, (40, 32, 48, 3), np.uint8)
    path = write_video(tmp_path / f"a.{kind}", noise, 10, codec, pix_fmt, options=options)
    assert len(frames_of(path)) == 40
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(ValueError, match=rf"a\.{kind}"):
        frames_of(path)


def test_names_that_look_like_addresses(tmp_path):
    for name in ("12:30.mp4", "http:film.mp4", "ü 日本 %03d.mp4"):
        assert len(frames_of(write_video(tmp_path / name, moving(3)))) == 3


def test_a_playlist_is_no_way_out(tmp_path):
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://localhost:9/a.ts\n")
    with pytest.raises(ValueError, match=r"list\.mp4"):
        frames_of(tmp_path / "list.mp4")


def test_a_list_of_files_is_no_video(tmp_path):
    """FFmpeg would follow it to its neighbours."""
    write_video(tmp_path / "secret.mp4", moving(3))
    for name in ("list.mp4", "list.ffconcat", "list.mkv"):
        (tmp_path / name).write_text("ffconcat version 1.0\nfile secret.mp4\n")
        with pytest.raises(ValueError, match=name):
            frames_of(tmp_path / name)
        with pytest.raises(ValueError, match=name):
            read_header(tmp_path / name)


@pytest.mark.parametrize("colours", [2, 200])
def test_half_a_gif_is_refused(tmp_path, colours):
    path = tmp_path / "a.gif"
    video_files.write_gif(path, moving(9) % colours, 10)
    assert len(frames_of(path)) == 9
    whole = path.read_bytes()
    for share in (0.01, 0.3, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match=r"a\.gif"):
            frames_of(path)
    path.write_bytes(whole[:-1])  # all but the trailer
    with pytest.raises(ValueError, match=r"a\.gif is cut off"):
        frames_of(path)
    path.write_bytes(whole + b"comment of a camera")
    assert len(frames_of(path)) == 9


def test_timestamps_that_jump_are_refused(tmp_path):
    times = [0, 100, 200, 3_600_200, 3_600_300]
    path = write_video(tmp_path / "a.mkv", greys([0, 50, 100, 150, 200]), times=times)
    with pytest.raises(ValueError, match=r"a\.mkv: timestamps jump by 3600 s at frame 3.*ffmpeg"):
        frames_of(path)
    with pytest.raises(ValueError, match="timestamps jump"):
        video_files.read_video(path)


def test_no_permission_is_named(tmp_path, monkeypatch):
    path = write_video(tmp_path / "secret.mp4", moving(2))

    def refuse(*_, **__):
        raise av.error.PermissionError(13, "Permission denied")

    monkeypatch.setattr(video_decoding.av, "open", refuse)
    with pytest.raises(PermissionError, match=r"secret\.mp4 may not be read.*chmod"):
        frames_of(path)


def test_size_that_changes_is_refused(tmp_path):
    for index, (height, width) in enumerate([(32, 48), (48, 32)]):
        write_video(tmp_path / f"{index}.ts", moving(5, height, width), codec="mpeg2video")
    parts = [(tmp_path / f"{index}.ts").read_bytes() for index in range(2)]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    with pytest.raises(ValueError, match="changes its frame size"):
        frames_of(tmp_path / "both.ts")


def test_whole_files_that_announce_more_frames(tmp_path):
    """Frames that an AVI repeats, and those before an edit list's begin, are not decoded."""
    times = [80 * index for index in range(40)]
    path = write_video(tmp_path / "a.avi", moving(40), times=times, fps=25, codec="mpeg4")
    assert read_header(path).frames > 50
    assert len(frames_of(path)) == 40
    whole, trimmed = write_video(tmp_path / "a.mp4", moving(100), fps=25), tmp_path / "b.mp4"
    with av.open(str(whole)) as source, av.open(str(trimmed), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts -= int(2.4 / stream.time_base)
                packet.dts -= int(2.4 / stream.time_base)
                packet.stream = copy
                target.mux(packet)
    assert read_header(trimmed)[:2] == (100, 1.6)
    assert len(frames_of(trimmed)) == 40


def test_metadata_of_another_encoding(tmp_path):
    path = tmp_path / "old.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "café X"
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 24, 32, "yuv420p"
        for frame in moving(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    utf, latin = "café X".encode(), "café XX".encode("latin-1")
    assert utf in data
    path.write_bytes(data.replace(utf, latin))
    assert len(frames_of(path)) == 3

"""Uploads, the painted mask, the pictures and the words of the page, without a browser."""

import numpy as np
import pytest
from PIL import Image

from maskflow_jax.app import pictures
from maskflow_jax.app.actions import Actions, Limits
from maskflow_jax.app.fields import form_fields
from maskflow_jax.app.models import Models
from maskflow_jax.app.uploads import Clip, UploadLimits, read_upload
from maskflow_jax.io import video_files

SMALL = UploadLimits(megabytes=0.05, side=40, seconds=1.0)


def write_video(path, frames=30, size=(20, 32), fps=10):
    """Every frame is as bright as its number."""
    brightness = np.arange(frames, dtype=np.uint8) * 8
    video = np.broadcast_to(brightness[:, None, None, None], (frames, *size, 3))
    video_files.write_mp4(path, np.ascontiguousarray(video), fps)
    return path


def test_a_video_is_read_at_the_models_rate_and_cut(tmp_path):
    path = write_video(tmp_path / "a.MP4".lower())
    clip = read_upload(path, fps=5, size=8, limits=UploadLimits())
    assert clip.shape == (15, 8, 8, 3) and clip.dtype == np.uint8
    np.testing.assert_allclose(clip[:, 4, 4, 0], np.arange(15) * 16, atol=4)
    cut = read_upload(path, fps=5, size=8, limits=SMALL)
    np.testing.assert_array_equal(cut, clip[:5])


def test_an_image_is_one_frame(tmp_path):
    pixels = np.full((30, 20, 3), (10, 200, 90), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    clip = read_upload(tmp_path / "a.png", fps=5, size=8, limits=SMALL)
    np.testing.assert_array_equal(clip, np.broadcast_to(pixels[0, 0], (1, 8, 8, 3)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"text", "a.txt is no video or image; upload one of .*mp4"),
        ("a.svg", b"<svg/>", "is no video or image"),
        ("a.png", b"no image", "^a.png cannot be read as an image"),
        ("a.mp4", b"#EXTM3U\nhttp://x/y", "^a.mp4 cannot be decoded as video"),
        ("a.mp4", b"0" * 60_000, "a.mp4 has 0.1 MB, at most 0.05 MB are taken"),
    ],
)
def test_what_cannot_be_read_is_said_without_the_servers_folders(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_upload(tmp_path / name, fps=5, size=8, limits=SMALL)
    assert str(tmp_path) not in str(error.value)


def test_large_frames_are_refused(tmp_path):
    write_video(tmp_path / "a.mp4", frames=2, size=(20, 50))
    Image.new("RGB", (20, 50)).save(tmp_path / "a.png")
    for name, size in (("a.mp4", "50x20"), ("a.png", "20x50")):
        with pytest.raises(ValueError, match=f"{name} has {size} pixels, at most 40 on a side"):
            read_upload(tmp_path / name, fps=5, size=8, limits=SMALL)


def test_touched_tokens_are_painted():
    layer = np.zeros((384, 384, 4), np.uint8)
    layer[100, 200, 3] = 1  # a pixel, of cells of 96
    more = np.zeros((8, 8, 4), np.uint8)
    more[7, :2, 3] = 255
    expected = np.zeros((4, 4), bool)
    expected[1, 2] = expected[3, 0] = True
    painted = pictures.painted_tokens({"layers": [layer, more]}, (4, 4))
    np.testing.assert_array_equal(painted, expected)
    assert pictures.painted_tokens(None, (4, 4)) is None
    assert pictures.painted_tokens({"layers": []}, (4, 4)) is None


def test_a_strip_shows_what_is_there_and_marks_what_was_given():
    frames = np.full((3, 96, 96, 3), 10, np.uint8)
    known = np.arange(10) == 7
    strip = pictures.strip(frames, length=10, first=6, known=known)
    assert strip.shape == (200, 800, 3)
    cells = strip.reshape(2, 100, 8, 100, 3).swapaxes(1, 2).reshape(16, 100, 100, 3)
    assert [int(cell[50, 50, 0]) for cell in cells[:10]] == [225] * 6 + [10] * 3 + [225]
    borders = [tuple(cell[0, 0].tolist()) for cell in cells[:10]]
    assert borders == [
        video_files.CONTEXT_COLOUR if number == 7 else (255, 255, 255) for number in range(10)
    ]
    many = pictures.strip(np.zeros((100, 8, 8, 3), np.uint8))
    assert many.shape == (4 * 100, 8 * 100, 3)  # every fourth
    assert pictures.canvas(frames[0]).shape == (384, 384, 3)


def test_messages_are_escaped_and_times_are_words():
    for html in (pictures.problem("<b>"), pictures.note("<b>"), pictures.progress_bar(1, 2, "<b>")):
        assert "&lt;b&gt;" in html and "<b>" not in html
    assert 'max="2" value="1"' in pictures.progress_bar(1, 2, "")
    words = [pictures.duration(seconds) for seconds in (0.2, 12.4, 300, 9000)]
    assert words == ["less than a second", "about 12 s", "about 5 min", "about 2.5 h"]


@pytest.fixture(scope="module")
def actions(tiny_run):
    models = Models([str(tiny_run)], timed=False)
    models.note_speed(str(tiny_run), 0.5)
    fields = form_fields(models.get(str(tiny_run)).model.config.sampling)
    return Actions(models, fields, Limits(frames=40, evaluations=20, upload=SMALL))


@pytest.fixture
def values(actions, tiny_run):
    """A form as it is when the page opens."""
    names = {"task": "prediction", "source": "dataset", "split": "test", "index": 0, "clip": None}
    names |= {"drawing": None, "length": 10, "seed": 0, "sampler": "mgm"}
    entries = [field.default for field in actions.fields]
    return {"model": str(tiny_run), **names, "entries": entries}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "NFE 3 x 2 = 6; about 3 s, and compilation the first time"),
        ({"task": "inpaint", "length": 8}, "NFE"),  # what is painted makes no difference
        ({"length": 41}, "length is 41; give a whole number from 1 to 40"),
        ({"length": None}, "length is None"),
        ({"seed": -1}, "seed is -1; give a whole number from 0 to 4294967295"),
        ({"index": -1}, "index is -1; give a whole number from 0"),
        ({"sampler": "fm", "length": 10}, "takes 750 network evaluations, at most 20 are taken"),
        ({"model": "/etc"}, "is not offered"),
        ({"source": "upload"}, "no file is uploaded yet"),
    ],
)
def test_the_plan_or_what_is_wrong_is_said(actions, values, changes, text):
    said = actions.plan_text({**values, **changes})
    assert text in said
    assert ('class="problem"' in said) == ("NFE" not in said)


def test_an_upload_is_deleted_and_belongs_to_its_model(actions, values, tiny_run, tmp_path):
    for name, content in (("bad", b"nothing"), ("good", None)):
        folder = tmp_path / name
        folder.mkdir()
        if content is None:
            path = write_video(folder / "a.mp4")
            clip = actions.upload(str(path), str(tiny_run))
        else:
            (folder / "a.mp4").write_bytes(content)
            with pytest.raises(ValueError, match=r"a\.mp4 cannot be decoded as video"):
                actions.upload(str(folder / "a.mp4"), str(tiny_run))
        assert not folder.exists()
    assert str(clip) == "a.mp4: 5 frames"
    there = {**values, "source": "upload", "clip": clip}
    other = Clip(name="a.mp4", frames=clip.frames, fps=7.0)
    with pytest.raises(ValueError, match="was read for another model; upload it again"):
        actions.start({**there, "clip": other})

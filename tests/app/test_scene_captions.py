"""Captions on the page, with the shipped model of scenes: read, refused, sampled, copied, shown."""

from unittest import mock

import numpy as np
import pytest
import tiny
from copied_code import rerun

from maskflow_jax.app import pictures
from maskflow_jax.app.actions import Actions, Limits
from maskflow_jax.app.captions import EXAMPLE, any_caption, first_entries
from maskflow_jax.app.fields import form_fields
from maskflow_jax.app.models import Models
from maskflow_jax.io import video_files
from maskflow_jax.scenes.encoders import LabelEncoder
from maskflow_jax.scenes.settings import ConditionsRecord

pytestmark = pytest.mark.usefixtures("compilation_cache")
NAME = "maze_scenes"
LINES = "red walls, walking straight\n\n  Green walls: turning left.  \n"


@pytest.fixture(autouse=True)
def quick():
    with tiny.quick_compilation():
        yield


@pytest.fixture(scope="module")
def actions():
    models = Models([NAME, "maze"], timed=False)
    fields = form_fields(models.get(NAME).model.config.sampling)
    return Actions(models, fields, Limits(frames=30, evaluations=20))


@pytest.fixture
def values(actions):
    """A form as it is when the page opens, with two steps instead of 24."""
    names = {"task": "unconditional", "source": "none", "split": "test", "index": 0, "clip": None}
    names |= {"drawing": None, "length": None, "seed": 4, "sampler": "mgm", "model": NAME}
    names |= {"captions": LINES, "frames_per_scene": 9, "caption_guidance": 1.5}
    entries = [
        2 if (field.section, field.name) == ("mgm", "num_steps") else field.default
        for field in actions.fields
    ]
    return {**names, "entries": entries}


def test_scenes_are_made_and_the_copied_code_makes_them_again(
    actions, values, tmp_path, monkeypatch
):
    job = actions.start(values)
    assert job.generation.nfe == 2 * 2  # twice two steps, by guidance
    for last in actions.run(job):
        if last.files:  # which are deleted when they have been taken
            with np.load(last.files["npz"]) as saved:
                assert saved["captions"].tolist() == list(job.request.captions)
    assert job.complete and job.videos.tokens.shape[1] == 18
    np.testing.assert_array_equal(job.videos.texts.scene_id, [np.arange(18) // 9])
    assert "length=" not in last.code and "guidance=1.5,\n" in last.code
    again = rerun(last.code, tmp_path, monkeypatch)
    np.testing.assert_array_equal(again.tokens, job.videos.tokens)
    assert again.texts.captions == (("red walls, walking straight", "Green walls: turning left."),)
    # The unmasking is that of the video, with its captions.
    found = actions.reveal(job, 0)
    np.testing.assert_array_equal(found.frames, job.videos.frames[0])


def test_a_stopped_video_keeps_the_captions_of_its_frames(actions, values):
    job = actions.start({**values, "frames_per_scene": 14, "caption_guidance": 1.0})
    for shown in actions.run(job):
        if "Window 1 of" in shown.status:
            job.stopped.set()
    assert not job.complete and "Stopped after 18 frames" in shown.status
    np.testing.assert_array_equal(job.videos.texts.scene_id, [np.arange(18) // 14])
    assert "frames_per_scene=14" in shown.code and "guidance" not in shown.code


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "NFE 1 x 4 = 4"),
        ({"captions": "\n  \n"}, "there are no captions yet; write one in a line"),
        ({"captions": None}, "there are no captions yet"),
        ({"captions": "rad walls"}, "unknown word &#x27;rad&#x27; (did you mean &#x27;red&#x27;?)"),
        ({"captions": "..."}, "caption &#x27;...&#x27; is empty"),
        ({"captions": "red " * 7}, "has 7 words, the network takes 6; shorten it"),
        ({"captions": "red walls\n" * 4}, "4 captions of 9 frames each are 36 frames, at most 30"),
        ({"frames_per_scene": None}, "frames_per_scene is None; give a whole number from 1 to 30"),
        ({"caption_guidance": None}, "caption guidance is empty; give a number"),
        ({"task": "prediction", "source": "upload", "clip": object()}, "upload it again"),
        ({"task": "prediction"}, "choose a context, or the task"),
    ],
)
def test_the_plan_or_what_is_wrong_with_the_captions_is_said(actions, values, changes, text):
    if changes.get("clip"):
        clip = mock.Mock(fps=3.0, frames=np.zeros((1, 64, 64, 3), np.uint8))
        clip.name, changes = "a.mp4", {**changes, "clip": clip}
    said = actions.plan_text({**values, **changes})
    assert text in said
    assert ('class="problem"' in said) == ("NFE" not in said)


def test_fewer_captions_than_the_context_has_scenes_are_refused(actions, values):
    frames = np.zeros((30, 64, 64, 3), np.uint8)
    clip = mock.Mock(fps=10.0, frames=frames)
    changes = {"task": "prediction", "source": "upload", "clip": clip, "frames_per_scene": 6}
    said = actions.plan_text({**values, **changes})
    assert 'class="problem"' in said and "2 captions, 6 frames per scene: length 12" in said


def test_the_entries_are_those_of_the_model(actions):
    entries = first_entries(actions.models.get(NAME))
    assert entries.taken and entries.captions.splitlines() == list(EXAMPLE)
    assert (entries.frames_per_scene, entries.guidance) == (6, 1.0)
    assert "Up to 6 of the words and, azure, green" in entries.info
    assert not first_entries(actions.models.get("maze")).taken
    generator = mock.Mock(model=actions.models.get(NAME).model)
    generator.encoder = LabelEncoder(["street", "sea", "wood", "snow"])
    assert first_entries(generator).captions == "street\nsea\nwood"
    assert "street, sea, wood, snow" in first_entries(generator).info
    assert any_caption(generator) == "street"
    record = {"sha256": "0" * 64, "name": "t5", "length": 32, "width": 512}
    generator.encoder = mock.Mock(record=ConditionsRecord(kind="embeddings", **record))
    assert first_entries(generator).captions == "" and any_caption(generator)


def test_a_model_of_scenes_is_timed_with_a_caption():
    models = Models([NAME])
    with mock.patch("maskflow_jax.app.models.TIMED_STEPS", 1):
        generator = models.get(NAME)
    plan = generator.plan(captions=list(EXAMPLE))
    assert 0 < models.expected_seconds(NAME, plan) < 300


def test_rows_of_scenes_have_their_captions_below():
    frames = np.full((5, 64, 64, 3), 10, np.uint8)
    known = np.arange(8) == 1
    rows = pictures.scene_rows(
        frames, captions=["left", "right"], per_scene=4, first=1, known=known
    )
    height = rows.shape[0] // 2
    assert rows.shape[1] == 4 * 132
    for scene, waiting in ((0, [0]), (1, [2, 3])):
        row = rows[scene * height : (scene + 1) * height]
        cells = [int(row[66, 132 * frame + 66, 0]) for frame in range(4)]
        assert cells == [pictures.WAITING if frame in waiting else 10 for frame in range(4)]
        assert row[132:].min() < 100  # letters
    borders = [tuple(rows[0, 132 * frame].tolist()) for frame in range(4)]
    assert borders == [
        video_files.CONTEXT_COLOUR if frame == 1 else (255, 255, 255) for frame in range(4)
    ]
    many = pictures.scene_rows(frames, captions=["a b c"] * 60, per_scene=1)
    assert many.shape == (20 * height, 400, 3)  # every third

"""Forms to settings to Python code, without a browser: the code makes the same tokens."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny

import maskflow_jax as mf
from maskflow_jax.app import fields, request
from maskflow_jax.app.actions import Actions
from maskflow_jax.app.models import Models, shipped_names
from maskflow_jax.app.request import Request, python_code
from maskflow_jax.app.sampling import prepare, sample, write_files
from maskflow_jax.generation import unmasking
from maskflow_jax.io import video_files
from maskflow_jax.io.files import sha256_of_tokens

pytestmark = pytest.mark.usefixtures("compilation_cache")


@pytest.fixture(autouse=True)
def quick():
    with tiny.quick_compilation():
        yield


@pytest.fixture(scope="module")
def models(tiny_run):
    return Models([str(tiny_run)], timed=False)


@pytest.fixture(scope="module")
def ask(models, tiny_run):
    """Makes a request of the tiny model; the rest is from its own settings."""

    def make(task="prediction", length=6, sampler=None, **more):
        sampling = models.get(str(tiny_run)).model.config.sampling
        if sampler is not None:
            sampling = dataclasses.replace(sampling, sampler=sampler)
        sampling = dataclasses.replace(sampling, **more.pop("sampling", {}))
        arguments = {"seed": 3, **more}
        return Request(
            model=str(tiny_run), task=task, length=length, sampling=sampling, **arguments
        )

    return make


def test_every_setting_has_a_field_and_comes_back(models, tiny_run):
    own = models.get(str(tiny_run)).model.config.sampling
    form = fields.form_fields(own)
    for name, kind in mf.SAMPLERS.items():
        there = {field.name for field in form if field.section == name}
        assert there == {field.name for field in dataclasses.fields(kind)}
        sampling = fields.read_form(name, form, [field.default for field in form])
        expected = own.sampler if name == own.sampler.name else kind()
        assert sampling == dataclasses.replace(own, sampler=expected)
    assert all(field.info for field in form)
    assert {field.kind for field in form} == {"whole", "number", "switch", "choice"}


def test_a_form_is_read_strictly(models, tiny_run):
    form = fields.form_fields(models.get(str(tiny_run)).model.config.sampling)
    values = {(field.section, field.name): field.default for field in form}

    def read(**changes):
        new = {tuple(name.split("__")): value for name, value in changes.items()}
        return fields.read_form("halton", form, list({**values, **new}.values()))

    # Browsers send whole numbers as floats, and what is left empty as nothing.
    assert read(halton__num_steps=7.0, window__stride=None).sampler == mf.Halton(num_steps=7)
    assert read(decoding__top_k=5.0).decoding == mf.Decoding(top_k=5)
    assert read(mgm__num_steps=0).sampler == mf.Halton()  # not the chosen sampler's
    for changes, message in (
        ({"halton__num_steps": None}, "num_steps is None; it must be of type int"),
        ({"halton__num_steps": 2.5}, "num_steps is 2.5"),
        ({"halton__num_steps": 0}, "num_steps is 0; use 1 or more"),
        (
            {"decoding__temperature": -1.0, "halton__counts": "all"},
            "unknown counts 'all'.*decoding",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            read(**changes)


def run(code, folder, monkeypatch, capsys):
    """Runs the code of the page, as somebody would who has copied it."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    names = {}
    exec(compile(code, "copied.py", "exec"), names)
    assert "the same video: True" in capsys.readouterr().out
    assert (folder / "samples/sample_00000.mp4").is_file()
    return names["videos"]


def corner(grid=(4, 4)):
    mask = np.zeros(grid, bool)
    mask[1:3, 2:] = True
    return mask


REQUESTS = {
    "prediction": {
        "index": 1,
        "sampler": mf.ReMDM(num_steps=3, strength=0.5),
        "sampling": {"context_frames": 2, "stride": 1, "decoding": mf.Decoding(top_k=3)},
        "split": "train",
    },
    "backward": {"task": "backward", "clip": 5, "source": "upload"},
    "inbetween": {"task": "inbetween", "length": 4},
    "loop": {"task": "loop", "clip": 1, "source": "upload"},
    "inpaint": {"task": "inpaint", "clip": 9, "source": "upload", "mask": corner()},
    "unconditional": {"task": "unconditional", "source": "none"},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_copied_code_makes_the_same_tokens(name, ask, models, tmp_path, monkeypatch, capsys):
    settings = dict(REQUESTS[name])
    if "clip" in settings:
        rng = np.random.default_rng(0)
        settings["clip"] = rng.integers(0, 255, (settings["clip"], 8, 8, 3), dtype=np.uint8)
    asked = ask(**settings)
    generator = models.get(asked.model)
    job = prepare(generator, asked)
    *_, last = sample(generator, job)
    assert job.complete
    np.testing.assert_array_equal(last.frames, job.videos.frames[0])
    assert last.evaluations == job.generation.nfe
    code = python_code(generator, asked, job.real, digest=sha256_of_tokens(job.videos.tokens))
    again = run(code, tmp_path, monkeypatch, capsys)
    np.testing.assert_array_equal(again.tokens, job.videos.tokens)
    np.testing.assert_array_equal(again.known, job.videos.known)
    if name == "inpaint":
        changed = job.videos.tokens[0] != job.real[0]
        assert changed.any() and not changed[:, ~corner()].any()


def test_a_long_uploaded_context_is_taken_from_the_file_of_tokens(
    ask, models, tmp_path, monkeypatch, capsys
):
    clip = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 3), dtype=np.uint8)
    asked = ask("backward", clip=clip, source="upload")
    generator = models.get(asked.model)
    job = prepare(generator, asked)
    list(sample(generator, job))
    monkeypatch.setattr(request, "MAX_EMBEDDED", 10)
    code = python_code(generator, asked, job.real, digest=sha256_of_tokens(job.videos.tokens))
    file = Path(write_files(job.videos, tmp_path)["npz"])
    assert file.name in code
    shutil.copy(file, tmp_path)
    again = run(code, tmp_path, monkeypatch, capsys)
    np.testing.assert_array_equal(again.tokens, job.videos.tokens)


def test_a_stopped_video_is_the_beginning_of_the_whole_one(ask, models, tmp_path):
    for task in ("backward", "prediction"):
        asked = ask(task, 9)
        generator = models.get(asked.model)
        whole, part = prepare(generator, asked), prepare(generator, asked)
        list(sample(generator, whole))
        for progress in sample(generator, part):
            if progress.windows == 2:
                part.stopped.set()
        assert whole.complete and not part.complete
        made = part.videos.tokens.shape[1]
        assert progress.first == (9 - made if task == "backward" else 0)
        here = slice(progress.first, progress.first + made)
        np.testing.assert_array_equal(part.videos.tokens[0], whole.videos.tokens[0, here])
        np.testing.assert_array_equal(part.videos.known, whole.videos.known[here])
        files = write_files(part.videos, tmp_path)
        assert sorted(files) == ["gif", "mp4", "npz"]
        assert len(video_files.read_video(files["mp4"])[0]) == made
    at_once = prepare(generator, asked)
    at_once.stopped.set()
    list(sample(generator, at_once))
    assert at_once.videos is None


@pytest.mark.parametrize(("task", "window"), [("loop", 1), ("backward", 1), ("inpaint", 0)])
def test_the_unmasking_is_that_of_the_video(task, window, ask, models):
    asked = ask(task, 7, mask=corner())
    generator = models.get(asked.model)
    job = prepare(generator, asked)
    list(sample(generator, job))
    plan = job.generation.plan
    tokens, steps, count = unmasking.reveal_again(
        generator, job.generation, job.real, job.videos, seed=3, window=window
    )
    assert count == job.request.sampling.sampler.num_steps
    known_now = plan.known_at_start + sum(w.finished for w in plan.windows[:window])
    begin = known_now - plan.windows[window].context
    made = job.videos.tokens[0]
    if job.generation.task.backward:
        made, tokens, steps = made[::-1], tokens[::-1], steps[::-1]
    end = begin + plan.windows[window].context + plan.windows[window].finished
    expected = made[begin : min(end, len(made))]
    np.testing.assert_array_equal(tokens[: len(expected)], expected)
    new = steps[plan.windows[window].context :]
    assert (new >= 0).any() and (steps[: plan.windows[window].context] == -1).all()
    picture = unmasking.draw(generator.tokenizer.decode(tokens), steps, 0)
    grey = (picture == unmasking.GREY).all(axis=-1)
    assert grey[:8].any()
    assert (
        not (unmasking.draw(generator.tokenizer.decode(tokens), steps, count) == 96).all(-1).all()
    )


def test_a_job_shows_itself_until_its_files_are_there(models, tiny_run):
    form = fields.form_fields(models.get(str(tiny_run)).model.config.sampling)
    actions = Actions(models, form)
    values = {"model": str(tiny_run), "task": "prediction", "source": "dataset", "split": "test"}
    values |= {"index": 0, "clip": None, "drawing": None, "length": 10, "seed": 0}
    values |= {"sampler": "mgm", "entries": [field.default for field in form]}
    job = actions.start(values)
    *growing, last = actions.run(job)
    assert "Window 0 of 3, NFE 0 of 6; settings that are new" in growing[0].status
    assert "Window 3 of 3, NFE 6 of 6" in growing[-1].status
    assert "10 frames, NFE 6, seed 0." in last.status and "generate(" in last.code
    assert sorted(last.files) == ["gif", "mp4", "npz"]
    assert models.expected_seconds(str(tiny_run), job.generation) > 0  # from now on
    found = actions.reveal(job, 1)
    assert found.num_steps == 2
    assert np.any(found.picture(0) != found.picture(2))
    with pytest.raises(ValueError, match="there is no window 9; the video has 3"):
        actions.reveal(job, 9)
    with pytest.raises(ValueError, match="there is no video yet"):
        actions.reveal(None, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "none"}, "choose a context, or the task 'unconditional'"),
        ({"source": "upload"}, "no file is uploaded yet"),
        ({"task": "inpaint"}, "nothing is painted yet"),
        ({"task": "inpaint", "mask": np.zeros((4, 4), bool)}, "nothing is painted yet"),
        ({"index": 99}, "there is no number 99"),
        ({"length": 1}, "length 1"),
    ],
)
def test_what_cannot_be_made_is_said_before_it_is_queued(settings, message, ask, models):
    with pytest.raises(ValueError, match=message):
        asked = ask(**settings)
        prepare(models.get(asked.model), asked)


def test_models_are_shared_and_others_are_not_offered(models, tiny_run):
    generator = models.get(str(tiny_run))
    assert models.get(str(tiny_run)) is generator
    with pytest.raises(ValueError, match="not offered"):
        models.get("/etc")
    with pytest.raises(ValueError, match="no model is offered"):
        Models([])
    assert shipped_names() == ["maze", "maze_scenes"]
    timed = Models([str(tiny_run)], any_path=True)
    plan = timed.get(str(tiny_run)).plan(9)
    assert 0 < timed.expected_seconds(str(tiny_run), plan) < 60
    timed.note_speed(str(tiny_run), 2.0)
    assert timed.expected_seconds(str(tiny_run), plan) == 2.0 * plan.nfe
    with pytest.raises(FileNotFoundError, match="no model at"):
        timed.get("nowhere")

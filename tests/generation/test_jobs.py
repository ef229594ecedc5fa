"""Files of jobs: read strictly as a whole, divided, killed, resumed, decoded later."""

import hashlib
import json
import shutil
import signal
import time

import numpy as np
import programs
import pytest
import tiny

from maskflow_jax.generation import job_folder
from maskflow_jax.generation.job_folder import JobFolder, describe_jobs, make_batches, part_of_work
from maskflow_jax.generation.jobs import read_jobs
from maskflow_jax.generation.sample_sets import read_samples
from maskflow_jax.generator import VideoGenerator
from maskflow_jax.io import video_files

pytestmark = pytest.mark.usefixtures("compilation_cache")


@pytest.fixture(scope="module")
def generator(tiny_run):
    return VideoGenerator.load(tiny_run)


@pytest.fixture(autouse=True)
def quick():
    with tiny.quick_compilation():
        yield


def write_jobs(path, jobs):
    path.write_text(
        "".join((job if isinstance(job, str) else json.dumps(job)) + "\n" for job in jobs)
    )
    return path


def many_jobs():
    """24 jobs of two kinds, of 30 samples."""
    jobs = [
        {"length": 10, "context": {"split": "test", "index": i % 3}, "seed": i, "count": 1 + i % 2}
        for i in range(12)
    ]
    chain = {"sampler": {"name": "fm", "num_steps": 3}, "task": "unconditional"}
    return jobs + [{"name": f"none-{i}", "length": 7, "seed": i, **chain} for i in range(12)]


def tokens_of(out):
    return {
        str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("sample_*.npz"))
    }


@pytest.fixture(scope="module")
def whole(generator, tmp_path_factory):
    """The file of jobs, and what they give when nothing disturbs them."""
    folder = tmp_path_factory.mktemp("jobs")
    path = write_jobs(folder / "jobs.jsonl", many_jobs())
    with tiny.quick_compilation():
        jobs = read_jobs(path, generator)
        assert JobFolder(generator, jobs, folder / "out").complete(pixels=False) == 0
    return path, folder / "out"


def test_jobs_give_the_samples_that_the_generator_gives(generator, whole):
    _, out = whole
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len(rows) == 18 + 12 and len(tokens_of(out)) == 30
    assert not (out / ".unfinished").exists()
    row = rows[5]
    context = generator.read_context(indices=[row["context"]["index"]], frames=1)
    made = generator.generate(context, length=10, num_videos=2, seed=row["seed"])
    assert (row["name"], row["sample"], row["seed"]) == ("job_00004", 1, 3)
    assert row["nfe"] == made.nfe and row["shape"] == [10, 4, 4]
    with np.load(out / row["file"]) as arrays:
        np.testing.assert_array_equal(arrays["tokens"], made.tokens[1])
    assert row["sha256"] == hashlib.sha256(made.tokens[1].astype("<i4").tobytes()).hexdigest()
    # A job's folder is one of samples like any other.
    assert read_samples(out / "job_00004", generator).tokens.shape == (2, 10, 4, 4)


def test_batches_are_shared_by_jobs_with_equal_settings(generator, whole, tmp_path):
    jobs = read_jobs(whole[0], generator)
    batches = make_batches(jobs, tmp_path, 4)
    assert [len(batch.results) for batch in batches] == [4] * 4 + [2] + [4] * 3
    assert {batch.size for batch in batches} == {4}
    text = describe_jobs(jobs)
    assert "24 jobs, 30 samples" in text and "12 x unconditional by fm" in text


def test_parts_in_any_order_give_the_same_and_the_last_writes_the_manifest(
    generator, whole, tmp_path
):
    path, out = whole
    jobs = read_jobs(path, generator)
    for number in (2, 0, 1):
        assert not (tmp_path / "manifest.jsonl").exists()
        missing = JobFolder(generator, jobs, tmp_path, part=(number, 3)).complete(pixels=False)
    assert missing == 0
    assert tokens_of(tmp_path) == tokens_of(out)
    assert (tmp_path / "manifest.jsonl").read_text() == (out / "manifest.jsonl").read_text()


def test_killed_at_random_moments_the_same_files_are_made(tiny_run, whole, tmp_path):
    """kill -9 after a random amount of work and time, three times."""
    path, whole_out = whole
    rng, out = np.random.default_rng(0), tmp_path / "out"
    arguments = (f"--workdir={tiny_run}", f"--jobs={path}", f"--out={out}", "--nopixels")

    def done():  # samples, and batches with windows
        return len(list(out.rglob("*.npz")))

    seen = 0
    for goal in sorted(rng.integers(2, 26, 3)):
        process = programs.start("launch.jobs", *arguments)
        while process.is_alive() and done() < max(goal, seen):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was done before it was killed"
        assert not (out / "manifest.jsonl").exists()
        seen = done() + 1
    assert programs.call("launch.jobs", *arguments) == 0
    assert tokens_of(out) == tokens_of(whole_out)
    assert (out / "manifest.jsonl").read_text() == (whole_out / "manifest.jsonl").read_text()
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in whole_out.iterdir())


def test_windows_of_a_killed_batch_are_not_sampled_again(generator, tmp_path, monkeypatch):
    path = write_jobs(
        tmp_path / "jobs.jsonl", [{"length": 13, "context": {"split": "train", "index": 0}}]
    )
    jobs, calls = read_jobs(path, generator), []
    sample = job_folder.sample_resumably

    def stopped(generator, plan, real, path, **options):
        """Ends in the third window, as a kill would."""
        for done, _ in enumerate(plan.plan.windows):
            calls.append(done)
        chunks = generator.sample_windows

        def few(*args, **kwargs):
            for number, chunk in enumerate(chunks(*args, **kwargs)):
                if number == 2:
                    raise KeyboardInterrupt
                yield chunk

        monkeypatch.setattr(generator, "sample_windows", few)
        return sample(generator, plan, real, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(job_folder, "sample_resumably", stopped)
        with pytest.raises(KeyboardInterrupt):
            JobFolder(generator, jobs, tmp_path / "out").complete()
    monkeypatch.undo()
    (kept,) = (tmp_path / "out" / ".unfinished").glob("*.npz")
    with np.load(kept) as arrays:
        assert len(arrays) == 2
        windows = {name: arrays[name] for name in arrays}
    # Recognisably changed: what is there is taken as it is.
    windows["000000"] = np.roll(windows["000000"], 1, axis=-1)
    np.savez(kept, **windows)
    JobFolder(generator, jobs, tmp_path / "out").complete()
    JobFolder(generator, jobs, tmp_path / "fresh").complete()
    name = "job_00001/sample_00000.npz"
    with np.load(tmp_path / "out" / name) as ours, np.load(tmp_path / "fresh" / name) as fresh:
        assert (ours["tokens"][1:4] != fresh["tokens"][1:4]).any()


def test_pixels_are_made_later_from_the_tokens(generator, tiny_run, whole, tmp_path):
    path, out = whole
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    lost = copy / "none-3" / "sample_00000.npz"
    lost.unlink()
    jobs = read_jobs(path, generator)
    places = (f"--workdir={tiny_run}", f"--jobs={path}", f"--out={copy}")
    assert not list(out.rglob("*.mp4"))
    assert JobFolder(generator, jobs, copy, part=(1, 2)).complete(sample=False) == 1
    assert 0 < len(list(copy.rglob("*.mp4"))) < 29
    assert programs.call("launch.jobs", *places, "--decode_only") == 1  # one has no tokens
    assert len(list(copy.rglob("*.mp4"))) == 29
    assert not lost.exists()
    assert JobFolder(generator, jobs, copy).complete() == 0
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    assert programs.call("launch.report", f"--path={copy}", f"--workdir={tiny_run}") == 0
    assert "none-3/sample_00000" in (copy / "report.html").read_text()
    frames, fps = video_files.read_video(lost.with_suffix(".mp4"))
    assert len(frames) == 7 and fps == pytest.approx(5, rel=0.02)
    assert tokens_of(copy) == tokens_of(out)


def test_all_errors_are_listed_by_line(generator, tmp_path):
    context = {"split": "test", "index": 0}
    path = write_jobs(
        tmp_path / "jobs.jsonl",
        [
            {"length": 8, "context": context},
            {"lenght": 8, "context": context},
            "",
            {"length": 8, "context": context, "sampler": "halten"},
            {"length": 8, "context": context, "sampling": {"strid": 1}},
            {"length": 8, "context": context, "sampling": {"stride": 4}},
            {"length": 8, "context": {"split": "test", "index": 9}},
            {"length": 8, "context": {"file": "nowhere.mp4"}},
            {"length": 8},
            {"length": 8, "task": "unconditional", "context": context},
            {"name": "job_00001", "length": 8, "context": context},
            {"name": "../up", "length": 0, "count": True, "context": context},
            '{"length": 8, "length": 9}',
            "[8]",
            "{length: 8}",
            {"length": 8, "context": {"split": "test"}},
            {"length": 8, "context": context, "box": [0, 0, 1, 1]},
            {"length": 8, "context": context, "sampler": {"num_stepz": 3}},
            {"name": "../up", "length": 0, "context": context},
            {"context": context, "frames_per_scene": 2},
            {"captions": ["red walls"], "frames_per_scene": 8},
        ],
    )
    with pytest.raises(ValueError) as caught:
        read_jobs(path, generator)
    first, *lines = str(caught.value).splitlines()
    assert "19 of 20 jobs in" in first
    found = {int(line.split()[1][:-1]): line for line in lines}
    expected = {
        2: "did you mean 'length'?",
        4: "unknown sampler 'halten'",
        5: "did you mean 'sampling.stride'?",
        6: "stride 4 > chunk_size - context",
        7: "has 3 videos, there is no number 9",
        8: "no video or image at nowhere.mp4",
        9: "takes 1 real frames; give a context",
        10: "takes no real frames here",
        11: "is that of line 1; choose another",
        12: "count is True; it must be of type int",
        13: "'length' is given twice",
        14: "write an object",
        15: "it is no JSON",
        16: 'give "split" and "index", or "file"',
        17: "box belongs to the task 'inpaint'",
        18: "did you mean 'sampling.sampler.num_steps'?",
        19: "'_' and '-'; length is 0; use 1 or more",
        20: "length is missing; frames_per_scene is set; it belongs to captions",
        21: "captions were given to an unconditional model",
    }
    assert found.keys() == expected.keys()
    for number, text in expected.items():
        assert text in found[number], found[number]


def test_a_folder_of_other_settings_is_refused_and_more_samples_may_follow(generator, tmp_path):
    job = {"name": "a", "length": 6, "task": "unconditional"}

    def complete(**changes):
        path = write_jobs(tmp_path / "jobs.jsonl", [job | changes])
        jobs = read_jobs(path, generator)
        return JobFolder(generator, jobs, tmp_path / "out", batch_size=1).complete()

    complete()
    before = tokens_of(tmp_path / "out")
    with pytest.raises(FileExistsError, match="seed: 0 there, 1 now"):
        complete(seed=1)
    complete(count=3)
    assert len(tokens_of(tmp_path / "out")) == 3
    assert before.items() <= tokens_of(tmp_path / "out").items()


def test_an_array_task_is_a_part():
    def array(task, first, last, count):
        names = {"ID": task, "MIN": first, "MAX": last, "COUNT": count}
        return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in names.items()}

    assert part_of_work(None, {}) == (0, 1)
    assert part_of_work(None, array(0, 0, 7, 8)) == (0, 8)
    assert part_of_work(None, array(8, 1, 8, 8)) == (7, 8)
    assert part_of_work("2/3", array(8, 1, 8, 8)) == (2, 3)
    with pytest.raises(ValueError, match="has gaps"):
        part_of_work(None, array(5, 1, 5, 2))
    with pytest.raises(ValueError, match="i from 0 to n - 1"):
        part_of_work("3/3", {})

"""The programs as a user runs them, on a tiny run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from absl import flags

from launch import sample
from maskflow_jax.data.dataset import read_token_dataset
from maskflow_jax.io import video_files
from maskflow_jax.tokenizers.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("compilation_cache")


@pytest.fixture(scope="module")
def run(tiny_run):
    return tiny_run


def run_sample(run, out, *arguments):
    """Calls the program as the command line would."""
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["sample", f"--workdir={run}", f"--out={out}", "--length=9", *arguments])
    try:
        with tiny.quick_compilation():
            sample.main(None)
    finally:
        for module in ("launch.sample", "launch.places"):
            for name in flags.FLAGS.flags_by_module_dict()[module]:
                name.unparse()
    return np.load(out / "sample_00000.npz")


def test_sample_extends_validation_videos_and_writes_all_files(run, tmp_path):
    written = run_sample(run, tmp_path, "--num_videos=2", "--batch_size=1")
    real = read_token_dataset(run.parent / "data", "test")[0]["tokens"]
    assert written["tokens"].shape == (9, 4, 4)
    np.testing.assert_array_equal(written["known"].all(axis=(1, 2)), np.arange(9) < 1)
    np.testing.assert_array_equal(written["tokens"][:1], real[:1])
    for suffix in (".mp4", ".gif"):
        frames, fps = video_files.read_video(tmp_path / f"sample_00001{suffix}")
        assert len(frames) == 9
        assert fps == pytest.approx(5, rel=0.02)
    assert not list(tmp_path.glob("unfinished*"))
    # The same video in another batch size, and samples are never overwritten.
    again = run_sample(run, tmp_path / "again", "--num_videos=2", "--batch_size=2", "--nogif")
    np.testing.assert_array_equal(again["tokens"], written["tokens"])
    assert not list((tmp_path / "again").glob("*.gif"))
    with pytest.raises(FileExistsError, match="holds samples of other settings"):
        run_sample(run, tmp_path, "--seed=1")


def test_sample_reports_drift(run, tmp_path):
    pytest.importorskip("matplotlib")
    run_sample(run, tmp_path, "--num_videos=2", "--report", "--set=stride=1")
    lines = (tmp_path / "drift.csv").read_text().splitlines()
    assert lines[0].startswith("window,entropy,code_usage,unigram,")
    assert len(lines) == 1 + 2  # windows of 4 in 9 frames
    assert (tmp_path / "drift.png").is_file()


def test_sample_from_a_file_and_from_nothing(run, tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (30, 48, 90, 3), dtype=np.uint8)
    video_files.write_mp4(tmp_path / "walk.mp4", frames, 30)
    file = f"--context={tmp_path}/walk.mp4"
    written = run_sample(run, tmp_path / "file", file, "--set=context_frames=2")
    pixels, _ = video_files.read_video(tmp_path / "walk.mp4")
    tokenizer = Tokenizer.load(run.parent / "tokenizer")
    expected = tokenizer.encode(video_files.square_frames(pixels[[-7, -1]], 8))
    np.testing.assert_array_equal(written["tokens"][:2], expected)
    with pytest.raises(ValueError, match="use a longer video or fewer frames"):
        run_sample(run, tmp_path / "long", file, "--task=inbetween", "--length=12")
    changes = ("--set=sampler.name=fm", "--set=sampler.num_steps=3")
    nothing = run_sample(run, tmp_path / "none", "--task=unconditional", *changes)
    assert nothing["tokens"].shape == (9, 4, 4)
    assert not nothing["known"].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set=stride=4"], "stride 4 > chunk_size - context"),
        (["--set=context_frames=4"], "context 4 >= chunk_size"),
        (["--set=sampler.stepz=3"], "no setting 'sampling.sampler.stepz'"),
        (["--set=decoding.top_k=many"], "it must be of type int or None"),
        (["--set=sampler.name=rolling", "--set=stride=2"], "rolling advances by one frame"),
        (["--task=inpaint", "--box=0.5,0.5,0.6,0.2"], "must lie in the frame"),
        (["--task=outpaint"], "unknown task 'outpaint'"),
        (["--context=validation"], "no split 'validation'"),
    ],
)
def test_impossible_samples_are_refused_and_nothing_is_written(run, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run_sample(run, tmp_path / "out", *arguments)
    assert not any(tmp_path.iterdir())


def program(*arguments, **environment):
    """Runs a program; the time of these tests is that of importing and compiling."""
    quick = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | environment
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=quick)


def test_an_exported_model_is_sampled_like_the_run(run, tmp_path):
    done = program("launch.export_model", f"--workdir={run}", f"--out={tmp_path}/model")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "card.md",
        "config.json",
        "model.safetensors",
    }
    places = (f"--tokenizer={run.parent}/tokenizer", f"--dataset={run.parent}/data")
    written = run_sample(tmp_path / "model", tmp_path / "out", *places)
    assert written["tokens"].shape == (9, 4, 4)


def test_samplers_and_caches_are_compared(run, tmp_path):
    sizes = ("--factors=1,2", "--num_videos=1", "--samplers=mgm:num_steps=2,stride=1")
    done = program("launch.compare", f"--workdir={run}", f"--out={tmp_path}/table", *sizes)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [(row["factor"], row["nfe"]) for row in rows] == [(1, None), (2, None), (1, 2), (2, 10)]
    assert len((tmp_path / "table.md").read_text().splitlines()) == 2 + 2


def test_a_run_is_evaluated_verified_and_shown(run, tmp_path):
    pytest.importorskip("matplotlib")
    sizes = ("--num_videos=2", "--seeds=0,1", "--length=8", "--clip_frames=4")
    out = tmp_path / "maze"
    done = program("launch.evaluate", f"--workdir={run}", f"--out={out}", *sizes)
    assert done.returncode == 0, done.stderr
    assert "| unigram | " in done.stderr
    receipt = out / "receipt.json"
    table = program("launch.evaluate", f"--table={tmp_path}/*/receipt.json", f"--out={out}/all")
    assert table.stdout.startswith("| | maze | real against real |")
    receipt.write_text(receipt.read_text().replace('"num_videos": 2', '"num_videos": 3'))
    verified = program("launch.evaluate", f"--verify={receipt}")
    assert verified.returncode == 1
    assert "FAILS  section settings: it was edited" in verified.stdout


def test_errors_are_one_line_and_name_the_fix(tmp_path):
    done = program("launch.sample", f"--workdir={tmp_path}", "--length=9")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: no model at")
    config = "--config=configs/maze.py:smoke"
    typo = program("launch.train", config, "--config.optimizer.learning_rat=1", "--workdir=x")
    assert typo.returncode == 1 and "Traceback" not in typo.stderr
    assert "learning_rate" in typo.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("config", "codes", "evaluations"),
    [("maze_tokenizer", 32, 2), ("my_way_home_tokenizer", 64, 1)],
)
def test_tokenizer_program_trains_and_writes_a_tokenizer(tmp_path, config, codes, evaluations):
    arguments = (f"--config=configs/{config}.py:smoke", f"--workdir={tmp_path}")
    done = program("launch.train_tokenizer", *arguments)
    assert done.returncode == 0, done.stderr
    assert "of codes used" in done.stderr
    assert Tokenizer.load(tmp_path / "tokenizer").config.codebook_size == codes
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == evaluations

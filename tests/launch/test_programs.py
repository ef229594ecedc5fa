"""The programs in the order a user runs them, on the maze and with the tokenizer that ships."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from absl import flags
from launch.rollouts import load_run
from safetensors.numpy import load_file

from configs import maze
from launch import comparing, sample, tokenizing, training, trajectories
from maskflow_jax.data.dataset import read_token_dataset
from maskflow_jax.data.sources.maze import MazeSettings, maze_videos
from maskflow_jax.evaluation.token_statistics import code_groups
from maskflow_jax.evaluation.tokenizer_card import tokenizer_figures
from maskflow_jax.io import video_files
from maskflow_jax.tokenizers.tokenizer import PRETRAINED, Tokenizer, save_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished smoke run: its folder, beside the folder of its dataset."""
    folder = tmp_path_factory.mktemp("smoke")
    settings = maze.get_config("smoke").to_dict()
    settings["data"]["directory"] = str(folder / "data")
    settings["run"]["hook_every"] = 1000
    tokenizing.write_dataset(settings["data"])
    assert training.train_from_config(settings, folder / "run")
    return folder / "run"


def run_sample(run, out, *arguments):
    """Calls launch.sample as the command line would."""
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["sample", f"--workdir={run}", f"--out={out}", "--length=9", *arguments])
    try:
        with tiny.quick_compilation():
            sample.main(None)
    finally:
        for name in flags.FLAGS.flags_by_module_dict()["launch.sample"]:
            name.unparse()
    return np.load(out / "sample_00000.npz")


def test_shipped_tokenizer_keeps_its_bar():
    folder = PRETRAINED / "maze"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4e6
    tokenizer = Tokenizer.load("maze")
    assert tokenizer.identity["grid"] == [8, 8]
    assert tokenizer.identity["codebook_size"] == 512
    # Validation mazes under a seed that neither its training nor its evaluation used.
    settings = MazeSettings(num_videos=24, num_frames=40, seed=7, split="test")
    figures = tokenizer_figures(tokenizer, (video.frames for video in maze_videos(settings)))
    card = json.loads((folder / "card.json").read_text())["figures"]
    assert figures["psnr"] > 33
    assert figures["psnr"] == pytest.approx(card["psnr"], abs=1)
    assert figures["code_usage"] >= 0.95
    assert figures["copy_accuracy"] > 0.45
    assert figures["unigram_entropy"] < 5


def test_older_tokenizer_is_still_there():
    older = Tokenizer.load("my_way_home")
    assert older.identity["codebook_size"] == 1024
    settings = MazeSettings(
        num_videos=1, num_frames=8, seed=7, split="test", textures="my_way_home"
    )
    (video,) = maze_videos(settings)
    error = np.mean((older.decode(older.encode(video.frames)).astype(float) - video.frames) ** 2)
    assert 10 * np.log10(255**2 / error) > 25


def test_dataset_is_the_encoded_maze(run):
    videos = read_token_dataset(run.parent / "data", "test")
    (video,) = maze_videos(MazeSettings(num_videos=1, num_frames=12, seed=1, split="test"))
    assert (videos[0]["id"], videos[0]["fps"]) == (video.id, video.fps)
    tokens = Tokenizer.load("maze").encode(video.frames)
    np.testing.assert_array_equal(videos[0]["tokens"], tokens)


def test_dataset_of_another_source_is_not_trained_on(run, tmp_path):
    settings = maze.get_config("smoke").to_dict()
    settings["data"]["directory"] = str(run.parent / "data")
    settings["data"]["source"]["fps"] = 5.0
    with pytest.raises(ValueError, match=r"fps is 10\.0 there and 5\.0 in data"):
        training.train_from_config(settings, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "mase"}, "unknown data.source.name 'mase'"),
        ({"walls": 3}, r"data.source has no walls; it takes name, num_videos, num_frames"),
        ({"light": 999}, "light is 999"),
    ],
)
def test_a_dataset_of_impossible_mazes_is_refused(tmp_path, change, message):
    data = maze.get_config("smoke").to_dict()["data"]
    data |= {"directory": str(tmp_path / "data"), "source": data["source"] | change}
    with pytest.raises(ValueError, match=message):
        tokenizing.write_dataset(data)
    assert not any(tmp_path.iterdir())


def test_a_dataset_records_the_settings_that_were_left_to_their_defaults(run):
    source = read_token_dataset(run.parent / "data", "test").metadata["source"]
    assert source["rooms"] == 5
    assert list(source["colours"]) == [4, 6]


def test_sample_extends_held_out_videos_and_writes_all_files(run, tmp_path):
    written = run_sample(run, tmp_path, "--num_videos=2", "--batch_size=1")
    held_out = read_token_dataset(run.parent / "data", "test")[0]["tokens"]
    assert written["tokens"].shape == (9, 8, 8)
    np.testing.assert_array_equal(written["known"].all(axis=(1, 2)), np.arange(9) < 1)
    np.testing.assert_array_equal(written["tokens"][:1], held_out[:1])
    for suffix in (".mp4", ".gif"):
        frames, fps = video_files.read_video(tmp_path / f"sample_00001{suffix}")
        assert (len(frames), frames.shape[1]) == (9, 256)
        assert fps == pytest.approx(10, rel=0.02)
    # The same video in another batch size, and samples are never overwritten.
    again = run_sample(run, tmp_path / "again", "--num_videos=2", "--batch_size=2")
    np.testing.assert_array_equal(again["tokens"], written["tokens"])
    with pytest.raises(FileExistsError, match="holds samples"):
        run_sample(run, tmp_path)


def test_sample_from_a_file_and_from_nothing(run, tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (30, 48, 90, 3), dtype=np.uint8)
    video_files.write_mp4(tmp_path / "walk.mp4", frames, 30)
    written = run_sample(
        run, tmp_path / "file", f"--context={tmp_path}/walk.mp4", "--context_frames=2"
    )
    pixels, _ = video_files.read_video(tmp_path / "walk.mp4")
    expected = Tokenizer.load("maze").encode(video_files.square_frames(pixels[[-4, -1]], 64))
    np.testing.assert_array_equal(written["tokens"][:2], expected)
    too_long = ("--task=inbetween", "--length=12")
    with pytest.raises(ValueError, match="lower --context_frames"):
        run_sample(run, tmp_path / "long", f"--context={tmp_path}/walk.mp4", *too_long)
    # A config that does not say its videos' rate: the dataset's is taken.
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["data"]["source"] = {}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    free = ("--task=unconditional", "--sampler=fm", "--steps=3")
    nothing = run_sample(tmp_path / "run", tmp_path / "none", *free)
    assert float(nothing["fps"]) == 10.0
    assert nothing["tokens"].shape == (9, 8, 8)
    assert not nothing["known"].any()


def test_sample_other_tasks_by_other_samplers(run, tmp_path):
    held_out = read_token_dataset(run.parent / "data", "test")[0]["tokens"][:9]
    loop = run_sample(run, tmp_path / "loop", "--task=loop", "--sampler=halton", "--steps=2")
    assert loop["tokens"].shape == (9, 8, 8)
    guided = ("--set=guidance_weight=1", "--set=counts=cosine")
    painted = run_sample(run, tmp_path / "box", "--task=inpaint", "--steps=2", *guided)
    box = np.zeros((9, 8, 8), bool)
    box[:, 2:6, 2:6] = True
    np.testing.assert_array_equal(painted["known"], ~box)
    np.testing.assert_array_equal(painted["tokens"][~box], held_out[~box])
    rolled = ("--task=backward", "--sampler=rolling", "--steps=3")
    before = run_sample(run, tmp_path / "back", *rolled)
    np.testing.assert_array_equal(before["tokens"][-1], held_out[0])
    np.testing.assert_array_equal(before["known"].all(axis=(1, 2)), np.arange(9) == 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stride=4"], "stride 4 > chunk_size - context"),
        (["--context_frames=4"], "context 4 >= chunk_size"),
        (["--set=stepz=3"], "mgm has no setting 'stepz'"),
        (["--set=top_k=many"], "'many' is not int"),
        (["--sampler=fm", "--set=noise=random"], "fm has no setting 'noise'"),
        (["--sampler=rolling", "--stride=2"], "rolling advances by one frame"),
        (["--task=inpaint", "--box=0.5,0.5,0.6,0.2"], "must lie in the frame"),
        (["--context=validation"], "no split 'validation'"),
        (["--num_videos=3"], "has 2 videos"),
    ],
)
def test_impossible_samples_are_refused_and_nothing_is_written(run, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run_sample(run, tmp_path, *arguments)
    assert not any(tmp_path.iterdir())


def test_another_tokenizer_is_refused(run, tmp_path):
    tokenizer = Tokenizer.load("maze")
    flat = load_file(PRETRAINED / "maze" / "model.safetensors")
    save_tokenizer(tmp_path / "other", tokenizer.config, {"codebook": flat["codebook"]})
    (tmp_path / "other" / "model.safetensors").write_bytes(
        (PRETRAINED / "maze" / "model.safetensors").read_bytes()
    )
    settings = (tmp_path / "other" / "config.json").read_text()
    (tmp_path / "other" / "config.json").write_text(settings + "\n")
    (tmp_path / "other" / "sha256").unlink()
    with pytest.raises(ValueError, match=r"'maze'.*'other'"):
        run_sample(run, tmp_path / "out", f"--tokenizer={tmp_path}/other")


def test_an_exported_model_is_sampled_like_the_run(run, tmp_path):
    command = [sys.executable, "-m", "launch.export_model", f"--workdir={run}"]
    command += [f"--out={tmp_path}/model", f"--dataset={run.parent}/data"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "model.safetensors"}
    exported, original = load_run(tmp_path / "model"), load_run(run)
    assert exported.graphdef == original.graphdef
    for leaf, like in zip(
        jax.tree.leaves(exported.params), jax.tree.leaves(original.params), strict=True
    ):
        np.testing.assert_allclose(leaf, like, rtol=1e-3, atol=1e-6)
    assert run_sample(tmp_path / "model", tmp_path / "out")["tokens"].shape == (9, 8, 8)


def test_averaged_weights_are_all_that_sampling_loads(run):
    loaded = load_run(run)
    assert loaded.mask_id == 512
    assert set(loaded.params) >= {"blocks", "head", "token_embedding"}


@pytest.mark.parametrize(
    ("config", "codes", "evaluations"),
    [("maze_tokenizer", 32, 2), ("my_way_home_tokenizer", 64, 1)],
)
def test_tokenizer_program_trains_and_writes_a_tokenizer(tmp_path, config, codes, evaluations):
    command = [sys.executable, "-m", "launch.train_tokenizer"]
    command += [f"--config=configs/{config}.py:smoke", f"--workdir={tmp_path}"]
    quick = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=quick)
    assert done.returncode == 0, done.stderr
    assert "of codes used" in done.stderr
    assert Tokenizer.load(tmp_path / "tokenizer").config.codebook_size == codes
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == evaluations


def test_samplers_are_compared_on_the_same_videos(run):
    loaded = load_run(run)
    videos = read_token_dataset(run.parent / "data", "test")
    groups = code_groups(Tokenizer.load("maze").codebook, 8)
    arena = comparing.Arena(loaded, videos, groups, num_videos=1, factors=(1, 3))
    labels = ("mgm:stride=1,counts=cosine", "rolling:num_steps=4")
    contestants = [comparing.parse(label) for label in labels]
    with tiny.quick_compilation():
        *_, rows = comparing.compare(arena, contestants)
    assert [(row["sampler"], row["factor"], row["nfe"]) for row in rows] == [
        ("real", 1, None),
        ("real", 3, None),
        ("mgm:stride=1,counts=cosine", 1, 20),
        ("mgm:stride=1,counts=cosine", 3, 9 * 20),
        ("rolling:num_steps=4", 1, 4 + 4),
        ("rolling:num_steps=4", 3, 4 + 8 * 2 + 4),
    ]
    # Two hardly trained samplers are further from the walks than a walk is.
    by_label = {row["sampler"]: row["spatial"] for row in rows if row["factor"] == 3}
    assert by_label["real"] < min(by_label[c.label] for c in contestants)
    table = comparing.as_markdown(rows)
    assert len(table.splitlines()) == 2 + 3
    assert all(0 < row["seconds"] < 600 for row in rows if row["nfe"])
    with pytest.raises(ValueError, match="lower --num_videos"):
        comparing.Arena(loaded, videos, groups, num_videos=2, factors=(1,))
    with pytest.raises(ValueError, match="lower --factors"):
        comparing.Arena(loaded, videos, groups, num_videos=1, factors=(4,))
    with pytest.raises(ValueError, match="setting=value"):
        comparing.parse("mgm:fast")


def test_the_unmasking_is_drawn_from_grey_to_the_finished_window(run):
    loaded, tokenizer = load_run(run), Tokenizer.load("maze")
    context = read_token_dataset(run.parent / "data", "test")[0]["tokens"][:1].astype(np.int32)
    with tiny.quick_compilation():
        tokens, steps, num_steps = trajectories.reveal(
            loaded, comparing.parse("halton:num_steps=3"), context
        )
    assert num_steps == 3
    np.testing.assert_array_equal(tokens[:1], context)
    images = trajectories.animate(tokenizer, [("row", tokens, steps, num_steps)], num_images=4)
    first, last = images[0, trajectories.LABEL_HEIGHT :], images[3, trajectories.LABEL_HEIGHT :]
    width = tokenizer.config.frame_size + trajectories.GAP
    np.testing.assert_array_equal(first[:, : width - 1], tokenizer.decode(context)[0])
    assert np.all(first[:, width : 2 * width - 1] == trajectories.GREY)
    np.testing.assert_array_equal(last[:, width : 2 * width - 1], tokenizer.decode(tokens)[1])
    np.testing.assert_array_equal(images[-1], images[3])  # holds

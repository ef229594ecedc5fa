"""The public API: loading, contexts, plans, generation, streams, and the installed package."""

import dataclasses
import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

import maskflow_jax as mf
from maskflow_jax.data.dataset import read_token_dataset
from maskflow_jax.generation.contexts import video_windows
from maskflow_jax.generation.trained_model import export_model
from maskflow_jax.io import video_files
from maskflow_jax.training.model_files import load_model

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("compilation_cache")


@pytest.fixture(scope="module")
def generator(tiny_run):
    """Of random weights: a hardly trained network hardly sees its context."""
    found, rng = mf.VideoGenerator.load(tiny_run), np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jax.device_put(
            rng.normal(size=leaf.shape).astype(np.float32) * 0.3, leaf.sharding
        ),
        found.model.params,
    )
    model = dataclasses.replace(found.model, params=params)
    return mf.VideoGenerator(model, found.tokenizer)


@pytest.fixture(autouse=True)
def quick():
    with tiny.quick_compilation():
        yield


def test_every_public_name_is_there_and_lazy():
    for name in mf.__all__:
        assert getattr(mf, name) is not None
    assert set(mf.__all__) <= set(dir(mf))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mf.nothing
    code = "import sys, maskflow_jax; assert 'jax' not in sys.modules, 'importing must be cheap'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_generator_describes_itself(generator):
    text = repr(generator)
    for part in ("step 3", "windows of 4 frames of 4x4 tokens", "8 codes", "MGM(num_steps=2"):
        assert part in text


def test_contexts_are_read_from_everything(generator, tmp_path):
    tokenizer, rng = generator.tokenizer, np.random.default_rng(0)
    frames = rng.integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
    expected = tokenizer.encode(frames)
    np.testing.assert_array_equal(generator.read_context(frames, frames=2)[0], expected[-2:])
    first = generator.read_context(frames, frames=2, from_start=True)
    np.testing.assert_array_equal(first[0], expected[:2])
    batch = generator.read_context(np.stack([frames, frames[::-1]]), frames=1)
    np.testing.assert_array_equal(batch[:, 0], expected[[-1, 0]])
    np.testing.assert_array_equal(generator.read_context(expected, frames=3)[0], expected[-3:])
    Image.fromarray(frames[0]).save(tmp_path / "a.png")
    Image.fromarray(frames[1]).save(tmp_path / "b.png")
    still = generator.read_context(tmp_path / "a.png", frames=2)
    np.testing.assert_array_equal(still[0], expected[[0, 0]])
    images = generator.read_context([tmp_path / "a.png", tmp_path / "b.png"], frames=2)
    np.testing.assert_array_equal(images[0], expected[:2])
    data = generator.read_context(frames=2, indices=[2, 0])
    real = tiny_videos(generator)
    np.testing.assert_array_equal(data, np.stack([real[2][:2], real[0][:2]]))


def tiny_videos(generator, split="test"):
    videos = read_token_dataset(generator.model.config.data.directory, split)
    return [videos[index]["tokens"] for index in range(len(videos))]


def test_random_windows_of_all_videos_of_both_splits(generator):
    real = tiny_videos(generator, "train") + tiny_videos(generator)
    windows = generator.read_context(frames=2, split="all", indices="all", window_seed=0)
    assert len(windows) == len(real)
    for window, video in zip(windows, real, strict=True):
        assert any(np.array_equal(video[s : s + 2], window) for s in range(len(video) - 1))
    first = generator.read_context(frames=2, split="train", indices="all")
    np.testing.assert_array_equal(first, [video[:2] for video in tiny_videos(generator, "train")])


def test_a_random_window_depends_on_the_seed_and_its_video():
    videos = [np.arange(20 + i)[:, None, None] for i in range(30)]

    def starts(indices, seed):
        windows = video_windows(videos, indices, frames=18, seed=seed, source="test")
        np.testing.assert_array_equal(windows[:, -1] - windows[:, 0], 17)
        return windows[:, 0, 0, 0].tolist()

    of_all = starts("all", 0)
    assert len(set(of_all)) > 10
    assert all(0 <= start <= 2 + i for i, start in enumerate(of_all))
    assert any(start == 2 + i for i, start in enumerate(of_all[:8]))  # the last place is drawn too
    assert starts([29, 3, -1], 0) == [of_all[29], of_all[3], of_all[29]]
    assert starts("all", 1) != of_all


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"source": "nowhere.mp4"}, FileNotFoundError, "no video or image at nowhere.mp4"),
        ({"source": np.zeros((2, 8, 8, 3))}, ValueError, "neither frames, uint8"),
        ({"source": np.zeros((2, 4, 4), int), "frames": 3}, ValueError, "2 frames, 3 are wanted"),
        ({"indices": "every"}, ValueError, "indices is 'every'; give numbers of videos, or 'all'"),
        ({"indices": "all", "frames": 0}, ValueError, "without a context"),
        ({"indices": 99}, ValueError, "has 3 videos, there is no number 99"),
        ({"split": "validation"}, ValueError, "no split 'validation'"),
        ({"frames": 99}, ValueError, "99 are wanted; ask for fewer"),
    ],
)
def test_contexts_that_cannot_be_read_are_explained(generator, arguments, error, message):
    with pytest.raises(error, match=message):
        generator.read_context(**arguments)


def test_a_video_depends_on_its_seed_number_and_context_only(generator):
    context = generator.read_context(frames=1, indices=[0, 1, 2])
    videos = generator.generate(context, length=9, seed=3)
    assert videos.tokens.shape == (3, 9, 4, 4)
    np.testing.assert_array_equal(videos.tokens[:, :1], context)
    np.testing.assert_array_equal(videos.known.all(axis=(1, 2)), np.arange(9) < 1)
    two = generator.generate(context[:2], length=9, seed=3)
    np.testing.assert_array_equal(two.tokens, videos.tokens[:2])
    other = generator.generate(context, length=9, seed=4)
    assert np.any(other.tokens != videos.tokens)
    # Fewer known frames than the context of a window: the first window samples more.
    wide = generator.generate(context, length=9, context_frames=3)
    np.testing.assert_array_equal(wide.known.all(axis=(1, 2)), np.arange(9) < 1)
    several = generator.generate(context[:1], length=9, seed=3, num_videos=2)
    assert np.any(several.tokens[0] != several.tokens[1])
    plan = generator.plan(9)
    assert plan.nfe == videos.nfe == 2 * len(plan.plan.windows)
    assert plan.expected_seconds > 0
    assert f"NFE {len(plan.plan.windows)} x 2" in str(plan)


def test_a_stream_is_the_video_and_an_endless_one_begins_like_it(generator):
    context = generator.read_context(frames=1, indices=[0, 1])
    videos = generator.generate(context, length=13, seed=5)
    chunks = list(generator.stream(context, length=13, seed=5))
    np.testing.assert_array_equal(np.concatenate(chunks, axis=1), videos.frames[:, 1:])
    endless = itertools.islice(generator.stream(context, seed=5), 3)
    together = np.concatenate(list(endless), axis=1)
    np.testing.assert_array_equal(together, videos.frames[:, 1 : 1 + together.shape[1]])
    long = generator.stream(context, seed=5, sampler=mf.Rolling(num_steps=3))
    assert sum(chunk.shape[1] for chunk in itertools.islice(long, 20)) == 20


@pytest.mark.parametrize("name", mf.SAMPLERS)
def test_every_sampler_generates_every_task(generator, name):
    sampler = mf.SAMPLERS[name](num_steps=2)
    tasks = ["prediction", "backward", "inbetween", "loop", "inpaint", "unconditional"]
    if name == "rolling":
        tasks = tasks[:4]
    for task in tasks:
        real = generator.read_context(frames=4) if task in ("inbetween", "inpaint") else None
        videos = generator.generate(real, length=4, task=task, sampler=sampler)
        assert videos.tokens.shape == (1, 4, 4, 4)
        assert videos.tokens.max() < 8
        if real is not None:
            np.testing.assert_array_equal(videos.tokens[0][videos.known], real[0][videos.known])


def test_two_images_are_joined(generator, tmp_path):
    rng = np.random.default_rng(1)
    for name in "ab":
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    first, last = tmp_path / "a.png", tmp_path / "b.png"
    videos = generator.generate(first=first, last=last, length=6, task="inbetween")
    expected = [generator.read_context(path, frames=1)[0, 0] for path in (first, last)]
    np.testing.assert_array_equal(videos.tokens[0, [0, -1]], np.stack(expected))
    with pytest.raises(ValueError, match="give both"):
        generator.generate(first=first, length=6, task="inbetween")


def test_any_mask_is_in_painted(generator):
    real, known = generator.read_context(frames=4), np.ones((4, 4, 4), bool)
    known[1:, 2, 1:3] = False
    videos = generator.generate(real, length=4, task="inpaint", known=known)
    np.testing.assert_array_equal(videos.known, known)
    np.testing.assert_array_equal(videos.tokens[0][known], real[0][known])


def test_options_change_the_sampling_and_unknown_ones_are_named(generator):
    plain = generator.generate(length=9, seed=1)
    for options in (
        {"decoding": mf.Decoding(temperature=0.1)},
        {"sampler": mf.Halton(num_steps=3)},
        {"stride": 1},
        {"context_time": 0.0},
        {"guidance": mf.Guidance(weight=5.0)},
    ):
        changed = generator.generate(length=9, seed=1, **options)
        assert np.any(changed.tokens != plain.tokens), options
    guided = generator.generate(length=9, seed=1, guidance=mf.Guidance(weight=3.0))
    assert guided.nfe == 3 * plain.nfe
    same = generator.generate(length=9, seed=1, frame_block=2)
    np.testing.assert_array_equal(same.tokens, plain.tokens)
    with pytest.raises(TypeError, match="did you mean 'stride'"):
        generator.generate(length=9, strid=1)
    with pytest.raises(ValueError, match="2 contexts for 3 videos"):
        generator.generate(generator.read_context(indices=[0, 1]), length=9, num_videos=3)


def test_videos_are_saved_and_show_themselves(generator, tmp_path):
    videos = generator.generate(length=5, num_videos=2)
    assert len(videos) == 2 and len(list(videos)) == 2
    np.testing.assert_array_equal(videos[-1].tokens, videos.tokens[1:])
    assert "2 videos of 5 frames" in repr(videos)
    html = videos._repr_html_()
    assert "<video" in html and "data:video/mp4;base64," in html
    videos.save(tmp_path, first=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"sample_0000{number}.{suffix}" for number in (3, 4) for suffix in ("gif", "mp4", "npz")
    ]
    saved = np.load(tmp_path / "sample_00004.npz")
    np.testing.assert_array_equal(saved["tokens"], videos.tokens[1])
    np.testing.assert_array_equal(saved["known"], videos.known)
    assert len(video_files.read_video(tmp_path / "sample_00003.mp4")[0]) == 5


def test_a_moved_run_finds_its_dataset_and_tokenizer(tiny_run, tmp_path, monkeypatch):
    world = tmp_path / "moved"
    shutil.copytree(tiny_run.parent, world)
    config = (world / "run/config.json").read_text()
    relative = config.replace(f"{tiny_run.parent}/", "")
    (world / "run/config.json").write_text(relative)
    monkeypatch.chdir(tmp_path)
    moved = mf.VideoGenerator.load(world / "run")
    assert moved.read_context(frames=1).shape == (1, 1, 4, 4)
    shutil.rmtree(world / "tokenizer")
    with pytest.raises(FileNotFoundError, match="pass its folder as the argument `tokenizer`"):
        mf.VideoGenerator.load(world / "run")
    found = mf.VideoGenerator.load(
        world / "run", tokenizer=tiny_run.parent / "tokenizer", dataset=tiny_run.parent / "data"
    )
    assert found.fps == 5.0
    with pytest.raises(FileNotFoundError, match="one of the shipped names"):
        mf.VideoGenerator.load("nothing")


def test_a_damaged_export_is_refused_by_name(tiny_run, tmp_path):
    real = np.zeros((2, 6, 4, 4), np.int32)
    export_model(load_model(tiny_run), tmp_path / "model", contexts={"test": real})
    for name, message in (
        ("model.safetensors", r"weights in .*model.safetensors changed since .* copy the model"),
        ("contexts.npz", r"contexts.npz cannot be read: .* copy the model again"),
    ):
        path = tmp_path / "model" / name
        whole = path.read_bytes()
        content = bytearray(whole)
        content[-3] ^= 1
        path.write_bytes(bytes(content) if name.startswith("model") else whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=message):
            mf.VideoGenerator.load(
                tmp_path / "model", tokenizer=tiny_run.parent / "tokenizer"
            ).read_context(frames=1)
        path.write_bytes(whole)


def test_an_exported_model_brings_its_contexts(tiny_run, tmp_path):
    model = load_model(tiny_run)
    real = np.arange(2 * 6 * 16).reshape(2, 6, 4, 4) % 8
    export_model(model, tmp_path / "model", dtype="float32", contexts={"test": real}, card="card")
    places = {"tokenizer": tiny_run.parent / "tokenizer"}
    exported = mf.VideoGenerator.load(tmp_path / "model", **places)
    assert exported.model.step == 3
    np.testing.assert_array_equal(exported.read_context(frames=2, indices=[1]), real[1:, :2])
    original = mf.VideoGenerator.load(tiny_run)
    context = original.read_context(frames=1)
    np.testing.assert_array_equal(
        exported.generate(context, length=6).tokens, original.generate(context, length=6).tokens
    )
    (tmp_path / "model/model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read"):
        load_model(tmp_path / "model")


WHEEL = """
import itertools, pathlib, maskflow_jax as mf
assert "site" in mf.__file__, mf.__file__
generator = mf.VideoGenerator.load("maze")
videos = generator.generate(length=18, num_videos=2, sampler=mf.Halton(num_steps=2))
videos.save("out")
assert len(list(pathlib.Path("out").glob("*.mp4"))) == 2
chunks = itertools.islice(generator.stream(sampler=mf.Halton(num_steps=2)), 2)
assert sum(chunk.shape[1] for chunk in chunks) == 2
"""


def test_an_installed_wheel_generates_and_streams(tmp_path):
    """Outside any checkout, with the tokenizer and the model that ship."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".git", "tests", "runs", "data", "*.egg-info", "build")
    shutil.copytree(ROOT, source, ignore=ignored)
    shutil.copytree(
        ROOT / "maskflow_jax" / "data", source / "maskflow_jax" / "data", dirs_exist_ok=True
    )
    subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={tmp_path}", source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", f"--target={site}", wheel], check=True)
    (tmp_path / "work").mkdir()
    program = f"import sys; sys.path.insert(0, {str(site)!r})\n{WHEEL}"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "work", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

"""The report of a tokenizer: its figures by their definitions, and its program."""

import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tiny
from flax import nnx

from maskflow_jax.evaluation import reconstruction
from maskflow_jax.io import video_files
from maskflow_jax.tokenizers.tokenizer import Tokenizer, save_tokenizer
from maskflow_jax.tokenizers.vqgan import VQGAN, VQGANConfig

ROOT = Path(__file__).parents[2]
CONFIG = VQGANConfig(
    frame_size=16,
    base_width=4,
    width_multipliers=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(),
    codebook_size=20,
    norm_groups=2,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers") / "tiny"
    params = tiny.random_params(lambda: VQGAN(CONFIG, nnx.Rngs(0)), scale=0.3)
    save_tokenizer(folder, CONFIG, params)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos in folders, one file that is none, and something else."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for name in ("a/one.mp4", "two.mp4"):
        frames = rng.integers(0, 256, (6, 24, 36, 3), dtype=np.uint8)
        video_files.write_mp4(folder / name, frames, 8)
    (folder / "broken.AVI").write_bytes(b"no video")
    (folder / "notes.txt").write_text("nothing")
    return folder


def test_psnr_by_its_definition():
    real = np.full((3, 12, 12, 3), 100, np.uint8)
    decoded = real.copy()
    decoded[0] += 10
    decoded[1, :6] += 20
    expected = 10 * np.log10(255**2 / np.array([100, 200]))
    found = reconstruction.frame_psnr(real, decoded)
    np.testing.assert_allclose(found[:2], expected)
    assert found[2] == reconstruction.EXACT_PSNR


def test_code_statistics():
    even = reconstruction.code_statistics(np.array([3, 3, 0, 3, 0, 0]))
    assert even == {"codes_used": 3, "code_usage": 0.5, "perplexity": pytest.approx(3)}
    assert reconstruction.code_statistics(np.array([0, 9]))["perplexity"] == 1


def test_figures_over_videos_count_frames_alike():
    pytest.importorskip("skimage")
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    decoded = np.clip(real + rng.integers(-9, 9, real.shape), 0, 255).astype(np.uint8)
    tokens = rng.integers(0, 20, (5, 8, 8))
    apart, together = (reconstruction.Reconstruction(20) for _ in range(2))
    for part in (slice(0, 1), slice(1, 5)):
        apart.add(real[part], tokens[part], decoded[part])
    together.add(real, tokens, decoded)
    first, second = apart.summary(), together.summary()
    assert (first.pop("videos"), second.pop("videos")) == (2, 1)
    assert first == pytest.approx(second)
    assert 0.9 < first["ssim"] < 1
    assert reconstruction.frame_ssim(real[:1], real[:1]) == pytest.approx(1)
    error = np.mean((real.astype(float) - decoded) ** 2)
    assert first["psnr_of_all_pixels"] == pytest.approx(10 * np.log10(255**2 / error))


def test_the_report_of_a_folder(folder, videos, tmp_path):
    pytest.importorskip("skimage")
    command = [sys.executable, "-m", "launch.reconstruct", f"--tokenizer={folder}"]
    command += [f"--input={videos}", f"--out={tmp_path}", "--num_frames=5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    contents = json.loads((tmp_path / "report.json").read_text())
    assert contents["tokenizer"] == Tokenizer.load(folder).identity
    assert (contents["videos"], contents["frames"]) == (2, 10)
    assert [entry["frames"] for entry in contents["by_video"]] == [5, 5]
    mean = np.mean([entry["psnr"] for entry in contents["by_video"]])
    assert contents["psnr"] == pytest.approx(mean)
    (skipped,) = contents["skipped"]
    assert skipped["video"].endswith("broken.AVI")
    assert f"| PSNR, mean over frames | {mean:.2f} dB |" in done.stdout
    assert "| files skipped | 1 |" in done.stdout
    shown, fps = video_files.read_video(tmp_path / "video_001.mp4")
    # Real | gap | reconstructed, 16 times as large.
    assert shown.shape[:3] == (5, 256, 16 * (16 + 2 + 16))
    assert fps == pytest.approx(8, rel=0.02)


class Blurring:
    """A tokenizer of another kind, as far as the report can tell: tokens are brightness."""

    identity: ClassVar[dict] = {"name": "blur", "codebook_size": 256, "frame_size": 24}

    def encode(self, frames):
        return frames[:, ::2, ::2, 0].astype(np.int32)

    def decode(self, tokens):
        return tokens.repeat(2, 1).repeat(2, 2)[..., None].repeat(3, 3).astype(np.uint8)


def test_the_report_of_the_maze_by_any_tokenizer(tmp_path):
    pytest.importorskip("skimage")
    pytest.importorskip("vizdoom")
    settings = {"train_videos": 0, "test_videos": 1, "seed": 7, "frame_size": 24}
    videos = reconstruction.find_videos("my_way_home", None, settings, num_videos=1)
    contents = reconstruction.report_on(Blurring(), videos, tmp_path, num_frames=3, num_shown=0)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert contents["videos"] == 1
    assert 10 < contents["psnr"] < 50
    assert contents["codes_used"] < 256


def test_the_report_of_another_source(tmp_path):
    """Arrays and numbered images are read as `prepare_dataset` reads them."""
    pytest.importorskip("skimage")
    frames = np.random.default_rng(0).integers(0, 255, (6, 24, 24, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", video=frames, actions=np.zeros(6))
    settings = {"fps": 5.0, "key": "video"}
    videos = reconstruction.find_videos("arrays", tmp_path, settings)
    contents = reconstruction.report_on(Blurring(), videos, tmp_path, num_frames=4, num_shown=1)
    assert [(entry["video"], entry["frames"]) for entry in contents["by_video"]] == [("a.npz", 4)]
    with pytest.raises(ValueError, match="unknown source 'movies'"):
        reconstruction.find_videos("movies", tmp_path)
    with pytest.raises(ValueError, match="images needs an input"):
        reconstruction.find_videos("images", None)


def test_nothing_to_report_on(folder, videos, tmp_path):
    tokenizer = Tokenizer.load(folder)
    with pytest.raises(FileNotFoundError, match=r"no folder at .*none"):
        reconstruction.find_videos("video_files", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no videos at"):
        reconstruction.find_videos("images", videos, {"fps": 5.0})
    broken = reconstruction.find_videos("video_files", videos / "broken.AVI")
    with pytest.raises(ValueError, match=r"no video could be read:\s+.*broken\.AVI"):
        reconstruction.report_on(tokenizer, broken, tmp_path)


def test_without_scikit_image_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    with pytest.raises(ImportError, match=r"pip install 'maskflow_jax\[report\]'"):
        reconstruction.frame_ssim(frames, frames)

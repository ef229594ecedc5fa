"""The network of `maze_fd`: what it recognises, what its distance sees, its files."""

import jax
import numpy as np
import pytest
from distributions import quick_jit
from flax import nnx
from safetensors.numpy import save_file

from maskflow_jax.evaluation import maze_feature_training as training
from maskflow_jax.evaluation import maze_features
from maskflow_jax.evaluation.features import FeatureExtractor
from maskflow_jax.evaluation.frechet import frechet_distance, kernel_distance
from maskflow_jax.tokenizers.tokenizer import Tokenizer

pytest.importorskip("vizdoom")
SETTINGS = training.MazeFeatureTraining(
    train_videos=2, test_videos=24, num_frames=64, num_steps=2, batch_size=4, seed=19
)


@pytest.fixture(scope="module")
def videos():
    """Validation videos of mazes that nothing was trained on; half of them decoded."""
    tokenizer = Tokenizer.load("maze")
    return training.render_labelled(
        SETTINGS, "test", lambda frames: tokenizer.decode(tokenizer.encode(frames))
    )


def test_the_shipped_network_is_small_and_recognises_mazes(videos):
    assert maze_features.SHIPPED.stat().st_size <= 2e6
    found = training.maze_network_accuracy(maze_features.load_maze_network(), videos)
    assert found["motion"] > 0.97
    assert found["colours"] > 0.9


def test_the_distance_sees_what_is_wrong_with_a_video(videos):
    """Two disjoint real sets are closer than real and damaged video of the same mazes."""
    extractor = FeatureExtractor(maze_features.maze_features(), 24)
    starts = np.arange(4) * 16
    clips = np.concatenate([videos.frames[:, s : s + 16] for s in starts])
    order = np.random.default_rng(0).permutation(len(clips))
    half = len(clips) // 2

    def features(part):
        return extractor.extract(lambda first: iter(part[first:]), len(part))

    left, right = features(clips[order[:half]]), clips[order[half:]]
    floor = frechet_distance(left, features(right)), kernel_distance(left, features(right))
    damaged = {
        "backwards": right[:, ::-1],
        "standing still": np.repeat(right[:, :1], 16, axis=1),
        "other colours": right[..., ::-1],
        "a cut in the middle": np.concatenate([right[:, :8], np.roll(right, 1, 0)[:, 8:]], 1),
    }
    for name, video in damaged.items():
        assert frechet_distance(left, features(np.ascontiguousarray(video))) > 1.2 * floor[0], name
        assert kernel_distance(left, features(np.ascontiguousarray(video))) > floor[1], name


def test_patches_are_the_convolution():
    rng, strides = np.random.default_rng(0), (1, 2, 2)
    x, kernel = rng.normal(size=(1, 3, 4, 6, 2)), rng.normal(size=(3, 3, 3, 2, 3))
    ways = (maze_features.convolve_patches, maze_features.convolve)
    found = [quick_jit(way, static_argnums=2)(x, kernel, strides) for way in ways]
    assert found[0].shape == (1, 3, 2, 3, 3)
    np.testing.assert_allclose(*found, atol=1e-5)


def test_a_network_is_trained_saved_and_loaded(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_STANDARD_CLIPS", 32)
    monkeypatch.setattr(jax, "jit", quick_jit)
    read = nnx.jit(lambda network, clips: network.features(clips))
    network = training.train_maze_network(SETTINGS, videos)
    clips, _, _ = videos.clips(np.arange(24), np.full(24, 5))
    features = read(network, clips)
    assert abs(features.mean()) < 0.3 and 0.5 < features.std() < 2  # standardised
    maze_features.save_maze_network(network, tmp_path / "network.safetensors")
    loaded = maze_features.load_maze_network(tmp_path / "network.safetensors")
    np.testing.assert_allclose(read(loaded, clips), features, atol=0.05)


def test_wrong_files_and_settings_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no maze features"):
        maze_features.load_maze_network(tmp_path / "none")
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"missing kernels.0[\s\S]*unexpected a"):
        maze_features.load_maze_network(tmp_path / "other")
    (tmp_path / "cut").write_bytes(b"12345678")
    with pytest.raises(ValueError, match="cannot be read"):
        maze_features.load_maze_network(tmp_path / "cut")
    with pytest.raises(ValueError, match="num_frames is 15"):
        training.MazeFeatureTraining(num_frames=15)

"""Reading poses: the graph of legal motion, the shipped reader on validation mazes."""

import numpy as np
import pytest

from maskflow_jax.data.sources.maze import MazeSettings, maze_videos, video_labels
from maskflow_jax.evaluation.motion_reader import (
    NUM_POSES,
    MotionReader,
    Motions,
    fit_motion_reader,
    may_follow,
    poses_of,
)
from maskflow_jax.tokenizers.tokenizer import Tokenizer

SETTINGS = MazeSettings(num_videos=12, num_frames=80, seed=11, split="test")


@pytest.fixture(scope="module")
def videos():
    """Validation videos [12, 80, 64, 64, 3] and their true poses."""
    made = list(maze_videos(SETTINGS))
    return np.stack([v.frames for v in made]), np.stack([poses_of(v.labels.walk) for v in made])


def test_every_real_motion_is_legal_and_every_legal_motion_occurs():
    settings = MazeSettings(num_videos=60, num_frames=300)
    poses = np.stack([poses_of(video_labels(settings, i).walk) for i in range(60)])
    occurs = np.zeros((NUM_POSES, NUM_POSES), bool)
    occurs[poses[:, :-1], poses[:, 1:]] = True
    np.testing.assert_array_equal(occurs, may_follow())


def test_drift_is_seen_window_by_window():
    legal = np.array([[True, True, True, False, False, True]])
    turning = np.array([[True, True, False, False, False, False, True]])
    motions = Motions(poses=np.zeros((1, 7), int), legal=legal, turning=turning)
    first, second = motions.by_window(3)
    assert first == {"legal": 1.0, "turning": pytest.approx(2 / 3)}
    assert second == {"legal": pytest.approx(1 / 3), "turning": 0.0}


def test_where_the_camera_may_go_from_each_pose():
    choices = may_follow().sum(1)
    assert choices[0] == 3
    assert set(choices[1:]) == {1}


def test_shipped_reader_reads_decoded_validation_mazes(videos):
    frames, poses = videos
    tokenizer, reader = Tokenizer.load("maze"), MotionReader.load()
    decoded = tokenizer.decode(tokenizer.encode(frames.reshape(-1, 64, 64, 3)))
    read = reader.read(decoded.reshape(frames.shape))
    assert np.mean(read.poses == poses) > 0.97
    assert read.legal.mean() > 0.95
    assert read.turning.mean() == pytest.approx(np.mean(poses >= 4), abs=0.02)


def test_frames_in_disorder_are_not_legal(videos):
    frames, _ = videos
    reader = MotionReader.load()
    order = np.random.default_rng(0).permutation(80)
    assert reader.read(frames[:, order]).legal.mean() < 0.3
    assert reader.read(frames[:, ::-1]).legal.mean() < 0.6
    assert reader.read(np.repeat(frames[:, :1], 10, axis=1)).legal.mean() == 0


def test_a_reader_is_fitted_saved_and_loaded(videos, tmp_path):
    frames, poses = videos
    frames, poses = frames.reshape(-1, 64, 64, 3), poses.reshape(-1)
    reader = fit_motion_reader(frames, poses, num_steps=60)
    assert np.mean(reader.poses(frames) == poses) > 0.7
    reader.save(tmp_path / "reader.safetensors")
    loaded = MotionReader.load(tmp_path / "reader.safetensors")
    assert np.mean(loaded.poses(frames) == reader.poses(frames)) > 0.99
    with pytest.raises(FileNotFoundError, match="no motion reader"):
        MotionReader.load(tmp_path / "none")

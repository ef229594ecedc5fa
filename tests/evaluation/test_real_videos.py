"""Real videos: which clips are drawn, what is refused."""

import numpy as np
import pytest
import tiny

from maskflow_jax.evaluation import real_videos
from maskflow_jax.evaluation.real_videos import centre_clips, halves, random_clips
from maskflow_jax.io import video_files
from maskflow_jax.tokenizers.tokenizer import Tokenizer

LENGTHS = [20, 9, 30, 12, 16]


def test_clips_are_spread_over_videos_and_lie_within_them():
    clips = random_clips(LENGTHS, 10, 8, np.random.default_rng(0))
    counts = np.bincount([clip.video for clip in clips], minlength=5)
    assert counts.tolist() == [2] * 5
    assert all(0 <= clip.start <= LENGTHS[clip.video] - 8 for clip in clips)
    assert clips == random_clips(LENGTHS, 10, 8, np.random.default_rng(0))
    assert clips != random_clips(LENGTHS, 10, 8, np.random.default_rng(1))
    starts = {
        c.start for s in range(40) for c in random_clips([10], 1, 8, np.random.default_rng(s))
    }
    assert starts == {0, 1, 2}


def test_halves_have_no_video_in_common_and_one_size():
    for seed in range(5):
        clips = random_clips([20] * 9, 8, 8, np.random.default_rng(seed))
        even, odd = halves(clips)
        assert len(even) == len(odd) == 4
        assert not {clips[i].video for i in even} & {clips[i].video for i in odd}


def test_centre_clips_begin_where_the_middle_window_begins():
    assert [clip.start for clip in centre_clips(LENGTHS, 8, 12)] == [4, 0, 9, 0, 2]
    with pytest.raises(ValueError, match=r"2 real videos .* such as number 1 with 9"):
        centre_clips(LENGTHS, 16, 16)
    with pytest.raises(ValueError, match="fewer frames than the 13"):
        random_clips(LENGTHS, 3, 13, np.random.default_rng(0))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    tiny.write_world(folder)
    return Tokenizer.load(folder / "tokenizer")


def test_raw_and_reconstructed_frames_of_a_source(tokenizer, tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        frames = rng.integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
        video_files.write_mp4(tmp_path / f"{name}.mp4", frames, 5)
    source = {"root": str(tmp_path)}  # as the command line has it
    real = real_videos.from_source("video_files", source, tokenizer, fps=5.0)
    raw, _ = video_files.read_video(tmp_path / "b.mp4")
    np.testing.assert_array_equal(real.frames(1, "raw"), raw)
    decoded = tokenizer.decode(tokenizer.encode(raw))
    np.testing.assert_array_equal(real.frames(1, "reconstructed"), decoded)
    clips = random_clips(real.lengths, 4, 3, rng)
    for mode, frames in (("raw", raw), ("reconstructed", decoded)):
        cut = list(real.clips(clips, 3, mode))
        at = clips[-1].start
        np.testing.assert_array_equal(cut[-1], frames[at : at + 3])
    # Through a filter, whole videos are filtered before they are cut.
    reverse = list(real.clips(clips, 3, "raw", lambda frames: frames[::-1]))
    np.testing.assert_array_equal(reverse[-1], raw[::-1][clips[-1].start :][:3])
    with pytest.raises(ValueError, match=r"a\.mp4 has 5 frames per second, the model's data 10"):
        real_videos.from_source("video_files", source, tokenizer, fps=10.0)
    other = real_videos.from_source("video_files", source, tokenizer, fps=5.0, max_frames=5)
    assert other.digest != real.digest and other.lengths == [5, 5]


def test_what_is_no_real_video_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="holds no videos"):
        real_videos.from_tokens([], tokenizer, "the split")
    tokens = real_videos.from_tokens([np.zeros((4, 4, 4), int)], tokenizer, "the split")
    with pytest.raises(ValueError, match="the split holds tokens and no raw frames: name a source"):
        tokens.frames(0, "raw")
    video_files.write_mp4(tmp_path / "grey.mp4", np.full((6, 8, 8, 3), 128, np.uint8), 5)
    with pytest.raises(ValueError, match=r"grey\.mp4 is one colour"):
        real_videos.from_source("video_files", {"root": tmp_path}, tokenizer, fps=5.0)
    (tmp_path / "tokens.h5").touch()
    with pytest.raises(ValueError, match="source hdf5_tokens holds tokens, not videos"):
        settings = {"root": tmp_path / "tokens.h5", "fps": 5.0}
        real_videos.from_source("hdf5_tokens", settings, tokenizer, fps=5.0)
    (tmp_path / "empty").mkdir()
    with pytest.raises((FileNotFoundError, ValueError), match=r"empty|no validation videos"):
        real_videos.from_source("video_files", {"root": tmp_path / "empty"}, tokenizer, fps=5.0)

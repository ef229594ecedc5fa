"""Clip batches: every video once an epoch, exact resumption, slices that never overlap.

Each token tells its video and its frame, so that a clip says where it comes from.
"""

import grain
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from maskflow_jax.data.dataset import read_token_dataset, write_token_dataset
from maskflow_jax.data.pipeline import clip_batches, eval_clips

LENGTHS = [12, 13, 12, 20, 12, 15, 17]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    def generate():
        for index, frames in enumerate(LENGTHS):
            tokens = np.stack([np.full(frames, index), np.arange(frames)], -1)
            yield f"video {index}", tokens[:, None], 8.0  # [F, 1, 2]

    directory = tmp_path_factory.mktemp("data") / "d"
    tokenizer = {"name": "t", "sha256": "0", "codebook_size": 99, "grid": [1, 2], "frame_size": 8}
    write_token_dataset(directory, {"train": generate()}, tokenizer=tokenizer)
    return read_token_dataset(directory, "train")


def make(videos, **kwargs):
    return clip_batches(videos, **{"clip_frames": 8, "batch_size": 3, "seed": 5, **kwargs})


def take(iterator, batches):
    return np.concatenate([next(iterator) for _ in range(batches)])


def sources(clips):
    """Video and first frame of each clip [B, T, 1, 2]; each must be consecutive frames of one."""
    video, frame = clips[:, :, 0, 0], clips[:, :, 0, 1]
    assert (video == video[:, :1]).all()
    assert (np.diff(frame, axis=1) == 1).all()
    return video[:, 0], frame[:, 0]


def test_every_video_once_an_epoch_in_changing_order(videos):
    iterator = make(videos)
    assert iterator.videos_per_epoch == 7
    batch = next(iterator)
    assert batch.shape == (3, 8, 1, 2) and batch.dtype == np.int32
    clips = np.concatenate([batch, take(iterator, 27)])  # 12 epochs, in batches across borders
    epochs = sources(clips)[0].reshape(12, 7)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(7), (12, 1)))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) >= 10


def test_a_batch_can_be_larger_than_the_dataset(videos):
    index, _ = sources(next(make(videos, batch_size=21)))
    np.testing.assert_array_equal(np.bincount(index), [3] * 7)


def test_starts_are_uniform_and_change_from_epoch_to_epoch(videos):
    index, start = sources(take(make(videos, batch_size=70), 20))  # 200 epochs
    for video, frames in enumerate(LENGTHS):
        counts = np.bincount(start[index == video])
        assert len(counts) == frames - 8 + 1  # first and last possible start among them
        expected = 200 / len(counts)
        # Chi-square with at most 12 degrees of freedom: above 45 once in 100,000.
        assert ((counts - expected) ** 2 / expected).sum() < 45
    longest = start[index == 3]
    assert 0.02 < (longest[1:] == longest[:-1]).mean() < 0.16  # 1 in 13 if independent


def test_a_clip_may_be_the_whole_of_the_shortest_video(videos):
    index, start = sources(take(make(videos, clip_frames=12), 28))
    assert set(start[np.isin(index, [0, 2, 4])]) == {0}


def test_seeds(videos):
    first = take(make(videos), 20)
    np.testing.assert_array_equal(first, take(make(videos), 20))
    for seed in (4, 6, 0, 2**31):
        other = take(make(videos, seed=seed), 20)
        assert (sources(first)[0] == sources(other)[0]).mean() < 0.5  # 1 in 7 by chance


def test_process_slices(videos):
    iterators = [make(videos, batch_size=4, process_index=i, process_count=2) for i in range(2)]
    assert [iterator.videos_per_epoch for iterator in iterators] == [4, 3]
    clips = [take(iterator, 12) for iterator in iterators]
    assert all(len(part) == 24 for part in clips)  # half of each batch
    (zero, zero_start), (one, one_start) = map(sources, clips)
    assert set(zero) == {0, 2, 4, 6} and set(one) == {1, 3, 5}
    np.testing.assert_array_equal(np.sort(zero.reshape(6, 4)), np.tile([0, 2, 4, 6], (6, 1)))
    np.testing.assert_array_equal(np.sort(one.reshape(8, 3)), np.tile([1, 3, 5], (8, 1)))
    # The same draws would give the same place within the range of starts at every position.
    lengths = np.array(LENGTHS)
    place = [s / (lengths[v] - 8) for v, s in ((zero, zero_start), (one, one_start))]
    assert abs(np.corrcoef(place)[0, 1]) < 0.6


@pytest.mark.parametrize("saved_at", range(8))  # an epoch is 7/3 batches: borders fall within
def test_resume_at_each_batch(videos, saved_at):
    original, resumed = make(videos), make(videos)
    for _ in range(saved_at):
        next(original)
    next(resumed)  # it has begun to read elsewhere
    resumed.set_state(original.get_state())
    expected = take(original, 9)
    np.testing.assert_array_equal(take(resumed, 9), expected)
    assert resumed.get_state() == original.get_state()


def test_resume_through_orbax(videos, tmp_path):
    iterator = make(videos)
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        for step in (2, 4):
            take(iterator, 2)
            items = {
                "train_state": ocp.args.StandardSave({"step": jnp.asarray(step)}),
                "data": grain.checkpoint.CheckpointSave(iterator),
            }
            assert manager.save(step, args=ocp.args.Composite(**items))
        manager.wait_until_finished()
    expected = take(iterator, 10)
    for step in (4, 2):  # in the second epoch and in the first
        resumed = make(videos)
        with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
            restored = manager.restore(
                step,
                args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(resumed)),
            )
        assert restored["data"] is resumed
        following = take(resumed, 10 + 4 - step)[3 * (4 - step) :]
        np.testing.assert_array_equal(following, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "seed was 5 and is 6"),
        ({"batch_size": 6}, "batch_size was 3 and is 6"),
        ({"clip_frames": 4}, "clip_frames was 8 and is 4"),
        ({"batch_size": 6, "process_count": 2}, "batch_size.*; process_count was 1 and is 2"),
    ],
)
def test_resume_refuses_other_settings(videos, change, message):
    with pytest.raises(ValueError, match=message):
        make(videos, **change).set_state(make(videos).get_state())


def test_close(videos):
    iterator = make(videos)
    next(iterator)
    iterator.close()
    iterator.close()
    with pytest.raises(ValueError, match="closed"):
        next(iterator)


def all_eval_clips(videos, **kwargs):
    batches = list(eval_clips(videos, clip_frames=5, **kwargs))
    assert all(array.dtype == np.int32 for batch in batches for array in batch)
    assert all(not tokens[numbers < 0].any() for tokens, numbers in batches)
    found = [sources(tokens[numbers >= 0]) for tokens, numbers in batches if max(numbers) >= 0]
    clips = [(int(v), int(s)) for pair in found for v, s in zip(*pair, strict=True)]
    # A clip's number says which of all clips it is.
    numbers = [int(number) for _, numbers in batches for number in numbers if number >= 0]
    assert [EVAL_CLIPS[number] for number in numbers] == clips
    return batches, clips


EVAL_CLIPS = [(v, s) for v, n in enumerate(LENGTHS) for s in range(0, n - 4, 5)]  # 18 clips


def test_eval_clips(videos):
    assert len(EVAL_CLIPS) == 18
    batches, clips = all_eval_clips(videos, batch_size=4)
    assert clips == EVAL_CLIPS
    assert [numbers.tolist() for _, numbers in batches] == [
        *np.arange(16).reshape(4, 4).tolist(),
        [16, 17, -1, -1],
    ]
    assert {tokens.shape for tokens, _ in batches} == {(4, 5, 1, 2)}
    batches, clips = all_eval_clips(videos, batch_size=18)
    assert clips == EVAL_CLIPS and len(batches) == 1


@pytest.mark.parametrize("process_count", [2, 4])
def test_eval_clips_over_processes(videos, process_count):
    clips, counts = [], set()
    for index in range(process_count):
        batches, part = all_eval_clips(
            videos, batch_size=8, process_index=index, process_count=process_count
        )
        assert {tokens.shape[0] for tokens, _ in batches} == {8 // process_count}
        clips += part
        counts.add(len(batches))
    assert clips == EVAL_CLIPS
    assert counts == {3}  # equal, or the processes would wait for each other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_frames": 13}, "clip_frames is 13 .* has 12 frames: choose 1 to 12"),
        ({"clip_frames": 0}, "clip_frames is 0"),
        ({"process_count": 2}, "batch_size 3 .* multiple of 2"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"process_index": 1}, "process_index is 1: choose 0 to 0"),
    ],
)
def test_refusals(videos, change, message):
    with pytest.raises(ValueError, match=message):
        make(videos, **change)
    arguments = {"clip_frames": 8, "batch_size": 3, **change}
    with pytest.raises(ValueError, match=message):
        eval_clips(videos, **arguments)  # at once, not at the first batch


def test_refuses_more_processes_than_videos(videos):
    with pytest.raises(ValueError, match="7 videos cannot be divided among 8 processes"):
        make(videos, batch_size=8, process_count=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_workers": -1}, "num_workers is -1: choose 0"),
        ({"seed": -1}, "seed is -1: choose one from 0"),
        ({"seed": 2**32}, "seed is 4294967296"),
    ],
)
def test_numbers_out_of_range_are_named(videos, changes, message):
    with pytest.raises(ValueError, match=message):
        make(videos, **changes)

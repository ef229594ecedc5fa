"""Windows of scenes: every frame stands beside the caption of its own scene, however cut."""

import pickle

import numpy as np
import pytest
from scene_worlds import COLOURS, scenes_of, write_scene_videos
from tiny import TOKENIZER

from maskflow_jax.data.dataset import read_token_dataset, write_token_dataset
from maskflow_jax.data.pipeline import clip_batches, eval_clips
from maskflow_jax.data.scene_windows import SceneWindows
from maskflow_jax.scenes.conditions import SceneClips
from maskflow_jax.scenes.encoders import LabelEncoder, WordEncoder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_scene_videos(tmp_path_factory.mktemp("scenes") / "data")


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    lengths = [5, 2, 3, 4, 6]
    return write_scene_videos(tmp_path_factory.mktemp("ragged") / "data", frames=lengths)


def windows_of(videos, kind="consecutive", *, labels=False, **sizes):
    scenes = videos.scenes
    words = WordEncoder(scenes["words"], scenes["longest_caption"])
    encoder = LabelEncoder(scenes["labels"]) if labels else words
    sizes = {"num_scenes": 3, "clip_frames": 6} | sizes
    return SceneWindows(videos=videos, encoder=encoder, kind=kind, **sizes)


def assert_conditions_match(batch: SceneClips, windows):
    """The token of a frame is the colour that its caption names."""
    names, scenes = windows.encoder.record.names, batch.scenes
    for row, tokens in enumerate(batch.tokens):
        for frame, scene in zip(tokens, scenes.scene_id[row], strict=True):
            if scenes.labels is not None:
                said = names[scenes.labels[row, scene]]
            else:
                words = scenes.captions[row, scene][scenes.caption_mask[row, scene]]
                said = names[words[0]]
            assert COLOURS[frame[0, 0]] == said


def batches_of(videos, windows, count=4, **settings):
    settings = {"clip_frames": 6, "batch_size": 4, "seed": 0} | settings
    batches = clip_batches(videos, windows=windows, **settings)
    found = [next(batches) for _ in range(count)]
    batches.close()
    return found


@pytest.mark.parametrize("kind", ["consecutive", "unrelated", "sliding"])
@pytest.mark.parametrize("labels", [False, True])
def test_frames_stand_beside_their_own_caption(videos, kind, labels):
    windows = windows_of(videos, kind, labels=labels)
    for batch in batches_of(videos, windows):
        assert batch.tokens.shape == (4, 6, 4, 4) and batch.tokens.dtype == np.int32
        assert_conditions_match(batch, windows)
        if kind != "sliding":
            np.testing.assert_array_equal(batch.scenes.scene_id, [[0, 0, 1, 1, 2, 2]] * 4)


def colours_in_order(videos):
    return [[video["tokens"][s.start, 0, 0] for s in video["scenes"]] for video in videos]


def test_consecutive_scenes_are_of_one_video_and_unrelated_ones_are_not(videos):
    rows = ["".join(map(str, row)) for row in colours_in_order(videos)]

    def found_in_a_video(kind):
        batches = batches_of(videos, windows_of(videos, kind), count=8)
        shown = ["".join(map(str, clip[::2, 0, 0])) for b in batches for clip in b.tokens]
        return [any(window in row for row in rows) for window in shown]

    assert all(found_in_a_video("consecutive"))
    assert np.mean(found_in_a_video("unrelated")) < 0.5


def test_sliding_windows_have_ragged_scenes_of_the_same_shapes(ragged):
    windows = windows_of(ragged, "sliding", clip_frames=8)
    batches = batches_of(ragged, windows, clip_frames=8)
    assert windows.slots == 4  # such as 1 + 2 + 3 + 2 frames
    layouts = {tuple(row) for batch in batches for row in batch.scenes.scene_id}
    assert len(layouts) > 3
    for batch in batches:
        assert batch.scenes.captions.shape == (4, 4, 2)
        assert_conditions_match(batch, windows)
    found = list(eval_clips(ragged, clip_frames=8, batch_size=4, windows=windows))
    assert sum((numbers >= 0).sum() for _, numbers in found) == 6 * 2  # 20 frames each
    for batch, _ in found:
        assert_conditions_match(batch, windows)


@pytest.mark.parametrize(("kind", "count"), [("consecutive", 6), ("unrelated", 10)])
def test_validation_visits_windows_once_and_pads(videos, kind, count):
    windows = windows_of(videos, kind)
    found = list(eval_clips(videos, clip_frames=6, batch_size=4, windows=windows))
    numbers = np.concatenate([numbers for _, numbers in found])
    assert sorted(numbers[numbers >= 0]) == list(range(count))
    assert {batch.tokens.shape for batch, _ in found} == {(4, 6, 4, 4)}
    for batch, _ in found:
        assert_conditions_match(batch, windows)


def test_batches_resume_and_windows_travel_to_other_processes(videos):
    windows = pickle.loads(pickle.dumps(windows_of(videos, "unrelated")))
    batches = clip_batches(videos, clip_frames=6, batch_size=4, seed=3, windows=windows)
    next(batches)
    state = batches.get_state()
    wanted = next(batches)
    # The stage of training may change in between, the order of the data does not.
    again = clip_batches(videos, clip_frames=6, batch_size=4, seed=3, windows=windows_of(videos))
    again.set_state(state)
    again.close()
    again = clip_batches(videos, clip_frames=6, batch_size=4, seed=3, windows=windows)
    again.set_state(state)
    found = next(again)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)
    np.testing.assert_array_equal(found.scenes.captions, wanted.scenes.captions)
    batches.close()
    again.close()


@pytest.mark.parametrize(
    ("kind", "sizes", "message"),
    [
        ("consecutive", {"num_scenes": 6}, "has 5 scenes of the 6 of a window: lower"),
        ("consecutive", {"clip_frames": 15}, "fewer than the 5 frames of a scene"),
        ("unrelated", {"clip_frames": 15}, "fewer than the 5 frames of a scene"),
        ("consecutive", {"clip_frames": 7}, "7 frames do not divide into 3 scenes"),
        ("sliding", {"clip_frames": 21}, "video 0 have fewer frames than a window"),
    ],
)
def test_windows_that_a_dataset_does_not_have(videos, kind, sizes, message):
    with pytest.raises(ValueError, match=message):
        windows_of(videos, kind, **sizes)


def test_sliding_windows_need_scenes_without_gaps(tmp_path):
    scenes = [*scenes_of([1], 4), *scenes_of([2], 4, first=6)]
    tokens = np.zeros((10, 4, 4), int)
    splits = {"train": [("a", tokens, 5.0, scenes[::-1])]}  # stored in order
    write_token_dataset(tmp_path / "d", splits, tokenizer=TOKENIZER, with_scenes=True)
    videos = read_token_dataset(tmp_path / "d", "train")
    assert videos[0]["scenes"] == tuple(scenes)
    with pytest.raises(ValueError, match="frames between its scenes"):
        windows_of(videos, "sliding", clip_frames=4)
    assert windows_of(videos, num_scenes=2, clip_frames=8).slots == 2


def test_a_dataset_refuses_wrong_scenes_and_needs_some(tmp_path):
    tokens = np.zeros((6, 4, 4), int)
    for scenes, message in (
        (scenes_of([1, 2], 4), "video 'a': scene 4-8 leaves the video of 6 frames"),
        ([], "video 'a': it has no scene"),
    ):
        with pytest.raises(ValueError, match=message):
            write_token_dataset(
                tmp_path / "d",
                {"train": [("a", tokens, 5.0, scenes)]},
                tokenizer=TOKENIZER,
                with_scenes=True,
            )
    write_token_dataset(tmp_path / "d", {"train": [("a", tokens, 5.0)]}, tokenizer=TOKENIZER)
    plain = read_token_dataset(tmp_path / "d", "train")
    assert plain.scenes is None and "scenes" not in plain[0]
    with pytest.raises(ValueError, match="has no scenes; prepare it with captions"):
        SceneWindows(
            videos=plain, encoder=LabelEncoder("a"), kind="sliding", num_scenes=1, clip_frames=2
        )

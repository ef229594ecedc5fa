"""The reader reads real walks without an error, and finds what does not fit its caption."""

import numpy as np
import pytest

from maskflow_jax.data.sources.maze_scenes import MazeScenes
from maskflow_jax.evaluation.scene_reader import SceneReadings, measure, read_scenes
from maskflow_jax.tokenizers.tokenizer import Tokenizer

FRAMES = 6


@pytest.fixture(scope="module")
def walks():
    """Rendered walks of six scenes, before and after the shipped tokenizer, and their truth."""
    pytest.importorskip("vizdoom")
    source = MazeScenes(train_videos=1, test_videos=5, num_scenes=6)
    items = [item for item in source.listing().items if item.split == "test"]
    videos = np.stack([[frame.pixels for frame in source.open(item)] for item in items])
    tokenizer = Tokenizer.load("maze")
    decoded = np.stack([tokenizer.decode(tokenizer.encode(video)) for video in videos])
    return videos, decoded, [source.truth(*item.key) for item in items]


def captions_of(truth):
    return [[scene.caption for scene in scenes] for scenes in truth]


@pytest.mark.parametrize("which", ["rendered", "decoded"])
def test_real_walks_are_read_without_an_error(walks, which):
    videos = walks[0] if which == "rendered" else walks[1]
    readings = read_scenes(videos, FRAMES)
    measures = measure(readings, captions_of(walks[2]))
    assert measures.scenes == 30
    assert measures.semantic == measures.visual == measures.sequence == 1.0
    for shares, scenes in zip(readings.shares, walks[2], strict=True):
        np.testing.assert_allclose(shares.sum(axis=1), 1.0)
        for share, scene in zip(shares, scenes, strict=True):
            assert set(np.flatnonzero(share > 0.05)) == {*scene.colours, scene.pillars}


def test_what_does_not_fit_lowers_the_measure_that_it_concerns(walks):
    videos, _, truth = walks
    readings, captions = read_scenes(videos, FRAMES), captions_of(truth)
    shifted = measure(readings, [[*row[1:], row[0]] for row in captions])
    assert shifted.colours < 0.2 and shifted.semantic < 0.2 and shifted.motion < 0.8
    swap = {"turning left": "turning right", "turning right": "turning left"}
    mirrored = [
        [next((c.replace(a, b) for a, b in swap.items() if a in c), c) for c in row]
        for row in captions
    ]
    turned = measure(readings, mirrored)
    straight = np.mean([scene.motion == "straight" for scenes in truth for scene in scenes])
    assert turned.motion == pytest.approx(straight) and turned.colours == 1.0
    # Scenes of different walks share no pillars.
    mixed = SceneReadings(
        shares=np.stack([readings.shares[np.arange(5), s] for s in range(5)]),
        motions=readings.motions[:, :5].T,
    )
    columns = [[captions[v][s] for v in range(5)] for s in range(5)]
    assert measure(mixed, columns).visual < 0.7


def test_mirrored_frames_turn_the_other_way(walks):
    videos = walks[0]
    motions, mirrored = (read_scenes(v, FRAMES).motions for v in (videos, videos[:, :, :, ::-1]))
    other = np.array([0, 2, 1])
    np.testing.assert_array_equal(mirrored, other[motions])


def test_wrong_numbers_are_refused(walks):
    videos, _, truth = walks
    with pytest.raises(ValueError, match="give whole scenes"):
        read_scenes(videos[:, :35], FRAMES)
    with pytest.raises(ValueError, match="give one for each scene"):
        measure(read_scenes(videos, FRAMES), captions_of(truth)[:2])

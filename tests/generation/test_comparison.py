"""What samplers are compared by: the new frames, not the context that all of them share."""

import types

import numpy as np
import pytest

from maskflow_jax.generation.comparison import Arena

CHUNK, KNOWN = 4, 2  # of a context of 3: at most half a window


class Videos:
    """Token videos of one value each, so that any other value in a sample is seen."""

    def __init__(self, num_videos=4, num_frames=8):
        self.num_frames = np.full(num_videos, num_frames)
        self._tokens = np.zeros((num_frames, 2, 2), np.int32)

    def __len__(self):
        return len(self.num_frames)

    def __getitem__(self, index):
        return {"tokens": self._tokens}


def arena(**changes):
    sampling = types.SimpleNamespace(context_frames=3)
    config = types.SimpleNamespace(sampling=sampling)
    generator = types.SimpleNamespace(model=types.SimpleNamespace(config=config), window=CHUNK)
    settings = {"num_videos": 2, "factors": (1, 2), **changes}
    return Arena(generator, Videos(), np.arange(3), **settings)


def test_context_frames_do_not_enter_the_distances():
    videos = np.zeros((2, 8, 2, 2), np.int32)
    videos[:, :KNOWN] = 1  # another context than any real video has
    found = arena().distances(videos)
    assert {factor: apart.unigram for factor, apart in found.items()} == {1: 0.0, 2: 0.0}
    videos[:, KNOWN] = 2  # the first new frame
    found = arena().distances(videos)
    assert found[1].unigram == pytest.approx(1 / 2)
    assert found[2].unigram == pytest.approx(1 / 6)


def test_too_few_or_too_short_videos_are_refused():
    with pytest.raises(ValueError, match=r"4 validation videos; .*lower num_videos"):
        arena(num_videos=3)
    with pytest.raises(ValueError, match="has 8 frames, 12 are needed; lower factors"):
        arena(factors=(3,))

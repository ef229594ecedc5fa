"""Scenes of a video as they are stored, and every way in which they can be wrong."""

import pytest

from maskflow_jax.scenes.records import Scene, problems_of, read_scenes, write_scenes

GOOD = [Scene(start=0, stop=4, caption="a"), Scene(start=4, stop=9, label="b")]


def test_scenes_come_back():
    assert read_scenes(write_scenes(GOOD)) == tuple(GOOD)
    assert problems_of(GOOD[::-1], 9) == []


@pytest.mark.parametrize(
    ("scenes", "message"),
    [
        ([Scene(start=0, stop=11, caption="a")], "leaves the video of 10 frames"),
        ([Scene(start=3, stop=3, caption="a")], "has no frame"),
        ([Scene(start=-1, stop=3, caption="a")], "has no frame"),
        ([Scene(start=0, stop=3, caption="a")], "shorter than 4 frames: join or drop"),
        ([Scene(start=0, stop=5, caption=" ")], "neither a label nor a caption"),
        ([Scene(start=0, stop=5, caption="a" * 2001)], "2001 characters: use 2000 at most"),
        ([GOOD[1], Scene(start=0, stop=5, caption="a")], "scenes 0-5 and 4-9 overlap"),
    ],
)
def test_what_is_wrong_with_scenes_is_said(scenes, message):
    (problem,) = problems_of(scenes, 10, shortest=4)
    assert message in problem

"""Walks in scenes: what captions say is so, and what they do not say stays."""

import itertools

import numpy as np
import pytest

from maskflow_jax.data.sources.maze_map import WALL_COLOURS, visible_walls
from maskflow_jax.data.sources.maze_motion import MOTIONS
from maskflow_jax.data.sources.maze_scenes import (
    LEAST_SHARE,
    MazeScenes,
    caption_of,
    label_of,
    read_caption,
)
from maskflow_jax.data.sources.registry import make_source

SOURCE = MazeScenes(train_videos=6, test_videos=2, num_scenes=8)


@pytest.fixture(scope="module")
def walks():
    return [SOURCE.truth("train", index) for index in range(6)]


def test_every_scene_is_a_room_with_its_motion_and_a_passage(walks):
    motions = set()
    for scenes in walks:
        for scene in scenes:
            first, second = np.split(scene.walk.motion, 2)
            assert len(scene.walk.motion) == SOURCE.frames_per_scene == 6
            assert set(first) == {MOTIONS.index(scene.motion)}
            assert set(second) == {MOTIONS.index("straight")}
            motions.add(scene.motion)
    assert motions == set(MOTIONS)


def test_named_colours_are_seen_and_no_others_but_the_pillars(walks):
    two = 0
    for scenes in walks:
        assert len({scene.pillars for scene in scenes}) == 1
        for scene in scenes:
            walls = visible_walls(scene.maze, scene.walk.position, scene.walk.heading, 64)
            seen = scene.maze.colours[walls[..., 0], walls[..., 1]]
            assert scene.pillars not in scene.colours
            assert set(np.unique(seen)) == {*scene.colours, scene.pillars}
            assert all(np.mean(seen == colour) >= LEAST_SHARE for colour in scene.colours)
            two += len(scene.colours) == 2
    assert 0.2 < two / 48 < 0.6  # of 0.4
    pillars = {scenes[0].pillars for scenes in walks}
    assert len(pillars) > 2  # walks differ in what their scenes share


def test_consecutive_scenes_go_on_where_the_last_one_ended_with_other_colours(walks):
    for scenes in walks:
        position = np.concatenate([scene.walk.position for scene in scenes])
        assert np.abs(np.diff(position, axis=0)).max() <= 128 / SOURCE.frames_per_block + 1
        plans = {scene.maze.open.tobytes() for scene in scenes}
        assert len(plans) == 1
        for one, other in itertools.pairwise(scenes):
            assert not set(one.colours) & set(other.colours)


def test_captions_say_what_they_are_read_to_say(walks):
    assert caption_of((0, 7), "left") == "red and white walls, turning left"
    assert label_of((0, 7), "left") == "red+white/left"
    assert read_caption("white and red walls, turning left") == ((0, 7), "left")
    for scenes in walks:
        for scene in scenes:
            assert read_caption(scene.caption) == (scene.colours, scene.motion)
    for wrong in ("blue walls, turning left", "red walls, running", "red"):
        with pytest.raises(ValueError, match="does not name colours"):
            read_caption(wrong)


def test_items_carry_their_scenes_in_seconds():
    items = SOURCE.listing().items
    assert len(items) == 8
    labels = items[0].labels
    assert labels["pillars"] in WALL_COLOURS
    assert [scene["start"] for scene in labels["scenes"]] == pytest.approx(0.6 * np.arange(8))
    assert labels["scenes"][0]["caption"].endswith(("straight", "left", "right"))
    assert SOURCE.length(items[0]) == (48, 4.8)


def test_validation_walks_are_in_other_mazes():
    train = {SOURCE.truth("train", i)[0].maze.seed % 2 for i in range(3)}
    test = {SOURCE.truth("test", i)[0].maze.seed % 2 for i in range(2)}
    assert (train, test) == ({0}, {1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_scenes": 0}, "num_scenes 0"),
        ({"two_colours": 1.5}, "a share from 0 to 1"),
        ({"textures": "my_way_home"}, "'checker' or 'plain'"),
        ({"frames_per_block": 0}, "num_frames is 0"),
        ({"frame_size": 32}, "frame_size is 32"),
    ],
)
def test_settings_that_cannot_be_rendered(settings, message):
    with pytest.raises(ValueError, match=message):
        make_source("maze_scenes", settings)

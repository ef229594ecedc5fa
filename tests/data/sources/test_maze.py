"""Generated mazes as video: reproducible, held-out places, exact labels, always in motion."""

import dataclasses
import hashlib
import multiprocessing
import sys

import numpy as np
import pytest

from maskflow_jax.data.sources import maze_engine
from maskflow_jax.data.sources.maze import (
    TEXTURES,
    MazeSettings,
    maze_videos,
    video_labels,
)
from maskflow_jax.data.sources.maze_colours import palette
from maskflow_jax.data.sources.maze_map import WALL_COLOURS, visible_walls
from maskflow_jax.data.sources.maze_wad import map_name

SETTINGS = MazeSettings(num_videos=2, num_frames=12, seed=7)


def settings(**changes):
    return dataclasses.replace(SETTINGS, **changes)


def digests(of):
    """{id: hash of the frames}."""
    return {v.id: hashlib.sha256(v.frames.tobytes()).hexdigest() for v in maze_videos(of)}


@pytest.fixture(scope="module")
def short_digests():
    return digests(SETTINGS)


@pytest.fixture(scope="module")
def long_videos():
    return list(maze_videos(settings(num_videos=4, num_frames=160, light=255)))


def test_yields_frames_ids_and_labels():
    videos = list(maze_videos(settings(num_frames=3)))
    assert [video.id for video in videos] == ["maze_train_7_000000", "maze_train_7_000001"]
    for video in videos:
        assert video.frames.shape == (3, 64, 64, 3)
        assert video.frames.dtype == np.uint8
        assert video.fps == 10
        assert video.labels.walk.position.shape == (3, 2)
        assert video.labels.walk.heading.shape == video.labels.walk.motion.shape == (3,)
        assert video.labels.colours_seen.shape == (3, len(WALL_COLOURS))


def test_same_seed_same_bytes_in_two_fresh_processes_at_once(short_digests):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        both = pool.map(digests, [SETTINGS, SETTINGS], chunksize=1)
    assert both == [short_digests, short_digests]


def test_a_video_does_not_depend_on_those_before_it(short_digests):
    alone = digests(settings(num_videos=1, first_video=1))
    assert alone == {"maze_train_7_000001": short_digests["maze_train_7_000001"]}


def test_longer_video_starts_with_the_shorter():
    (short,) = maze_videos(settings(num_videos=1, num_frames=5))
    (long,) = maze_videos(settings(num_videos=1, num_frames=9))
    np.testing.assert_array_equal(long.frames[:5], short.frames)


def test_more_mazes_than_one_engine_holds(monkeypatch, short_digests):
    monkeypatch.setattr("maskflow_jax.data.sources.maze._MAZES_PER_ENGINE", 1)
    assert digests(SETTINGS) == short_digests


def test_seeds_and_splits_give_other_videos(short_digests):
    for other in ({"seed": 8}, {"split": "test"}):
        assert not set(digests(settings(**other)).values()) & set(short_digests.values())


def test_training_and_validation_mazes_are_disjoint():
    mazes = {
        split: [video_labels(settings(split=split), index).maze for index in range(200)]
        for split in ("train", "test")
    }
    assert {maze.seed % 2 for maze in mazes["train"]} == {0}
    assert {maze.seed % 2 for maze in mazes["test"]} == {1}
    plans = {split: {m.open.tobytes() for m in of} for split, of in mazes.items()}
    assert len(plans["train"]) == 200
    assert not plans["train"] & plans["test"]


def test_every_frame_moves(long_videos):
    for video in long_videos:
        change = np.abs(np.diff(video.frames.astype(int), axis=0)).max((1, 2, 3))
        assert change.min() > 20


def brightest_shades():
    """The brightest of the 25 shades of every wall colour, [colours, 3]."""
    return palette()[1 + 25 * np.arange(len(WALL_COLOURS))].astype(int)


def test_labels_say_what_is_on_the_wall_in_every_pixel_column(long_videos):
    """In full light, a pixel of a pure wall colour has the colour that the labels compute."""
    rgb = brightest_shades()
    for video in long_videos:
        horizon = video.frames[:, 32].astype(int)  # [F, S, 3]
        pure = np.all(horizon[:, :, None] == rgb, axis=-1)  # [F, S, colours]
        walls = visible_walls(
            video.labels.maze, video.labels.walk.position, video.labels.walk.heading, 64
        )
        colour = video.labels.maze.colours[walls[..., 0], walls[..., 1]]
        decided = pure.any(-1)
        assert decided.mean() > 0.7
        assert np.mean(np.argmax(pure, -1)[decided] == colour[decided]) > 0.998


def test_colours_seen_are_those_of_the_columns(long_videos):
    rgb = brightest_shades()
    for video in long_videos:
        horizon = video.frames[:, 32].astype(int)
        wide = np.stack([np.sum(np.all(horizon == c, -1), 1) >= 3 for c in rgb], 1)
        assert np.all(video.labels.colours_seen[wide])
        assert video.labels.colours_seen.any(1).all()


def test_the_engine_s_own_variables_agree_with_the_labels():
    """Position and heading as the engine reports them, at the moment of each picture."""
    import vizdoom

    labels = video_labels(settings(num_frames=40), 0)
    variable = vizdoom.GameVariable
    poses = []
    with maze_engine.maze_camera([labels.maze], frame_size=64, textures="plain", light=224) as cam:
        look = cam._look

        def note(*args):
            look(*args)
            names = (variable.POSITION_X, variable.POSITION_Y, variable.ANGLE)
            poses.append([cam._game.get_game_variable(name) for name in names])

        cam._look = note
        cam.film(0, labels.walk)
    poses = np.array(poses)
    np.testing.assert_array_equal(poses[:, :2], labels.walk.position)
    error = (poses[:, 2] - labels.walk.heading + 180) % 360 - 180
    assert np.abs(error).max() < 0.02


def test_frames_of_128_pixels_show_the_same_as_those_of_64():
    (small,) = maze_videos(settings(num_videos=1, num_frames=4))
    (large,) = maze_videos(settings(num_videos=1, num_frames=4, frame_size=128))
    assert large.frames.shape == (4, 128, 128, 3)
    shrunk = large.frames.reshape(4, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(shrunk - small.frames).mean() < 3


@pytest.mark.parametrize(
    "change",
    [
        {"rooms": 3},
        {"colours": (8, 8)},
        {"frames_per_cell": 8},
        {"frames_per_turn": 3},
        {"light": 160},
        {"textures": "plain"},
        {"textures": "my_way_home"},
    ],
)
def test_every_setting_changes_the_frames(change, short_digests):
    assert set(digests(settings(**change)).values()).isdisjoint(short_digests.values())


def test_my_way_home_is_named_and_has_no_labels():
    (video,) = maze_videos(settings(num_videos=1, num_frames=2, textures=TEXTURES[-1]))
    assert video.id.startswith("my_way_home_")
    assert video.labels is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 0}, "num_frames is 0: choose a whole number from 1 or more"),
        ({"num_videos": -1}, "num_videos"),
        ({"seed": -1}, "seed"),
        ({"split": "validation"}, "split is 'validation': choose one of"),
        ({"frame_size": 100}, "frame_size is 100: choose one of"),
        ({"rooms": 1}, "rooms is 1: choose a whole number from 2 to 20"),
        ({"colours": (0, 3)}, "colours is"),
        ({"colours": (5, 4)}, "colours is"),
        ({"colours": (4, 99)}, "colours is"),
        ({"frames_per_cell": 0}, "frames_per_cell"),
        ({"frames_per_turn": 1000}, "frames_per_turn"),
        ({"light": 256}, "light is 256: choose a whole number from 0 to 255"),
        ({"textures": "brick"}, "textures is 'brick': choose one of"),
        ({"fps": 0}, "fps is 0: choose a rate"),
        ({"rooms": 2.5}, "rooms is 2.5: choose a whole number"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        settings(**change)


def test_all_problems_are_named_at_once():
    with pytest.raises(ValueError, match=r"rooms is 0.*; light is 300"):
        settings(rooms=0, light=300)


def test_missing_vizdoom_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(ImportError, match="extra `maze`"):
        next(maze_videos(SETTINGS))


def test_labels_need_no_engine(monkeypatch):
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    assert len(video_labels(SETTINGS, 0).walk.heading) == 12


def test_leaves_no_files_and_no_engine_behind(tmp_path, monkeypatch):
    closed = []
    monkeypatch.chdir(tmp_path)
    close = maze_engine.import_vizdoom().DoomGame.close
    monkeypatch.setattr(
        "vizdoom.DoomGame.close", lambda game: (closed.append(game), close(game))[1]
    )
    videos = maze_videos(SETTINGS)
    next(videos)
    assert not closed
    videos.close()
    assert len(closed) == 1
    assert list(tmp_path.iterdir()) == []


def test_names_fit_the_engine():
    assert len(map_name(10**6 - 1)) == 8

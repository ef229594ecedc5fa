"""Maze walks: the same bytes for the same seed, apart across splits, always moving, no cuts."""

import dataclasses
import hashlib
import itertools
import math
import multiprocessing
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from maskflow_jax.data.sources import my_way_home, my_way_home_walk

CONFIG = my_way_home.MazeConfig(num_videos=2, num_frames=12, fps=10, seed=7)


def config(**changes):
    return dataclasses.replace(CONFIG, **changes)


def digests(settings):
    """{id: hash of the frames}."""
    return {
        name: hashlib.sha256(frames.tobytes()).hexdigest()
        for name, frames, _ in my_way_home.maze_videos(settings)
    }


@pytest.fixture(scope="module")
def short_digests():
    return digests(CONFIG)


@pytest.fixture(scope="module")
def walks():
    """Four videos of 20 s and, frame by frame, where the camera was: [4, 200, 3], x y angle."""
    poses, engines = [], []
    with pytest.MonkeyPatch.context() as patch:
        set_up, frame = my_way_home._set_up, my_way_home._frame

        def keep_engine(game, *args):
            engines.append(game)
            set_up(game, *args)

        def keep_pose(*args):
            poses.append(engines[0].get_state().game_variables.copy())
            return frame(*args)

        patch.setattr(my_way_home, "_set_up", keep_engine)
        patch.setattr(my_way_home, "_frame", keep_pose)
        videos = list(my_way_home.maze_videos(config(num_videos=4, num_frames=200)))
    return np.stack([frames for _, frames, _ in videos]), np.reshape(poses, (4, 200, 3))


def test_yields_id_frames_fps():
    videos = list(my_way_home.maze_videos(config(num_frames=3, frame_size=48)))
    assert [name for name, _, _ in videos] == ["maze_train_7_000000", "maze_train_7_000001"]
    for _, frames, fps in videos:
        assert frames.shape == (3, 48, 48, 3)
        assert frames.dtype == np.uint8
        assert fps == 10


def test_same_seed_same_bytes_in_two_fresh_processes_at_once(short_digests):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        both = pool.map(digests, [CONFIG, CONFIG], chunksize=1)
    assert both == [short_digests, short_digests]


def test_a_video_does_not_depend_on_those_before_it(short_digests):
    alone = digests(config(num_videos=1, first_video=1))
    assert alone == {"maze_train_7_000001": short_digests["maze_train_7_000001"]}


def test_longer_video_starts_with_the_shorter():
    short, long = (
        next(my_way_home.maze_videos(config(num_frames=n)))[1] for n in (CONFIG.num_frames, 20)
    )
    np.testing.assert_array_equal(long[: CONFIG.num_frames], short)


def test_seeds_and_splits_give_other_videos(short_digests):
    seen = [*short_digests.values()]
    for changes in ({"split": "test"}, {"seed": 8}, {"first_video": 2}):
        seen += digests(config(**changes)).values()
    assert len(set(seen)) == 8


def test_splits_never_share_an_engine_seed():
    seeds = {
        split: {
            my_way_home.video_seeds(config(split=split, seed=seed), index, attempt)[0]
            for seed in range(3)
            for index in range(300)
            for attempt in range(2)
        }
        for split in my_way_home.SPLITS
    }
    assert {seed % 2 for seed in seeds["train"]} == {0}
    assert {seed % 2 for seed in seeds["test"]} == {1}
    assert min(len(drawn) for drawn in seeds.values()) > 1790  # and hardly any repeats within


@pytest.mark.parametrize("fps", [35, 30, 17.5, 10, 7.3, 0.5])
def test_rate_is_right_on_average(fps):
    tics = my_way_home.frame_tics(200, fps)
    assert tics[0] == 0
    assert len(tics) == 200
    assert all(abs(tic - frame * 35 / fps) <= 0.5 for frame, tic in enumerate(tics))
    assert min(np.diff(tics)) >= 1


def test_engine_advances_by_the_tics_of_each_frame(monkeypatch):
    held = []
    walk_to = my_way_home._walk_to

    def count(game, walker, now, tic):
        before = game.get_episode_time()
        reached = walk_to(game, walker, now, tic)
        held.append(game.get_episode_time() - before)
        return reached

    monkeypatch.setattr(my_way_home, "_walk_to", count)
    next(my_way_home.maze_videos(config(num_frames=40, fps=7.3)))
    assert held[1:] == np.diff(my_way_home.frame_tics(40, 7.3)).tolist()


def test_every_frame_moves_and_overlaps_the_last(walks):
    videos, poses = walks
    change = np.abs(np.diff(videos.astype(float), axis=1)).mean((2, 3, 4))
    assert np.mean(change < 1) < 0.01
    turn = np.abs((np.diff(poses[..., 2], axis=1) + 180) % 360 - 180)
    step = np.linalg.norm(np.diff(poses[..., :2], axis=1), axis=-1)
    assert turn.max() < 15
    assert step.max() < 20
    assert np.mean((step < 1) & (turn < 1)) < 0.02
    assert np.mean(step < 2) < 0.15  # it walks: no standing at a wall, little turning on the spot


def test_turns_are_smooth(walks):
    turn = (np.diff(walks[1][..., 2], axis=1) + 180) % 360 - 180
    zigzag = (turn[:, 1:] * turn[:, :-1] < 0) & (
        np.minimum(*np.abs([turn[:, 1:], turn[:, :-1]])) > 2
    )
    assert np.mean(zigzag) < 0.05


def test_hardly_stares_at_walls(walks):
    videos, _ = walks
    contrast = videos.astype(float).std((2, 3)).mean(-1)
    assert np.mean(contrast < 10) < 0.05
    assert np.median(contrast) > 15


def test_walks_see_the_maze(walks):
    _, poses = walks
    places = [{(x // 224, (y + 20) // 176) for x, y, _ in walk} for walk in poses]
    assert min(map(len, places)) >= 4
    assert len({tuple(walk[0, :2].round()) for walk in poses}) == 4


def test_an_episode_that_ends_is_drawn_anew(monkeypatch):
    attempts, render = [], my_way_home._render_walk

    def end_early_once(game, settings, rng):
        attempts.append(rng.bit_generator.state["state"]["state"])
        frames = render(game, settings, rng)
        return frames[:5] if len(attempts) == 1 else frames

    monkeypatch.setattr(my_way_home, "_render_walk", end_early_once)
    _, frames, _ = next(my_way_home.maze_videos(CONFIG))
    assert len(frames) == CONFIG.num_frames
    assert len(set(attempts)) == 2


def test_reaching_the_vest_ends_the_walk_and_is_reported(monkeypatch):
    # A walker that heads for the vest: the engine ends the episode, every time.
    def act(self, x, y, angle):
        turn = my_way_home_walk._turn_between(
            angle, my_way_home_walk._bearing((x, y), (1040, -352))
        )
        return [0.0, 0.0, -turn] if abs(turn) > 1 else [60.0, 0.0, 0.0]

    monkeypatch.setattr(my_way_home_walk.Walker, "act", act)
    monkeypatch.setattr(my_way_home, "_WARM_UP", 1)
    monkeypatch.setattr(my_way_home, "_MAX_ATTEMPTS", 3)
    # A seed whose episode starts in the room next to the vest.
    monkeypatch.setattr(
        my_way_home, "video_seeds", lambda *_: (654007952, np.random.default_rng(0))
    )
    with pytest.raises(RuntimeError, match="ended early 3 times"):
        next(my_way_home.maze_videos(config(num_frames=100)))


def test_leaves_the_working_directory_clean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    walk = my_way_home.maze_videos(config(num_frames=2))
    next(walk)
    assert pathlib.Path.cwd() == tmp_path
    assert not list(tmp_path.iterdir())
    walk.close()
    assert not list(tmp_path.iterdir())


def test_abandoned_iterator_closes_the_engine(tmp_path, monkeypatch):
    games, set_up = [], my_way_home._set_up
    monkeypatch.setattr(my_way_home.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(
        my_way_home, "_set_up", lambda game, *a: (games.append(game), set_up(game, *a))
    )
    walk = my_way_home.maze_videos(config(num_frames=2))
    next(walk)
    assert games[0].is_running()
    assert list(tmp_path.iterdir())
    del walk
    assert not games[0].is_running()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": 0}, "at most 35"),
        ({"fps": 36}, "at most 35"),
        ({"fps": math.nan}, "at most 35"),
        ({"split": "valid"}, "'train', 'test'"),
        ({"num_frames": 0}, "num_frames is 0: set it to 1"),
        ({"num_videos": -1}, "num_videos is -1: set it to 0"),
        ({"first_video": -1}, "first_video is -1"),
        ({"frame_size": 0}, "1 to 240"),
        ({"frame_size": 241}, "1 to 240"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "choose one from 0"),
    ],
)
def test_bad_settings_name_the_fix(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_missing_vizdoom_names_the_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[maze\]'"):
        next(my_way_home.maze_videos(CONFIG))


def test_import_does_not_need_vizdoom():
    program = (
        "import sys; sys.modules['vizdoom'] = None; import maskflow_jax.data.sources.my_way_home"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ)


@pytest.mark.parametrize("angle", [0, 90, 200])
def test_walls_push_the_walker_off(angle):
    corners = [(0, 0), (200, 0), (200, 200), (0, 200), (0, 0)]
    walls = [
        types.SimpleNamespace(x1=x1, y1=y1, x2=x2, y2=y2, is_blocking=True)
        for (x1, y1), (x2, y2) in itertools.pairwise(corners)
    ]
    room = types.SimpleNamespace(sectors=[types.SimpleNamespace(lines=walls)], objects=[])
    walker = my_way_home_walk.Walker(my_way_home_walk.floor_plan(room), np.random.default_rng(0))
    assert walker._push_off(np.array([100, 100]), angle) == (0, 0)
    ahead, left = walker._push_off(np.array([20, 100]), angle)  # the wall is to the west
    push = (ahead + 1j * left) * np.exp(1j * np.radians(angle))  # x + iy
    assert push.real > 3
    assert abs(push.imag) < 0.1

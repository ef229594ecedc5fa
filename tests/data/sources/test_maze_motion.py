"""Motion on rails: equal steps, quarter circles, every place open, never back."""

import numpy as np
import pytest

from maskflow_jax.data.sources.maze_map import CELL, make_maze
from maskflow_jax.data.sources.maze_motion import MOTIONS, make_walk


def walk(seed=0, num_frames=400, frames_per_cell=4, frames_per_turn=6):
    maze = make_maze(seed, rooms=5, colours=(4, 6))
    rng = np.random.default_rng(seed)
    settings = {"frames_per_cell": frames_per_cell, "frames_per_turn": frames_per_turn}
    return maze, make_walk(maze, rng, num_frames=num_frames, **settings)


@pytest.mark.parametrize(("per_cell", "per_turn"), [(4, 6), (1, 1), (7, 3)])
def test_each_motion_moves_and_turns_by_its_own_amount(per_cell, per_turn):
    _, made = walk(frames_per_cell=per_cell, frames_per_turn=per_turn)
    distance = np.linalg.norm(np.diff(made.position, axis=0), axis=1)
    turn = (np.diff(made.heading) + 180) % 360 - 180
    chord = CELL * np.sin(np.radians(90 / per_turn / 2))  # of a circle of radius CELL / 2
    for motion, length, angle in (
        ("straight", CELL / per_cell, 0),
        ("left", chord, 90 / per_turn),
        ("right", chord, -90 / per_turn),
    ):
        chosen = made.motion[:-1] == MOTIONS.index(motion)
        assert chosen.sum() > 5
        np.testing.assert_allclose(distance[chosen], length, atol=1.5)  # whole map units
        np.testing.assert_allclose(turn[chosen], angle, atol=1e-9)


def test_the_camera_moves_ahead_and_stays_in_the_middle_of_corridors():
    for seed in range(10):
        maze, made = walk(seed)
        block = np.floor(made.position / CELL).astype(int)
        # On the border of two blocks either may come out of the rounding; both are open.
        assert maze.open[block[:, 0], block[:, 1]].all()
        direction = np.radians(made.heading[:-1])
        ahead = np.stack([np.cos(direction), np.sin(direction)], -1)
        assert np.all(np.sum(np.diff(made.position, axis=0) * ahead, axis=1) > 0)
        straight = (made.motion == 0) & (made.heading % 90 == 0)
        across = np.where(made.heading % 180 == 0, made.position[:, 1], made.position[:, 0])
        np.testing.assert_allclose(across[straight] % CELL, CELL / 2)


def test_few_relative_poses_occur():
    _, made = walk(num_frames=2000)
    poses = np.hstack([made.position % CELL, made.heading[:, None]]).round(3)
    assert len(np.unique(poses, axis=0)) <= 4 * (4 + 2 * 6)


def test_left_and_right_are_equally_likely_and_walks_differ():
    turns = np.concatenate([walk(seed)[1].motion for seed in range(200)])
    left, right = np.mean(turns == 1), np.mean(turns == 2)
    assert abs(left - right) < 0.03
    assert 0.3 < left + right < 0.5
    assert not np.array_equal(walk(1)[1].motion, walk(2)[1].motion)


def test_walks_begin_at_any_phase():
    headings = {float(walk(seed, num_frames=1)[1].heading[0]) % 90 for seed in range(60)}
    assert len(headings) > 3

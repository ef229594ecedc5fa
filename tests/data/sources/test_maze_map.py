"""Floor plans: connected, without dead ends, coloured as asked, and looked at correctly."""

import collections

import numpy as np
import pytest

from maskflow_jax.data.sources.maze_map import (
    CELL,
    STEPS,
    WALL_COLOURS,
    make_maze,
    visible_walls,
)

SEEDS = range(20)


def maze(seed, rooms=5, colours=(4, 6)):
    return make_maze(seed, rooms=rooms, colours=colours)


def test_a_seed_gives_one_maze_and_another_seed_another():
    np.testing.assert_array_equal(maze(3).colours, maze(3).colours)
    assert len({maze(seed).colours.tobytes() for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("rooms", [2, 3, 5, 20])
def test_grid_has_rooms_at_odd_places_and_is_closed(rooms):
    is_open = maze(0, rooms).open
    assert is_open.shape == (2 * rooms + 1, 2 * rooms + 1)
    assert is_open[1::2, 1::2].all()
    assert not is_open[0::2, 0::2].any()
    assert not is_open[[0, -1]].any()
    assert not is_open[:, [0, -1]].any()


@pytest.mark.parametrize("rooms", [2, 3, 5, 9])
def test_every_room_can_be_reached_and_left_on_another_way(rooms):
    for seed in SEEDS:
        plan = maze(seed, rooms)
        queue, reached = collections.deque([(1, 1)]), {(1, 1)}
        while queue:
            block = queue.popleft()
            exits = plan.exits(block)
            assert len(exits) >= 2, f"dead end at {block} of seed {seed}"
            for new in (tuple((block + STEPS[d]).tolist()) for d in exits):
                if new not in reached:
                    reached.add(new)
                    queue.append(new)
        assert len(reached) == plan.open.sum()


def test_number_of_colours_lies_in_the_range_and_all_colours_occur():
    seen = [set(np.unique(maze(seed).colours)) - {-1} for seed in range(100)]
    assert {len(colours) for colours in seen} == {4, 5, 6}
    assert set.union(*seen) == set(range(len(WALL_COLOURS)))
    assert len(set(np.unique(maze(0, colours=(1, 1)).colours)) - {-1}) == 1


def test_visible_walls_are_those_that_small_steps_along_the_rays_find():
    plan, rng = maze(1), np.random.default_rng(0)
    blocks = np.argwhere(plan.open)
    position = CELL * (blocks[rng.integers(len(blocks), size=30)] + rng.uniform(0.1, 0.9, (30, 2)))
    heading = rng.uniform(0, 360, 30)
    found = visible_walls(plan, position, heading, 5)
    angles = np.radians(heading[:, None]) + np.arctan(1 - (2 * np.arange(5) + 1) / 5)
    rays = np.stack([np.cos(angles), np.sin(angles)], -1)  # [30, 5, 2]
    for index in np.ndindex(30, 5):
        points = position[index[0]] + np.arange(0, 12 * CELL, 0.25)[:, None] * rays[index]
        along = np.floor(points / CELL).astype(int)
        inside = np.all((along >= 0) & (along < len(plan.open)), axis=1)
        along = along[inside]
        first = along[~plan.open[along[:, 0], along[:, 1]]][0]
        np.testing.assert_array_equal(found[index], first)

"""Floor plans of generated mazes: which blocks are open, and the colours of the others.

A maze is a square grid of blocks. Rooms lie at the odd coordinates; between two rooms lies a block
that is either a wall or a passage. Recursive backtracking makes a spanning tree of the rooms, then
every dead end gets a second passage, so that a camera can always move on without turning back, and
a few more walls are opened, so that there are several ways between most places.

Block `[x, y]` covers the square from `CELL * (x, y)` to `CELL * (x + 1, y + 1)` in map units; x
points east and y north.
"""

import dataclasses

import numpy as np

CELL = 128.0  # map units along a side of a block; the player is 32 wide and its eye 41 high
STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])  # east, north, west, south
WALL_COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "turquoise",
    "azure",
    "violet",
    "white",
)
_EXTRA_PASSAGES = 0.1  # of the walls between rooms that are left after dead ends are removed


@dataclasses.dataclass(frozen=True, kw_only=True)
class MazeMap:
    """A maze.

    Attributes:
        seed: Seed that the maze was made from.
        colours: Wall colour of every block as an index into `WALL_COLOURS`, int8 [N, N] with
            N = 2 rooms + 1, and -1 where the block is open.
    """

    seed: int
    colours: np.ndarray

    @property
    def open(self) -> np.ndarray:
        """Whether each block can be walked through, bool [N, N]."""
        return self.colours < 0

    def exits(self, block: tuple[int, int]) -> list[int]:
        """The directions, as indices into `STEPS`, in which the neighbours of a block are open."""
        return [d for d, step in enumerate(STEPS) if self.colours[tuple(block + step)] < 0]


def make_maze(seed: int, *, rooms: int, colours: tuple[int, int]) -> MazeMap:
    """Makes the maze of a seed.

    Args:
        seed: A non-negative integer. The same seed and settings give the same maze.
        rooms: Number of rooms along each side, at least 2.
        colours: Smallest and largest number of wall colours in a maze.

    Returns:
        The maze; its outermost blocks are walls.
    """
    rng = np.random.default_rng(seed)
    is_open = _spanning_tree(rng, rooms)
    _remove_dead_ends(rng, is_open)
    closed = [wall for wall in _walls_between_rooms(rooms) if not is_open[wall]]
    for index in rng.permutation(len(closed))[: round(_EXTRA_PASSAGES * len(closed))]:
        is_open[closed[index]] = True
    number = rng.integers(colours[0], colours[1] + 1)
    chosen = rng.permutation(len(WALL_COLOURS))[:number]
    drawn = rng.choice(chosen, is_open.shape)
    return MazeMap(seed=seed, colours=np.where(is_open, -1, drawn).astype(np.int8))


def _spanning_tree(rng: np.random.Generator, rooms: int) -> np.ndarray:
    """Rooms and the passages of a random spanning tree, bool [N, N]."""
    is_open = np.zeros((2 * rooms + 1, 2 * rooms + 1), bool)
    path = [tuple(2 * rng.integers(rooms, size=2) + 1)]
    is_open[path[0]] = True
    while path:
        here = np.array(path[-1])
        for step in rng.permutation(STEPS):
            room = here + 2 * step
            if np.all((room > 0) & (room < len(is_open))) and not is_open[tuple(room)]:
                is_open[tuple(here + step)] = is_open[tuple(room)] = True
                path.append(tuple(room))
                break
        else:
            path.pop()
    return is_open


def _remove_dead_ends(rng: np.random.Generator, is_open: np.ndarray) -> None:
    """Gives every room with a single passage a second one, in place."""
    last = len(is_open) - 1
    for room in np.argwhere(is_open):
        if np.any(room % 2 == 0):
            continue  # a passage, not a room
        around = room + STEPS
        closed = [
            tuple(b) for b in around if not is_open[tuple(b)] and 0 < b.min() <= b.max() < last
        ]
        if np.sum(is_open[tuple(around.T)]) == 1:
            is_open[closed[rng.integers(len(closed))]] = True


def _walls_between_rooms(rooms: int) -> list[tuple[int, int]]:
    """All blocks that lie between two rooms."""
    inner = range(1, 2 * rooms)
    return [(x, y) for x in inner for y in inner if (x + y) % 2 == 1]


def visible_walls(
    maze: MazeMap, position: np.ndarray, heading: np.ndarray, num_rays: int
) -> np.ndarray:
    """Finds the wall that every column of a 90-degree view ends on.

    Rays go through the centres of the columns from left to right and advance from one grid line to
    the next until they enter a wall block.

    Args:
        maze: The maze.
        position: Eye in map units, float [F, 2], inside open blocks.
        heading: Viewing direction in degrees counterclockwise from east, float [F].
        num_rays: Number of columns R.

    Returns:
        The blocks that the rays end on, int [F, R, 2].
    """
    angle = np.radians(heading)[:, None]
    forward = np.stack([np.cos(angle), np.sin(angle)], -1)  # [F, 1, 2]
    left = np.stack([-np.sin(angle), np.cos(angle)], -1)
    offset = 1 - (2 * np.arange(num_rays) + 1) / num_rays
    rays = (forward + offset[:, None] * left).reshape(-1, 2)  # [F R, 2]
    start = np.repeat(position / CELL, num_rays, axis=0)
    block = np.floor(start).astype(int)
    sign = np.where(rays > 0, 1, -1)
    with np.errstate(divide="ignore"):
        per_block = np.abs(1 / rays)  # ray length from one grid line to the next
    ahead = np.where(rays > 0, block + 1 - start, start - block)
    reach = np.where(ahead == 0, 0, ahead * per_block)  # ray length to the next grid lines
    travelling = np.arange(len(rays))
    while len(travelling):
        axis = np.argmin(reach[travelling], axis=1)
        block[travelling, axis] += sign[travelling, axis]
        reach[travelling, axis] += per_block[travelling, axis]
        x, y = block[travelling].T
        travelling = travelling[maze.colours[x, y] < 0]
    return block.reshape(len(position), num_rays, 2)

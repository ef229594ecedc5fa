"""How the camera moves through a generated maze: on rails, in straight lines and quarter circles.

The camera enters every block at the middle of one side and leaves it at the middle of another.
Where it goes straight on, it crosses the block in `frames_per_cell` equal steps; where it turns, it
follows a quarter circle about the corner in `frames_per_turn` equal steps. In a room it takes one
of the exits other than the one it came from, all equally likely. It never turns on the spot, where
a wall right before the camera would fill the picture with a single colour.

The next frame is therefore one of at most three, and fewer than a hundred relative poses occur in
all: a model of such video has something definite to learn, and its output can be checked.
"""

import dataclasses
import math

import numpy as np

from maskflow_jax.data.sources.maze_map import CELL, STEPS, MazeMap

MOTIONS = ("straight", "left", "right")
_STRAIGHT, _LEFT, _RIGHT = range(3)
_RADIUS = CELL / 2
_ROUNDING = 1e-6  # so that 63.999... is 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Walk:
    """Poses of the camera, frame by frame.

    Attributes:
        position: Place of the eye in map units, float64 [F, 2]; whole numbers, because that is how
            the engine places the camera.
        heading: Viewing direction in degrees counterclockwise from east, in [0, 360), float64 [F].
        motion: Movement that leads from a frame to the next one as an index into `MOTIONS`,
            int8 [F]; for the last frame, the movement that would follow.
    """

    position: np.ndarray
    heading: np.ndarray
    motion: np.ndarray


def make_walk(
    maze: MazeMap,
    rng: np.random.Generator,
    *,
    num_frames: int,
    frames_per_cell: int,
    frames_per_turn: int,
    skipped: int | None = None,
) -> Walk:
    """Draws a random walk through a maze.

    Args:
        maze: The maze, without dead ends.
        rng: Source of the random decisions.
        num_frames: Number of frames F.
        frames_per_cell: Steps in which a block is crossed on a straight line.
        frames_per_turn: Steps in which a quarter circle is made.
        skipped: Number of frames left out at the start, in a room; None for a random number.

    Returns:
        The walk, which begins at a random place and phase.
    """
    rooms = np.argwhere(maze.open)
    rooms = rooms[np.all(rooms % 2 == 1, axis=1)]
    block = rooms[rng.integers(len(rooms))]
    direction = (int(rng.choice(maze.exits(tuple(block)))) + 2) % 4
    if skipped is None:
        skipped = int(rng.integers(frames_per_cell + frames_per_turn))
    segments, length = [], 0
    while length < skipped + num_frames:
        motion = _choose_motion(maze, rng, block, direction)
        steps = frames_per_cell if motion == _STRAIGHT else frames_per_turn
        segments.append(block_poses(block, direction, motion, steps))
        direction = (direction + (0, 1, 3)[motion]) % 4
        block = block + STEPS[direction]
        length += steps
    frames = np.concatenate(segments)[skipped : skipped + num_frames]  # [F, 4]
    return Walk(
        position=np.floor(frames[:, :2] + _ROUNDING),
        heading=frames[:, 2],
        motion=frames[:, 3].astype(np.int8),
    )


def _choose_motion(
    maze: MazeMap, rng: np.random.Generator, block: np.ndarray, direction: int
) -> int:
    """The movement through a block that is entered in a direction."""
    back = (direction + 2) % 4
    exits = [exit for exit in maze.exits(tuple(block)) if exit != back]
    return {0: _STRAIGHT, 1: _LEFT, 3: _RIGHT}[(int(rng.choice(exits)) - direction) % 4]


def block_poses(block: np.ndarray, direction: int, motion: int, steps: int) -> np.ndarray:
    """The frames of one block as rows (x, y, heading, motion), float [steps, 4].

    Args:
        block: The block.
        direction: Direction in which it is entered, an index into `STEPS`.
        motion: Index into `MOTIONS`.
        steps: Number of frames.
    """
    ahead = STEPS[direction]
    entry = CELL * (block + 0.5) - ahead * CELL / 2
    share = np.arange(steps)[:, None] / steps
    heading = np.full((steps, 1), 90.0 * direction)
    if motion == _STRAIGHT:
        position = entry + CELL * share * ahead
    else:
        side = STEPS[(direction + (1 if motion == _LEFT else 3)) % 4]
        angle = share * math.pi / 2
        position = entry + _RADIUS * (np.sin(angle) * ahead + (1 - np.cos(angle)) * side)
        heading = heading + (90 if motion == _LEFT else -90) * share
    return np.hstack([position, heading % 360, np.full((steps, 1), motion)])

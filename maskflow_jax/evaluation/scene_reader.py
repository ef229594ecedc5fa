"""Do the scenes of generated walks show what their captions say, and what do they share?

The walks of `data.sources.maze_scenes` are read from pixels, by rules without anything learned:

    colours   the pixels about the horizon are walls; each counts for the wall colour of which a
              shade is nearest
    motion    rooms and passages have tiles of two shades, so where the camera stands is seen from
              the floor before it: the motion is that whose floor is nearest to the frames

From what is read follow, over all scenes of all videos (percent in the tables, shares here):

    semantic  scenes whose colours and whose motion are those of their caption
    visual    pairs of scenes of a video whose pillars, which no caption names, have one colour
    sequence  the mean of the two

The definitions follow Mask^2DiT (arXiv 2503.19881, section 4.1), whose encoders are not published,
in meaning and not in number.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from maskflow_jax.data.sources.maze_colours import palette_of_walls
from maskflow_jax.data.sources.maze_map import CELL, WALL_COLOURS
from maskflow_jax.data.sources.maze_motion import MOTIONS, block_poses
from maskflow_jax.data.sources.maze_scenes import BLOCKS, read_caption

HORIZON = 2  # rows above and below the middle in which no floor or sky is seen
EYE = 41.0 * 1.2  # map units above the floor; the engine stretches pixels by 1.2
SEEN = 0.05  # share of the wall pixels of a scene from which on a colour counts as there
TILES = (102.7, 119.3)  # grey levels of the floor of a room and of a passage near the camera
CLIP = 20.0  # grey levels; the largest error of a pixel
NEAREST_ROWS = 18  # at the bottom of a frame of 64 pixels, where the floor is read
FARTHEST = 12.0  # distance in RGB from a shade; edges mix two colours and count for none
_BITS = 5  # of each channel, for the table of nearest colours


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneReadings:
    """What is read from videos of V scenes.

    Attributes:
        shares: Share of the wall pixels of a scene by colour, [B, V, colours].
        motions: Motion of each scene, indices into `MOTIONS`, int [B, V].
    """

    shares: np.ndarray
    motions: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneMeasures:
    """Measures of videos with captions, all of them shares from 0 to 1.

    Attributes:
        semantic: Scenes whose colours and motion are the caption's.
        colours: Scenes whose colours are the caption's.
        motion: Scenes whose motion is the caption's.
        visual: Pairs of scenes of a video whose pillars have the same colour.
        scenes: Number of scenes.
    """

    semantic: float
    colours: float
    motion: float
    visual: float
    scenes: int

    @property
    def sequence(self) -> float:
        """Mean of visual and semantic."""
        return (self.visual + self.semantic) / 2


def read_scenes(videos: np.ndarray, frames_per_scene: int) -> SceneReadings:
    """Reads the scenes of videos.

    Args:
        videos: uint8 [B, V * frames_per_scene, S, S, 3], S 64 or 128.
        frames_per_scene: Number of frames of a scene, an even number.

    Raises:
        ValueError: if the frames are not whole scenes of two blocks.
    """
    count, length, size = videos.shape[:3]
    if frames_per_scene % BLOCKS or length % frames_per_scene:
        raise ValueError(
            f"{length} frames in scenes of {frames_per_scene}: give whole scenes of an even number "
            "of frames"
        )
    scenes = videos.reshape(count, -1, frames_per_scene, size, size, 3)
    middle = scenes[:, :, :, size // 2 - HORIZON : size // 2 + HORIZON]
    nearest = _nearest_wall()[tuple(np.moveaxis(middle >> (8 - _BITS), -1, 0))]
    nearest = nearest.reshape(*scenes.shape[:2], -1)
    counts = np.stack([(nearest == c).sum(axis=-1) for c in range(len(WALL_COLOURS))], axis=-1)
    shares = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    return SceneReadings(shares=shares, motions=_motions(scenes))


def measure(readings: SceneReadings, captions: Sequence[Sequence[str]]) -> SceneMeasures:
    """Compares what is read with what the captions say.

    Args:
        readings: Of B videos.
        captions: Captions of their scenes, B rows.

    Raises:
        ValueError: if there are other numbers of captions, or one is none of the mazes'.
    """
    if readings.motions.shape != (len(captions), len(captions[0])):
        raise ValueError(
            f"{len(captions)} rows of {len(captions[0])} captions for videos and scenes "
            f"{readings.motions.shape}; give one for each scene"
        )
    colours, motion, visual = [], [], []
    for shares, motions, row in zip(readings.shares, readings.motions, captions, strict=True):
        said = [read_caption(caption) for caption in row]
        pillars = [
            int(np.argmax(np.where(np.isin(np.arange(len(share)), named), -1.0, share)))
            for share, (named, _) in zip(shares, said, strict=True)
        ]
        usual = int(np.bincount(pillars).argmax())
        for share, moved, (named, how) in zip(shares, motions, said, strict=True):
            there = set(np.flatnonzero(share >= SEEN).tolist()) - {usual}
            colours.append(there == set(named))
            motion.append(MOTIONS[moved] == how)
        visual += [one == other for one, other in itertools.combinations(pillars, 2)]
    return SceneMeasures(
        semantic=float(np.mean(np.logical_and(colours, motion))),
        colours=float(np.mean(colours)),
        motion=float(np.mean(motion)),
        visual=float(np.mean(visual)) if visual else 1.0,
        scenes=len(colours),
    )


@functools.cache
def _nearest_wall() -> np.ndarray:
    """The wall colour of which a shade is nearest, -1 if none is near, int [32, 32, 32]."""
    shades = palette_of_walls()  # [colours, shades, 3]
    steps = (np.arange(2**_BITS) + 0.5) * 2 ** (8 - _BITS)
    rgb = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)
    best, index = np.full(rgb.shape[:3], np.inf), np.zeros(rgb.shape[:3], np.int8)
    for colour, of_colour in enumerate(shades):
        for shade in of_colour:
            distance = np.sum((rgb - shade) ** 2, axis=-1)
            closer = distance < best
            best, index = np.where(closer, distance, best), np.where(closer, colour, index)
    return np.where(best <= FARTHEST**2, index, -1)


def _motions(scenes: np.ndarray) -> np.ndarray:
    """Motion of scenes uint8 [B, V, F, S, S, 3], int [B, V]: that whose floor is nearest."""
    size, steps = scenes.shape[3], scenes.shape[2] // BLOCKS
    rows = NEAREST_ROWS * size // 64
    # The first frame is the same for all motions.
    grey = scenes[:, :, 1:steps, size - rows :].astype(np.float32).mean(axis=-1)
    errors = []
    for motion in range(len(MOTIONS)):
        floor, seen = expected_floor(motion, steps, size)
        wrong = np.minimum(np.abs(grey - floor[1:]), CLIP)
        errors.append(np.sum(wrong, axis=(2, 3, 4), where=seen[1:]) / max(seen[1:].sum(), 1))
    return np.argmin(errors, axis=0)


@functools.cache
def expected_floor(motion: int, steps: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The floor near the camera while it crosses a room.

    Args:
        motion: Index into `MOTIONS`.
        steps: Number of frames in which the room is crossed.
        size: Side S of the frames in pixels.

    Returns:
        Grey levels float32 [steps, rows, S], and where they are known, bool: where the way to the
        floor leads through the room and the passage behind it only.
    """
    rows = NEAREST_ROWS * size // 64
    down = (2 * np.arange(size - rows, size) + 1 - size) / size  # of a ray, per unit ahead
    across = 1 - (2 * np.arange(size) + 1) / size  # to the left
    room, behind = np.zeros(2, int), {0: (1, 0), 1: (0, 1), 2: (0, -1)}[motion]
    floors, masks = [], []
    for x, y, heading, _ in block_poses(room, 0, motion, steps):
        angle = np.radians(heading)
        ahead = np.array([np.cos(angle), np.sin(angle)])
        rays = ahead + across[None, :, None] * np.array([-ahead[1], ahead[0]])  # [1, S, 2]
        reach = EYE / down[:, None, None] * rays  # [rows, S, 2]
        way = np.array([x, y]) + np.linspace(0, 1, 33)[:, None, None, None] * reach
        block = np.floor(way / CELL).astype(int)
        in_room, in_next = np.all(block == room, -1), np.all(block == behind, -1)
        floors.append(np.where(in_room[-1], *TILES))
        masks.append(np.all(in_room | in_next, axis=0))
    return np.stack(floors).astype(np.float32), np.stack(masks)

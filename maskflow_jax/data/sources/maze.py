"""Procedural mazes: endless first-person video with exact labels and nothing to download.

Each video is a walk through a maze of its own, generated from a seed (`maze_map`), filmed by Doom's
engine (`maze_engine`) from a camera on rails (`maze_motion`). Everything about a video depends on
(split, seed, index) alone. Training and validation mazes come from disjoint seeds, even numbers in
"train" and odd numbers in "test": validation holds out places, not only walks.

Because the poses of the camera are computed and not observed, every frame has exact labels, from
which rollouts of a model can be judged.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from maskflow_jax.data.sources import maze_colours, my_way_home
from maskflow_jax.data.sources.items import Item, Listing, make_listing
from maskflow_jax.data.sources.maze_engine import FRAME_SIZES, maze_camera
from maskflow_jax.data.sources.maze_map import WALL_COLOURS, MazeMap, make_maze, visible_walls
from maskflow_jax.data.sources.maze_motion import Walk, make_walk
from maskflow_jax.io.video_decoding import TimedFrame

SPLITS = ("train", "test")
TEXTURES = (*maze_colours.TEXTURES, "my_way_home")
_MAZES_PER_ENGINE = 128  # an engine takes a third of a second to start


@dataclasses.dataclass(frozen=True, kw_only=True)
class MazeSettings:
    """A set of videos.

    Attributes:
        num_videos: Number of videos.
        num_frames: Number of frames in each video.
        seed: Seed of the whole set, 0 to 2**32 - 1.
        split: "train", or "test" for validation mazes.
        first_video: Index of the first video, to render a set in parts.
        frame_size: Side of the square frames in pixels, 64 or 128.
        rooms: Number of rooms along each side of a maze, 2 to 20.
        colours: Smallest and largest number of wall colours in a maze, 1 to 8.
        frames_per_cell: Steps in which a block of the maze is crossed on a straight line, 1 to 64:
            the speed. A block is 128 map units.
        frames_per_turn: Steps of a quarter circle, 1 to 90: the turn rate.
        light: Brightness, 0 to 255; below about 240, what is far away is darker.
        fps: Frames per second at which the videos are meant to be shown; it changes no frame,
            except with the textures "my_way_home", where it is the rate of the recording.
        textures: "checker" for a floor of tiles, "plain" for a floor of one colour, "my_way_home"
            for VizDoom's own textured maze (one maze for all videos, no labels; the settings from
            `rooms` to `light` do not apply).
    """

    num_videos: int
    num_frames: int
    seed: int = 0
    split: str = "train"
    first_video: int = 0
    frame_size: int = 64
    rooms: int = 5
    colours: tuple[int, int] = (4, 6)
    frames_per_cell: int = 4
    frames_per_turn: int = 6
    light: int = 224
    fps: float = 10.0
    textures: str = "checker"

    def __post_init__(self):
        """Raises ValueError, with all problems at once, for settings that cannot be rendered."""
        object.__setattr__(self, "colours", tuple(self.colours))
        if problems := list(_problems(self)):
            raise ValueError("; ".join(problems))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MazeLabels:
    """Ground truth of a video.

    Attributes:
        maze: The maze, with its seed.
        walk: Position, heading and motion of every frame.
        colours_seen: Whether at least one pixel column of a frame ends on a wall of each colour of
            `WALL_COLOURS`, bool [F, colours].
    """

    maze: MazeMap
    walk: Walk
    colours_seen: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class MazeVideo:
    """A rendered video.

    Attributes:
        id: Name that is unique over splits, seeds and indices.
        frames: uint8 [F, S, S, 3], RGB.
        fps: Frames per second at which it is meant to be shown.
        labels: Ground truth; None for the textures "my_way_home".
    """

    id: str
    frames: np.ndarray
    fps: float
    labels: MazeLabels | None


def maze_videos(settings: MazeSettings) -> Iterator[MazeVideo]:
    """Renders videos, one after another.

    Args:
        settings: What to render.

    Yields:
        The videos, in the order of their indices.

    Raises:
        ImportError: If VizDoom is not installed.
    """
    if settings.textures == "my_way_home":
        yield from _my_way_home_videos(settings)
        return
    indices = range(settings.first_video, settings.first_video + settings.num_videos)
    for start in range(0, len(indices), _MAZES_PER_ENGINE):
        batch = indices[start : start + _MAZES_PER_ENGINE]
        truth = [video_labels(settings, index) for index in batch]
        camera_settings = {
            name: getattr(settings, name) for name in ("frame_size", "textures", "light")
        }
        with maze_camera([labels.maze for labels in truth], **camera_settings) as camera:
            for place, (index, labels) in enumerate(zip(batch, truth, strict=True)):
                yield MazeVideo(
                    id=f"maze_{settings.split}_{settings.seed}_{index:06d}",
                    frames=camera.film(place, labels.walk),
                    fps=settings.fps,
                    labels=labels,
                )


def video_labels(settings: MazeSettings, index: int) -> MazeLabels:
    """Computes the ground truth of a video without rendering it.

    Args:
        settings: The set that it belongs to.
        index: Index of the video in its split.

    Returns:
        The labels of all frames.
    """
    split = SPLITS.index(settings.split)
    rng = np.random.default_rng([split, settings.seed, index])
    maze = make_maze(
        2 * int(rng.integers(2**60)) + split, rooms=settings.rooms, colours=settings.colours
    )
    walk = make_walk(
        maze,
        rng,
        num_frames=settings.num_frames,
        frames_per_cell=settings.frames_per_cell,
        frames_per_turn=settings.frames_per_turn,
    )
    walls = visible_walls(maze, walk.position, walk.heading, settings.frame_size)  # [F, S, 2]
    colours = maze.colours[walls[..., 0], walls[..., 1]]
    seen = np.stack([np.any(colours == c, axis=1) for c in range(len(WALL_COLOURS))], axis=1)
    return MazeLabels(maze=maze, walk=walk, colours_seen=seen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mazes:
    """Generated mazes as a source of videos for the preparation of datasets (`sources.items`).

    Every video starts an engine of its own, so that processes can share the work as they like.

    Attributes:
        train_videos: Number of training videos.
        test_videos: Number of validation videos.
        num_frames: Frames in each video.
        seed: As in `MazeSettings`, like all below.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    train_videos: int = dataclasses.field(default=600, metadata={"frames": False})
    test_videos: int = dataclasses.field(default=32, metadata={"frames": False})
    num_frames: int = 240
    seed: int = 1  # not that of the tokenizer's training
    frame_size: int = 64
    rooms: int = 5
    fewest_colours: int = 4
    most_colours: int = 6
    frames_per_cell: int = 4
    frames_per_turn: int = 6
    light: int = 224
    textures: str = "checker"
    fps: float = 10.0

    def __post_init__(self):
        """Raises ValueError for settings that cannot be rendered."""
        for split in SPLITS:
            self.settings(split)

    def settings(self, split: str) -> MazeSettings:
        """The settings of a split."""
        names = {field.name for field in dataclasses.fields(MazeSettings)}
        shared = {name: value for name, value in vars(self).items() if name in names}
        count = self.train_videos if split == "train" else self.test_videos
        colours = (self.fewest_colours, self.most_colours)
        return MazeSettings(num_videos=count, split=split, colours=colours, **shared)

    def listing(self) -> Listing:
        """All videos of both splits."""
        return make_listing(
            Item(id=f"{split}/{index:06d}", split=split, key=(split, index))
            for split in SPLITS
            for index in range(self.settings(split).num_videos)
        )

    def open(self, item: Item) -> Iterator[TimedFrame]:
        """The frames of a video."""
        split, index = item.key
        one = dataclasses.replace(self.settings(split), num_videos=1, first_video=index)
        for video in maze_videos(one):
            for number, frame in enumerate(video.frames):
                yield TimedFrame(frame, number / self.fps, 1 / self.fps)

    def length(self, item: Item) -> tuple[float, float]:
        """Frames and seconds of a video."""
        del item
        return self.num_frames, self.num_frames / self.fps


def _problems(settings: MazeSettings) -> Iterator[str]:
    """Yields what is wrong with settings, each with its fix."""
    ranges = {
        "num_videos": (0, None),
        "num_frames": (1, None),
        "seed": (0, 2**32 - 1),
        "first_video": (0, None),
        "rooms": (2, 20),
        "frames_per_cell": (1, 64),
        "frames_per_turn": (1, 90),
        "light": (0, 255),
    }
    for name, (least, most) in ranges.items():
        value = getattr(settings, name)
        if value != int(value) or value < least or (most is not None and value > most):
            top = "or more" if most is None else f"to {most}"
            yield f"{name} is {value}: choose a whole number from {least} {top}"
    if not 0 < settings.fps <= 35:
        yield f"fps is {settings.fps}: choose a rate above 0 and at most 35"
    choices = {"split": SPLITS, "frame_size": FRAME_SIZES, "textures": TEXTURES}
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            yield f"{name} is {getattr(settings, name)!r}: choose one of {allowed}"
    colours = settings.colours
    if len(colours) != 2 or not 1 <= colours[0] <= colours[1] <= len(WALL_COLOURS):
        yield (
            f"colours is {colours}: choose a smallest and a largest number, both from 1 to "
            f"{len(WALL_COLOURS)}"
        )


def _my_way_home_videos(settings: MazeSettings) -> Iterator[MazeVideo]:
    """The videos of VizDoom's textured maze."""
    config = my_way_home.MazeConfig(
        fps=settings.fps,
        **{
            name: getattr(settings, name)
            for name in ("num_videos", "num_frames", "frame_size", "seed", "split", "first_video")
        },
    )
    for video_id, frames, fps in my_way_home.maze_videos(config):
        yield MazeVideo(id=f"my_way_home_{video_id}", frames=frames, fps=fps, labels=None)

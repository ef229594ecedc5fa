"""Walks through mazes in scenes, each with a caption that says its colours and its motion.

A scene is a room and the passage behind it: two blocks, in the first of which the camera goes
straight on or turns. Its walls have one or two colours of their own, which change with the scene.
The pillars between the walls, the floor plan and the floor stay what they are for the whole walk,
and no caption names them: they are what the scenes of a walk share.

    red walls, walking straight
    azure and white walls, turning left

Everything about a video depends on (split, seed, index) alone, as in `maze`, and is known exactly:
which colours and which motion a scene has, and which colour its pillars have.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from maskflow_jax.data.sources.items import Item, Listing, make_listing
from maskflow_jax.data.sources.maze import SPLITS, MazeSettings
from maskflow_jax.data.sources.maze_engine import maze_camera
from maskflow_jax.data.sources.maze_map import WALL_COLOURS, MazeMap, make_maze, visible_walls
from maskflow_jax.data.sources.maze_motion import MOTIONS, Walk, make_walk
from maskflow_jax.io.video_decoding import TimedFrame

BLOCKS = 2  # of a scene: a room and a passage
LEAST_SHARE = 0.15  # of the pixel columns of a scene that end on walls of a colour that is named
_DRAWS = 30  # of the colours of a scene's blocks, before they are all of one colour
_PHRASES = {"straight": "walking straight", "left": "turning left", "right": "turning right"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneTruth:
    """A scene of a walk.

    Attributes:
        maze: The maze with the colours of this scene.
        walk: The poses of its frames.
        colours: Colours of its walls, sorted indices into `WALL_COLOURS`.
        motion: Motion in its room, of `MOTIONS`.
        pillars: Colour of the pillars, the same in all scenes of a walk.
    """

    maze: MazeMap
    walk: Walk
    colours: tuple[int, ...]
    motion: str
    pillars: int

    @property
    def caption(self) -> str:
        """What the scene shows, in words."""
        return caption_of(self.colours, self.motion)

    @property
    def label(self) -> str:
        """The same as the name of a class."""
        return label_of(self.colours, self.motion)


def caption_of(colours: tuple[int, ...], motion: str) -> str:
    """The caption of a scene, such as "red and white walls, turning left".

    Args:
        colours: Indices into `WALL_COLOURS`.
        motion: One of `MOTIONS`.
    """
    return f"{' and '.join(WALL_COLOURS[c] for c in colours)} walls, {_PHRASES[motion]}"


def label_of(colours: tuple[int, ...], motion: str) -> str:
    """The label of a scene, such as "red+white/left"; arguments as `caption_of`."""
    return "+".join(WALL_COLOURS[colour] for colour in colours) + f"/{motion}"


def read_caption(caption: str) -> tuple[tuple[int, ...], str]:
    """Colours and motion that a caption names; undoes `caption_of`.

    Raises:
        ValueError: if it is no such caption.
    """
    names, _, phrase = caption.partition(" walls, ")
    motion = next((motion for motion, text in _PHRASES.items() if text == phrase), None)
    colours = names.split(" and ")
    if motion is None or not set(colours) <= set(WALL_COLOURS):
        raise ValueError(
            f"caption {caption!r} does not name colours of {', '.join(WALL_COLOURS)} and a motion "
            f"of {', '.join(_PHRASES.values())}; write it like {caption_of((0, 7), 'left')!r}"
        )
    return tuple(sorted(WALL_COLOURS.index(name) for name in colours)), motion


@dataclasses.dataclass(frozen=True, kw_only=True)
class MazeScenes:
    """Walks in scenes as a source of videos for the preparation of datasets (`sources.items`).

    Attributes:
        train_videos: Number of training videos.
        test_videos: Number of validation videos.
        num_scenes: Number of scenes of a video.
        frames_per_block: Steps in which a block is crossed, straight on or in a turn, 1 to 64; a
            scene has twice as many.
        two_colours: Share of the scenes whose walls have two colours.
        seed: Seed of the whole set, 0 to 2**32 - 1.
        frame_size: Side of the square frames in pixels, 64 or 128.
        rooms: Number of rooms along each side of a maze, 2 to 20.
        light: Brightness, 0 to 255.
        textures: "checker" or "plain", the floor.
        fps: Frames per second at which the videos are meant to be shown.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    train_videos: int = dataclasses.field(default=600, metadata={"frames": False})
    test_videos: int = dataclasses.field(default=32, metadata={"frames": False})
    num_scenes: int = 12
    frames_per_block: int = 3
    two_colours: float = 0.4
    seed: int = 3  # not that of the tokenizer's training, nor of the mazes without scenes
    frame_size: int = 64
    rooms: int = 5
    light: int = 224
    textures: str = "checker"
    fps: float = 10.0

    def __post_init__(self):
        """Raises ValueError for settings that cannot be rendered."""
        if self.num_scenes < 1 or not 0 <= self.two_colours <= 1 or self.textures == "my_way_home":
            raise ValueError(
                f"num_scenes {self.num_scenes}, two_colours {self.two_colours}, textures "
                f"{self.textures!r}: use at least one scene, a share from 0 to 1, and 'checker' or "
                "'plain'"
            )
        for count in (self.train_videos, self.test_videos):
            MazeSettings(
                num_videos=count,
                num_frames=self.num_scenes * self.frames_per_scene,
                frames_per_cell=self.frames_per_block,
                **{name: getattr(self, name) for name in ("seed", "frame_size", "rooms")},
                **{name: getattr(self, name) for name in ("light", "textures", "fps")},
            )

    @property
    def frames_per_scene(self) -> int:
        """Number of frames of a scene."""
        return BLOCKS * self.frames_per_block

    def listing(self) -> Listing:
        """All videos of both splits, with their scenes."""
        counts = {"train": self.train_videos, "test": self.test_videos}
        return make_listing(
            Item(
                id=f"{split}/{index:06d}",
                split=split,
                key=(split, index),
                labels=self._labels(split, index),
            )
            for split in SPLITS
            for index in range(counts[split])
        )

    def open(self, item: Item) -> Iterator[TimedFrame]:
        """The frames of a video."""
        scenes = self.truth(*item.key)
        settings = {name: getattr(self, name) for name in ("frame_size", "textures", "light")}
        with maze_camera([scene.maze for scene in scenes], **settings) as camera:
            for number, scene in enumerate(scenes):
                for step, frame in enumerate(camera.film(number, scene.walk)):
                    time = (number * self.frames_per_scene + step) / self.fps
                    yield TimedFrame(frame, time, 1 / self.fps)

    def length(self, item: Item) -> tuple[float, float]:
        """Frames and seconds of a video."""
        del item
        frames = self.num_scenes * self.frames_per_scene
        return frames, frames / self.fps

    def truth(self, split: str, index: int) -> list[SceneTruth]:
        """Computes the scenes of a video without rendering it.

        Args:
            split: "train" or "test".
            index: Number of the video in its split.

        Returns:
            The scenes in their order.
        """
        half = SPLITS.index(split)
        rng = np.random.default_rng([half, self.seed, index, 1])
        plan = make_maze(2 * int(rng.integers(2**60)) + half, rooms=self.rooms, colours=(1, 1))
        walk = make_walk(
            plan,
            rng,
            num_frames=self.num_scenes * self.frames_per_scene,
            frames_per_cell=self.frames_per_block,
            frames_per_turn=self.frames_per_block,
            skipped=0,
        )
        walls = visible_walls(plan, walk.position, walk.heading, self.frame_size)  # [F, S, 2]
        pillars, before, scenes = int(rng.integers(len(WALL_COLOURS))), (), []
        for number in range(self.num_scenes):
            frames = slice(number * self.frames_per_scene, (number + 1) * self.frames_per_scene)
            maze, colours = self._paint(rng, plan, walls[frames], pillars, before)
            part = Walk(
                position=walk.position[frames],
                heading=walk.heading[frames],
                motion=walk.motion[frames],
            )
            scenes.append(
                SceneTruth(
                    maze=maze,
                    walk=part,
                    colours=colours,
                    motion=MOTIONS[part.motion[0]],
                    pillars=pillars,
                )
            )
            before = colours
        return scenes

    def _paint(
        self,
        rng: np.random.Generator,
        plan: MazeMap,
        walls: np.ndarray,
        pillars: int,
        before: tuple[int, ...],
    ) -> tuple[MazeMap, tuple[int, ...]]:
        """Draws the colours of a scene until each of those that are named can be seen."""
        free = np.setdiff1d(np.arange(len(WALL_COLOURS)), [pillars, *before])
        count = 1 + int(rng.random() < self.two_colours)
        chosen = np.sort(rng.permutation(free)[:count])
        for _ in range(_DRAWS):
            maze = _painted(plan, rng.choice(chosen, plan.colours.shape), pillars)
            seen = maze.colours[walls[..., 0], walls[..., 1]]
            if all(np.mean(seen == colour) >= LEAST_SHARE for colour in chosen):
                return maze, tuple(chosen.tolist())
        one = chosen[:1]  # few walls are in view: they cannot have two colours
        return _painted(plan, np.full(plan.colours.shape, one[0]), pillars), tuple(one.tolist())

    def _labels(self, split: str, index: int) -> dict[str, Any]:
        """The scenes as the preparation of datasets takes them, in seconds."""
        truth, seconds = self.truth(split, index), self.frames_per_scene / self.fps
        scenes = [
            {
                "start": number * seconds,
                "end": (number + 1) * seconds,
                "label": scene.label,
                "caption": scene.caption,
            }
            for number, scene in enumerate(truth)
        ]
        return {"pillars": WALL_COLOURS[truth[0].pillars], "scenes": scenes}


def _painted(plan: MazeMap, colours: np.ndarray, pillars: int) -> MazeMap:
    """A floor plan with other colours: the blocks at even places are pillars."""
    x, y = np.indices(plan.colours.shape)
    colours = np.where((x % 2 == 0) & (y % 2 == 0), pillars, colours)
    return MazeMap(seed=plan.seed, colours=np.where(plan.open, -1, colours).astype(np.int8))

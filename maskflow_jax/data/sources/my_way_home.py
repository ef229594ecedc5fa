"""Rendered maze walks: endless first-person video with nothing to download.

VizDoom's scenario `my_way_home` is a maze of textured rooms without enemies, the same kind of video
as DMLab. `my_way_home_walk` decides where to walk; this file runs the engine and takes the
pictures. The engine's field of view is widened to 90 degrees across a square cut from the middle of
its screen, which is shrunk by averaging areas, so that textures do not flicker.

A video depends on (split, seed, index) alone: each draws from its own random stream and starts its
own engine episode. The splits are disjoint by construction: the engine's seeds are even in "train"
and odd in "test", and the walkers' streams have the split in their key. Both splits walk through
the same maze, so the test split has other walks, not other places.

Every video is one unbroken episode. The episode timeout is off and routes keep away from the vest
that ends an episode. If an episode ends all the same, the video is drawn again from its next
sub-seed.
"""

import atexit
import contextlib
import dataclasses
import math
import pathlib
import tempfile
import threading
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from maskflow_jax.data.sources import my_way_home_walk
from maskflow_jax.data.sources.items import Item, Listing, make_listing
from maskflow_jax.io.video_decoding import TimedFrame

TICS_PER_SECOND = 35  # fixed in the Doom engine
SPLITS = ("train", "test")

_MAX_HOLD = 4  # tics that one action is held; longer, and the walker would react too late
_WARM_UP = 140  # at most this many tics pass unseen: the 17 spawn points become a spread of places
_MAX_ATTEMPTS = 10
_FIELD_OF_VIEW = 106.26  # degrees across the 4:3 screen: 90 across the square cut from it
_MAX_SIDE = 240  # pixels; frames are cut from a screen of 320x240

_lock, _kept = threading.Lock(), contextlib.ExitStack()  # of the engine that sources share
_engines: list[Any] = []


@dataclasses.dataclass(frozen=True, kw_only=True)
class MazeConfig:
    """Settings of the videos of one split.

    Attributes:
        num_videos: Number of videos.
        num_frames: Number of frames in each video.
        fps: Frames per second, at most the engine's 35. Rates that do not divide 35 are right on
            average: frame `f` shows tic `round(35 f / fps)`.
        frame_size: Height and width of the square frames in pixels.
        seed: Seed of the whole set, below 2**32.
        split: "train" or "test".
        first_video: Index of the first video, to render a set in parts.
    """

    num_videos: int
    num_frames: int
    fps: float
    frame_size: int = 64
    seed: int = 0
    split: str = "train"
    first_video: int = 0

    def __post_init__(self):
        """Raises ValueError for settings that cannot be rendered."""
        if not 0 < self.fps <= TICS_PER_SECOND:
            raise ValueError(
                f"fps is {self.fps}: choose a rate above 0 and at most {TICS_PER_SECOND}, "
                "the rate of the Doom engine"
            )
        if self.split not in SPLITS:
            raise ValueError(f"split is {self.split!r}: choose one of {SPLITS}")
        for name, least in (("num_videos", 0), ("num_frames", 1), ("first_video", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: set it to {least} or more")
        if not 1 <= self.frame_size <= _MAX_SIDE:
            raise ValueError(
                f"frame_size is {self.frame_size}: choose 1 to {_MAX_SIDE}, frames are cut from "
                "320x240"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}: choose one from 0 to 2**32 - 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MyWayHome:
    """Rendered walks as a source of videos for `prepare_dataset`.

    Attributes:
        train_videos: Number of training videos.
        test_videos: Number of test videos.
        num_frames: Number of frames in each video.
        fps: Frames per second, at most 35.
        seed: Seed of the whole set, below 2**32.
        frame_size: Height and width of the rendered frames in pixels, at most 240.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    train_videos: int = dataclasses.field(default=1000, metadata={"frames": False})
    test_videos: int = dataclasses.field(default=50, metadata={"frames": False})
    num_frames: int = 160
    fps: float = 10.0
    seed: int = 1
    frame_size: int = 64

    def __post_init__(self):
        """Raises ValueError for settings that cannot be rendered."""
        for split, num_videos in self._num_videos().items():
            self._config(split, num_videos=num_videos)

    def listing(self) -> Listing:
        """One item for each video."""
        items = [
            Item(id=video_name(split, self.seed, index), split=split, key=(split, index))
            for split, num_videos in self._num_videos().items()
            for index in range(num_videos)
        ]
        return make_listing(items)

    def open(self, item: Item) -> Iterator[TimedFrame]:
        """The frames of a video, which is rendered as a whole."""
        split, index = item.key
        with _lock:
            frames = _render_video(_kept_engine(), self._config(split), index)
        for number, frame in enumerate(frames):
            yield TimedFrame(frame, number / self.fps, 1 / self.fps)

    def length(self, item: Item) -> tuple[float, float]:
        """Number of frames and seconds."""
        del item
        return self.num_frames, self.num_frames / self.fps

    def _num_videos(self) -> dict[str, int]:
        return {"train": self.train_videos, "test": self.test_videos}

    def _config(self, split: str, num_videos: int = 1) -> MazeConfig:
        return MazeConfig(
            num_videos=num_videos,
            num_frames=self.num_frames,
            fps=self.fps,
            frame_size=self.frame_size,
            seed=self.seed,
            split=split,
        )


def maze_videos(config: MazeConfig) -> Iterator[tuple[str, np.ndarray, float]]:
    """Renders the videos of one split, one after another.

    One engine serves all videos and is closed when the iterator ends or is abandoned.

    Args:
        config: Settings of the videos.

    Yields:
        `(id, frames, fps)`: a name unique over splits, seeds and indices; uint8
        [num_frames, frame_size, frame_size, 3], RGB; and `config.fps`.

    Raises:
        ImportError: if VizDoom is not installed.
        RuntimeError: if the engine keeps ending a video's episode early.
    """
    with _engine() as game:
        for index in range(config.first_video, config.first_video + config.num_videos):
            video_id = video_name(config.split, config.seed, index)
            yield video_id, _render_video(game, config, index), config.fps


def video_name(split: str, seed: int, index: int) -> str:
    """A name unique over splits, seeds and indices."""
    return f"maze_{split}_{seed}_{index:06d}"


def video_seeds(config: MazeConfig, index: int, attempt: int) -> tuple[int, np.random.Generator]:
    """Randomness of one video.

    Args:
        config: Settings of the videos, with the split and the seed.
        index: Index of the video in its split.
        attempt: Sub-seed, 0 unless earlier attempts ended too soon.

    Returns:
        The engine's seed, even in "train" and odd in "test", and the walker's generator.
    """
    split = SPLITS.index(config.split)
    rng = np.random.default_rng([split, config.seed, index, attempt])
    return 2 * int(rng.integers(2**30)) + split, rng


def frame_tics(num_frames: int, fps: float) -> list[int]:
    """Tics from the first frame to each frame: running time rounded, so errors never add up.

    Args:
        num_frames: Frames in the video.
        fps: Frames per second.

    Returns:
        `num_frames` increasing integers, the first 0.
    """
    return [math.floor(frame * TICS_PER_SECOND / fps + 0.5) for frame in range(num_frames)]


def _kept_engine() -> Any:
    """The engine of this process, which starts once and runs until the process ends."""
    if not _engines:
        _engines.append(_kept.enter_context(_engine()))
        atexit.register(_kept.close)
    return _engines[0]


@contextlib.contextmanager
def _engine() -> Iterator[Any]:
    """A running engine whose files live, and die, in a temporary directory."""
    try:
        import vizdoom
    except ImportError as error:
        raise ImportError(
            "maze videos are rendered with VizDoom, which is not installed: pip install "
            "'maskflow_jax[maze]' (or '.[maze]' in a checkout)"
        ) from error
    game = vizdoom.DoomGame()
    with tempfile.TemporaryDirectory(prefix="maze_") as scratch:
        _set_up(game, vizdoom, pathlib.Path(scratch))
        try:
            # The engine makes `_vizdoom/` in the working directory that it inherits from us.
            with contextlib.chdir(scratch):
                game.init()
            yield game
        finally:
            game.close()


def _set_up(game: Any, vizdoom: Any, scratch: pathlib.Path) -> None:
    """Headless, RGB, nothing on screen but the maze; position and floor plan are reported."""
    variable, button = vizdoom.GameVariable, vizdoom.Button
    game.load_config(str(pathlib.Path(vizdoom.scenarios_path) / "my_way_home.cfg"))
    game.set_doom_config_path(str(scratch / "vizdoom.ini"))
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X240)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    for hide in ("hud", "weapon", "crosshair", "messages"):
        getattr(game, f"set_render_{hide}")(False)
    game.set_available_game_variables([variable.POSITION_X, variable.POSITION_Y, variable.ANGLE])
    game.set_available_buttons(
        [
            button.MOVE_FORWARD_BACKWARD_DELTA,
            button.MOVE_LEFT_RIGHT_DELTA,
            button.TURN_LEFT_RIGHT_DELTA,
        ]
    )
    game.set_sectors_info_enabled(True)
    game.set_objects_info_enabled(True)
    game.set_episode_timeout(0)
    game.add_game_args(f"+fov {_FIELD_OF_VIEW}")


def _render_video(game: Any, config: MazeConfig, index: int) -> np.ndarray:
    """The first unbroken walk among this video's sub-seeds, uint8 [F, size, size, 3]."""
    for attempt in range(_MAX_ATTEMPTS):
        engine_seed, rng = video_seeds(config, index, attempt)
        game.set_seed(engine_seed)
        game.new_episode()
        frames = _render_walk(game, config, rng)
        if len(frames) == config.num_frames:
            return np.stack(frames)
    raise RuntimeError(
        f"video {index} of split {config.split!r} ended early {_MAX_ATTEMPTS} times: choose "
        "another seed or a shorter num_frames"
    )


def _render_walk(game: Any, config: MazeConfig, rng: np.random.Generator) -> list[np.ndarray]:
    """Frames of one episode: fewer than asked for if the episode ends first."""
    walker = my_way_home_walk.Walker(my_way_home_walk.floor_plan(game.get_state()), rng)
    frames, now, warm_up = [], 0, int(rng.integers(_WARM_UP))
    for tic in frame_tics(config.num_frames, config.fps):
        now = _walk_to(game, walker, now, tic + warm_up)
        if game.is_episode_finished():
            break
        frames.append(_frame(game.get_state().screen_buffer, config.frame_size))
    return frames


def _walk_to(game: Any, walker: my_way_home_walk.Walker, now: int, tic: int) -> int:
    """Walks until `tic`, holding each action for a few tics; returns the tic reached."""
    while now < tic and not game.is_episode_finished():
        hold = math.ceil((tic - now) / math.ceil((tic - now) / _MAX_HOLD))
        game.make_action(walker.act(*game.get_state().game_variables), hold)
        now += hold
    return now


def _frame(screen: np.ndarray, size: int) -> np.ndarray:
    """Cuts the middle square of a uint8 [240, 320, 3] screen and shrinks it by area."""
    image = Image.fromarray(np.ascontiguousarray(screen[:, 40:280]))
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))

"""Pictures of generated mazes, drawn by Doom's engine (VizDoom).

The camera is the player, which is put from place to place by a console command. The field of view
is 90 degrees across a square cut from the middle of the screen, which shrinks by an exact factor:
edges are smoothed and textures do not flicker.
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from maskflow_jax.data.sources.maze_map import MazeMap
from maskflow_jax.data.sources.maze_motion import Walk
from maskflow_jax.data.sources.maze_wad import map_name, maze_wad

FRAME_SIZES = (64, 128)
_RESOLUTIONS = {64: "RES_256X192", 128: "RES_512X384"}  # three pixels for one in each direction
_OVERSAMPLING = 3
_FIELD_OF_VIEW = 106.26  # degrees across the 4:3 screen: 90 across the square cut from it
_DEAF_TICS = 12  # after an episode starts, the engine ignores turning for about 7 tics


class MazeCamera:
    """A running engine that shows a few mazes; `maze_camera` makes one."""

    def __init__(self, game: Any, frame_size: int):
        self._game, self._size = game, frame_size
        self._angle = None

    def film(self, index: int, walk: Walk) -> np.ndarray:
        """Films a walk.

        Args:
            index: Number of the maze among those of the engine.
            walk: The poses.

        Returns:
            Frames uint8 [F, S, S, 3], RGB.
        """
        game = self._game
        game.set_doom_map(map_name(index))
        game.new_episode()
        game.send_game_command(f"fov {_FIELD_OF_VIEW}")  # a new map sets it back
        game.advance_action(_DEAF_TICS, False)
        frames = np.empty((len(walk.heading), self._size, self._size, 3), np.uint8)
        for frame, (x, y), heading in zip(frames, walk.position, walk.heading, strict=True):
            self._look(x, y, heading)
            frame[:] = shrink(game.get_state().screen_buffer, self._size)
        return frames

    def _look(self, x: float, y: float, heading: float) -> None:
        """Puts the camera somewhere. In the tic of a warp the eye is on the floor: it takes two."""
        import vizdoom

        game = self._game
        angle = game.get_game_variable(vizdoom.GameVariable.ANGLE)
        game.send_game_command(f"warp {int(x)} {int(y)}")
        game.set_action([-((heading - angle + 180) % 360 - 180)])
        game.advance_action(1, False)
        game.set_action([0.0])
        game.advance_action(1, True)


@contextlib.contextmanager
def maze_camera(
    mazes: Sequence[MazeMap], *, frame_size: int, textures: str, light: int
) -> Iterator[MazeCamera]:
    """Starts an engine for some mazes and stops it at the end.

    Args:
        mazes: The mazes.
        frame_size: Side of the frames in pixels, one of `FRAME_SIZES`.
        textures: "plain" or "checker".
        light: Brightness, 0 to 255.

    Yields:
        The camera.

    Raises:
        ImportError: If VizDoom is not installed.
    """
    vizdoom = import_vizdoom()
    game = vizdoom.DoomGame()
    with tempfile.TemporaryDirectory(prefix="maze_") as scratch:
        wad = pathlib.Path(scratch) / "mazes.wad"
        wad.write_bytes(maze_wad(mazes, textures=textures, light=light))
        _set_up(game, vizdoom, wad, frame_size)
        try:
            # The engine makes `_vizdoom/` in the working directory that it inherits from us.
            with contextlib.chdir(scratch):
                game.init()
            yield MazeCamera(game, frame_size)
        finally:
            game.close()


def import_vizdoom() -> Any:
    """Imports VizDoom.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import vizdoom
    except ImportError as error:
        raise ImportError(
            "mazes are rendered with VizDoom: install the extra `maze` "
            "(pip install 'maskflow_jax[maze]')"
        ) from error
    return vizdoom


def shrink(screen: np.ndarray, size: int) -> np.ndarray:
    """Cuts the middle square of a screen and averages squares of 3x3 pixels.

    Args:
        screen: uint8 [3 S, W, 3] with W at least 3 S.
        size: Side S of the result.

    Returns:
        uint8 [S, S, 3].
    """
    side = _OVERSAMPLING * size
    margin = (screen.shape[1] - side) // 2
    square = screen[:, margin : margin + side]
    rows = square.reshape(size, _OVERSAMPLING, side, 3).sum(1, dtype=np.uint16)
    sums = rows.reshape(size, size, _OVERSAMPLING, 3).sum(2, dtype=np.uint16)
    return ((sums + _OVERSAMPLING**2 // 2) // _OVERSAMPLING**2).astype(np.uint8)


def _set_up(game: Any, vizdoom: Any, wad: pathlib.Path, frame_size: int) -> None:
    """Headless, silent, RGB, nothing on screen but the maze."""
    game.set_doom_scenario_path(str(wad))
    game.set_doom_map(map_name(0))
    game.set_doom_config_path(str(wad.parent / "vizdoom.ini"))
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_screen_resolution(getattr(vizdoom.ScreenResolution, _RESOLUTIONS[frame_size]))
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    hidden = ("hud", "weapon", "crosshair", "messages", "decals", "particles", "effects_sprites")
    for what in hidden:
        getattr(game, f"set_render_{what}")(False)
    game.set_available_game_variables([])
    game.set_available_buttons([vizdoom.Button.TURN_LEFT_RIGHT_DELTA])
    game.set_episode_timeout(0)
    game.add_game_args("+sv_cheats 1")

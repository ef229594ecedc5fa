"""Palette, distance shading and textures of the generated mazes.

Doom's engine draws in 256 colours and darkens with distance through a table, the COLORMAP lump.
With Doom's own palette every shade of an unusual colour snaps to something else. Here the palette
is made of few base colours in many shades, and the table maps a shade to a darker shade of the same
colour, so that light falls off smoothly.
"""

import io

import numpy as np
from PIL import Image

from maskflow_jax.data.sources.maze_map import WALL_COLOURS

TEXTURES = ("plain", "checker")
WALL_HEIGHT = 82  # map units; the eye is in the middle of it
FLOOR, CEILING = "FLOOR", "CEILING"

_RGB = {
    "red": (214, 48, 49),
    "orange": (236, 130, 38),
    "yellow": (238, 208, 54),
    "green": (76, 175, 70),
    "turquoise": (38, 188, 172),
    "azure": (66, 110, 232),
    "violet": (138, 76, 206),
    "white": (232, 232, 226),
    "floor": (128, 124, 118),
    "ceiling": (148, 184, 222),
}
_NUM_SHADES = 25
_DARKEST = 0.2  # brightness of the last shade relative to the first
_FIRST = 1  # the engine takes colour 0 of a texture for a hole
_NUM_LIGHT_LEVELS = 32

_WALL_SHADE, _EDGE_SHADE, _BASE_SHADE = 0, 5, 8
_EDGE_WIDTH, _BASE_HEIGHT = 4, 8
_FLOOR_SHADES = (1, 5)
_PLAIN_FLOOR_SHADE = 3
_TILE = 128  # map units: as large as a block of the maze


def texture_name(colour: int) -> str:
    """The name in the engine of the wall texture of a colour, an index into `WALL_COLOURS`."""
    return f"WALL{colour:02d}"


def palette() -> np.ndarray:
    """All colours of the engine, uint8 [256, 3]: base colour after base colour, bright to dark."""
    brightness = np.linspace(1, _DARKEST, _NUM_SHADES)[:, None]
    shades = np.concatenate([np.array(rgb) * brightness for rgb in _RGB.values()])
    colours = np.zeros((256, 3), np.uint8)
    colours[_FIRST : _FIRST + len(shades)] = np.rint(shades)
    return colours


def palette_of_walls() -> np.ndarray:
    """All shades of every wall colour, bright to dark, uint8 [colours, shades, 3]."""
    first = [_index(name, 0) for name in WALL_COLOURS]
    return np.stack([palette()[index : index + _NUM_SHADES] for index in first])


def colormap() -> bytes:
    """The COLORMAP lump: for each light level, the colour that stands for each colour."""
    colours = np.arange(256)
    base, shade = np.divmod(colours - _FIRST, _NUM_SHADES)
    shaded = (colours >= _FIRST) & (base < len(_RGB))
    levels = []
    for level in range(_NUM_LIGHT_LEVELS):
        darker = np.minimum(shade + round(level * _NUM_SHADES / _NUM_LIGHT_LEVELS), _NUM_SHADES - 1)
        levels.append(np.where(shaded, _FIRST + base * _NUM_SHADES + darker, colours))
    levels += [colours, np.zeros(256)]  # invulnerability and black, which are never used
    return np.stack(levels).astype(np.uint8).tobytes()


def texture_files(textures: str) -> dict[str, bytes]:
    """Draws all textures.

    Args:
        textures: "checker" for a floor of light and dark tiles, "plain" for one of a single colour.

    Returns:
        PNG files by the names of the textures.
    """
    files = {
        texture_name(index): _png(_wall(_index(name, 0))) for index, name in enumerate(WALL_COLOURS)
    }
    floor = np.full((2 * _TILE, 2 * _TILE), _index("floor", _PLAIN_FLOOR_SHADE), np.uint8)
    if textures == "checker":
        tile = np.arange(2 * _TILE) // _TILE
        shades = np.take(_FLOOR_SHADES, tile[:, None] ^ tile)
        floor = (_index("floor", 0) + shades).astype(np.uint8)
    ceiling = np.full((_TILE, _TILE), _index("ceiling", 0), np.uint8)
    return {**files, FLOOR: _png(floor), CEILING: _png(ceiling)}


def _wall(colour: int) -> np.ndarray:
    """A block's side with darker vertical edges and a dark base, indices uint8 [82, 128]."""
    wall = np.full((WALL_HEIGHT, 128), colour + _WALL_SHADE, np.uint8)
    wall[:, :_EDGE_WIDTH] = wall[:, -_EDGE_WIDTH:] = colour + _EDGE_SHADE
    wall[-_BASE_HEIGHT:] = colour + _BASE_SHADE
    return wall


def _index(base: str, shade: int) -> int:
    return _FIRST + list(_RGB).index(base) * _NUM_SHADES + shade


def _png(indices: np.ndarray) -> bytes:
    image = Image.fromarray(indices, "P")
    image.putpalette(palette().tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()

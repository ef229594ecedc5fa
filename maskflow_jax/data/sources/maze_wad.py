"""Generated mazes as a file that Doom's engine reads (a PWAD).

A PWAD is a header, lumps of bytes, and a directory of their names and places. A map in the format
UDMF is a marker, a text of vertices, lines, sides, sectors and things, and an end marker; the
engine builds its search tree itself. A maze is one sector: each side of a wall block that can be
seen is a one-sided line with the open block on its right.

Source: the formats as documented by the Doom Wiki and the UDMF specification 1.1.
"""

import struct
from collections.abc import Iterable, Sequence

import numpy as np

from maskflow_jax.data.sources.maze_colours import (
    CEILING,
    FLOOR,
    WALL_HEIGHT,
    colormap,
    palette,
    texture_files,
    texture_name,
)
from maskflow_jax.data.sources.maze_map import CELL, STEPS, MazeMap

_NUM_PALETTES = 14  # the engine tints the picture for damage and the like; here all are equal
_HEADER, _ENTRY = "<4sii", "<ii8s"


def map_name(index: int) -> str:
    """The name in the engine of the maze with an index, in upper case, at most 8 characters."""
    return f"MZ{index:06d}"


def maze_wad(mazes: Sequence[MazeMap], *, textures: str, light: int) -> bytes:
    """Writes mazes with their palette and textures.

    Args:
        mazes: The mazes; `map_name(i)` is the i-th.
        textures: "plain" or "checker", the floor.
        light: Brightness of the mazes, 0 to 255; the darker, the stronger distance shading.

    Returns:
        The contents of the PWAD.
    """
    lumps = [("PLAYPAL", palette().tobytes() * _NUM_PALETTES), ("COLORMAP", colormap())]
    for index, maze in enumerate(mazes):
        text = map_text(maze, light).encode()
        lumps += [(map_name(index), b""), ("TEXTMAP", text), ("ENDMAP", b"")]
    lumps += [("TX_START", b""), *texture_files(textures).items(), ("TX_END", b"")]
    return pack_lumps(lumps)


def pack_lumps(lumps: Iterable[tuple[str, bytes]]) -> bytes:
    """Puts named lumps into a PWAD, in their order."""
    lumps = list(lumps)
    directory, contents = [], []
    place = struct.calcsize(_HEADER)
    for name, data in lumps:
        directory.append(struct.pack(_ENTRY, place, len(data), name.encode()))
        contents.append(data)
        place += len(data)
    header = struct.pack(_HEADER, b"PWAD", len(lumps), place)
    return b"".join([header, *contents, *directory])


def map_text(maze: MazeMap, light: int) -> str:
    """The TEXTMAP lump of a maze."""
    vertices: dict[tuple[int, int], int] = {}
    lines, sides = [], []
    for start, end, colour in wall_faces(maze):
        v1, v2 = (vertices.setdefault(corner, len(vertices)) for corner in (start, end))
        lines.append(_entry("linedef", v1=v1, v2=v2, sidefront=len(sides), blocking=True))
        sides.append(_entry("sidedef", sector=0, texturemiddle=texture_name(colour)))
    corners = [_entry("vertex", x=CELL * x, y=CELL * y) for x, y in vertices]
    sector = _entry(
        "sector",
        heightfloor=0,
        heightceiling=WALL_HEIGHT,
        texturefloor=FLOOR,
        textureceiling=CEILING,
        lightlevel=light,
    )
    x, y = CELL * (np.argwhere(maze.open)[0] + 0.5)
    skills = {f"skill{level}": True for level in range(1, 6)}
    player = _entry("thing", x=x, y=y, angle=0, type=1, single=True, **skills)
    return "".join(['namespace = "zdoom";\n', *corners, *lines, *sides, sector, player])


def wall_faces(maze: MazeMap) -> Iterable[tuple[tuple[int, int], tuple[int, int], int]]:
    """Yields (start, end, colour) of every wall face: corners in blocks, the open side right."""
    for block in np.argwhere(maze.open):
        for step in STEPS:
            colour = maze.colours[tuple(block + step)]
            if colour < 0:
                continue
            left = np.array([-step[1], step[0]])  # of someone who looks at the wall
            middle = 2 * block + 1 + step  # in half blocks
            start, end = (middle + left) // 2, (middle - left) // 2
            yield tuple(start.tolist()), tuple(end.tolist()), int(colour)


def _entry(kind: str, **fields: object) -> str:
    """One block of UDMF text."""
    values = {
        bool: lambda value: str(value).lower(),
        str: lambda value: f'"{value}"',
    }
    text = (f"{name} = {values.get(type(v), str)(v)};" for name, v in fields.items())
    return f"{kind} {{ {' '.join(text)} }}\n"

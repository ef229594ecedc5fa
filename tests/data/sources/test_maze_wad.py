"""Maps as files: well-formed, closed walls, and colours that only get darker."""

import io
import re
import struct

import numpy as np
import pytest
from PIL import Image

from maskflow_jax.data.sources.maze_colours import TEXTURES, colormap, palette, texture_files
from maskflow_jax.data.sources.maze_map import make_maze
from maskflow_jax.data.sources.maze_wad import (
    map_name,
    map_text,
    maze_wad,
    pack_lumps,
    wall_faces,
)

MAZE = make_maze(5, rooms=5, colours=(4, 6))


def read_lumps(wad):
    """Takes a PWAD apart into named lumps, in their order."""
    magic, count, place = struct.unpack_from("<4sii", wad)
    assert magic == b"PWAD"
    entries = struct.iter_unpack("<ii8s", wad[place : place + 16 * count])
    return [(name.rstrip(b"\0").decode(), wad[at : at + size]) for at, size, name in entries]


def test_lumps_come_back_as_they_were_packed():
    lumps = [("A", b"one"), ("EMPTY", b""), ("LONGNAME", bytes(range(256)))]
    assert read_lumps(pack_lumps(lumps)) == lumps


def test_file_holds_palettes_maps_and_textures_in_the_engine_s_order():
    lumps = read_lumps(maze_wad([MAZE, MAZE], textures="checker", light=200))
    names = [name for name, _ in lumps]
    maps = [n for i in range(2) for n in (map_name(i), "TEXTMAP", "ENDMAP")]
    assert names[:8] == ["PLAYPAL", "COLORMAP", *maps]
    assert (names[8], names[-1]) == ("TX_START", "TX_END")
    assert all(len(name) <= 8 and name.isupper() for name in names)
    contents = dict(lumps)
    assert len(contents["PLAYPAL"]) == 14 * 768
    assert len(contents["COLORMAP"]) == 34 * 256
    assert b"lightlevel = 200;" in contents["TEXTMAP"]


def test_walls_are_closed_loops_with_the_open_block_on_the_right():
    faces = list(wall_faces(MAZE))
    starts = sorted(start for start, _, _ in faces)
    assert starts == sorted(end for _, end, _ in faces)
    for start, end, colour in faces:
        along = np.subtract(end, start)
        assert np.abs(along).sum() == 1
        right = np.array([along[1], -along[0]])
        middle = (np.array(start) + end) / 2
        inside, outside = (np.floor(middle + side * right / 2).astype(int) for side in (1, -1))
        assert MAZE.open[tuple(inside)]
        assert MAZE.colours[tuple(outside)] == colour >= 0


def test_map_text_refers_only_to_what_it_defines():
    text = map_text(MAZE, 224)
    count = {kind: text.count(f"{kind} {{") for kind in ("vertex", "linedef", "sidedef", "sector")}
    number = len(list(wall_faces(MAZE)))
    assert count["linedef"] == count["sidedef"] == number
    assert count["sector"] == 1
    assert {int(v) for v in re.findall(r"v[12] = (\d+);", text)} == set(range(count["vertex"]))
    assert sorted(map(int, re.findall(r"sidefront = (\d+);", text))) == list(range(number))
    textures = set(re.findall(r'texture\w+ = "(\w+)"', text))
    assert textures <= set(texture_files("plain"))


def test_shading_keeps_the_colour_and_darkens_step_by_step():
    colours = palette().astype(float)
    tables = np.frombuffer(colormap(), np.uint8).reshape(34, 256)[:32]
    np.testing.assert_array_equal(tables[0], np.arange(256))
    brightness = colours[tables].sum(-1)
    assert np.all(np.diff(brightness, axis=0) <= 0)
    assert np.all(brightness[-1, 1:201] < brightness[0, 1:201].max())
    lit = colours[tables[16]][1 : 1 + 25 * 10]
    first = colours[1 : 1 + 25 * 10]
    hue = first / np.linalg.norm(first, axis=1, keepdims=True)
    darker = lit / np.linalg.norm(lit, axis=1, keepdims=True)
    assert np.all(np.sum(hue * darker, axis=1) > 0.999)


@pytest.mark.parametrize("textures", TEXTURES)
def test_textures_use_only_the_palette(textures):
    for name, file in texture_files(textures).items():
        image = Image.open(io.BytesIO(file))
        assert image.mode == "P", name
        np.testing.assert_array_equal(
            np.array(image.getpalette()).reshape(-1, 3)[: np.array(image).max() + 1],
            palette()[: np.array(image).max() + 1],
        )
        assert np.array(image).min() >= 1, "colour 0 is a hole to the engine"

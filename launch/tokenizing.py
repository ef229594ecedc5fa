"""From a source of video to a dataset of tokens."""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from tqdm import tqdm

from maskflow_jax.data.dataset import write_token_dataset
from maskflow_jax.data.sources.maze import MazeSettings, maze_videos
from maskflow_jax.tokenizers.tokenizer import Tokenizer

# Fields of `MazeSettings` that are not the source's to choose.
_DECIDED_ELSEWHERE = ("num_videos", "split", "first_video", "frame_size")


def encoded_videos(
    settings: MazeSettings, tokenizer: Tokenizer
) -> Iterator[tuple[str, np.ndarray, float]]:
    """Yields (id, tokens [F, h, w], fps) of a split, with a progress bar."""
    videos = maze_videos(settings)
    for video in tqdm(videos, settings.split, settings.num_videos, unit="video"):
        yield video.id, tokenizer.encode(video.frames), video.fps


def write_dataset(data: Mapping, *, overwrite: bool = False, **tokenizer_settings) -> None:
    """Renders, encodes and writes what the `data` section of a config asks for.

    Args:
        data: the section. `data.source` holds `name` ("maze"), `num_videos` by split, and fields of
            `MazeSettings`.
        overwrite: replaces a dataset that is already there.
        **tokenizer_settings: of `Tokenizer.load`: `memory_gb`, `dtype`.

    Raises:
        ValueError: if the source is unknown, or a setting of it unknown or impossible.
    """
    source = dict(data["source"])
    if "name" not in source:
        raise ValueError(
            f"data.source names nothing to render: {data['directory']} is not made by this program "
            "but by the commands in the config's docstring, such as launch.import_hdf5"
        )
    if source["name"] != "maze":
        raise ValueError(f"unknown data.source.name {source['name']!r}; there is: maze")
    tokenizer = Tokenizer.load(data["tokenizer"], **tokenizer_settings)
    settings = {
        split: _settings(source, split, number, tokenizer.identity["frame_size"])
        for split, number in source["num_videos"].items()
    }
    # All settings are recorded, those left to their defaults too.
    for of_split in settings.values():
        known = dataclasses.asdict(of_split)
        source |= {name: known[name] for name in known if name not in _DECIDED_ELSEWHERE}
    write_token_dataset(
        data["directory"],
        {split: encoded_videos(of_split, tokenizer) for split, of_split in settings.items()},
        tokenizer=tokenizer.identity,
        source=source,
        overwrite=overwrite,
    )


def _settings(source: Mapping, split: str, num_videos: int, frame_size: int) -> MazeSettings:
    """The settings of one split; ValueError if the source has one that does not exist."""
    chosen = {name: source[name] for name in source if name not in ("name", "num_videos")}
    known = [field.name for field in dataclasses.fields(MazeSettings)]
    known = [name for name in known if name not in _DECIDED_ELSEWHERE]
    if unknown := sorted(chosen.keys() - set(known)):
        raise ValueError(
            f"data.source has no {', '.join(unknown)}; it takes name, num_videos, "
            f"{', '.join(known)}"
        )
    return MazeSettings(num_videos=num_videos, split=split, frame_size=frame_size, **chosen)

"""From a source of video to a dataset of tokens."""

from collections.abc import Iterator, Mapping

import numpy as np
from tqdm import tqdm

from maskflow_jax.data.dataset import write_token_dataset
from maskflow_jax.data.sources.my_way_home import MazeConfig, maze_videos
from maskflow_jax.tokenizers.tokenizer import Tokenizer


def encoded_videos(
    source: Mapping, split: str, num_videos: int, tokenizer: Tokenizer
) -> Iterator[tuple[str, np.ndarray, float]]:
    """Yields (id, tokens [F, h, w], fps) of a split, with a progress bar."""
    settings = MazeConfig(
        num_videos=num_videos,
        num_frames=source["num_frames"],
        fps=source["fps"],
        seed=source["seed"],
        split=split,
        frame_size=tokenizer.config.frame_size,
    )
    for video_id, frames, fps in tqdm(maze_videos(settings), split, num_videos, unit="video"):
        yield video_id, tokenizer.encode(frames), fps


def write_dataset(data: Mapping, *, overwrite: bool = False, **tokenizer_settings) -> None:
    """Renders, encodes and writes what the `data` section of a config asks for.

    Args:
        data: the section.
        overwrite: replaces a dataset that is already there.
        **tokenizer_settings: of `Tokenizer.load`: `memory_gb`, `dtype`.
    """
    source = dict(data["source"])
    keys = {"name", "num_videos", "num_frames", "fps", "seed"}
    if "name" not in source:
        raise ValueError(
            f"data.source names nothing to render: {data['directory']} is not made by this program "
            "but by the commands in the config's docstring, such as launch.import_hdf5"
        )
    if source.keys() != keys:
        raise ValueError(f"data.source has {sorted(source)}; it takes {sorted(keys)}")
    if source["name"] != "maze":
        raise ValueError(f"unknown data.source.name {source['name']!r}; there is: maze")
    tokenizer = Tokenizer.load(data["tokenizer"], **tokenizer_settings)
    splits = {
        split: encoded_videos(source, split, num_videos, tokenizer)
        for split, num_videos in source["num_videos"].items()
    }
    write_token_dataset(
        data["directory"], splits, tokenizer=tokenizer.identity, source=source, overwrite=overwrite
    )

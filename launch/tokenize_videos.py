"""Turns the videos of an experiment's source into its dataset of tokens.

    python -m launch.tokenize_videos --config=configs/maze.py

reads `config.data`: the source and its settings, the codec, and the directory to write.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags
from tqdm import tqdm

from launch.logs import quiet_libraries
from maskflow_jax.data.maze import MazeConfig, maze_videos
from maskflow_jax.data.token_dataset import write_token_dataset
from maskflow_jax.tokenizers.codec import Codec

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment settings.", lock_config=True)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a dataset that is already there.")
flags.mark_flag_as_required("config")


def encoded_videos(
    source: Mapping, split: str, num_videos: int, codec: Codec
) -> Iterator[tuple[str, np.ndarray, float]]:
    """Yields (id, tokens [F, h, w], fps) of a split, with a progress bar."""
    settings = MazeConfig(
        num_videos=num_videos,
        num_frames=source["num_frames"],
        fps=source["fps"],
        seed=source["seed"],
        split=split,
        frame_size=codec.config.frame_size,
    )
    for video_id, frames, fps in tqdm(maze_videos(settings), split, num_videos, unit="video"):
        yield video_id, codec.encode(frames), fps


def write_dataset(data: Mapping, *, overwrite: bool = False) -> None:
    """Renders, encodes and writes what the `data` section of a config asks for."""
    source = dict(data["source"])
    if source["name"] != "maze":
        raise ValueError(f"unknown data.source.name {source['name']!r}; there is: maze")
    codec = Codec.load(data["codec"])
    splits = {
        split: encoded_videos(source, split, num_videos, codec)
        for split, num_videos in source["num_videos"].items()
    }
    write_token_dataset(
        data["directory"], splits, tokenizer=codec.identity, source=source, overwrite=overwrite
    )


def main(_) -> None:
    """Writes the dataset."""
    quiet_libraries()
    data = _CONFIG.value.data.to_dict()
    write_dataset(data, overwrite=_OVERWRITE.value)
    logging.info("wrote %s", data["directory"])


if __name__ == "__main__":
    app.run(main)

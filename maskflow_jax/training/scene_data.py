"""The conditions of a run: the encoder of its dataset, and the windows of scenes."""

import dataclasses

from maskflow_jax.config import Config
from maskflow_jax.data.dataset import TokenVideos
from maskflow_jax.data.scene_windows import SceneWindows
from maskflow_jax.scenes.embeddings import CaptionEmbeddings
from maskflow_jax.scenes.encoders import Encoder, LabelEncoder, WordEncoder


def dataset_encoder(config: Config, videos: TokenVideos) -> Encoder:
    """Returns the encoder that turns the labels or captions of a dataset into conditions.

    Raises:
        FileNotFoundError: if the embeddings of the captions are missing.
        ValueError: if the dataset has no scenes, or no labels or captions.
    """
    scenes = videos.scenes
    if scenes is None:
        raise ValueError(
            f"the dataset in {videos.directory} has no scenes; prepare it with captions, or set "
            "scenes.condition to 'none'"
        )
    if config.scenes.condition == "labels":
        if not scenes["labels"]:
            raise ValueError(
                f"the scenes in {videos.directory} have no labels; set scenes.condition to "
                "'captions'"
            )
        return LabelEncoder(scenes["labels"])
    if not scenes["longest_caption"]:
        raise ValueError(
            f"the scenes in {videos.directory} have no captions; set scenes.condition to 'labels'"
        )
    if config.scenes.encoder:
        return CaptionEmbeddings(videos.directory)
    return WordEncoder(scenes["words"], scenes["longest_caption"])


def with_conditions(config: Config, videos: TokenVideos) -> Config:
    """Returns a config with the identity of its encoder; unchanged if it has no conditions."""
    if not config.scenes.active:
        return config
    return dataclasses.replace(config, conditions=dataset_encoder(config, videos).record)


def make_windows(config: Config, videos: TokenVideos) -> SceneWindows | None:
    """Returns the windows of scenes of a split; None for an unconditional network.

    Raises:
        ValueError: if the split has no such windows.
    """
    if not config.scenes.active:
        return None
    return SceneWindows(
        videos=videos,
        encoder=dataset_encoder(config, videos),
        kind=config.scenes.windows,
        num_scenes=config.scenes.num_scenes,
        clip_frames=config.data.clip_frames,
    )

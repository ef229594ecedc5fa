"""The sources of videos by name. A new one is a file like `video_files` and a row here."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from maskflow_jax.data.sources.arrays import NumpyArrays
from maskflow_jax.data.sources.dmlab import DMLab
from maskflow_jax.data.sources.faceforensics import FaceForensics
from maskflow_jax.data.sources.images import ImageSequence
from maskflow_jax.data.sources.maze import Mazes
from maskflow_jax.data.sources.ucf101 import UCF101
from maskflow_jax.data.sources.video_files import VideoFolder

SOURCES = {
    "dmlab": DMLab,
    "faceforensics": FaceForensics,
    "images": ImageSequence,
    "arrays": NumpyArrays,
    "maze": Mazes,
    "ucf101": UCF101,
    "video_files": VideoFolder,
}


def make_source(name: str, settings: Mapping[str, Any]) -> Any:
    """Makes a source.

    Args:
        name: of `SOURCES`, or "tfds".
        settings: its fields; those that are None are left to their defaults.

    Raises:
        ValueError: for an unknown name or field, or a missing one.
    """
    kinds = dict(SOURCES)
    if name == "tfds":  # TFDS is slow to import, in every decoding process
        from maskflow_jax.data.sources.tfds import TFDSVideos

        kinds[name] = TFDSVideos
    if name not in kinds:
        raise ValueError(f"unknown source {name!r}: choose from {', '.join(SOURCES)}, tfds")
    settings = {field: value for field, value in settings.items() if value is not None}
    fields = {field.name: field for field in dataclasses.fields(kinds[name])}
    if unknown := settings.keys() - fields.keys():
        raise ValueError(
            f"source {name} takes no {', '.join(sorted(unknown))}; it takes {', '.join(fields)}"
        )
    missing = [
        field
        for field, of in fields.items()
        if of.default is dataclasses.MISSING and field not in settings
    ]
    if missing:
        raise ValueError(f"source {name} needs {', '.join(missing)}: its files do not tell")
    return kinds[name](**settings)
